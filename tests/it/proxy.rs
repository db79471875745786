mod basics;
mod fields;
mod hostile;
mod reuse;
mod upgrade;
mod uploads;
