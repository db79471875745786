//! [`Lines`]: a sink that formats lines on the threads of the requests, and writes them on a thread of
//! its own.
//!
//! ```text
//! thread of a request                       thread `evenkeel-log`
//! open:  write the opening ──▶ line         every 10 ms, for each of 16 shards:
//! close: opening + end ──▶ shard's buffer      swap the shard's buffer with an empty one
//!        (lock of the shard, no system call)   write it to the target, outside the lock
//! ```
//!
//! The lock is held while the end of a line is formatted, or while two buffers are swapped, and mostly
//! one thread alone uses it. What is lost is always counted, at one of two places: `dropped` in a
//! shard (the queue was full) or `lost` (the output did not take it).

mod combined;
mod format;
mod logfmt;
mod queue;
mod writer;

use std::{
    cell::Cell,
    fmt,
    io::{self, Write},
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    thread,
};

pub use self::format::Format;
use self::{
    queue::{Queue, lock},
    writer::Writer,
};
pub(super) use writer::CLOSING_LIMIT;

use super::{Closing, Entry, Opening, Output, Sink};
#[cfg(test)]
pub(super) use {
    queue::{QUEUED_BYTES, QUEUED_LINES},
    writer::INTERVAL,
};

/// Writes lines in a [`Format`] to an [`Output`].
///
/// The thread of a request formats the line into a buffer, and goes on; a thread named
/// `evenkeel-log` writes the buffers out every 10 ms. A sink is a handle: clones write to the same
/// output. With the last clone the thread writes what is left, for up to 2 s, and ends.
///
/// At most 8,192 lines or 4 MiB wait in each of 16 buffers. A thread of the program uses one of
/// them, and threads share one if there are more than 16. A line that finds its buffer full is
/// [dropped](Self::dropped): a request never waits for an output.
///
/// # Example
///
/// Write logfmt to one file, and JSON to the local syslog:
///
/// ```
/// use evenkeel::access_log::{AccessLogLayer, Format, Lines, Output, Syslog, Tee};
///
/// # fn main() -> std::io::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("access.log");
/// let file = Lines::new(Format::Logfmt, Output::file(path))?;
/// let syslog = Lines::new(Format::Json, Output::syslog(Syslog::unix("/dev/log").cee(true)))?;
/// let layer = AccessLogLayer::new(Tee::new(file.clone(), syslog.clone()));
/// # drop(layer);
/// assert_eq!((file.written(), file.dropped()), (0, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lines {
    handle: Arc<Handle>,
}

/// What the clones of a sink share. Its drop ends the writer.
struct Handle {
    format: Format,
    queue: Arc<Queue>,
    writer: thread::Thread,
}

impl Lines {
    /// Writes lines in this format to this output.
    ///
    /// A file is opened here. A socket is connected by the thread of the log, as often as needed, so
    /// that a collector that is down keeps no program from its start.
    ///
    /// # Errors
    ///
    /// When a file cannot be opened, an address has no port, or the thread cannot be started.
    pub fn new(format: Format, output: Output) -> io::Result<Self> {
        let queue = Arc::new(Queue::new());
        let writer = Writer::new(queue.clone(), format, output.open()?);
        let thread = thread::Builder::new()
            .name("evenkeel-log".into())
            .spawn(move || writer.run())?;
        let handle = Arc::new(Handle {
            format,
            queue,
            writer: thread.thread().clone(),
        });
        Ok(Self { handle })
    }

    /// Appends JSON to this file, and creates it if it is missing: [`new`](Self::new) with
    /// [`Format::Json`] and [`Output::file`].
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or the thread cannot be started.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(Format::Json, Output::file(path.as_ref()))
    }

    /// Writes JSON to the standard output: [`new`](Self::new) with [`Format::Json`] and
    /// [`Output::stdout`].
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn stdout() -> io::Result<Self> {
        Self::new(Format::Json, Output::stdout())
    }

    /// Writes JSON to any writer: [`new`](Self::new) with [`Format::Json`] and [`Output::writer`].
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn writer(writer: impl Write + Send + 'static) -> io::Result<Self> {
        Self::new(Format::Json, Output::writer(writer))
    }

    /// Returns how many lines the output took so far. A UDP receiver may refuse a datagram after its line
    /// was counted; the next lines are then not counted in its place, so that the number never falls.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.handle.queue.written.load(Relaxed)
    }

    /// Returns how many lines were lost so far: because the queue was full, because the output
    /// failed, or because a datagram could not hold the line.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.handle.queue.dropped()
    }

    /// Opens the file again by its path, after another program has moved it: commonly at SIGHUP.
    /// Queued lines go to the new file. Has no effect on another output. If the file cannot be
    /// opened, an error is logged and the old one stays in use.
    pub fn reopen(&self) {
        self.handle.queue.reopen.store(true, Relaxed);
        self.handle.writer.unpark();
    }

    /// Waits until the lines that were recorded before this call are written; returns false if that
    /// takes longer than 2 s. Blocks the calling thread.
    pub fn flush(&self) -> bool {
        self.handle.flush()
    }

    /// Adds a line of a format that is written at the request's end alone. The text is made outside
    /// the lock of the queue.
    ///
    /// The buffer of the thread is taken and put back, and not borrowed: `write` is passed in, and a
    /// borrow across a call of it could meet itself.
    #[inline(never)]
    fn add_text(&self, write: impl FnOnce(&mut Vec<u8>)) {
        thread_local! {
            static TEXT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        // `try_with` fails if the thread is about to end.
        let mut text = TEXT.try_with(Cell::take).unwrap_or_default();
        write(&mut text);
        let Handle { queue, writer, .. } = &*self.handle;
        // Each failed try has doubled the buffer, so that the loop ends: a text is at most as long as
        // its limits.
        while !queue.try_add(writer, |buffer| buffer.try_add_text(&text)) {}
        text.clear();
        text.shrink_to(MAX_KEPT_TEXT);
        let _ = TEXT.try_with(|kept| kept.set(text));
    }
}

impl Handle {
    /// Returns false if the writer was slower than [`CLOSING_LIMIT`]: lines may be written later all
    /// the same.
    fn flush(&self) -> bool {
        let mut flushes = lock(&self.queue.flushes);
        flushes.requested += 1;
        let wanted = flushes.requested;
        self.writer.unpark();
        // The writer raises `done` to the number that it read before it wrote, so that the lines added
        // before this call are written by then.
        let waited = self
            .queue
            .flushed
            .wait_timeout_while(flushes, CLOSING_LIMIT, |flushes| flushes.done < wanted)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The last clone is gone: no line can come behind this store. The flush below waits for the
        // writer's last round.
        self.queue.closing.store(true, SeqCst);
        self.flush();
    }
}

impl Sink for Lines {
    fn open(&self, opening: &mut Opening<'_>) {
        match self.handle.format {
            Format::Json | Format::Logfmt => opening.write_json(),
            Format::Combined => opening.keep_fields(),
        }
    }

    fn close(&self, closing: &Closing<'_>) {
        let (Handle { queue, writer, .. }, end) = (&*self.handle, &closing.end);
        match closing.json() {
            Some(opening) if self.handle.format != Format::Combined => {
                while !queue.try_add(writer, |buffer| buffer.try_add_line(opening, end)) {}
            }
            _ => self.record(&closing.entry()),
        }
    }

    fn record(&self, entry: &Entry<'_>) {
        let Handle { queue, writer, .. } = &*self.handle;
        match self.handle.format {
            // The writer turns JSON into logfmt.
            Format::Json | Format::Logfmt => {
                while !queue.try_add(writer, |buffer| buffer.try_add_entry(entry)) {}
            }
            Format::Combined => self.add_text(|text| combined::write(entry, text)),
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("format", &self.handle.format)
            .field("written", &self.written())
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

/// A line that needed a larger text, in bytes, gives its memory back.
const MAX_KEPT_TEXT: usize = 8 * 1024;
