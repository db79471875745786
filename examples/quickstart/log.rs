//! A sink of one's own: the show's requests are counted, everybody else's are printed.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use evenkeel::access_log::{Entry, JsonLines, Sink};

pub(crate) const USER_AGENT: &str = "quickstart";

#[derive(Clone)]
pub(crate) struct Log {
    print: JsonLines,
    second_tries: Arc<AtomicUsize>,
}

impl Log {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            print: JsonLines::stdout()?,
            second_tries: Arc::default(),
        })
    }

    /// Returns how many of the show's requests needed another backend.
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
