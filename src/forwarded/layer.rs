//! `ForwardedLayer`: the trusted hops and the field that is read.

use std::sync::Arc;

use tower_layer::Layer;

use super::Forwarded;
use crate::context::TrustedPeers;

/// A layer that finds the client of each request behind trusted hops; see the [module](super).
#[derive(Clone, Debug)]
#[must_use]
pub struct ForwardedLayer {
    /// `None` if no hop is trusted.
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
    /// Makes a layer that trusts these hops: the addresses and networks of the load balancers that
    /// connect to this server. With none, the layer does nothing.
    pub fn new(trusted: TrustedPeers) -> Self {
        Self {
            trusted: (!trusted.is_empty()).then(|| Arc::new(trusted)),
            field: ClientField::default(),
        }
    }

    /// Sets the field that is read. Every trusted hop must add to it: hops pass other fields on as the
    /// client sent them.
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

#[cfg(test)]
mod tests {
    use super::{super::hops::MAX_HOPS, *};

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let layer = ForwardedLayer::new(TrustedPeers::default());
        assert!(layer.trusted.is_none() && layer.field == ClientField::XForwardedFor);
        let compared = [
            ("trusted hops", "none".to_owned()),
            ("field", "`X-Forwarded-For`".to_owned()),
            ("elements of the list", MAX_HOPS.to_string()),
        ];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }
}
