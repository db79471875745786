//! Checks before anything is built, so that `edge --check` says the same as a start.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use super::{Settings, SettingsError, duration, error::Location, parser_messages};
#[cfg(feature = "server")]
use crate::server::Http;
use crate::{
    endpoints::Readiness,
    error::ConfigError,
    pool::{self, Locality, PanicRouting, Protocol, Routing},
};

/// Says what the TOML parser or the field names found.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> SettingsError {
    let Some(span) = error.span().filter(|_| !text.trim().is_empty()) else {
        return SettingsError::new(None, "", parser_messages::rewrite(error.message(), "", ""));
    };
    let number = text[..span.start.min(text.len())].matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or("").trim();
    let header = header_above(text, number);
    let message = parser_messages::rewrite(error.message(), &header, line);
    // `[listen]` where a list is wanted: it is the brackets that are wrong.
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

/// The section that a line stands in.
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
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        self.check_server()?;
        self.check_listen()?;
        let pool = self.pool()?;
        // What the rooms accept, they say best themselves.
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
        let Some(tls) = &self.listen[nth].tls else {
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

    /// Returns what `hsts` says, where a listener has it.
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

    /// Returns the address of a listener.
    ///
    /// # Errors
    ///
    /// When it is not an IP address with a port.
    ///
    /// # Panics
    ///
    /// When there is no such listener.
    pub fn listen_address(&self, nth: usize) -> Result<SocketAddr, SettingsError> {
        let address = &self.listen[nth].address;
        address.parse().map_err(|_error| {
            let location = Location { header: "[[listen]]", nth, key: "address" };
            let message = format!("{address:?}: an IP address and a port is accepted, as in \"127.0.0.1:8080\" or \"[::]:443\"");
            location.wrong(&self.text, message)
        })
    }

    /// Returns where this instance stands.
    ///
    /// # Errors
    ///
    /// When that has no segments, more than three, or an empty one.
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

    /// Returns how long a request on the nth listener and its response may take in all; `None`
    /// for no limit, and where there is no such listener.
    ///
    /// # Errors
    ///
    /// When it is no duration, or outside of 10 ms to 24 h.
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

    /// Returns how long readiness fails before listeners close.
    ///
    /// # Errors
    ///
    /// When it is no duration.
    pub fn lame_duck(&self) -> Result<Duration, SettingsError> {
        let noticed = self.admin.is_some() || self.listen.iter().any(|l| l.ready.is_some());
        let default = match noticed {
            true => Duration::from_secs(5),
            false => Duration::ZERO,
        };
        let value = self.server.shutdown.lame_duck.as_deref();
        let location = Location::new("[server]", "shutdown");
        Ok(self.duration(location, value)?.unwrap_or(default))
    }

    /// Returns how long connections may take to end.
    ///
    /// # Errors
    ///
    /// When it is no duration.
    pub fn drain(&self) -> Result<Duration, SettingsError> {
        let value = self.server.shutdown.drain.as_deref();
        let location = Location::new("[server]", "shutdown");
        Ok(self
            .duration(location, value)?
            .unwrap_or(Duration::from_secs(30)))
    }

    pub(super) fn duration(
        &self,
        location: Location<'_>,
        value: Option<&str>,
    ) -> Result<Option<Duration>, SettingsError> {
        let parsed = value.map(duration::parse).transpose();
        parsed.map_err(|message| location.wrong(&self.text, message))
    }

    /// Makes a room's error one of the settings.
    pub(super) fn at(&self, location: Location<'_>, error: &ConfigError) -> SettingsError {
        location.wrong(&self.text, error.message())
    }

    /// Returns the pool, new.
    ///
    /// # Errors
    ///
    /// When a backend is not acceptable, or two have one id.
    pub fn pool(&self) -> Result<pool::Pool, SettingsError> {
        let backends = self.backends()?;
        let pool = pool::Pool::new(backends).map_err(SettingsError::from)?;
        pool.update_routing(self.routing()?);
        Ok(pool)
    }

    /// Returns how traffic follows health, for a pool that is there already.
    ///
    /// # Errors
    ///
    /// When a key of `[pool]` is not in its range.
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
            routing = routing.slow_start(time, 0.1).map_err(at)?;
        }
        Ok(routing)
    }

    /// Returns the backends, for a pool that is there already.
    ///
    /// # Errors
    ///
    /// When one is not acceptable, or two have one id.
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
