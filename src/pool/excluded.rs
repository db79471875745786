//! `Excluded`: how many backends a pick left out, and why.
//!
//! 16 bits each, so that the whole fits into 12 bytes of the record of each request; counts of larger
//! pools saturate at 65,535.

/// How many backends were left out of a pick, by reason. A backend counts once, except one that was tried
/// and is unusable since: it counts as both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Excluded {
    /// In maintenance, evacuated, or of weight 0.
    pub maintenance: u16,
    /// Draining: an operator or the backend itself asks for no new requests.
    pub draining: u16,
    /// Unhealthy by a check, or ejected for its failures.
    pub unhealthy: u16,
    /// Not checked yet.
    pub unchecked: u16,
    /// Tried already for this request.
    pub tried: u16,
    /// At the cap of its requests in flight.
    pub full: u16,
}

impl Excluded {
    /// Returns true if no backend was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the counts with the names that they have in logs.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u16)> {
        [
            ("maintenance", self.maintenance),
            ("draining", self.draining),
            ("unhealthy", self.unhealthy),
            ("unchecked", self.unchecked),
            ("tried", self.tried),
            ("full", self.full),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
    }
}
