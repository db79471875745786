//! The table.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evenkeel::{
    Pool,
    pool::{EventKind, Health},
};
use tokio::time::{Instant, sleep};

use crate::{Act, NAMES, RATE, load::Load};

/// When each backend went up or down.
type Changes = Arc<Mutex<Vec<(Instant, String, Health)>>>;

pub(crate) struct Show {
    pool: Pool,
    changes: Changes,
    acts: Vec<(Instant, Act)>,
}

impl Show {
    pub(crate) fn new(pool: &Pool, failover: bool) -> Self {
        let changes = Changes::default();
        let mut events = pool.subscribe();
        let noted = changes.clone();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let EventKind::Health(change) = event.kind {
                    let entry = (Instant::now(), event.backend.id().to_owned(), change.to);
                    noted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(entry);
                }
            }
        });
        let with = if failover { "with" } else { "WITHOUT" };
        say(&format!(
            "Three backend processes, {RATE} requests a second, {with} failover; takes 11 seconds.\n\n\
             {:<28}{:>9}{:>8}{:>10}{:>15}",
            "what happens", "requests", "failed", "slowest", "noticed after"
        ));
        Self {
            pool: pool.clone(),
            changes,
            acts: Vec::new(),
        }
    }

    pub(crate) async fn until_all_are_up(&self) {
        while self.pool.snapshot().usable() < NAMES.len() {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Begins the next part.
    pub(crate) fn next(&mut self, load: &Load, act: Act) {
        load.next_part();
        self.acts.push((Instant::now(), act));
    }

    /// Prints the table; returns how many requests failed.
    pub(crate) fn end(&self, load: &Load) -> usize {
        let parts = load.parts();
        for (part, (when, act)) in parts.iter().zip(&self.acts) {
            let (what, noticed) = match *act {
                Act::Nothing => ("nothing".to_owned(), String::new()),
                Act::Kill(nth) => (
                    format!("{} is killed (SIGKILL)", NAMES[nth]),
                    self.noticed(*when, nth, Health::Unhealthy),
                ),
                Act::Restart(nth) => (
                    format!("{} is started again", NAMES[nth]),
                    self.noticed(*when, nth, Health::Healthy),
                ),
                Act::Hang(nth) => (
                    format!("{} hangs (SIGSTOP)", NAMES[nth]),
                    self.noticed(*when, nth, Health::Unhealthy),
                ),
                Act::Wake(nth) => (
                    format!("{} wakes up (SIGCONT)", NAMES[nth]),
                    self.noticed(*when, nth, Health::Healthy),
                ),
            };
            say(&format!(
                "{what:<28}{:>9}{:>8}{:>10}{noticed:>15}",
                part.requests,
                part.failed,
                millis(part.slowest)
            ));
        }
        let failed = parts.iter().map(|part| part.failed).sum();
        let all: usize = parts.iter().map(|part| part.requests).sum();
        say(
            &match parts.iter().find_map(|part| part.first_failure.clone()) {
                None => format!("\n{all} requests, and none failed."),
                Some(first) => {
                    format!("\n{failed} of {all} requests FAILED, the first with: {first}")
                }
            },
        );
        failed
    }

    /// Returns how long after the act the pool knew: time to detect, or to recover.
    fn noticed(&self, act: Instant, nth: usize, to: Health) -> String {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let found = changes
            .iter()
            .find(|(when, id, health)| *when >= act && id == NAMES[nth] && *health == to);
        match found {
            Some((when, ..)) => millis(*when - act),
            None => "not at all".into(),
        }
    }
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[expect(clippy::print_stdout, reason = "an example talks to people")]
fn say(text: &str) {
    println!("{text}");
}
