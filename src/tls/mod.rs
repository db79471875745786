//! TLS (docs to come).

mod certificate;
mod certificates;
mod config;
#[cfg(feature = "axum")]
mod connect_info;
mod handshake;
mod info;
mod layer;
#[cfg(feature = "axum")]
mod listener;
mod refusal;
mod reload;
mod service;
mod stream;

pub use certificate::Certificate;
pub use certificates::Certificates;
pub use config::{TlsConfig, TlsVersion};
#[cfg(feature = "axum")]
pub use connect_info::{ConnectInfoLayer, WithConnectInfo};
pub use layer::TlsLayer;
pub use reload::{RELOAD_INTERVAL, Watch};
pub use service::{ResponseFuture, Tls};
pub use stream::TlsStream;
