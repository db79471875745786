//! The layers and services that are made of settings.

use std::time::Duration;

use super::{Settings, SettingsError, error::Location};
use crate::sticky::{Keys, StickyLayer};
use crate::{
    balance::{
        BalanceLayer, ConsistentHash, HashKey, LeastRequests, PeakEwma, PowerOfTwo, Random,
        RoundRobin, Strategy,
    },
    connect::Connector,
    context::TrustedPeers,
    endpoints::{EndpointsLayer, Readiness},
    error::ConfigError,
    forwarded::{ClientField, ForwardedLayer},
    pool::Pool,
};
use crate::{
    load_balancer::{Builder, LoadBalancer},
    proxy::Proxy,
};

impl Settings {
    /// Returns the canonical stack over this pool without the access log. The sink of the log is
    /// opened once and outlives a reload: see [`access_log`](Self::access_log).
    ///
    /// # Errors
    ///
    /// Returns an error if a section is not acceptable, which [`from_toml`](Self::from_toml) has
    /// checked.
    pub fn load_balancer(&self, pool: &Pool) -> Result<Builder, SettingsError> {
        let builder = LoadBalancer::builder(pool.clone())
            .balance(BalanceLayer::new(pool.clone()).strategy(self.strategy()?))?
            .health(self.health_layer(pool)?)?
            .failover(self.failover_layer()?)
            .forwarded(self.forwarded_layer()?)
            .proxy(self.proxy()?);
        match self.sticky_layer(pool)? {
            Some(sticky) => Ok(builder.sticky(sticky)?),
            None => Ok(builder),
        }
    }

    /// Returns the strategy; round robin by default.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn strategy(&self) -> Result<Box<dyn Strategy>, SettingsError> {
        let name = self.pool.strategy.as_deref().unwrap_or("round-robin");
        let strategy: Box<dyn Strategy> = match name {
            "round-robin" => Box::new(RoundRobin::new()),
            "random" => Box::new(Random::new()),
            "least-requests" => Box::new(LeastRequests::new()),
            "power-of-two" => Box::new(PowerOfTwo::new()),
            "peak-ewma" => Box::new(PeakEwma::new()),
            "consistent-hash" => return Ok(Box::new(self.consistent_hash()?)),
            other => {
                let location = Location::new("[pool]", "strategy");
                let message = format!("{other:?}: {STRATEGIES}");
                return Err(location.wrong(&self.text, message));
            }
        };
        for (key, is_given) in [
            ("hash", self.pool.hash.is_some()),
            ("load_factor", self.pool.load_factor.is_some()),
            ("affinity_floor", self.pool.affinity_floor.is_some()),
        ] {
            if is_given {
                let message = "for strategy = \"consistent-hash\" only; leave it out";
                return Err(Location::new("[pool]", key).wrong(&self.text, message));
            }
        }
        Ok(strategy)
    }

    fn consistent_hash(&self) -> Result<ConsistentHash, SettingsError> {
        let at = |error: ConfigError| self.at(Location::new("[pool]", error.field()), &error);
        let mut strategy = ConsistentHash::new(self.hash_key()?);
        if let Some(factor) = self.pool.load_factor {
            strategy = strategy.load_factor(factor).map_err(at)?;
        }
        if let Some(floor) = self.pool.affinity_floor {
            strategy = strategy.affinity_floor(floor).map_err(at)?;
        }
        Ok(strategy)
    }

    fn hash_key(&self) -> Result<HashKey, SettingsError> {
        let location = Location::new("[pool]", "hash");
        let given = self.pool.hash.as_ref();
        let table = given.and_then(toml::Value::as_table);
        let named = |kind: &str| {
            let table = table.filter(|table| table.len() == 1);
            table.and_then(|table| table.get(kind)?.as_str())
        };
        let key = match given.and_then(toml::Value::as_str) {
            Some("path") => Some(HashKey::Path),
            Some("client") => Some(HashKey::Client),
            Some(_) => None,
            None => {
                let header = named("header").and_then(|name| name.parse().ok());
                let cookie = named("cookie").filter(|name| !name.is_empty());
                header
                    .map(HashKey::Header)
                    .or_else(|| cookie.map(|name| HashKey::Cookie(name.to_owned())))
            }
        };
        key.ok_or_else(|| match given {
            Some(_) => location.wrong(&self.text, HASH_KEYS),
            None => Location::new("[pool]", "strategy").wrong(&self.text, HASH_KEYS),
        })
    }

    /// Returns the sticky layer; `None` without `[sticky]`.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn sticky_layer(&self, pool: &Pool) -> Result<Option<StickyLayer>, SettingsError> {
        let Some(sticky) = &self.sticky else {
            return Ok(None);
        };
        let at = |error: ConfigError| {
            let location = Location::new("[sticky]", error.field());
            self.at(location, &error)
        };
        let keys = Keys::from_hex(&sticky.keys).map_err(at)?;
        let mut layer = StickyLayer::new(pool.clone(), keys);
        if let Some(name) = &sticky.cookie {
            layer = layer.cookie_name(name).map_err(at)?;
        }
        if sticky.secure == Some(false) {
            layer = layer.insecure().map_err(at)?;
        }
        Ok(Some(layer))
    }

    /// Returns the proxy.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn proxy(&self) -> Result<Proxy, SettingsError> {
        let given = &self.proxy;
        let location = |key| Location::new("[proxy]", key);
        let at = |error: ConfigError| self.at(Location::new("[proxy]", error.field()), &error);
        let mut proxy = Proxy::new().connector(self.connector()?);
        let response = given.response_timeout.as_deref();
        if let Some(timeout) = self.duration(location("response_timeout"), response)? {
            proxy = proxy.response_timeout(timeout).map_err(at)?;
        }
        if let Some(timeout) =
            self.duration(location("idle_timeout"), given.idle_timeout.as_deref())?
        {
            proxy = proxy.idle_timeout(timeout).map_err(at)?;
        }
        let age = given.max_connection_age.as_deref();
        if let Some(age) = self.duration(location("max_connection_age"), age)? {
            proxy = proxy.max_connection_age(age).map_err(at)?;
        }
        Ok(proxy.trusted_peers(self.trusted_peers()?))
    }

    /// Returns the layer that finds the address of the client behind `[proxy] trusted`.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn forwarded_layer(&self) -> Result<ForwardedLayer, SettingsError> {
        let location = Location::new("[proxy]", "client_field");
        let field = match self.proxy.client_field.as_deref() {
            None | Some("x-forwarded-for") => ClientField::XForwardedFor,
            Some("forwarded") => ClientField::Forwarded,
            Some(other) => {
                let message = format!("{other:?}: x-forwarded-for or forwarded is accepted");
                return Err(location.wrong(&self.text, message));
            }
        };
        let trusted = self.trusted_peers()?;
        if trusted.is_empty() && self.proxy.client_field.is_some() {
            let message = "it is read from trusted peers only; name them in trusted";
            return Err(location.wrong(&self.text, message));
        }
        Ok(ForwardedLayer::new(trusted).field(field))
    }

    fn trusted_peers(&self) -> Result<TrustedPeers, SettingsError> {
        let trusted = self.proxy.trusted.iter().flatten();
        TrustedPeers::new(trusted)
            .map_err(|error| self.at(Location::new("[proxy]", error.field()), &error))
    }

    pub(super) fn connector(&self) -> Result<Connector, SettingsError> {
        let location = Location::new("[proxy]", "connect_timeout");
        let mut connector = Connector::new();
        // A backend that acknowledges nothing for the idle time is given up like a silent one.
        let idle_location = Location::new("[proxy]", "idle_timeout");
        let idle = self.proxy.idle_timeout.as_deref();
        if let Some(idle) = self.duration(idle_location, idle)? {
            connector = connector
                .tcp_user_timeout(idle.clamp(MIN_USER_TIMEOUT, MAX_USER_TIMEOUT))
                .map_err(|error| self.at(idle_location, &error))?;
        }
        match self.duration(location, self.proxy.connect_timeout.as_deref())? {
            Some(timeout) => connector
                .timeout(timeout)
                .map_err(|error| self.at(location, &error)),
            None => Ok(connector),
        }
    }

    /// Returns the layer that answers `live` and `ready` on the nth listener; `None` if the listener
    /// has neither path, or does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn endpoints_layer(
        &self,
        nth: usize,
        readiness: &Readiness,
    ) -> Result<Option<EndpointsLayer>, SettingsError> {
        let Some(listen) = self.listen.get(nth) else {
            return Ok(None);
        };
        let location = |key| Location {
            header: "[[listen]]",
            nth,
            key,
        };
        let mut layer = EndpointsLayer::new(readiness.clone()).no_live().no_ready();
        if let Some(path) = &listen.live {
            let made = layer.live_path(path);
            layer = made.map_err(|error| self.at(location("live"), &error))?;
        }
        if let Some(path) = &listen.ready {
            if listen.live.as_ref() == Some(path) {
                let message = format!("{path:?}: it is the path of `live`");
                return Err(location("ready").wrong(&self.text, message));
            }
            let made = layer.ready_path(path);
            layer = made.map_err(|error| self.at(location("ready"), &error))?;
        }
        Ok((listen.live.is_some() || listen.ready.is_some()).then_some(layer))
    }

    /// Reads the certificates of the nth listener. Returns its TLS layer and the certificates, which
    /// can be watched or replaced; `None` if the listener has no TLS, or does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, or a key does not belong to its certificate.
    #[cfg(feature = "__tls")]
    pub fn tls(
        &self,
        nth: usize,
    ) -> Result<Option<(crate::tls::TlsLayer, crate::tls::Certificates)>, SettingsError> {
        use crate::tls::{Certificate, Certificates, TlsConfig, TlsLayer, TlsVersion};
        let Some(tls) = self.listen.get(nth).and_then(|l| l.tls.as_ref()) else {
            return Ok(None);
        };
        let at = |key: &str, error: &ConfigError| {
            let location = Location {
                header: "[listen.tls]",
                nth,
                key,
            };
            location.wrong(
                &self.text,
                format!("{}: {}", error.field(), error.message()),
            )
        };
        let files = tls
            .certificates
            .iter()
            .map(|c| Certificate::files(&c.chain, &c.key));
        let certificates = Certificates::new(files).map_err(|error| at("certificates", &error))?;
        let mut config = TlsConfig::new(certificates.clone());
        if tls.min_version.as_deref() == Some("1.3") {
            config = config.min_version(TlsVersion::V1_3);
        }
        if let Some(names) = &tls.alpn {
            config = config
                .alpn(names.iter().map(String::as_str))
                .map_err(|error| at("alpn", &error))?;
        }
        Ok(Some((TlsLayer::new(config), certificates)))
    }

    /// Returns the layer that adds `Strict-Transport-Security` on the nth listener; `None` without
    /// `hsts`.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    #[cfg(feature = "__tls")]
    pub fn hsts(&self, nth: usize) -> Result<Option<crate::tls::HstsLayer>, SettingsError> {
        let age = self.hsts_age(nth)?;
        Ok(age.map(|age| crate::tls::HstsLayer::new().max_age(age)))
    }

    /// Opens the access log. Returns the sink and its layer; `None` without `[access_log]`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened.
    pub fn access_log(
        &self,
    ) -> Result<
        Option<(
            crate::access_log::JsonLines,
            crate::access_log::AccessLogLayer,
        )>,
        SettingsError,
    > {
        use crate::access_log::JsonLines;
        let Some(log) = &self.access_log else {
            return Ok(None);
        };
        let sink = match log.file.as_str() {
            "stdout" => JsonLines::stdout(),
            path => JsonLines::file(path),
        };
        let sink = sink.map_err(|error| {
            let location = Location::new("[access_log]", "file");
            location.wrong(&self.text, format!("{:?}: {error}", log.file))
        })?;
        let layer = self.access_log_layer(sink.clone())?;
        Ok(layer.map(|layer| (sink, layer)))
    }

    /// Returns the access log layer on a sink that is open already; `None` without `[access_log]`.
    /// A reload needs it, because `[proxy] trusted` decides whose request ids are believed.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn access_log_layer(
        &self,
        sink: crate::access_log::JsonLines,
    ) -> Result<Option<crate::access_log::AccessLogLayer>, SettingsError> {
        let Some(log) = &self.access_log else {
            return Ok(None);
        };
        let mut layer = crate::access_log::AccessLogLayer::new(sink);
        if let Some(node) = &log.node {
            layer = layer.node(node);
        }
        if log.pass_request_id.unwrap_or(true) {
            layer = layer.pass_request_id(true);
        }
        let trusted = self.trusted_peers()?;
        if !trusted.is_empty() {
            layer = layer.trust_request_id_from(move |peer| trusted.contains(peer));
        }
        Ok(Some(layer))
    }
}

/// The least user time-out, for any idle time-out: a backend whose packets are lost four times in a
/// row has not vanished yet.
const MIN_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that [`Connector::tcp_user_timeout`] accepts.
const MAX_USER_TIMEOUT: Duration = Duration::from_secs(3_600);
const STRATEGIES: &str =
    "round-robin, random, least-requests, power-of-two, peak-ewma or consistent-hash is accepted";
const HASH_KEYS: &str = "consistent-hash needs hash = \"path\", \"client\", { header = \"name\" } or { cookie = \"name\" }";

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};
    use http_body_util::Empty;
    use tower_service::Service;

    use super::*;

    #[tokio::test]
    async fn reloads_leave_no_tables_and_no_attachments_behind() {
        let text = |strategy: &str, round: usize| {
            format!(
                "[[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\nstrategy = \"{strategy}\"\n{}\
                 [[pool.backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\nweight = {}\n\
                 [sticky]\nkeys = [\"{}\"]\n[health]\npath = \"/{round}\"\ninterval = \"1h\"\n",
                if strategy == "consistent-hash" {
                    "hash = \"path\"\n"
                } else {
                    ""
                },
                1 + round % 2,
                "ab".repeat(32),
            )
        };
        let settings = |round| {
            let strategy = ["peak-ewma", "consistent-hash"][round % 2];
            Settings::from_toml(&text(strategy, round)).unwrap()
        };
        let pool = settings(0).pool().unwrap();
        let mut running = None;
        let mut most = ((0, 0), 0);
        for round in 0..100 {
            let settings = settings(round);
            let mut balancer = settings.load_balancer(&pool).unwrap().build();
            pool.replace(settings.backends().unwrap()).unwrap();
            if round % 10 < 2 {
                let request = Request::new(Empty::<bytes::Bytes>::new());
                let response = balancer.call(request).await.unwrap();
                assert_eq!(response.status().as_u16() / 100, 5, "{response:?}");
                assert_ne!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            }
            // The old balancer goes, with its task of checks.
            drop(running.replace(balancer));
            tokio::task::yield_now().await;
            let snapshot = pool.snapshot();
            let backend = &snapshot.backends()[0];
            let now = (snapshot.count_tables(), backend.count_attachments());
            if round < 10 {
                most = most.max(now);
            }
            assert!(
                now.0.0 <= most.0.0.max(4) && now.0.1 <= most.0.1.max(4) && now.1 <= most.1.max(8),
                "round {round}: {now:?}, at first {most:?}"
            );
        }
    }
}
