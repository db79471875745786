//! How unevenly the requests of sticky sessions are spread.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::BackendStats;

/// Two readings of the requests of sticky sessions. The skew is that of the requests since the older
/// one, which is one to two windows old, so that it follows what happens now.
#[derive(Default)]
pub(super) struct Skew(Mutex<Option<Readings>>);

struct Readings {
    earlier: Reading,
    latest: Reading,
    latest_at: Instant,
}

/// The requests of sticky sessions by the incarnation of the backend.
type Reading = HashMap<u64, u64>;

impl Skew {
    /// Reads the counts, and returns the skew over the backends that take requests: the largest number
    /// of requests for each unit of weight, over the mean. `None` if there were no such requests.
    pub(super) fn read(&self, backends: &[BackendStats], now: Instant) -> Option<f64> {
        let sticky = |stats: &BackendStats| stats.sticky.iter().map(|(_, number)| number).sum();
        let reading = || {
            backends
                .iter()
                .map(|s| (s.backend.incarnation(), sticky(s)))
                .collect()
        };
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let readings = readings.get_or_insert_with(|| Readings {
            earlier: Reading::new(),
            latest: Reading::new(),
            latest_at: now,
        });
        let shares = backends.iter().filter_map(|stats| {
            let weight = stats.backend.configured_weight();
            if weight == 0 || !stats.backend.is_usable() {
                return None;
            }
            let earlier = readings.earlier.get(&stats.backend.incarnation());
            let requests: u64 = sticky(stats);
            let since = requests.saturating_sub(earlier.copied().unwrap_or_default());
            Some(since as f64 / f64::from(weight))
        });
        let skew = max_over_mean(shares);
        if now.saturating_duration_since(readings.latest_at) >= WINDOW {
            readings.earlier = std::mem::replace(&mut readings.latest, reading());
            readings.latest_at = now;
        }
        skew
    }
}

fn max_over_mean(shares: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut max, mut sum, mut count) = (0.0_f64, 0.0, 0.0);
    for share in shares {
        max = max.max(share);
        sum += share;
        count += 1.0;
    }
    (sum > 0.0).then(|| max * count / sum)
}

/// Long enough for many requests, and short enough to show a backend that gets too many while it does.
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_spread_is_one() {
        assert_eq!(max_over_mean([2.0, 2.0, 2.0].into_iter()), Some(1.0));
        assert_eq!(max_over_mean([4.0, 0.0].into_iter()), Some(2.0));
        assert_eq!(max_over_mean([0.0, 0.0].into_iter()), None);
        assert_eq!(max_over_mean([].into_iter()), None);
    }
}
