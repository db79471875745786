//! Sections that serde has read, before and while the modules check them.
//!
//! Reading has three stages, each with a type:
//!
//! | stage | type | holds |
//! |---|---|---|
//! | text | [`Text`] | what an error takes its line from |
//! | values | `Draft`, `Sections` | each value parsed, nothing checked together |
//! | layers | `Parts` | what the modules made of the values, and so accepted |
//!
//! Parts are made when the file is read and cloned by the accessors of `Settings`: so a settings file
//! that was accepted cannot fail later, in the middle of a reload. Before, each accessor built its
//! layer again, and each returned a `Result`.

use std::{fmt, ops::Deref};

use super::{
    Sections, SettingsError, access_log::OutputPart, error::Location, failover::FailoverParts,
    parser_messages, strategy::StrategyMaker,
};
#[cfg(feature = "proxy-protocol")]
use crate::proxy_protocol::ProxyProtocolLayer;
use crate::{
    connect::Connector,
    endpoints::{EndpointsLayer, Readiness},
    error::ConfigError,
    forwarded::ForwardedLayer,
    health::HealthLayer,
    pool::{Backend, Pool, Routing},
    proxy::Proxy,
    sticky::StickyLayer,
    trace::TraceLayer,
};

/// The sections, and the text that they were read from: an error takes the line of a key from it.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) sections: Sections,
    pub(super) text: Text,
}

/// What the modules made of all sections. An accessor clones it, and so cannot fail.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) routing: Routing,
    pub(super) backends: Vec<Backend>,
    pub(super) strategy: StrategyMaker,
    pub(super) health: HealthLayer,
    pub(super) failover: FailoverParts,
    pub(super) sticky: Option<StickyLayer>,
    pub(super) trace: Option<TraceLayer>,
    pub(super) connector: Connector,
    #[cfg(feature = "__tls")]
    pub(super) client_tls: crate::connect::ClientTls,
    pub(super) proxy: Proxy,
    pub(super) forwarded: ForwardedLayer,
    /// One for each listener.
    #[cfg(feature = "proxy-protocol")]
    pub(super) proxy_protocol: Vec<ProxyProtocolLayer>,
    /// One for each listener.
    pub(super) endpoints: Vec<Option<EndpointsLayer>>,
    pub(super) log_outputs: Vec<OutputPart>,
    #[cfg(feature = "fleet")]
    pub(super) handover: Option<crate::fleet::handover::Handover>,
}

/// The whole text. It holds the keys of `[sticky]`, so its `Debug` shows nothing.
#[derive(Clone, Default)]
pub(super) struct Text(String);

impl Draft {
    /// Reads the sections, and parses each value.
    pub(super) fn read(text: &str) -> Result<Self, SettingsError> {
        Self::parse(text).map_err(|error| parser_messages::syntax(text, &error))
    }

    /// Does the same; returns the error of the parser, which has the place of the mistake.
    pub(super) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        Ok(Self {
            sections: toml::from_str(text)?,
            text: Text(text.to_owned()),
        })
    }

    /// Builds everything once: each module knows itself what it accepts.
    pub(super) fn parts(&self) -> Result<Parts, SettingsError> {
        self.check_certificate_expiry()?;
        self.check_listeners()?;
        self.check_admin()?;
        self.check_fleet()?;
        // Layers that need a pool are made for this one, and then for the pools of the caller.
        // An empty pool checks what a setter checks. `for_pool` of a layer then makes the same one for
        // the real pool, and cannot fail.
        let pool = Pool::of_distinct(Vec::new());
        let readiness = Readiness::new(pool.clone());
        let listeners = 0..self.sections.listen.len();
        let backends = self.backends()?;
        let routing = self.routing()?;
        let connector = self.connector()?;
        Ok(Parts {
            backends,
            routing,
            strategy: self.strategy()?,
            health: self.health_layer(&pool, &connector)?,
            failover: self.failover()?,
            sticky: self.sticky_layer(&pool)?,
            trace: self.trace_layer()?,
            proxy: self.proxy(&connector)?,
            forwarded: self.forwarded_layer()?,
            #[cfg(feature = "proxy-protocol")]
            proxy_protocol: self.proxy_protocol()?,
            endpoints: listeners
                .map(|nth| self.endpoints_layer(nth, &readiness))
                .collect::<Result<_, _>>()?,
            log_outputs: self.log_outputs()?,
            #[cfg(feature = "fleet")]
            handover: self.handover()?,
            connector,
            #[cfg(feature = "__tls")]
            client_tls: self.client_tls()?,
        })
    }

    /// Makes an error of a module one of settings, with its line.
    pub(super) fn at(&self, location: Location<'_>, error: &ConfigError) -> SettingsError {
        location.wrong(&self.text, error.message())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text").finish_non_exhaustive()
    }
}
