//! A thread and a runtime a core.

use std::{
    fmt,
    future::Future,
    io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

/// Worker threads, each with a runtime of its own: connections, their backends and their
/// deadlines stay on one core. A `multi_thread` runtime costs over 2 µs more a request, and
/// suits applications whose handlers differ widely in what they cost.
#[must_use = "join the workers, or they are on their own"]
pub struct Workers {
    threads: Vec<thread::JoinHandle<io::Result<()>>>,
}

impl Workers {
    /// Starts this many threads; each runs the future that `work` makes there, given its number.
    /// They bind their own listeners, see [`bind`](super::bind) with `reuse_port`.
    ///
    /// # Errors
    ///
    /// When a thread or its runtime cannot be had; those that run already end with the process.
    pub fn spawn<F, W>(count: NonZeroUsize, work: W) -> io::Result<Self>
    where
        W: Fn(usize) -> F + Clone + Send + 'static,
        F: Future<Output = io::Result<()>>,
    {
        let threads = (0..count.get())
            .map(|number| {
                let work = work.clone();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                thread::Builder::new()
                    .name(format!("evenkeel-{number}"))
                    .spawn(move || run_worker(number, || runtime.block_on(work(number))))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { threads })
    }

    /// Returns how many cores there are to work on.
    #[must_use]
    pub fn cores() -> NonZeroUsize {
        thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
    }

    /// Waits for all threads to end; blocks.
    ///
    /// # Errors
    ///
    /// The first error of a worker; a panic counts as one.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            let ended = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a worker thread panicked")));
            result = result.and(ended);
        }
        result
    }
}

/// Reports at once what ends a worker early: the others run on, and nobody joins them yet.
fn run_worker(number: usize, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let ended = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(io::Error::other(format!(
            "worker {number} panicked: {message}"
        )))
    });
    if let Err(error) = &ended {
        tracing::error!(target: "evenkeel::server", number, %error, "a worker ended");
    }
    ended
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads.len())
            .finish()
    }
}
