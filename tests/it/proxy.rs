mod basics;
mod fields;
mod hostile;
mod http2;
mod reuse;
mod streams;
mod upgrade;
mod uploads;
