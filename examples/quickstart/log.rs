//! A sink of its own: it counts the requests of the demonstration and prints all others.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use evenkeel::access_log::{Entry, Lines, Sink};

pub(crate) const USER_AGENT: &str = "quickstart";

#[derive(Clone)]
pub(crate) struct Log {
    print: Lines,
    second_tries: Arc<AtomicUsize>,
}

impl Log {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            print: Lines::stdout()?,
            second_tries: Arc::default(),
        })
    }

    /// Returns how many requests of the demonstration needed a second backend.
    pub(crate) fn second_tries(&self) -> usize {
        self.second_tries.load(Relaxed)
    }
}

impl Sink for Log {
    fn record(&self, entry: &Entry<'_>) {
        let agent = entry.request.and_then(|request| request.user_agent);
        if agent != Some(USER_AGENT.as_bytes()) {
            self.print.record(entry);
        } else if entry.attempts.len() > 1 {
            self.second_tries.fetch_add(1, Relaxed);
        }
    }
}
