//! Consistent hashing: the same backend for the same key.
//!
//! Two tables, with two lifetimes: the rings change with membership and settings, and cost a sort, so
//! that a backend which goes down and comes back costs no ring; the shares of a group change with
//! health, weight and slow start, and hold two numbers for each backend. A pick reads both from one
//! snapshot.
//!
//! The walk along the ring refuses a point for one of four reasons: its backend is not in the group
//! (out, or of another locality), does not take this key while it is degraded or ramps up, carries
//! more than the bound, or was tried or is at its cap. The first point that none of them refuses takes
//! the request.
//!
//! Peers: Envoy and HAProxy bound loads in the same way (`hash-balance-factor`); the bound is from
//! Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads".

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::{HeaderName, header::COOKIE};

use super::{
    pick::{Pick, below},
    ring::Rings,
    round_robin::RoundRobin,
    strategy::Strategy,
    xxh64::xxh64,
};
use crate::{
    error::ConfigError,
    pool::{Backend, Derived, DerivedGroups, Group, Lease, Pool, Snapshot},
    wire::cookie,
};

/// Consistent hashing with bounded loads: requests with the same key go to the same backend while
/// it is usable and not overloaded; when backends come or go, only their own keys move.
///
/// Each backend has points on a ring, by its id and its configured weight; a key belongs to the next
/// point. If that backend is out, was tried, or has more than its share of the requests in flight
/// (1.25 times the mean by default), the backend of the next point takes the request, so that a hot
/// key is spread over several backends. With few requests in flight, shares differ by chance: a
/// backend with fewer than 16 requests (by default) keeps its keys. A backend that is degraded, or in
/// slow start, keeps a part of its keys. The hash is XXH64 and will not change; balancers with the
/// same backends agree.
///
/// A request without the key (no such header, no such cookie, an unknown address) is picked by round
/// robin.
///
/// # Example
///
/// ```
/// use evenkeel::{Backend, Pool, balance::{ConsistentHash, HashKey, Pick, Strategy}};
/// use http::Request;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new([
///     Backend::new("a", "http://127.0.0.1:9001")?,
///     Backend::new("b", "http://127.0.0.1:9002")?,
/// ])?;
/// // `BalanceLayer::strategy` attaches a strategy; here it is used alone.
/// let mut strategy = ConsistentHash::new(HashKey::Header("x-user".parse()?));
/// strategy.attach(&pool);
///
/// let request = Request::get("/").header("x-user", "ann").body(())?;
/// let pick = || strategy.pick(&pool.snapshot(), &Pick::new(&request)).unwrap();
/// assert_eq!(pick().backend().id(), pick().backend().id());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ConsistentHash {
    key: HashKey,
    /// In 256ths.
    factor: u32,
    /// With fewer requests in flight, a backend takes all of its keys.
    floor: u32,
    rings: Option<Derived<Rings>>,
    shares: Option<DerivedGroups<GroupShares>>,
    fallback: RoundRobin,
}

/// The part of a request that a [`ConsistentHash`] hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashKey {
    /// The client's address, without the port.
    ///
    /// That of the connection, or the one that a trusted peer names; IPv4-mapped addresses count as
    /// IPv4.
    Client,
    /// The value of this cookie.
    Cookie(String),
    /// The first value of this header field.
    Header(HeaderName),
    /// The path, without the query.
    ///
    /// As it was sent: `/a` and `/%61` are different keys.
    Path,
}

impl ConsistentHash {
    /// Makes the strategy.
    ///
    /// Nothing can fail: a key that no request carries makes every pick a round robin.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            factor: FACTOR,
            floor: FLOOR,
            rings: None,
            shares: None,
            fallback: RoundRobin::new(),
        }
    }

    /// Sets the load, as a multiple of the mean, at which the keys of a backend overflow to the next.
    /// Near 1.0 loads are even and keys move often; far above, keys stay and loads are uneven.
    ///
    /// Default: 1.25. See also [`affinity_floor`](Self::affinity_floor).
    ///
    /// # Errors
    ///
    /// If it is not within 1.0 to 100.0.
    pub fn load_factor(mut self, factor: f64) -> Result<Self, ConfigError> {
        if !(1.0..=100.0).contains(&factor) {
            return Err(ConfigError::new(
                "load_factor",
                format!("{factor}: 1.0 to 100.0 is accepted"),
            ));
        }
        self.factor = (factor * 256.0).round() as u32;
        Ok(self)
    }

    /// Sets the number of requests in flight from which the bound of the
    /// [`load_factor`](Self::load_factor) applies: a backend with fewer keeps its keys. 1 applies the
    /// bound always. With a larger number more keys stay, and a hot key occupies its backend with that
    /// many requests before another backend helps.
    ///
    /// Default: 16. See also [`Backend::max_in_flight`], which no floor exceeds.
    ///
    /// # Errors
    ///
    /// If it is 0 or greater than 100,000.
    pub fn affinity_floor(mut self, in_flight: u32) -> Result<Self, ConfigError> {
        if !(1..=MOST_FLOOR).contains(&in_flight) {
            return Err(ConfigError::new(
                "affinity_floor",
                format!("{in_flight}: 1 to {MOST_FLOOR} is accepted"),
            ));
        }
        self.floor = in_flight;
        Ok(self)
    }

    /// Returns `None` if the request lacks the key. The seed is 0 for all, so that two balancers with
    /// the same backends agree.
    fn hash(&self, pick: &Pick<'_>) -> Option<u64> {
        match &self.key {
            // A dual-stack listener has IPv4 clients as IPv4-mapped addresses.
            HashKey::Client => match pick.client()?.ip().to_canonical() {
                std::net::IpAddr::V4(ip) => Some(xxh64(&ip.octets(), 0)),
                std::net::IpAddr::V6(ip) => Some(xxh64(&ip.octets(), 0)),
            },
            HashKey::Cookie(name) => cookie(pick, name).map(|value| xxh64(value, 0)),
            HashKey::Header(name) => {
                let value = pick.headers().get(name)?;
                Some(xxh64(value.as_bytes(), 0))
            }
            HashKey::Path => Some(xxh64(pick.uri().path().as_bytes(), 0)),
        }
    }

    /// Looks at 256 points at most. The order of the points behind a key is fixed, so that a hot key
    /// overflows to the same backends each time, one after the other.
    fn take(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
        hash: u64,
    ) -> Option<Lease> {
        // Without tables (a strategy that was attached to no pool, or to another) the caller falls
        // back to round robin: `a_strategy_of_another_pool_does_not_panic`.
        let ring = snapshot.derived(self.rings.as_ref()?)?.of(group.tier())?;
        let shares = snapshot.derived_group(self.shares.as_ref()?, number)?;
        let mut bound = None;
        for point in ring.from(hash).take(STEPS) {
            if !shares.takes(point.member, hash) {
                continue;
            }
            let backend = snapshot.backends().get(point.member as usize)?;
            let in_flight = backend.in_flight();
            let has_room = in_flight < self.floor || {
                let weight = shares.weight(point.member);
                // Computed once a pick, and only if some backend is at the floor: a quiet pool reads
                // one counter.
                let mean = *bound.get_or_insert_with(|| shares.mean(group));
                u64::from(in_flight) < limit(mean, weight, self.factor)
            };
            if has_room && let Some(lease) = pick.take(backend) {
                return Some(lease);
            }
        }
        None
    }
}

/// A copy has the same parameters. It is attached to no pool.
impl Clone for ConsistentHash {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            factor: self.factor,
            floor: self.floor,
            ..Self::new(HashKey::Path)
        }
    }
}

impl Strategy for ConsistentHash {
    fn name(&self) -> &'static str {
        "consistent-hash"
    }

    fn attach(&mut self, pool: &Pool) {
        self.rings = Some(pool.derive_once(Rings::new));
        self.shares = Some(pool.derive_groups(GroupShares::new));
        self.fallback.attach(pool);
    }

    fn pick_from(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
    ) -> Option<Lease> {
        self.hash(pick)
            .and_then(|hash| self.take(snapshot, group, number, pick, hash))
            // Each point may have refused while a backend has room: then any is better than a wait.
            .or_else(|| self.fallback.pick_from(snapshot, group, number, pick))
    }

    /// Draws the group by the key as well, so that as few keys as possible change their group.
    fn pick(&self, snapshot: &Snapshot, pick: &Pick<'_>) -> Option<Lease> {
        let Some(hash) = self.hash(pick) else {
            return self.fallback.pick(snapshot, pick);
        };
        let groups = snapshot.groups();
        // Independent of the bits that give the position on the ring.
        let first = snapshot.draw_group(|| hash as u32);
        let by_key = |number: usize| {
            let group = groups.get(number)?;
            self.take(snapshot, group, number, pick, hash)
                .or_else(|| self.fallback.pick_from(snapshot, group, number, pick))
        };
        by_key(first).or_else(|| (0..groups.len()).filter(|n| *n != first).find_map(by_key))
    }
}

/// Returns how many requests may be in flight at a backend of this weight. `mean` is the number for
/// each thousand of weight, and `factor` its multiple, both in 256ths.
fn limit(mean: u64, weight: u32, factor: u32) -> u64 {
    (mean * u64::from(weight) * u64::from(factor))
        .div_ceil(1_000 * 256 * 256)
        .max(1)
}

/// Returns the value of a cookie.
fn cookie<'a>(pick: &Pick<'a>, name: &str) -> Option<&'a [u8]> {
    let mut fields = pick.headers().get_all(COOKIE).into_iter();
    fields.find_map(|field| cookie::value(field.as_bytes(), name))
}

/// The share of its keys that each backend of a group takes, and the mean load of the group.
#[derive(Debug)]
struct GroupShares {
    /// By member: the effective weight, and the part of its keys in 256ths; 0 and 0 for a member of
    /// another group.
    parts: Box<[(u32, u32)]>,
    total: u64,
    turn: AtomicU32,
    /// Requests in flight for each thousand of weight, in 256ths, at the last sample.
    mean: AtomicU32,
}

impl GroupShares {
    fn new(group: &Group) -> Self {
        let positions = group.positions();
        let len = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let mut parts = vec![(0, 0); len].into_boxed_slice();
        let members = group.backends().iter().zip(group.weights()).zip(positions);
        for ((backend, &weight), &position) in members {
            // The group has effective weights in thousandths of the configured one; their ratio is the
            // part of its keys that a backend takes now.
            let whole = (1_000 * backend.configured_weight()).max(1);
            let part = (u64::from(weight) * WHOLE).div_ceil(u64::from(whole)) as u32;
            parts[position as usize] = (weight, part);
        }
        Self {
            parts,
            total: group.weights().iter().map(|&w| u64::from(w)).sum(),
            turn: AtomicU32::new(0),
            mean: AtomicU32::new(0),
        }
    }

    fn weight(&self, member: u32) -> u32 {
        self.parts.get(member as usize).map_or(0, |part| part.0)
    }

    /// Returns true if the member is in the group and takes this key. In a slow start it takes more and
    /// more keys, and keeps each that it took.
    fn takes(&self, member: u32, hash: u64) -> bool {
        let part = self.parts.get(member as usize).map_or(0, |part| part.1);
        // A hash of key and member, fixed for ever: as the part grows in a slow start, keys join and
        // none leaves.
        let own = (hash as u32 ^ member).wrapping_mul(SPREAD) >> 24;
        u64::from(part) == WHOLE || u64::from(own) < u64::from(part)
    }

    /// Returns the requests in flight for each thousand of weight, this one included, in 256ths. Counts
    /// a small group at each pick, and a sample of a large one at each sixteenth.
    fn mean(&self, group: &Group) -> u64 {
        let backends = group.backends();
        let sum = |some: &[Backend]| some.iter().map(|b| u64::from(b.in_flight())).sum::<u64>();
        if backends.len() <= COUNTED {
            return ((sum(backends) + 1) * 1_000 * 256).div_ceil(self.total.max(1));
        }
        if self.turn.fetch_add(1, Relaxed).is_multiple_of(SAMPLED_EACH) {
            let start = below(fastrand::u32(..), backends.len() - COUNTED + 1);
            let window = start..start + COUNTED;
            let weights = group.weights().get(window.clone()).unwrap_or(&[]);
            let weight: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let some = sum(backends.get(window).unwrap_or(&[])) + 1;
            let mean = (some * 1_000 * 256).div_ceil(weight.max(1));
            self.mean
                .store(u32::try_from(mean).unwrap_or(u32::MAX), Relaxed);
        }
        u64::from(self.mean.load(Relaxed)).max(1)
    }
}

/// 1.25, in 256ths: Google's paper and HAProxy's `hash-balance-factor` take 1.25 to 1.5.
pub(super) const FACTOR: u32 = 320;
/// A mean of 16 varies by a quarter (its square root is 4), so below it 1.25 times the mean is
/// exceeded by chance.
pub(super) const FLOOR: u32 = 16;
/// More requests than a backend has in flight in practice.
const MOST_FLOOR: u32 = 100_000;
/// How far a pick goes along the ring: half down and half full, 256 steps miss once in 10^32.
const STEPS: usize = 256;
/// Backends whose requests in flight are counted for the mean.
const COUNTED: usize = 32;
/// A sample of 32 at each sixteenth pick costs each pick two reads.
const SAMPLED_EACH: u32 = 16;
/// The whole of a backend's keys.
const WHOLE: u64 = 256;
/// 2^32 over the golden ratio: makes the keys that one member takes independent of the others'.
const SPREAD: u32 = 0x9E37_79B1;
