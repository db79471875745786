//! [`JsonLines`]: a sink that formats lines on the threads of the requests, and writes them on a
//! thread of its own.

mod queue;
mod writer;

use std::{
    fmt,
    io::{self, Write},
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

use self::{
    queue::{Queue, lock},
    writer::{Output, Writer},
};
use super::{Closing, Entry, Opening, Sink};
#[cfg(test)]
pub(super) use {queue::QUEUED_LINES, writer::INTERVAL};

/// Writes each line as a JSON object on a line of its own.
///
/// The thread of a request formats the line into a buffer, and goes on; a thread named
/// `evenkeel-log` writes the buffers out every 10 ms. A sink is a handle: clones write to the same
/// output. With the last clone the thread writes what is left, and ends.
///
/// At most 8,192 lines wait in each of 16 buffers. A thread of the program uses one of them, and
/// threads share one if there are more than 16. A line that finds its buffer full is
/// [dropped](Self::dropped).
#[derive(Clone)]
pub struct JsonLines {
    handle: Arc<Handle>,
}

/// What the clones of a sink share. Its drop ends the writer.
struct Handle {
    queue: Arc<Queue>,
    writer: thread::Thread,
}

impl JsonLines {
    /// Appends to this file, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or the thread cannot be started.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::spawn(Output::file(path.as_ref())?)
    }

    /// Writes to the standard output.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn stdout() -> io::Result<Self> {
        Self::writer(io::stdout())
    }

    /// Writes to any writer. Each batch of lines is one `write_all` and one `flush`. The writer may
    /// block: only the thread of the log waits for it.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn writer(writer: impl Write + Send + 'static) -> io::Result<Self> {
        Self::spawn(Output::Other(Box::new(writer)))
    }

    fn spawn(output: Output) -> io::Result<Self> {
        let queue = Arc::new(Queue::new());
        let writer = Writer::new(queue.clone(), output);
        let thread = thread::Builder::new()
            .name("evenkeel-log".into())
            .spawn(move || writer.run())?;
        let handle = Arc::new(Handle {
            queue,
            writer: thread.thread().clone(),
        });
        Ok(Self { handle })
    }

    /// Returns how many lines were lost so far: because the queue was full, or because the output
    /// failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.handle.queue.dropped.load(Relaxed)
    }

    /// Opens the file again by its path, after a rotation has moved it: commonly at SIGHUP. Queued
    /// lines go to the new file. Has no effect on another output. If the file cannot be opened, an
    /// error is logged and the old one stays in use.
    pub fn reopen(&self) {
        self.handle.queue.reopen.store(true, Relaxed);
        self.handle.writer.unpark();
    }

    /// Waits until the lines that were recorded before this call are written; returns false if that
    /// takes longer than 2 s. Blocks the calling thread.
    pub fn flush(&self) -> bool {
        self.handle.flush()
    }
}

impl Handle {
    fn flush(&self) -> bool {
        let mut flushes = lock(&self.queue.flushes);
        flushes.requested += 1;
        let wanted = flushes.requested;
        self.writer.unpark();
        let waited = self
            .queue
            .flushed
            .wait_timeout_while(flushes, FLUSH_LIMIT, |flushes| flushes.done < wanted)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.closing.store(true, SeqCst);
        self.flush();
    }
}

impl Sink for JsonLines {
    fn open(&self, opening: &mut Opening<'_>) {
        opening.write_json();
    }

    fn close(&self, closing: &Closing<'_>) {
        let (Handle { queue, writer }, end) = (&*self.handle, &closing.end);
        match closing.json() {
            Some(opening) => {
                while !queue.try_add(writer, |buffer| buffer.try_add_line(opening, end)) {}
            }
            None => self.record(&closing.entry()),
        }
    }

    fn record(&self, entry: &Entry<'_>) {
        let Handle { queue, writer } = &*self.handle;
        while !queue.try_add(writer, |buffer| buffer.try_add_entry(entry)) {}
    }
}

impl fmt::Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines")
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

/// The longest wait for an output that is slow or hangs.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
