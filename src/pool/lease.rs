//! A slot of a backend, held from the pick to the last byte.

use super::{Backend, Circuit};

/// One request in flight at a backend; its end is the lease's drop, exactly once.
///
/// Not `Clone`: balance's future owns it, then the response body, or the tunnel.
#[derive(Debug)]
pub struct Lease {
    backend: Backend,
    trial: bool,
}

impl Lease {
    /// Takes a slot; `None` when the backend is at its cap. Wait-free.
    #[must_use]
    pub fn acquire(backend: &Backend) -> Option<Self> {
        backend
            .state()
            .acquire_slot(backend.configured_max_in_flight())
            .then(|| Self {
                backend: backend.clone(),
                trial: false,
            })
    }

    /// Takes a slot as the one request that tries a backend whose circuit is half open; `None`
    /// where a trial is under way, the circuit is not half open, or the backend is at its cap.
    /// The place of the trial comes back with the lease. Wait-free.
    #[must_use]
    pub fn acquire_trial(backend: &Backend) -> Option<Self> {
        let state = backend.state();
        let is_half_open = || state.circuit() == Circuit::HalfOpen;
        if !is_half_open() || !state.acquire_trial() {
            return None;
        }
        // Looked at again: the trial before may have failed in between.
        if !is_half_open() || !state.acquire_slot(backend.configured_max_in_flight()) {
            state.release_trial();
            return None;
        }
        Some(Self {
            backend: backend.clone(),
            trial: true,
        })
    }

    /// Returns true for the request that tries a half-open circuit.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Returns the backend whose slot it is.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.trial {
            self.backend.state().release_trial();
        }
        self.backend.state().release_slot();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
        thread,
        time::Duration,
    };

    use tokio::time::Instant;

    use super::*;
    use crate::pool::{Pool, Reason};

    /// Gives others a chance to come in between, mostly none.
    fn dawdle(rng: &mut fastrand::Rng) {
        match rng.u8(..) {
            0 => thread::sleep(Duration::from_micros(50)),
            1..32 => thread::yield_now(),
            spins => (0..spins).for_each(|_| std::hint::spin_loop()),
        }
    }

    #[test]
    fn however_many_threads_race_for_slots_no_cap_is_exceeded_and_every_slot_comes_back() {
        const CAPS: [u32; 3] = [1, 2, 5];
        let backends = CAPS.map(|cap| {
            let backend = Backend::new(cap.to_string(), "http://127.0.0.1:1").unwrap();
            backend.max_in_flight(cap).unwrap()
        });
        let inside = CAPS.map(|_| AtomicU32::new(0));
        let granted = CAPS.map(|_| AtomicU64::new(0));
        let refused = AtomicU64::new(0);
        let until = Instant::now() + RACE;
        thread::scope(|scope| {
            for seed in 0..THREADS {
                let (backends, inside, granted, refused) = (&backends, &inside, &granted, &refused);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    while Instant::now() < until {
                        let nth = rng.usize(..CAPS.len());
                        let Some(lease) = Lease::acquire(&backends[nth]) else {
                            refused.fetch_add(1, SeqCst);
                            continue;
                        };
                        let others = inside[nth].fetch_add(1, SeqCst);
                        assert!(others < CAPS[nth], "{others} are there already");
                        granted[nth].fetch_add(1, SeqCst);
                        dawdle(&mut rng);
                        inside[nth].fetch_sub(1, SeqCst);
                        drop(lease);
                    }
                });
            }
        });
        assert!(refused.load(SeqCst) > 0, "the race must be one");
        for (nth, backend) in backends.iter().enumerate() {
            assert_eq!(backend.in_flight(), 0, "every slot comes back");
            assert_eq!(backend.requests(), granted[nth].load(SeqCst));
            let all: Vec<_> = (0..CAPS[nth]).map(|_| Lease::acquire(backend)).collect();
            assert!(all.iter().all(Option::is_some), "all slots are free");
            assert!(Lease::acquire(backend).is_none(), "and no more");
        }
    }

    #[test]
    fn however_many_threads_race_for_a_trial_there_is_one_at_a_time_and_none_after_it_failed() {
        let of = |id| Backend::new(id, "http://127.0.0.1:1").unwrap();
        let pool = Pool::new([of("a"), of("b")]).unwrap();
        let a = pool.snapshot().get("a").unwrap().clone();
        pool.eject(&a, Reason::new("L4CON", "refused"), 5, 0.5);
        let (tried, trials, failures) =
            (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let until = Instant::now() + RACE;
        thread::scope(|scope| {
            for seed in 0..THREADS {
                let (pool, a, tried, trials, failures) = (&pool, &a, &tried, &trials, &failures);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    while Instant::now() < until {
                        let Some(lease) = Lease::acquire_trial(a) else {
                            continue;
                        };
                        assert!(!tried.swap(true, SeqCst), "one at a time");
                        assert_eq!(a.circuit(), Circuit::HalfOpen, "none after one failed");
                        trials.fetch_add(1, SeqCst);
                        // Seldom: a circuit that is open is no place to race for.
                        let fails = rng.u8(..) < 8;
                        if fails {
                            dawdle(&mut rng);
                        }
                        tried.store(false, SeqCst);
                        if fails {
                            failures.fetch_add(1, SeqCst);
                            assert!(pool.end_trial(a), "only who tries ends a trial");
                        }
                        drop(lease);
                    }
                });
            }
            scope.spawn(|| {
                while Instant::now() < until {
                    pool.begin_trial(&a);
                    thread::yield_now();
                }
            });
        });
        let (trials, failures) = (trials.load(SeqCst), failures.load(SeqCst));
        assert!(0 < failures && failures < trials, "{failures} of {trials}");
        assert_eq!(a.in_flight(), 0, "every slot comes back");
        pool.begin_trial(&a);
        assert!(
            Lease::acquire_trial(&a).is_some(),
            "and so does the trial's"
        );
    }

    /// More than there are cores, so that they are stopped in the middle of things.
    const THREADS: u64 = 8;
    /// Some hundred thousand slots and ten thousand trials on two cores.
    const RACE: Duration = Duration::from_millis(400);
}
