mod basics;
mod hostile;
mod upgrade;
mod uploads;
