//! The retry budget: how much load retries may add to a pool.
//!
//! The account in numbers: `earned` grows with requests and time and never falls; `spent` grows with
//! each payment, and is raised to `earned - savings` at each withdrawal, which lets older earnings
//! expire. A payment is allowed while `spent + 1 <= earned`. So one counter is written by each request
//! (`deposit`, one addition in a cache line of its own), and the rest by retries alone.
//!
//! The alternative is a bucket with a clock: tower's `TpsBudget` takes a lock and reads the clock at
//! each deposit, so for each request, of which hardly one is retried.
//!
//! Threads that pay at the same moment each add first and look then, so that no two get the last
//! retry; one that was too late takes its addition back, and another may in that moment be refused
//! although one retry was left. That error is on the safe side.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::error::ConfigError;

/// A retry budget: retries as a share of the requests, and a few a second.
///
/// A budget is a handle; clones share one account. At most the earnings of 10 s are saved up: the
/// share of the requests of that time, and the retries a second times 10.
///
/// # Example
///
/// ```
/// use evenkeel::failover::Budget;
/// use tokio::time::Instant;
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// // One retry for five requests, and 0.1 a second: a new budget has saved up one retry.
/// let budget = Budget::new(0.2, 0.1)?;
/// assert!(budget.withdraw(Instant::now()));
/// assert!(!budget.withdraw(Instant::now()));
///
/// (0..5).for_each(|_| budget.deposit());
/// assert!(budget.withdraw(Instant::now()));
/// # Ok(())
/// # }
/// ```
///
/// # Why a budget and not only a number of attempts?
///
/// A maximum number of attempts bounds the cost of one request. When every backend is slow or
/// failing, each request uses all its attempts, and the load doubles when the pool can bear it
/// least. A budget bounds the sum: with 20 %, a pool never gets more than 1.2 times the requests
/// that came (and a few a second, so that a quiet service may retry too).
///
/// # Which retries are free
///
/// A retry after an attempt that reached no backend: the connection was refused, the address is
/// unreachable or the name unknown ([`ErrorKind::Connect`], nothing sent). Such an attempt put no
/// load on a backend, so the sum above holds without it; the maximum number of attempts bounds its
/// cost for the balancer. When a rack dies, all its requests go to other backends at once, even if
/// the budget is new or zero.
///
/// All other retries are paid. A failed TLS handshake costs a backend more than many requests do. A
/// connection that was not made in time proves nothing: the answer to the SYN may have been lost,
/// the handshake may have been under way, and a backend whose accept queue is full is overloaded,
/// which is the case that a budget is for. If a whole network goes silent, health checks take its
/// backends out.
///
/// [`ErrorKind::Connect`]: crate::ErrorKind::Connect
#[derive(Clone)]
pub struct Budget {
    account: Arc<Account>,
}

/// What the clones of a budget share.
pub(crate) struct Account {
    requests: Requests,
    /// Retries paid for, and earned ones that expired unused; in thousandths.
    spent: AtomicU64,
    /// Two readings of clock and requests: the rate is the number of requests since the older.
    earlier: AtomicU64,
    latest: AtomicU64,
    epoch: Instant,
    /// Thousandths earned by a request and by a second.
    by_request: u64,
    by_second: u64,
}

/// Written at every request, so it has a cache line apart from the fields that are read then.
#[repr(align(128))]
#[derive(Default)]
struct Requests(AtomicU64);

impl Budget {
    /// Makes a budget of this share of the requests (0.2: one retry for five requests) and this
    /// many retries a second besides. With 0 and 0, only free retries are made.
    ///
    /// # Errors
    ///
    /// If the share is not within 0 to 10, or the retries a second are not within 0 to 1,000,000.
    pub fn new(share: f64, per_second: f64) -> Result<Self, ConfigError> {
        let within = |field, value: f64, most: f64| {
            if (0.0..=most).contains(&value) {
                Ok((value * UNIT as f64).round() as u64)
            } else {
                let message = format!("{value}: 0 to {most} is accepted");
                Err(ConfigError::new(field, message))
            }
        };
        let by_request = within("budget.share", share, 10.0)?;
        let by_second = within("budget.per_second", per_second, 1e6)?;
        Ok(Self::open(by_request, by_second, Instant::now()))
    }

    fn open(by_request: u64, by_second: u64, now: Instant) -> Self {
        Self {
            account: Arc::new(Account {
                requests: Requests::default(),
                spent: AtomicU64::new(0),
                earlier: AtomicU64::new(0),
                latest: AtomicU64::new(0),
                epoch: now,
                by_request,
                by_second,
            }),
        }
    }

    /// Counts a request, which earns its share. Wait-free; reads no clock.
    pub fn deposit(&self) {
        self.account.requests.0.fetch_add(1, Relaxed);
    }

    /// Pays for a retry; returns false if the budget does not allow it. Wait-free.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        let account = &*self.account;
        let (earned, savings) = account.earnings(now);
        // Earnings from before that time expire.
        account
            .spent
            .fetch_max(earned.saturating_sub(savings), Relaxed);
        if account.spent.fetch_add(UNIT, Relaxed) + UNIT <= earned {
            return true;
        }
        #[cfg(test)]
        if crate::mutation::is(crate::mutation::Mutation::RetriesAreFree) {
            return true;
        }
        account.spent.fetch_sub(UNIT, Relaxed);
        false
    }

    /// Returns how many retries the budget would pay for now.
    #[must_use]
    pub fn left(&self, now: Instant) -> f64 {
        self.account.left(now)
    }

    /// Returns what the clones share.
    #[cfg(feature = "metrics")]
    #[cfg_attr(
        not(feature = "proxy"),
        expect(dead_code, reason = "for `LoadBalancer`")
    )]
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Gives back the payment for a retry that was not made, or that reached no backend.
    pub(super) fn refund(&self) {
        self.account.spent.fetch_sub(UNIT, Relaxed);
    }
}

impl Account {
    /// As [`Budget::left`].
    pub(crate) fn left(&self, now: Instant) -> f64 {
        let (earned, savings) = self.earnings(now);
        let unspent = earned.saturating_sub(self.spent.load(Relaxed));
        unspent.min(savings) as f64 / UNIT as f64
    }

    /// Returns what was earned so far, and how much of it may be saved up; in thousandths.
    ///
    /// Both grow with time alone: a clock that stands still earns nothing, and one that is read late
    /// earns the more.
    fn earnings(&self, now: Instant) -> (u64, u64) {
        let elapsed = now.saturating_duration_since(self.epoch);
        let requests = self.requests.0.load(Relaxed);
        // A budget starts with what the seconds earn in the time that may be saved up.
        let seconds = u128::from(self.by_second) * (elapsed + SAVED_UP).as_millis() / 1_000;
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX / 2);
        let earned = self.by_request * requests + seconds;
        let savings =
            self.by_request * self.recent(elapsed, requests) + self.by_second * SAVED_UP.as_secs();
        (earned, savings)
    }

    /// Returns about how many requests came in the last 10 s, from the mean since the older reading.
    /// That reading is at least 10 s old, unless it is the first.
    fn recent(&self, elapsed: Duration, requests: u64) -> u64 {
        let now = Reading::new(elapsed, requests);
        let latest = self.latest.load(Relaxed);
        if now.millis_since(latest) >= millis(SAVED_UP)
            && self
                .latest
                .compare_exchange(latest, now.packed(), Relaxed, Relaxed)
                .is_ok()
        {
            // Only the thread that won the exchange gets here. A reader in between takes the mean
            // since a reading that is one older, which is right as well.
            self.earlier.store(latest, Relaxed);
        }
        let earlier = self.earlier.load(Relaxed);
        let came = now.requests_since(earlier);
        // A young budget has no ten seconds yet: its rate is not extrapolated.
        let span = now.millis_since(earlier).max(millis(SAVED_UP));
        came * millis(SAVED_UP) / span
    }
}

/// Clock and requests in one word, each modulo 2³²: 49 days, 4 billion requests. Between readings
/// that lie farther apart, the rate is too low once.
struct Reading {
    tick: u32,
    requests: u32,
}

impl Reading {
    fn new(elapsed: Duration, requests: u64) -> Self {
        Self {
            tick: millis(elapsed) as u32,
            requests: requests as u32,
        }
    }

    fn packed(&self) -> u64 {
        u64::from(self.tick) << 32 | u64::from(self.requests)
    }

    fn millis_since(&self, packed: u64) -> u64 {
        u64::from(self.tick.wrapping_sub((packed >> 32) as u32))
    }

    fn requests_since(&self, packed: u64) -> u64 {
        u64::from(self.requests.wrapping_sub(packed as u32))
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::open(SHARE, PER_SECOND, Instant::now())
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = &*self.account;
        f.debug_struct("Budget")
            .field("share", &(account.by_request as f64 / UNIT as f64))
            .field("per_second", &(account.by_second as f64 / UNIT as f64))
            .field("requests", &account.requests.0)
            .finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    // 500 million years.
    duration.as_millis() as u64
}

/// One retry, in thousandths.
const UNIT: u64 = 1_000;
/// 20 %: what a pool that is sized for losing one backend of five can bear.
pub(super) const SHARE: u64 = 200;
/// Enough for a service with a request now and then to fail over.
pub(super) const PER_SECOND: u64 = 3 * UNIT;
/// Long enough to carry the burst of retries when a busy backend dies.
pub(super) const SAVED_UP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use proptest::prelude::*;

    use super::*;

    fn open(now: Instant) -> Budget {
        Budget::open(SHARE, PER_SECOND, now)
    }

    fn drain(budget: &Budget, now: Instant) -> u64 {
        (0..100_000).take_while(|_| budget.withdraw(now)).count() as u64
    }

    fn deposit(budget: &Budget, requests: u64) {
        for _ in 0..requests {
            budget.deposit();
        }
    }

    #[test]
    fn a_quiet_service_may_retry_a_few_times() {
        let now = Instant::now();
        let budget = open(now);
        assert_eq!(drain(&budget, now), 30, "10 s of 3 a second are there");
        let later = now + Duration::from_secs(1);
        assert_eq!(drain(&budget, later), 3, "and 3 more after a second");
    }

    #[test]
    fn a_fifth_of_the_requests_is_earned() {
        let now = Instant::now();
        let budget = open(now);
        assert_eq!(drain(&budget, now), 30);
        deposit(&budget, 1_000);
        assert_eq!(drain(&budget, now), 200);
    }

    #[test]
    fn a_long_quiet_time_saves_up_ten_seconds_of_budget() {
        let now = Instant::now();
        let budget = open(now);
        deposit(&budget, 100_000);
        // 100,000 requests in 1,000 s: 1,000 in 10 s.
        let later = now + Duration::from_secs(1_000);
        assert_eq!(drain(&budget, later), 30 + 200);
    }

    #[test]
    fn refusals_cost_nothing() {
        let now = Instant::now();
        let budget = open(now);
        drain(&budget, now);
        for _ in 0..1_000 {
            assert!(!budget.withdraw(now));
        }
        assert!(budget.withdraw(now + Duration::from_millis(334)));
    }

    #[test]
    fn settings_out_of_range_are_refused_with_the_field_name() {
        assert_eq!(Budget::new(-0.1, 1.0).unwrap_err().field(), "budget.share");
        assert_eq!(
            Budget::new(0.1, f64::NAN).unwrap_err().field(),
            "budget.per_second"
        );
        let none = Budget::new(0.0, 0.0).unwrap();
        none.deposit();
        assert!(!none.withdraw(Instant::now()), "0 and 0 pays for no retry");
    }

    #[test]
    fn however_many_threads_race_for_retries_no_more_are_granted_than_were_earned() {
        const THREADS: u64 = 4;
        const RACE: Duration = Duration::from_millis(400);
        let now = Instant::now();
        let budget = Budget::open(UNIT, PER_SECOND, now);
        let (came, granted) = (AtomicU64::new(0), AtomicU64::new(0));
        let race = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            while now.elapsed() < RACE {
                for _ in 0..1_000 {
                    // One retry for many threads, so that they nearly always race for the last one.
                    if rng.u8(..) < 4 {
                        came.fetch_add(1, SeqCst);
                        budget.deposit();
                    }
                    if !budget.withdraw(now) {
                        continue;
                    }
                    if rng.u8(..) < 32 {
                        // Paid for, and not made.
                        budget.refund();
                        continue;
                    }
                    let granted = granted.fetch_add(1, SeqCst) + 1;
                    let earned = 30 + came.load(SeqCst);
                    assert!(granted <= earned, "{granted} retries of {earned}");
                }
            }
        };
        std::thread::scope(|scope| {
            for seed in 0..THREADS {
                let race = &race;
                scope.spawn(move || race(seed));
            }
        });
        let (came, granted) = (came.load(SeqCst), granted.load(SeqCst));
        assert!(granted > 1_000, "the race must be one");
        assert_eq!(
            granted + drain(&budget, now),
            30 + came,
            "none is lost, either"
        );
    }

    proptest! {
        #[test]
        fn no_more_is_granted_than_was_earned(
            steps in prop::collection::vec((0_u64..3_000, 0_u64..200, 0_u64..60), 1..80)
        ) {
            let began = Instant::now();
            let budget = open(began);
            let (mut now, mut requests, mut granted) = (began, 0, 0);
            for (millis, came, wanted) in steps {
                now += Duration::from_millis(millis);
                deposit(&budget, came);
                requests += came;
                granted += (0..wanted).filter(|_| budget.withdraw(now)).count() as u64;
                let seconds = (now - began).as_millis() as u64;
                let most = 30 + (requests * SHARE + seconds * 3) / UNIT;
                prop_assert!(granted <= most, "{granted} retries where {most} were earned");
            }
        }

        #[test]
        fn a_burst_is_bounded_by_what_ten_seconds_earn(
            quiet in 20_u64..5_000, rate in 0_u64..50,
        ) {
            let began = Instant::now();
            let budget = open(began);
            deposit(&budget, rate * quiet);
            let burst = drain(&budget, began + Duration::from_secs(quiet));
            prop_assert!(burst <= 30 + rate * 2, "{burst} after {quiet} s of {rate} a second");
        }
    }
}
