//! Where something stands.

use std::{fmt, sync::Arc};

use crate::error::ConfigError;

/// Where a backend or a balancer stands: `region`, `region/zone` or `region/zone/rack`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Locality {
    path: Arc<str>,
}

impl Locality {
    /// Parses `region`, `region/zone` or `region/zone/rack`.
    ///
    /// # Errors
    ///
    /// When there are no segments, more than three, or an empty one.
    pub fn new(path: &str) -> Result<Self, ConfigError> {
        let segments = path.split('/').count();
        if segments > 3 || path.split('/').any(|s| s.trim().is_empty()) {
            return Err(ConfigError::new(
                "locality",
                format!("{path:?}: region, region/zone or region/zone/rack is accepted"),
            ));
        }
        Ok(Self { path: path.into() })
    }

    /// Returns the segments, joined by slashes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Returns how many leading segments both share: the nearer, the more.
    #[must_use]
    pub fn shared_segments(&self, other: &Self) -> usize {
        self.path
            .split('/')
            .zip(other.path.split('/'))
            .take_while(|(a, b)| a == b)
            .count()
    }

    /// Returns how far apart both are, 0 to 3: the segments that a place in full has, less those
    /// that are shared.
    pub(super) fn distance(&self, other: &Self) -> u8 {
        SEGMENTS - (self.shared_segments(other) as u8).min(SEGMENTS)
    }

    /// Returns true if this place is `prefix` or lies in it.
    #[must_use]
    pub fn is_within(&self, prefix: &Self) -> bool {
        self.shared_segments(prefix) == prefix.path.split('/').count()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// Region, zone and rack.
pub(super) const SEGMENTS: u8 = 3;
