//! Checks of whole settings, and the values that need no layer: addresses, times, backends.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use super::{Settings, SettingsError, duration, error::Location, parser_messages};
#[cfg(feature = "server")]
use crate::server::Http;
use crate::{
    endpoints::Readiness,
    error::ConfigError,
    pool::{self, Locality, PanicRouting, Protocol, Routing},
};

/// Makes an error of one of serde or of the TOML parser.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> SettingsError {
    let Some(span) = error.span().filter(|_| !text.trim().is_empty()) else {
        return SettingsError::new(None, "", parser_messages::rewrite(error.message(), "", ""));
    };
    let number = text[..span.start.min(text.len())].matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or("").trim();
    let header = header_above(text, number);
    let message = parser_messages::rewrite(error.message(), &header, line);
    // `[listen]` instead of `[[listen]]`: the brackets are wrong.
    if line.starts_with('[') && !line.starts_with("[[") && error.message().contains("a sequence") {
        let message = format!("one of several: [{header}] is accepted");
        return SettingsError::new(Some(number), header, message);
    }
    let location = match parser_messages::key(line) {
        Some(key) if error.message().starts_with("invalid ") => format!("{header} {key}"),
        _ => header,
    };
    SettingsError::new(Some(number), location, message)
}

/// Returns the header of the section that holds a line.
fn header_above(text: &str, line: usize) -> String {
    let above = text
        .lines()
        .take(line)
        .filter(|l| l.trim_start().starts_with('['));
    above.last().map_or(String::new(), |l| {
        l.split('#').next().unwrap_or("").trim().to_owned()
    })
}

impl Settings {
    /// Builds everything once, so that `edge --check` reports what a start would.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        self.check_server()?;
        self.check_listen()?;
        let pool = self.pool()?;
        // Each module knows itself what it accepts.
        self.strategy()?;
        let _ = self.health_layer(&pool)?;
        let _ = self.failover_layer()?;
        let _ = self.sticky_layer(&pool)?;
        let _ = self.proxy()?;
        let _ = self.forwarded_layer()?;
        let readiness = Readiness::new(pool);
        for nth in 0..self.listen.len() {
            let _ = self.endpoints_layer(nth, &readiness)?;
        }
        Ok(())
    }

    fn check_server(&self) -> Result<(), SettingsError> {
        let location = |key| Location::new("[server]", key);
        if let Some(threads) = self.server.threads {
            if !(1..=1_024).contains(&threads) {
                let message = format!("{threads}: 1 to 1024 is accepted");
                return Err(location("threads").wrong(&self.text, message));
            }
        }
        self.locality()?;
        self.lame_duck()?;
        self.drain()?;
        Ok(())
    }

    fn check_listen(&self) -> Result<(), SettingsError> {
        if self.listen.is_empty() {
            return Err(SettingsError::new(
                None,
                "[[listen]]",
                "1 or more is needed",
            ));
        }
        let mut seen = HashSet::new();
        if let Some(admin) = &self.admin {
            seen.insert(admin.address);
        }
        for (nth, listen) in self.listen.iter().enumerate() {
            let location = |key| Location {
                header: "[[listen]]",
                nth,
                key,
            };
            let address = self.listen_address(nth)?;
            if address.port() != 0 && !seen.insert(address) {
                let message = format!("{address}: another listener has this address");
                return Err(location("address").wrong(&self.text, message));
            }
            if !matches!(
                &listen.proxy_protocol,
                None | Some(toml::Value::Boolean(false))
            ) {
                let message = "not in this version yet; leave it out, or say false";
                return Err(location("proxy_protocol").wrong(&self.text, message));
            }
            #[cfg(feature = "server")]
            if let Some(rate) = listen.min_rate {
                let checked = Http::new(()).min_rate(rate);
                checked
                    .map(drop)
                    .map_err(|error| self.at(location("min_rate"), &error))?;
            }
            self.request_timeout(nth)?;
            self.check_tls(nth)?;
        }
        Ok(())
    }

    fn check_tls(&self, nth: usize) -> Result<(), SettingsError> {
        let Some(tls) = self.listen.get(nth).and_then(|listen| listen.tls.as_ref()) else {
            return Ok(());
        };
        let location = |key| Location {
            header: "[listen.tls]",
            nth,
            key,
        };
        if cfg!(not(feature = "__tls")) {
            let message = "built without the feature `tls`";
            return Err(location("").wrong(&self.text, message));
        }
        if tls.certificates.is_empty() {
            let message =
                "none: 1 or more of { chain = \"cert.pem\", key = \"key.pem\" } is accepted";
            return Err(location("certificates").wrong(&self.text, message));
        }
        if let Some(version) = &tls.min_version {
            if !["1.2", "1.3"].contains(&version.as_str()) {
                let message = format!("{version:?}: \"1.2\" or \"1.3\" is accepted");
                return Err(location("min_version").wrong(&self.text, message));
            }
        }
        for name in tls.alpn.iter().flatten() {
            if !["h2", "http/1.1"].contains(&name.as_str()) {
                let message = format!("{name:?}: \"h2\" and \"http/1.1\" are accepted");
                return Err(location("alpn").wrong(&self.text, message));
            }
        }
        self.hsts_age(nth)?;
        Ok(())
    }

    /// Returns the `max-age` of `hsts` on the nth listener.
    pub(super) fn hsts_age(&self, nth: usize) -> Result<Option<Duration>, SettingsError> {
        let tls = self.listen.get(nth).and_then(|listen| listen.tls.as_ref());
        let given = tls.and_then(|tls| tls.hsts.as_deref());
        let age = given.map(duration::parse_long).transpose();
        age.map_err(|message| {
            let location = Location {
                header: "[listen.tls]",
                nth,
                key: "hsts",
            };
            location.wrong(&self.text, message)
        })
    }

    /// Returns the address of the nth listener, counted from 0.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such listener, or its address is not an IP address with a
    /// port; [`from_toml`](Self::from_toml) has checked the latter.
    pub fn listen_address(&self, nth: usize) -> Result<SocketAddr, SettingsError> {
        let Some(listen) = self.listen.get(nth) else {
            let message = format!("no listener {nth}; there are {}", self.listen.len());
            return Err(SettingsError::new(None, "[[listen]]", message));
        };
        let address = &listen.address;
        address.parse().map_err(|_error| {
            let location = Location { header: "[[listen]]", nth, key: "address" };
            let message = format!("{address:?}: an IP address and a port is accepted, as in \"127.0.0.1:8080\" or \"[::]:443\"");
            location.wrong(&self.text, message)
        })
    }

    /// Returns the locality of this instance.
    ///
    /// # Errors
    ///
    /// Returns an error if it has no segments, more than three, or an empty one, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn locality(&self) -> Result<Option<Locality>, SettingsError> {
        let location = Location::new("[server]", "locality");
        let locality = self
            .server
            .locality
            .as_deref()
            .map(Locality::new)
            .transpose();
        locality.map_err(|error| self.at(location, &error))
    }

    /// Returns the time that a request on the nth listener and its whole response may take; `None`
    /// for no limit, and if there is no such listener.
    ///
    /// # Errors
    ///
    /// Returns an error if it is no duration, or outside of 10 ms to 24 h, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn request_timeout(&self, nth: usize) -> Result<Option<Duration>, SettingsError> {
        let location = || Location {
            header: "[[listen]]",
            nth,
            key: "request_timeout",
        };
        let listen = self.listen.get(nth);
        let value = listen.and_then(|listen| listen.request_timeout.as_deref());
        let timeout = self.duration(location(), value)?;
        #[cfg(feature = "server")]
        if let Some(timeout) = timeout {
            let checked = Http::new(()).request_timeout(timeout);
            checked
                .map(drop)
                .map_err(|error| self.at(location(), &error))?;
        }
        Ok(timeout)
    }

    /// Returns the time for which readiness fails before listeners close. It is zero by default if no
    /// path announces the shutdown.
    ///
    /// # Errors
    ///
    /// Returns an error if it is no duration, which [`from_toml`](Self::from_toml) has checked.
    pub fn lame_duck(&self) -> Result<Duration, SettingsError> {
        let noticed = self.admin.is_some() || self.listen.iter().any(|l| l.ready.is_some());
        let default = match noticed {
            true => LAME_DUCK,
            false => Duration::ZERO,
        };
        let value = self.server.shutdown.lame_duck.as_deref();
        let location = Location::new("[server]", "shutdown");
        Ok(self.duration(location, value)?.unwrap_or(default))
    }

    /// Returns the time that connections have to end at shutdown.
    ///
    /// # Errors
    ///
    /// Returns an error if it is no duration, which [`from_toml`](Self::from_toml) has checked.
    pub fn drain(&self) -> Result<Duration, SettingsError> {
        let value = self.server.shutdown.drain.as_deref();
        let location = Location::new("[server]", "shutdown");
        Ok(self.duration(location, value)?.unwrap_or(DRAIN))
    }

    pub(super) fn duration(
        &self,
        location: Location<'_>,
        value: Option<&str>,
    ) -> Result<Option<Duration>, SettingsError> {
        let parsed = value.map(duration::parse).transpose();
        parsed.map_err(|message| location.wrong(&self.text, message))
    }

    /// Makes an error of a module one of settings, with its line.
    pub(super) fn at(&self, location: Location<'_>, error: &ConfigError) -> SettingsError {
        location.wrong(&self.text, error.message())
    }

    /// Returns a new pool of the backends, with the routing of `[pool]`.
    ///
    /// # Errors
    ///
    /// Returns an error if a backend is not acceptable, or two have the same id, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn pool(&self) -> Result<pool::Pool, SettingsError> {
        let backends = self.backends()?;
        let pool = pool::Pool::new(backends).map_err(SettingsError::from)?;
        pool.update_routing(self.routing()?);
        Ok(pool)
    }

    /// Returns the routing of `[pool]`, for
    /// [`Pool::update_routing`](crate::Pool::update_routing) after a reload.
    ///
    /// # Errors
    ///
    /// Returns an error if a key is not in its range, which [`from_toml`](Self::from_toml) has
    /// checked.
    pub fn routing(&self) -> Result<Routing, SettingsError> {
        let given = &self.pool;
        let at = |error: ConfigError| self.at(Location::new("[pool]", error.field()), &error);
        let mut routing = Routing::new();
        if let Some(locality) = self.locality()? {
            routing = routing.locality(locality);
        }
        if let Some(factor) = given.overprovisioning {
            routing = routing.overprovisioning(factor).map_err(at)?;
        }
        if let Some(below) = given.panic {
            routing = routing.panic(PanicRouting::UseAll { below }).map_err(at)?;
        }
        let location = Location::new("[pool]", "slow_start");
        if let Some(time) = self.duration(location, given.slow_start.as_deref())? {
            routing = routing.slow_start(time, SLOW_START_FROM).map_err(at)?;
        }
        Ok(routing)
    }

    /// Returns the backends, for [`Pool::replace`](crate::Pool::replace) after a reload.
    ///
    /// # Errors
    ///
    /// Returns an error if a backend is not acceptable, or two have the same id, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn backends(&self) -> Result<Vec<pool::Backend>, SettingsError> {
        if self.pool.backends.is_empty() {
            let location = Location::new("[pool]", "");
            return Err(location.wrong(&self.text, "no [[pool.backends]]: 1 or more is needed"));
        }
        let mut seen = HashSet::new();
        let mut backends = Vec::with_capacity(self.pool.backends.len());
        for (nth, given) in self.pool.backends.iter().enumerate() {
            let location = |key| Location {
                header: "[[pool.backends]]",
                nth,
                key,
            };
            if !seen.insert(&given.id) {
                let message = format!("{:?}: another backend has this id", given.id);
                return Err(location("id").wrong(&self.text, message));
            }
            backends.push(self.backend(nth)?);
        }
        Ok(backends)
    }

    fn backend(&self, nth: usize) -> Result<pool::Backend, SettingsError> {
        let given = &self.pool.backends[nth];
        let at = |error: ConfigError| {
            let key = error.field().to_owned();
            let location = Location {
                header: "[[pool.backends]]",
                nth,
                key: &key,
            };
            self.at(location, &error)
        };
        let mut backend = pool::Backend::new(given.id.clone(), &given.url).map_err(at)?;
        if let Some(weight) = given.weight {
            backend = backend.weight(weight).map_err(at)?;
        }
        if let Some(max) = given.max_in_flight {
            backend = backend.max_in_flight(max).map_err(at)?;
        }
        if let Some(locality) = &given.locality {
            backend = backend.locality(Locality::new(locality).map_err(at)?);
        }
        let protocol = match given.protocol.as_deref() {
            None | Some("auto") => Protocol::Auto,
            Some("http1") => Protocol::Http1,
            Some("http2") => Protocol::Http2,
            Some(other) => {
                let location = Location {
                    header: "[[pool.backends]]",
                    nth,
                    key: "protocol",
                };
                let message = format!("{other:?}: auto, http1 or http2 is accepted");
                return Err(location.wrong(&self.text, message));
            }
        };
        Ok(backend.protocol(protocol).tier(given.tier.unwrap_or(0)))
    }
}

/// Long enough for a balancer that asks every 2 s to see the failing readiness twice.
const LAME_DUCK: Duration = Duration::from_secs(5);
/// As `Serve::drain_timeout`.
const DRAIN: Duration = Duration::from_secs(30);
/// As [`Routing::new`].
const SLOW_START_FROM: f64 = 0.1;
