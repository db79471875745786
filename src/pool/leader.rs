//! Which of several does for a pool what is to be done once, such as checking its backends.

use tokio::sync::watch;

use super::Pool;

/// Where settings come from: those that a user gave go before defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Default,
    Given,
}

/// Those that stand for it.
#[derive(Default)]
pub(super) struct Candidates {
    standing: Vec<(Rank, u64)>,
    last: u64,
    leader: watch::Sender<u64>,
}

impl Candidates {
    /// The highest rank leads, and of these the one that came last: a reload's settings hold from
    /// the moment that they are there.
    fn elect(&self) {
        let leader = self.standing.iter().max().map_or(0, |(_, number)| *number);
        self.leader.send_if_modified(|now| {
            let changes = *now != leader;
            *now = leader;
            changes
        });
    }
}

impl Pool {
    /// Stands for the lead until the candidate is dropped.
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

/// One that stands for the lead; see [`Pool::stand`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Candidate {
    pool: Pool,
    number: u64,
    leader: watch::Receiver<u64>,
}

impl Candidate {
    /// Returns true if this one leads; what changes from now on ends [`changed`](Self::changed).
    pub(crate) fn leads(&mut self) -> bool {
        *self.leader.borrow_and_update() == self.number
    }

    /// Ends when another leads than [`leads`](Self::leads) last saw. It may be dropped and called
    /// again without missing a change.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as the pool, which is held here.
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
            "defaults give way to what was given"
        );
        let mut newer = pool.stand(Rank::Given);
        assert!(newer.leads() && !given.leads());
        drop(given);
        assert!(
            newer.leads(),
            "the end of one that does not lead is nothing"
        );
        drop(newer);
        assert!(late.leads() && !first.leads(), "of two defaults the newer");
        drop(late);
        assert!(first.leads());
    }

    #[test]
    fn a_change_wakes_those_that_it_concerns() {
        let pool = Pool::new([]).unwrap();
        let mut first = pool.stand(Rank::Given);
        assert!(first.leads());
        {
            let mut changed = task::spawn(first.changed());
            assert_pending!(changed.poll());
            let _late = pool.stand(Rank::Default);
            assert_pending!(changed.poll(), "another that does not lead changes nothing");
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
