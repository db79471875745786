//! [`Workers`]: one thread with a `current_thread` runtime for each core.
//!
//! Threads with a runtime each share nothing but what the service shares: the kernel distributes
//! connections by address (`SO_REUSEPORT`), and a connection stays where it was accepted, with its
//! backend connections, its deadlines and its memory. That is why caches and recycled memory of
//! this crate are thread-local.
//!
//! The price: the kernel does not know how busy a thread is. One connection that carries most of
//! the load keeps one core busy and leaves the others idle; a `multi_thread` runtime would spread
//! the requests of HTTP/2.

use std::{
    fmt,
    future::Future,
    io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

/// Worker threads, each with a `current_thread` runtime of its own, so that a connection, its backend
/// connections and its deadlines stay on one core. A `multi_thread` runtime costs over 2 µs more a
/// request; it suits applications whose handlers differ widely in cost.
///
/// ```
/// use evenkeel::server::{Workers, bind};
///
/// # fn main() -> std::io::Result<()> {
/// let workers = Workers::spawn(Workers::cores(), |number| async move {
///     let listener = bind(([127, 0, 0, 1], 0).into(), true)?;
///     // In production: `evenkeel::serve(listener, app).await`.
///     assert!(listener.local_addr()?.port() != 0, "worker {number}");
///     Ok(())
/// })?;
/// workers.join()
/// # }
/// ```
///
/// Dropping the value does not stop the threads: they run until their futures end, or until the
/// process does.
#[must_use = "`join` waits for the workers; without it the process may end before them"]
pub struct Workers {
    threads: Vec<thread::JoinHandle<io::Result<()>>>,
}

impl Workers {
    /// Starts `count` threads. Each runs the future that `work` makes for its number, from 0 on. `work`
    /// binds a listener for each thread with [`bind`](super::bind) and `reuse_port`.
    ///
    /// # Errors
    ///
    /// If a thread or its runtime cannot be created. Threads that were started before run on until the
    /// process ends.
    ///
    /// The futures need not be `Send`, since each stays on its thread. A thread is named
    /// `evenkeel-0`, `evenkeel-1` and so on, as `top -H` shows it.
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
                    // The runtime is made on the calling thread, so that its errors are returned
                    // here, and moves to the worker.
                    .spawn(move || run_worker(number, || runtime.block_on(work(number))))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { threads })
    }

    /// Returns how many cores this process may use; 1 if the system does not say.
    #[must_use]
    pub fn cores() -> NonZeroUsize {
        thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
    }

    /// Blocks until all threads have ended.
    ///
    /// # Errors
    ///
    /// The first error of a worker, in the order of their numbers. A panic counts as an error.
    ///
    /// Blocks the calling thread: call it from `main`, not from a task.
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

/// Runs a worker and logs its error or panic at once: `join` would report it only after the other
/// workers have ended.
fn run_worker(number: usize, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // `AssertUnwindSafe`: the future and its runtime are dropped here, and what they share with
    // other workers is behind locks that recover from poisoning or behind the user's own.
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
