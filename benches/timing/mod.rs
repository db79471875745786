//! The least of many short measurements, which take turns: on a machine that others use, too, it
//! is what a quiet one shows, and what two rows show beside each other can be compared.

use std::{env, time::Duration};

use tokio::time::Instant;

/// Something to be measured, a batch at a time.
pub(crate) struct Row {
    pub(crate) name: String,
    batch: Box<dyn FnMut() -> Duration>,
    size: usize,
    least: f64,
}

impl Row {
    /// `batch` does `size` of what is measured, and says how long that took.
    pub(crate) fn new(
        name: impl Into<String>,
        size: usize,
        batch: impl FnMut() -> Duration + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            batch: Box::new(batch),
            size,
            least: f64::MAX,
        }
    }

    pub(crate) fn run(&mut self) {
        let took = (self.batch)().as_nanos() as f64;
        self.least = self.least.min(took / self.size as f64);
    }

    /// The least so far, in nanoseconds each.
    pub(crate) fn least(&self) -> f64 {
        self.least
    }
}

/// How long this takes.
pub(crate) fn time(what: impl FnOnce()) -> Duration {
    let began = Instant::now();
    what();
    began.elapsed()
}

/// With `--test` everything runs once, to see that it runs.
pub(crate) fn rounds(many: usize) -> usize {
    if env::args().any(|arg| arg == "--test") {
        1
    } else {
        many
    }
}

#[expect(clippy::print_stdout, reason = "a bench talks to people")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}
