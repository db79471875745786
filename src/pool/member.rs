//! What a handle that the pool gave out reads: the live state of a member, its identity, and the
//! attachments that layers keep with it.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Attachment, AttachmentKey, Backend, Circuit, HealthStatus, Mode,
    backend::Config,
    state::{FULL, State},
};

/// The live state, which all handles of a member share. A getter reads it when it is called; two
/// calls may see two states.
impl Backend {
    /// Returns the number of requests in flight now: attempts, each until the last byte of its
    /// response or the end of its tunnel.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.state().in_flight()
    }

    /// Returns the number of requests that were sent here since the backend joined, retries and
    /// hedges included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.state().requests()
    }

    /// Returns the measured health, active checks and outlier detection combined: unhealthy while
    /// the circuit is not closed, else what active checks say.
    #[must_use]
    pub fn health(&self) -> HealthStatus {
        self.state().health()
    }

    /// Returns what active checks say, without regard to ejections.
    #[must_use]
    pub fn active_health(&self) -> HealthStatus {
        self.state().active()
    }

    /// Returns true while outlier detection keeps the backend out of service: its circuit is open
    /// or half open.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.circuit() != Circuit::Closed
    }

    /// Returns the state of the circuit that outlier detection opens and closes.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        self.state().circuit()
    }

    /// Returns the capacity that active checks measured: 1.0 in full, less while the backend says
    /// that it is degraded. The weight in force is multiplied by it.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        f64::from(self.state().capacity()) / f64::from(FULL)
    }

    /// Returns true while the backend asks, in its answers to active checks, to be drained.
    #[must_use]
    pub fn asks_to_drain(&self) -> bool {
        self.state().asks_to_drain()
    }

    /// Returns true while the backend's locality is evacuated; see
    /// [`Pool::evacuate`](super::Pool::evacuate).
    #[must_use]
    pub fn is_evacuated(&self) -> bool {
        self.state().is_evacuated()
    }

    /// Returns how often active health changed within the flap window of the checks, as the last
    /// measurement counted it.
    #[must_use]
    pub fn flaps(&self) -> u32 {
        self.state().flaps().0
    }

    /// Returns true while active health changes so often that the checks damp further changes.
    #[must_use]
    pub fn is_flapping(&self) -> bool {
        self.state().flaps().1
    }

    /// Returns how long [`health`](Self::health) has had its present value.
    #[must_use]
    pub fn in_state_for(&self) -> Duration {
        self.state().since().elapsed()
    }

    /// Returns the mode that an operator ordered.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.state().mode()
    }

    /// Returns true if the current snapshot lets a pick choose the backend for new requests.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.state().is_usable()
    }

    /// Returns true if requests of a sticky session may still be sent here.
    ///
    /// A usable backend keeps its sessions. So does one that is not unhealthy and that drains and
    /// has not reached its deadline, asks to be drained, or has weight 0. A backend in an evacuated
    /// locality keeps none.
    #[must_use]
    pub fn keeps_sessions(&self) -> bool {
        self.state().is_usable() || self.state().keeps_sessions(self.inner.config.weight == 0)
    }

    /// Returns true while the one request that tries a half-open circuit is in flight.
    pub(crate) fn has_trial(&self) -> bool {
        self.state().has_trial()
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.inner.state
    }
}

/// The identity of a member.
impl Backend {
    /// Returns true if both handles stand for the same member: the id is the same, and it was not
    /// removed and added again in between.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner.state, &other.inner.state)
    }

    /// Returns a number that is unique to this member within the process. An id that is removed
    /// and added again gets a new one.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.state().incarnation()
    }

    /// Returns how often the member's address changed. A change and its undoing count as two, so
    /// that a result measured before the first is not taken for one measured after the second.
    pub(crate) fn address_changes(&self) -> u32 {
        self.state().address_changes()
    }

    /// Returns true if connections to both reach the same endpoint; weight, tier and caps do not
    /// matter.
    pub(super) fn has_same_endpoint(&self, other: &Self) -> bool {
        self.inner.config.has_same_endpoint(&other.inner.config)
    }

    /// Returns the names of the settings in which both differ.
    pub(super) fn differs_in(&self, other: &Self) -> Vec<&'static str> {
        let (own, others) = (&*self.inner.config, &*other.inner.config);
        let same = [
            (
                "url",
                own.has_same_endpoint(others)
                    && own.url.base_path == others.url.base_path
                    && own.url.authority == others.url.authority,
            ),
            ("protocol", own.protocol == others.protocol),
            (
                "proxy_protocol",
                own.proxy_protocol == others.proxy_protocol,
            ),
            ("weight", own.weight == others.weight),
            ("tier", own.tier == others.tier),
            ("locality", own.locality == others.locality),
            (
                "max_in_flight",
                self.inner.max_in_flight == other.inner.max_in_flight,
            ),
        ];
        let differing = same.iter().filter(|(_, same)| !same);
        differing.map(|(name, _)| *name).collect()
    }

    /// Returns the endpoint that connections reach now, for a comparison later.
    ///
    /// The proxy keeps it beside an idle connection, and closes the connection if it no longer
    /// [leads](Address::is_of) to the backend.
    pub(crate) fn address(&self) -> Address {
        Address(self.inner.config.clone())
    }

    /// Displays the endpoint: the path of the Unix socket, or host and port, with an IPv6 address in
    /// brackets (RFC 5952 §6).
    pub(crate) fn shown_address(&self) -> impl fmt::Display {
        ShownAddress(self)
    }

    /// A reload makes the handle of a member in this way: new settings around the state of the id.
    pub(super) fn with_state(&self, state: Arc<State>) -> Self {
        Self::join(self.inner.config.clone(), state, self.inner.max_in_flight)
    }

    /// Returns a handle with the same configuration, and the state of a backend that no pool has.
    pub(crate) fn with_new_state(&self) -> Self {
        self.with_state(Arc::new(State::new()))
    }

    /// Returns the weight in force, in thousandths of a weight of 1: the configured weight, times
    /// the measured capacity, times the share that slow start grants. At least 1 if the configured
    /// weight is over 0.
    pub(super) fn weight_in_force(&self) -> u32 {
        let state = self.state();
        // 1,000 × 1,000 × 1,000 at most, in thousandths of thousandths: 64 bits before the division.
        let weight = u64::from(self.inner.config.weight)
            * u64::from(state.capacity())
            * u64::from(state.slow_start_share());
        let least = u32::from(self.inner.config.weight > 0);
        u32::try_from(weight / u64::from(FULL))
            .unwrap_or(u32::MAX)
            .max(least)
    }
}

/// What layers keep with a member.
impl Backend {
    /// Returns the attachment of this member under `key`, and makes it first if there is none.
    /// Concurrent calls get the same one.
    ///
    /// A layer keeps its state of a backend here, such as idle connections: the state then lives
    /// exactly as long as the member and the key, and is found without a map or a shared lock. The
    /// look-up walks the list of the backend's attachments.
    pub fn attachment<T: Attachment>(
        &self,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        self.state().attachment(key, make)
    }

    /// Returns how many slots for attachments there are, free ones included.
    #[cfg(test)]
    pub(crate) fn count_attachments(&self) -> usize {
        self.state().count_attachments()
    }
}

/// The endpoint of a backend at one moment, and what its connections begin with. It keeps the
/// configuration alive, not the state.
pub(crate) struct Address(Arc<Config>);

impl Address {
    /// Returns true if connections to the backend still reach this endpoint, and begin alike.
    pub(crate) fn is_of(&self, backend: &Backend) -> bool {
        Arc::ptr_eq(&self.0, &backend.inner.config)
            || self.0.shares_connections(&backend.inner.config)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.0.id).finish()
    }
}

struct ShownAddress<'a>(&'a Backend);

impl fmt::Display for ShownAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.0.host(), self.0.port());
        match self.0.configured_unix_socket() {
            Some(path) => path.display().fmt(f),
            // A name has no colon.
            None if host.contains(':') => write!(f, "[{host}]:{port}"),
            None => write!(f, "{host}:{port}"),
        }
    }
}
