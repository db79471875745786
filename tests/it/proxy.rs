mod basics;
mod hostile;
mod upgrade;
