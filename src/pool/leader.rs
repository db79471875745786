//! Leader election within a process: which of several layers of one pool does a task that the pool
//! needs once, such as checking its backends.
//!
//! An example: a program stacks a health layer on each of two routes around one pool. Both want to
//! check its backends; one check in each interval is wanted, not two. Each stands as a candidate, the leader
//! checks, and the others wait for [`Candidate::changed`] to lead.
//!
//! ```text
//! stand ──▶ leads()? ──yes──▶ do the task until changed()
//!              │no                    │
//!              └──▶ changed() ◀───────┘
//! ```
//!
//! The number of a candidate counts up, so that the newest of a rank leads: of two health layers
//! before and after a reload it is the one with the new settings. A leader that is dropped makes the
//! next one lead at once, in its drop.

use tokio::sync::watch;

use super::Pool;

/// The origin of a candidate's settings. Settings that a user gave rank above defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Default,
    Given,
}

/// The candidates of a pool, and its leader.
#[derive(Default)]
pub(super) struct Candidates {
    standing: Vec<(Rank, u64)>,
    last: u64,
    leader: watch::Sender<u64>,
}

impl Candidates {
    /// Makes the newest candidate of the highest rank the leader, so that the settings of a reload
    /// hold from the moment of their arrival.
    ///
    /// 0 is no candidate, for a pool that has none. Equal leaders wake no task.
    fn elect(&self) {
        let leader = self.standing.iter().max().map_or(0, |(_, number)| *number);
        self.leader.send_if_modified(|now| {
            // Candidates that wait are woken only by a change.
            let changes = *now != leader;
            *now = leader;
            changes
        });
    }
}

impl Pool {
    /// Adds a candidate, which takes part until it is dropped.
    pub(crate) fn stand(&self, rank: Rank) -> Candidate {
        let mut control = self.control();
        let candidates = &mut control.candidates;
        candidates.last += 1;
        let number = candidates.last;
        candidates.standing.push((rank, number));
        candidates.elect();
        Candidate {
            leader: candidates.leader.subscribe(),
            pool: self.clone(),
            number,
        }
    }
}

/// A candidate of an election; see [`Pool::stand`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Candidate {
    pool: Pool,
    number: u64,
    leader: watch::Receiver<u64>,
}

impl Candidate {
    /// Returns true if this candidate leads. A later change of the leader ends
    /// [`changed`](Self::changed).
    pub(crate) fn leads(&mut self) -> bool {
        *self.leader.borrow_and_update() == self.number
    }

    /// Ends when the leader is another one than at the last call of [`leads`](Self::leads).
    ///
    /// # Cancel safety
    ///
    /// No change is missed if the future is dropped and the method is called again.
    pub(crate) async fn changed(&mut self) {
        // The sender cannot be gone: the candidate holds the pool.
        let _ = self.leader.changed().await;
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let mut control = self.pool.control();
        let candidates = &mut control.candidates;
        candidates
            .standing
            .retain(|(_, number)| *number != self.number);
        candidates.elect();
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn the_newest_of_the_highest_rank_leads() {
        let pool = Pool::new([]).unwrap();
        let mut first = pool.stand(Rank::Default);
        assert!(first.leads(), "the only one");
        let mut given = pool.stand(Rank::Given);
        assert!(given.leads() && !first.leads());
        let mut late = pool.stand(Rank::Default);
        assert!(
            given.leads() && !late.leads(),
            "defaults rank below given settings"
        );
        let mut newer = pool.stand(Rank::Given);
        assert!(newer.leads() && !given.leads());
        drop(given);
        assert!(
            newer.leads(),
            "a candidate that does not lead leaves without effect"
        );
        drop(newer);
        assert!(late.leads() && !first.leads(), "of two defaults the newer");
        drop(late);
        assert!(first.leads());
    }

    #[test]
    fn a_change_of_the_leader_wakes_its_candidates() {
        let pool = Pool::new([]).unwrap();
        let mut first = pool.stand(Rank::Given);
        assert!(first.leads());
        {
            let mut changed = task::spawn(first.changed());
            assert_pending!(changed.poll());
            let _late = pool.stand(Rank::Default);
            assert_pending!(
                changed.poll(),
                "a new candidate that does not lead changes nothing"
            );
        }
        let newer = pool.stand(Rank::Given);
        let mut changed = task::spawn(first.changed());
        assert_ready!(changed.poll(), "a change before the call is not missed");
        drop(changed);
        assert!(!first.leads());
        drop(newer);
        let mut changed = task::spawn(first.changed());
        assert_ready!(changed.poll());
    }
}
