//! Peak EWMA: the backend with the lower expected latency.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use super::{
    pick::{DRAWS, Pick},
    strategy::{Ended, Strategy},
    weighted_draw::WeightedDraw,
};
use crate::{
    error::{Error, ErrorKind},
    pool::{Attachment, AttachmentKey, Backend, DerivedGroups, Group, Lease, Pool, Snapshot},
};

/// Peak EWMA: of two backends drawn by weight, the one that will probably answer sooner. The cost of a
/// backend is its latency (until the response head) times the requests that it would have in flight.
///
/// The latency is a decaying maximum: a slower response counts at once, and fades over about 10 s
/// until others are as slow. It is no moving average; the name is the one that Finagle and linkerd
/// use for this strategy.
///
/// A failure, or a gateway status (502, 503, 504), counts as a slow response even if it came fast: a
/// second at least, and four times the expected latency, so that a backend that fails fast attracts
/// no traffic. If the better of two failed last, two more are drawn, so that failing backends get no
/// traffic even if they are half of the pool. The latency of a backend without traffic fades in the
/// same 10 s, and one request tries it again.
///
/// Two are drawn by weight at any pool size: a look at all would send every request to the fastest
/// backend, until it is no longer the fastest. A result costs one reading of the clock and one attempt
/// to write; of two results at the same moment, one is lost.
#[derive(Debug)]
pub struct PeakEwma {
    key: AttachmentKey<Latency>,
    epoch: Instant,
    /// Milliseconds since the epoch at the last result, so that a pick reads no clock.
    now: AtomicU32,
    group: Option<DerivedGroups<Latencies>>,
}

impl PeakEwma {
    /// Makes the strategy.
    #[must_use]
    pub fn new() -> Self {
        Self {
            key: AttachmentKey::new(),
            epoch: Instant::now(),
            now: AtomicU32::new(0),
            group: None,
        }
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for PeakEwma {
    fn name(&self) -> &'static str {
        "peak-ewma"
    }

    fn attach(&mut self, pool: &Pool) {
        let key = self.key.clone();
        self.group = Some(pool.derive_groups(move |group| {
            let cell = |backend: &Backend| backend.attachment(&key, Latency::default);
            Latencies {
                draw: WeightedDraw::new(group.weights()),
                cells: group.backends().iter().map(cell).collect(),
            }
        }));
    }

    fn pick_from(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
    ) -> Option<Lease> {
        let backends = group.backends();
        if let [only] = backends {
            return pick.take(only);
        }
        let table = self
            .group
            .as_ref()
            .and_then(|key| snapshot.derived_group(key, number));
        let Some(Latencies { draw, cells }) = table else {
            return pick.take_any(backends);
        };
        let now = self.now.load(Relaxed);
        let mut random = fastrand::Rng::with_seed(fastrand::u64(..));
        for _ in 0..=DRAWS {
            let mut best: Option<(Cost, &Backend)> = None;
            let mut fails = true;
            for _ in 0..ROUNDS {
                let first = draw.index(random.u64(..), backends.len());
                let mut second = draw.index(random.u64(..), backends.len());
                if second == first {
                    // The same backend twice is no choice: take its neighbour.
                    second = if first + 1 < backends.len() {
                        first + 1
                    } else {
                        0
                    };
                }
                for index in [first, second] {
                    let (backend, cell) = (backends.get(index)?, cells.get(index)?);
                    if pick.excludes(backend) {
                        continue;
                    }
                    let expected = cell.expected(now);
                    let cost = expected.cost(backend.in_flight(), group.weights()[index]);
                    if best.is_none_or(|(least, _)| cost.is_below(least)) {
                        best = Some((cost, backend));
                        fails = expected.fails;
                    }
                }
                if !fails {
                    break;
                }
            }
            if let Some(lease) = best.and_then(|(_, backend)| pick.take(backend)) {
                return Some(lease);
            }
        }
        pick.take_any(backends)
    }

    fn wants_ends(&self) -> bool {
        true
    }

    fn ended(&self, backend: &Backend, elapsed: Duration, how: Ended) {
        let now = self.epoch.elapsed().as_millis() as u32;
        self.now.store(now, Relaxed);
        let cell = backend.attachment(&self.key, Latency::default);
        cell.note(elapsed, how, now);
    }
}

/// What a pick reads of a group.
#[derive(Debug)]
struct Latencies {
    draw: WeightedDraw,
    cells: Box<[Arc<Latency>]>,
}

/// One backend's latency: when it was written, in milliseconds (upper half), what it was, in
/// microseconds, and whether a failure wrote it (lowest bit).
#[derive(Debug, Default)]
struct Latency(AtomicU64);

impl Attachment for Latency {}

/// The expected latency of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    micros: u32,
    fails: bool,
}

impl Latency {
    fn expected(&self, now: u32) -> Expected {
        Expected::unpack(self.0.load(Relaxed), now)
    }

    fn note(&self, elapsed: Duration, how: Ended, now: u32) {
        let old = self.0.load(Relaxed);
        let new = Expected::unpack(old, now).after(elapsed, how);
        if let Some(new) = new {
            let packed = u64::from(now) << 32 | u64::from(new.micros) << 1 | u64::from(new.fails);
            let _ = self.0.compare_exchange(old, packed, Relaxed, Relaxed);
        }
    }
}

impl Expected {
    fn unpack(packed: u64, now: u32) -> Self {
        let (when, low) = ((packed >> 32) as u32, packed as u32);
        // Written after the pick read the time: no time has passed.
        let gone = now.wrapping_sub(when);
        let gone = if gone > u32::MAX / 2 { 0 } else { gone };
        Self {
            micros: fade(low >> 1, gone),
            fails: low & 1 == 1,
        }
    }

    /// Returns the expectation after this result; `None` if the result does not change it.
    fn after(self, elapsed: Duration, how: Ended) -> Option<Self> {
        let took = u32::try_from(elapsed.as_micros())
            .unwrap_or(MOST)
            .clamp(1, MOST);
        let (micros, fails) = match how {
            // It would have taken longer than that.
            Ended::Cancelled if took > self.micros => (took, self.fails),
            Ended::Cancelled => return None,
            Ended::Failed(kind) if is_elsewhere(kind) => return None,
            Ended::Failed(_) => self.penalty(took),
            Ended::Answered(status) if is_gateways(status) => self.penalty(took),
            // Not rewritten while it fades, or the rounding would keep it from fading.
            Ended::Answered(_) if took <= self.micros && !self.fails => return None,
            Ended::Answered(_) => (self.micros.max(took), false),
        };
        Some(Self { micros, fails })
    }

    fn penalty(self, took: u32) -> (u32, bool) {
        let penalty = self.micros.saturating_mul(WORSE).max(LEAST_PENALTY);
        (penalty.min(MOST_PENALTY).max(took), true)
    }

    /// Returns the cost with one more request in flight.
    fn cost(self, in_flight: u32, weight: u32) -> Cost {
        // No latency is known: one request measures it, and not all.
        let micros = match self.micros {
            0 if in_flight > 0 => UNKNOWN,
            micros => micros,
        };
        let micros = u64::from(micros) * (u64::from(in_flight) + 1);
        Cost { micros, weight }
    }
}

/// Microseconds over a weight, compared without a division; no group has a weight of 0. Twice as wide
/// as a `Load`: least requests compares many, and would pay a fifth more for this width.
#[derive(Clone, Copy, Debug)]
struct Cost {
    micros: u64,
    weight: u32,
}

impl Cost {
    fn is_below(self, other: Self) -> bool {
        self.scaled(other) < other.scaled(self)
    }

    fn scaled(self, other: Self) -> u128 {
        u128::from(self.micros) * u128::from(other.weight)
    }
}

/// Returns true if the client or this side is the cause.
fn is_elsewhere(kind: ErrorKind) -> bool {
    let error = Error::new(kind);
    error.is_client() || error.is_local()
}

/// Returns true for a status of a gateway that reached no server, which comes faster than a response.
fn is_gateways(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// Halves a latency in each half-life, nearly: straight in between.
fn fade(micros: u32, gone: u32) -> u32 {
    let (halvings, part) = (gone / HALF_LIFE, gone % HALF_LIFE);
    let whole = micros.checked_shr(halvings).unwrap_or(0);
    let less = u64::from(whole) * u64::from(part) / u64::from(2 * HALF_LIFE);
    whole - less as u32
}

/// In milliseconds: what is 10 s old counts for a third (10 s × ln 2).
const HALF_LIFE: u32 = 6_931;
/// Half an hour in microseconds: all that fits.
const MOST: u32 = u32::MAX >> 1;
/// In microseconds: well over what a backend that serves takes.
const LEAST_PENALTY: u32 = 1_000_000;
/// In microseconds: forgotten within two minutes.
const MOST_PENALTY: u32 = 60_000_000;
/// A failing backend must cost more than its peers, where all take longer than a second.
const WORSE: u32 = 4;
/// In microseconds: more than any backend that is known.
const UNKNOWN: u32 = MOST;
/// Four pairs: while half the backends fail, one pick in 256 finds no other.
const ROUNDS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const OK: Ended = Ended::Answered(StatusCode::OK);
    const FAILED: Ended = Ended::Failed(ErrorKind::Connect);
    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_slower_answer_counts_at_once_and_a_faster_one_in_time() {
        let cell = Latency::default();
        assert_eq!(cell.expected(0).micros, 0, "nothing is known");
        cell.note(MS(10), OK, 1_000);
        cell.note(MS(80), OK, 1_001);
        assert_eq!(cell.expected(1_001).micros, 80_000);
        for ms in 1_002..11_001 {
            cell.note(MS(10), OK, ms);
        }
        let later = cell.expected(11_001).micros;
        assert!((25_000..40_000).contains(&later), "{later}");
        for ms in 11_002..60_000 {
            cell.note(MS(10), OK, ms);
        }
        let then = cell.expected(60_000).micros;
        assert!((9_900..=10_000).contains(&then), "{then}");
        assert_eq!(cell.expected(10_000_000).micros, 0, "forgotten");
    }

    #[test]
    fn a_fast_failure_counts_as_a_slow_answer() {
        let cell = Latency::default();
        cell.note(MS(1), FAILED, 5);
        assert_eq!(
            cell.expected(5),
            Expected {
                micros: 1_000_000,
                fails: true
            }
        );
        cell.note(MS(1), FAILED, 6);
        assert!(cell.expected(6).micros > 3_900_000, "again is worse");
        for ms in 7..100 {
            cell.note(MS(1), FAILED, ms);
        }
        assert!(cell.expected(100).micros <= 60_000_000);
        cell.note(MS(1), OK, 100);
        assert!(!cell.expected(100).fails);
        let unavailable = Ended::Answered(StatusCode::SERVICE_UNAVAILABLE);
        cell.note(MS(1), unavailable, 100);
        assert!(cell.expected(100).fails, "a gateway's status is no answer");
        let other = Latency::default();
        other.note(MS(9), Ended::Failed(ErrorKind::ClientBody), 5);
        other.note(MS(9), Ended::Failed(ErrorKind::Local), 5);
        assert_eq!(
            other.expected(5).micros,
            0,
            "a fault of the client or of this side says nothing"
        );
    }

    #[test]
    fn a_cancelled_attempt_is_a_lower_bound_of_the_latency() {
        let cell = Latency::default();
        cell.note(MS(10), OK, 0);
        cell.note(MS(1), Ended::Cancelled, 0);
        assert_eq!(cell.expected(0).micros, 10_000);
        cell.note(MS(50), Ended::Cancelled, 0);
        assert_eq!(
            cell.expected(0),
            Expected {
                micros: 50_000,
                fails: false
            }
        );
    }

    #[test]
    fn a_backend_without_a_latency_gets_one_request_at_first() {
        let unknown = Expected {
            micros: 0,
            fails: false,
        };
        let known = Expected {
            micros: 2_000,
            fails: false,
        };
        let of = Expected::cost;
        assert!(of(unknown, 0, 1_000).is_below(of(known, 0, 1_000)));
        assert!(of(known, 500, 1_000).is_below(of(unknown, 1, 1_000)));
        assert!(of(known, 1, 3_000).is_below(of(known, 0, 1_000)));
        assert!(!of(known, 1, 2_000).is_below(of(known, 0, 1_000)), "equal");
        assert!(!of(known, 0, 1_000).is_below(of(known, 1, 2_000)), "equal");
    }

    #[test]
    fn a_pick_with_an_older_clock_sees_the_latency_as_it_is() {
        let cell = Latency::default();
        cell.note(MS(10), OK, 100);
        assert_eq!(cell.expected(90).micros, 10_000);
    }
}
