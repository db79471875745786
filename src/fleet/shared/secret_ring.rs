//! A secret that is replaced now and then: which one makes new things, and which are still accepted.

use std::{fmt, time::Duration};

/// The bytes of one secret.
pub(super) type Secret = [u8; SECRET];

/// The secrets of one name, the newest first. All instances agree on it: it is what the store has.
///
/// A new secret is in the ring before it is used, so that every instance has it by then.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct SecretRing {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// From when on it makes new things, in milliseconds since 1970.
    from: u64,
    secret: Secret,
}

impl SecretRing {
    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (chunks, rest) = text.as_chunks::<ENTRY>();
        let is_ring = rest.is_empty() && (1..=MOST_ENTRIES).contains(&chunks.len());
        let entries = chunks.iter().filter_map(|chunk| {
            let (from, secret) = chunk.split_first_chunk()?;
            Some(Entry {
                from: u64::from_be_bytes(*from),
                secret: secret.try_into().ok()?,
            })
        });
        is_ring.then(|| Self::of(entries.collect()))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let entries = self.entries.iter();
        let parts = entries.flat_map(|e| e.from.to_be_bytes().into_iter().chain(e.secret));
        parts.collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the secrets of both.
    pub(super) fn merge(&self, other: &Self) -> Self {
        Self::of([self.entries.as_slice(), &other.entries].concat())
    }

    fn of(mut entries: Vec<Entry>) -> Self {
        entries.sort_unstable_by(|a, b| b.cmp(a));
        entries.dedup();
        entries.truncate(MOST_ENTRIES);
        Self { entries }
    }

    /// Returns true if it is time for a new secret.
    pub(super) fn is_due(&self, every: Duration, now: u64) -> bool {
        // One whose time is far off was made by an instance whose clock is ahead. It must not keep the
        // others from a new one until then.
        let soon = now.saturating_add(millis(2 * LEAD));
        let newest = self.entries.iter().find(|entry| entry.from <= soon);
        newest.is_none_or(|entry| entry.from.saturating_add(millis(every)) <= now)
    }

    /// Returns the ring with a new secret: in use at once in an empty ring, else after [`LEAD`]. Secrets
    /// that are no longer accepted are left out.
    pub(super) fn rotated(&self, secret: Secret, every: Duration, now: u64) -> Self {
        let lead = match self.is_empty() {
            true => 0,
            false => millis(LEAD.min(every / 2)),
        };
        let from = now.saturating_add(lead);
        Self::of([&[Entry { from, secret }], self.entries.as_slice()].concat()).accepted(now)
    }

    /// Returns the ring without the secrets that are no longer accepted. Each instance leaves them out
    /// of what it reads and of what it writes: one that remembered a secret would bring it back.
    pub(super) fn accepted(mut self, now: u64) -> Self {
        // A secret was replaced by the one before it in the ring.
        let replaced = self.entries.iter().map(|entry| entry.from);
        let is_old = |replaced: u64| replaced.saturating_add(ACCEPTED) < now;
        if let Some(last) = replaced.clone().position(is_old) {
            self.entries.truncate(last + 1);
        }
        self
    }

    /// Returns the secrets: first the one that makes new things, then the others that are accepted.
    pub(super) fn in_use(&self, now: u64) -> Vec<Secret> {
        let current = self.entries.iter().position(|entry| entry.from <= now);
        // Where none is in use yet, clocks differ: the oldest was used first.
        let oldest = self.entries.len().saturating_sub(1);
        let current = current.unwrap_or(oldest);
        let mut secrets: Vec<Secret> = self.entries.iter().map(|entry| entry.secret).collect();
        if let Some(before) = secrets.get_mut(..=current) {
            before.rotate_right(1);
        }
        secrets
    }
}

impl fmt::Debug for SecretRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRing")
            .field("secrets", &self.entries.len())
            .finish_non_exhaustive()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// As long as the keys that are derived from it.
const SECRET: usize = 32;
const ENTRY: usize = 8 + SECRET;
/// An hourly rotation keeps a day.
pub(super) const MOST_ENTRIES: usize = 32;
/// Each instance has looked into the store several times by then.
pub(super) const LEAD: Duration = Duration::from_secs(30);
/// How long a secret is accepted after another has replaced it, in milliseconds: longer than the
/// lifetime of a session ticket.
const ACCEPTED: u64 = 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const H: u64 = 3_600_000;

    #[test]
    fn a_new_secret_is_known_before_it_is_used() {
        let first = SecretRing::default().rotated([1; 32], HOUR, H);
        assert_eq!(first.in_use(H), [[1; 32]]);
        assert!(!first.is_due(HOUR, 2 * H - 1) && first.is_due(HOUR, 2 * H));
        let second = first.rotated([2; 32], HOUR, 2 * H);
        let lead = millis(LEAD);
        assert_eq!(second.in_use(2 * H), [[1; 32], [2; 32]]);
        assert_eq!(second.in_use(2 * H + lead), [[2; 32], [1; 32]]);
        let third = second.rotated([3; 32], HOUR, 3 * H + lead);
        assert_eq!(third.in_use(3 * H + lead), [[2; 32], [3; 32], [1; 32]]);
        assert_eq!(SecretRing::parse(&third.encode()), Some(third));
    }

    #[test]
    fn a_replaced_secret_is_accepted_for_a_day() {
        let mut ring = SecretRing::default();
        for hour in 0..60 {
            let number = u8::try_from(hour).unwrap();
            ring = ring.rotated([number; 32], HOUR, u64::from(number) * H);
            assert!(ring.entries.len() <= 26, "{hour}: {ring:?}");
        }
        let in_use = ring.in_use(60 * H);
        assert!(in_use.contains(&[35; 32]) && !in_use.contains(&[30; 32]));
        let rare = SecretRing::default().rotated([1; 32], 100 * HOUR, 0);
        let rare = rare.rotated([2; 32], 100 * HOUR, 100 * H);
        assert_eq!(rare.in_use(101 * H), [[2; 32], [1; 32]]);
        assert_eq!(rare.rotated([3; 32], 100 * HOUR, 300 * H).entries.len(), 2);
    }

    #[test]
    fn a_secret_that_another_instance_remembers_stays_out() {
        let first = SecretRing::default().rotated([1; 32], 100 * HOUR, 0);
        let both = first.rotated([2; 32], 100 * HOUR, 100 * H);
        assert_eq!(both.clone().accepted(110 * H), both);
        let one = both.clone().accepted(126 * H);
        assert_eq!(one.in_use(126 * H), [[2; 32]]);
        assert_eq!(one.merge(&both).accepted(126 * H), one);
    }

    #[test]
    fn a_secret_from_the_future_keeps_none_from_being_replaced() {
        let ring = SecretRing::default().rotated([1; 32], HOUR, 0);
        let ahead = SecretRing::default().rotated([2; 32], HOUR, 10_000 * H);
        let ahead = ring.merge(&ahead);
        assert!(ahead.is_due(HOUR, 2 * H) && !ahead.is_due(HOUR, H / 2));
        assert_eq!(ahead.in_use(H)[0], [1; 32]);
        let next = ahead.rotated([3; 32], HOUR, 2 * H);
        assert_eq!(next.in_use(3 * H)[0], [3; 32]);
    }

    #[test]
    fn instances_that_made_one_each_agree_on_both() {
        let a = SecretRing::default().rotated([1; 32], HOUR, 5);
        let b = SecretRing::default().rotated([2; 32], HOUR, 6);
        assert_eq!(a.merge(&b), b.merge(&a));
        assert_eq!(a.merge(&b).in_use(10), [[2; 32], [1; 32]]);
        assert_eq!(a.merge(&a), a);
        // The clock of a reader that is late.
        assert_eq!(b.in_use(0), [[2; 32]]);
        assert!(SecretRing::default().in_use(0).is_empty());
    }

    #[test]
    fn garbage_is_no_ring() {
        let ring = SecretRing::default().rotated([1; 32], HOUR, 5).encode();
        for text in [
            &b""[..],
            b"x",
            &ring[1..],
            &[ring.as_slice(), b"x"].concat(),
            &[0; 40 * 33],
        ] {
            assert_eq!(SecretRing::parse(text), None);
        }
        assert_eq!(
            format!("{:?}", SecretRing::parse(&ring).unwrap()),
            "SecretRing { secrets: 1, .. }"
        );
    }
}
