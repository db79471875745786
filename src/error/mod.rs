//! Errors: why a request failed, by phase and side, and which setting was refused.
//!
//! One type of error, [`Error`], passes through all layers. Its [`ErrorKind`] names the phase in which
//! the request failed (connect, request, response) and the side that caused it (client, backend, this
//! process). The layers decide by the kind: failover whether another attempt may help, health whether
//! the backend is charged, `RespondLayer` which status the client gets.
//!
//! # Example
//!
//! ```
//! use evenkeel::{BoxError, Error, ErrorKind};
//!
//! let error = Error::new(ErrorKind::Connect).with_source("connection refused");
//! assert!(error.is_connect() && !error.is_after_sending());
//! assert_eq!(error.to_string(), "no connection to the backend: connection refused");
//!
//! // A layer of tower boxes the error; the kind survives.
//! let boxed: BoxError = error.into();
//! assert_eq!(Error::from_boxed(boxed).kind(), ErrorKind::Connect);
//! ```

mod config_error;
mod kind;
mod request_error;

use std::error;

pub use config_error::ConfigError;
pub use kind::ErrorKind;
pub use request_error::Error;

/// A boxed error of any type; the services of tower use the same.
pub type BoxError = Box<dyn error::Error + Send + Sync>;
