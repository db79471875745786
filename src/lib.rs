//! Load balancing as composable tower middleware.
#![forbid(unsafe_code)]
#![cfg_attr(evenkeel_docsrs, feature(doc_cfg))]

pub mod context;
pub mod error;
pub mod pool;

#[doc(inline)]
pub use error::{BoxError, ConfigError, Error, ErrorKind};
#[doc(inline)]
#[doc(inline)]
pub use pool::{Backend, Pool};
