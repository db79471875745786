mod basics;
mod upgrade;
