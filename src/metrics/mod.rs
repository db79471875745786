//! The numbers of requests, backends and listeners, for Prometheus and others.

mod backend_series;
mod body;
mod endpoint;
mod layer;
mod process;
mod series;
mod service;
mod text;
mod visitor;

pub use body::ResponseBody;
pub use endpoint::{Body, MetricsService};
pub use layer::MetricsLayer;
pub use service::{Metrics, ResponseFuture};
pub use visitor::{Family, Kind, Value, Visitor};
