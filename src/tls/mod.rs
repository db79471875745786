//! TLS (docs to come).

mod certificate;
mod certificates;
mod config;
mod handshake;
mod info;
mod layer;
mod refusal;
mod reload;
mod service;
mod stream;

pub use certificate::Certificate;
pub use certificates::Certificates;
pub use config::{TlsConfig, TlsVersion};
pub use layer::TlsLayer;
pub use reload::{RELOAD_INTERVAL, Watch};
pub use service::{ResponseFuture, Tls};
pub use stream::TlsStream;
