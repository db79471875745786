//! The locality of a backend or a balancer: region, zone and rack.

use std::{fmt, sync::Arc};

use crate::error::ConfigError;

/// The locality of a backend or a balancer: `region`, `region/zone` or `region/zone/rack`.
///
/// Localities are compared segment by segment, from the left; the names mean nothing to this crate.
/// A longer common prefix is nearer.
///
/// # Example
///
/// ```
/// use evenkeel::pool::Locality;
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let rack = Locality::new("eu/1a/r1")?;
/// assert!(rack.is_within(&Locality::new("eu/1a")?));
/// assert_eq!(rack.shared_segments(&Locality::new("eu/1b/r1")?), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Locality {
    path: Arc<str>,
}

impl Locality {
    /// Parses `region`, `region/zone` or `region/zone/rack`.
    ///
    /// # Errors
    ///
    /// Returns an error that names `locality` if there are more than three segments or an empty one.
    pub fn new(path: &str) -> Result<Self, ConfigError> {
        let segments = path.split('/').count();
        // An empty segment would be shared by all that have none, and so bring far localities near.
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

    /// Returns the number of leading segments that both share: more are nearer.
    #[must_use]
    pub fn shared_segments(&self, other: &Self) -> usize {
        self.path
            .split('/')
            .zip(other.path.split('/'))
            .take_while(|(a, b)| a == b)
            .count()
    }

    /// Returns the distance, 0 to 3: the number of leading segments that are not shared, of three.
    ///
    /// A segment that one of them lacks is not shared: two backends that both say `eu/1a` and name no
    /// rack have a distance of 1.
    pub(super) fn distance(&self, other: &Self) -> u8 {
        SEGMENTS - (self.shared_segments(other) as u8).min(SEGMENTS)
    }

    /// Returns true if this locality is `prefix` or is in it.
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
