//! A lease: a slot of a backend, held from the pick to the last byte of the response.

use super::{Backend, Circuit};

/// One request in flight at a backend. The request counts from the lease's creation to its drop.
///
/// A lease is not `Clone`, so that each request ends exactly once: the future of the balance layer
/// owns it, then the response body or the tunnel.
///
/// # Example
///
/// ```
/// use evenkeel::{Backend, pool::Lease};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let backend = Backend::new("a", "http://127.0.0.1:9001")?.max_in_flight(1)?;
/// let lease = Lease::acquire(&backend).expect("a slot is free");
/// assert!(Lease::acquire(&backend).is_none(), "the cap is 1");
/// drop(lease);
/// assert_eq!(backend.in_flight(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Lease {
    backend: Backend,
    trial: bool,
}

impl Lease {
    /// Takes a slot; returns `None` if the backend is at its cap. Wait-free: one atomic addition without
    /// a cap, two with one.
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

    /// Takes a slot as the one request that tries a half-open circuit; returns `None` if a trial is in
    /// flight, the circuit is not half open, or the backend is at its cap. The drop of the lease frees
    /// the trial, too. Wait-free.
    #[must_use]
    pub fn acquire_trial(backend: &Backend) -> Option<Self> {
        let state = backend.state();
        let is_half_open = || state.circuit() == Circuit::HalfOpen;
        // While a trial runs, other picks only read: `acquire_trial` writes if it finds the slot free.
        if !is_half_open() || !state.acquire_trial() {
            return None;
        }
        // Read again: the trial before may have failed and opened the circuit in between.
        if !is_half_open() || !state.acquire_slot(backend.configured_max_in_flight()) {
            state.release_trial();
            return None;
        }
        Some(Self {
            backend: backend.clone(),
            trial: true,
        })
    }

    /// Returns true if the request is a trial of a half-open circuit.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Returns the backend of the slot.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.trial {
            // The trial first: freeing the slot may wake a request, which may then be the next trial.
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

    /// Lets other threads run in between, mostly for no time.
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
                        // Rarely, because threads do not race for an open circuit.
                        let fails = rng.u8(..) < 8;
                        if fails {
                            dawdle(&mut rng);
                        }
                        tried.store(false, SeqCst);
                        if fails {
                            failures.fetch_add(1, SeqCst);
                            assert!(pool.end_trial(a), "only the trial ends itself");
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

    /// More threads than cores, so that they are preempted within an operation.
    const THREADS: u64 = 8;
    /// Some hundred thousand slots and ten thousand trials on two cores.
    const RACE: Duration = Duration::from_millis(400);
}
