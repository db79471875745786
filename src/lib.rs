//! Load balancing as composable tower middleware.
#![forbid(unsafe_code)]
#![cfg_attr(evenkeel_docsrs, feature(doc_cfg))]

pub mod error;

#[doc(inline)]
pub use error::{BoxError, ConfigError, Error, ErrorKind};
