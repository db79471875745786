//! `[server]` and `[admin]`: the process.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::{Settings, SettingsError, error::Location};
use crate::pool::Locality;

/// `[server]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerSettings {
    /// The number of worker threads; one for each core if absent.
    pub threads: Option<usize>,
    /// The region, zone and rack of this instance.
    pub locality: Option<String>,
    /// The times of a graceful shutdown.
    #[serde(default)]
    pub shutdown: ShutdownSettings,
}

/// `[server] shutdown`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ShutdownSettings {
    /// The time for which readiness fails before listeners close; if absent, 5 s with an `[admin]`
    /// or a listener with a `ready` path, else 0 s.
    pub lame_duck: Option<String>,
    /// The time that connections have to end; 30 s if absent.
    pub drain: Option<String>,
}

/// `[admin]`
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdminSettings {
    /// The address and port.
    pub address: SocketAddr,
}

impl Settings {
    pub(super) fn check_server(&self) -> Result<(), SettingsError> {
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
}

/// Long enough for a balancer that asks every 2 s to see the failing readiness twice.
const LAME_DUCK: Duration = Duration::from_secs(5);
/// As `Serve::drain_timeout`.
const DRAIN: Duration = Duration::from_secs(30);
