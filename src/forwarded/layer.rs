//! What you configure.

use std::sync::Arc;

use tower_layer::Layer;

use super::Forwarded;
use crate::context::TrustedPeers;

/// Finds the client of each request behind trusted hops; see the [module](super).
#[derive(Clone, Debug)]
#[must_use]
pub struct ForwardedLayer {
    /// `None` where no hop is trusted.
    pub(super) trusted: Option<Arc<TrustedPeers>>,
    pub(super) field: ClientField,
}

/// The field in which trusted hops name the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientField {
    /// `Forwarded` (RFC 7239): the `for` parameter of each element.
    Forwarded,
    /// `X-Forwarded-For`: a list of addresses, with or without a port.
    #[default]
    XForwardedFor,
}

impl ForwardedLayer {
    /// Believes these hops: addresses and networks of the balancers in front.
    pub fn new(trusted: TrustedPeers) -> Self {
        Self {
            trusted: (!trusted.is_empty()).then(|| Arc::new(trusted)),
            field: ClientField::default(),
        }
    }

    /// Sets the field that is read. It has to be one that every trusted hop adds to: what a client
    /// sends in another passes through them.
    ///
    /// Default: [`ClientField::XForwardedFor`].
    pub fn field(mut self, field: ClientField) -> Self {
        self.field = field;
        self
    }
}

impl<S> Layer<S> for ForwardedLayer {
    type Service = Forwarded<S>;

    fn layer(&self, inner: S) -> Forwarded<S> {
        Forwarded::new(inner, self.clone())
    }
}
