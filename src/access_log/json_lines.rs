//! JSON lines, written by a thread of their own.

use std::{
    cell::Cell,
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::Duration,
};

use super::{Closing, Entry, Opening, Sink, json::Buffer};
use crate::log_limit::LogLimit;

/// JSON lines, written by a thread of their own: a request's thread formats its line into a
/// buffer and goes on. A handle; the thread ends, and writes what is left, with the last one.
#[derive(Clone)]
pub struct JsonLines {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: thread::Thread,
}

struct Shared {
    /// Each thread that logs has one of these, so that they do not wait for one another.
    shards: [Mutex<Shard>; SHARDS],
    limit: usize,
    dropped: AtomicU64,
    /// The writer sleeps until it is woken.
    asleep: AtomicBool,
    closing: AtomicBool,
    reopen: AtomicBool,
    /// Flushes asked for, and those done.
    flushes: Mutex<(u64, u64)>,
    flushed: Condvar,
}

#[derive(Default)]
struct Shard {
    buf: Buffer,
    lines: usize,
}

impl JsonLines {
    /// Appends to this file, made if it is missing.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let file = open(&path)?;
        Self::spawn(Output::File { path, file })
    }

    /// Writes to the standard output.
    ///
    /// # Errors
    ///
    /// When the thread cannot be had.
    pub fn stdout() -> io::Result<Self> {
        Self::writer(io::stdout())
    }

    /// Writes to anything; it may block, that is its own thread's business.
    ///
    /// # Errors
    ///
    /// When the thread cannot be had.
    pub fn writer(writer: impl Write + Send + 'static) -> io::Result<Self> {
        Self::spawn(Output::Other(Box::new(writer)))
    }

    fn spawn(output: Output) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            shards: std::array::from_fn(|_| Mutex::default()),
            limit: QUEUED_LINES,
            dropped: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            flushes: Mutex::default(),
            flushed: Condvar::new(),
        });
        let writer = Writer {
            shared: shared.clone(),
            output,
            recycled: Buffer::default(),
            told: 0,
            failures: LogLimit::new(),
            drops: LogLimit::new(),
        };
        let thread = thread::Builder::new()
            .name("evenkeel-log".into())
            .spawn(move || writer.run())?;
        let handle = Arc::new(Handle {
            shared,
            writer: thread.thread().clone(),
        });
        Ok(Self { handle })
    }

    /// Returns how many lines found the queue full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.handle.shared.dropped.load(Relaxed)
    }

    /// Opens the file anew, after a rotation moved it: what SIGHUP commonly asks for. Lines that
    /// are queued go to the new one.
    pub fn reopen(&self) {
        self.handle.shared.reopen.store(true, Relaxed);
        self.handle.writer.unpark();
    }

    /// Waits until what was logged before is written, for two seconds at most; false if it is
    /// not. Blocks.
    pub fn flush(&self) -> bool {
        self.handle.flush()
    }
}

impl Handle {
    fn flush(&self) -> bool {
        let mut flushes = lock(&self.shared.flushes);
        flushes.0 += 1;
        let wanted = flushes.0;
        self.writer.unpark();
        let waited = self
            .shared
            .flushed
            .wait_timeout_while(flushes, FLUSH_LIMIT, |f| f.1 < wanted)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.store(true, SeqCst);
        self.flush();
    }
}

impl JsonLines {
    /// Adds what `write` writes; false if the buffer was too small: it is larger now, and the
    /// caller tries again.
    #[inline(always)]
    fn try_add(&self, write: impl FnOnce(&mut Buffer) -> bool) -> bool {
        let shared = &self.handle.shared;
        let mut shard = lock(&shared.shards[shard_number()]);
        if shard.lines >= shared.limit {
            drop(shard);
            shared.dropped.fetch_add(1, Relaxed);
            return true;
        }
        if !write(&mut shard.buf) {
            return false;
        }
        shard.lines += 1;
        drop(shard);
        // The writer looks at every shard once more after it said that it sleeps.
        if shared.asleep.load(SeqCst) && shared.asleep.swap(false, SeqCst) {
            self.handle.writer.unpark();
        }
        true
    }
}

impl Sink for JsonLines {
    fn open(&self, opening: &mut Opening<'_>) {
        opening.write_json();
    }

    fn close(&self, closing: &Closing<'_>) {
        let end = &closing.end;
        match closing.json() {
            Some(opening) => while !self.try_add(|buffer| buffer.try_add_line(opening, end)) {},
            None => self.record(&closing.entry()),
        }
    }

    fn record(&self, entry: &Entry<'_>) {
        while !self.try_add(|buffer| buffer.try_add_entry(entry)) {}
    }
}

impl fmt::Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines")
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

enum Output {
    File { path: PathBuf, file: fs::File },
    Other(Box<dyn Write + Send>),
}

impl Output {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.write_all(lines),
            Self::Other(writer) => writer.write_all(lines).and_then(|()| writer.flush()),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            *file = open(path)?;
        }
        Ok(())
    }
}

struct Writer {
    shared: Arc<Shared>,
    output: Output,
    /// Swapped with a shard's buffer: both are used again.
    recycled: Buffer,
    /// Drops that were warned about.
    told: u64,
    /// Clients choose how many lines there are, and so how often writing them fails.
    failures: LogLimit,
    drops: LogLimit,
}

impl Writer {
    fn run(mut self) {
        let mut quiet = 0;
        loop {
            let wanted = lock(&self.shared.flushes).0;
            // Read before the lines are: what was logged before the close is among them.
            let closing = self.shared.closing.load(SeqCst);
            if self.shared.reopen.swap(false, Relaxed) {
                if let Err(error) = self.output.reopen() {
                    tracing::error!(target: "evenkeel::access_log", %error, "the log cannot be reopened");
                }
            }
            let wrote = self.drain();
            let last = closing && !wrote;
            self.tell_drops(last);
            lock(&self.shared.flushes).1 = if last { u64::MAX } else { wanted };
            self.shared.flushed.notify_all();
            if last {
                return;
            }
            quiet = if wrote { 0 } else { quiet + 1 };
            if quiet < QUIET_ROUNDS {
                thread::park_timeout(INTERVAL);
            } else if !self.shared.asleep.swap(true, SeqCst) {
                // Said to be asleep, it looks once more, so that no line waits for the next.
            } else {
                thread::park();
                self.shared.asleep.store(false, SeqCst);
                quiet = 0;
            }
        }
    }

    fn drain(&mut self) -> bool {
        let mut wrote = false;
        for number in 0..SHARDS {
            {
                let mut shard = lock(&self.shared.shards[number]);
                if shard.lines == 0 {
                    continue;
                }
                std::mem::swap(&mut shard.buf, &mut self.recycled);
                shard.lines = 0;
            }
            wrote = true;
            self.write_recycled();
        }
        wrote
    }

    fn write_recycled(&mut self) {
        let written = self.recycled.written();
        if let Err(error) = self.output.write(written) {
            let lines = written.iter().filter(|&&b| b == b'\n').count();
            self.shared.dropped.fetch_add(lines as u64, Relaxed);
            if let Some(left_out) = self.failures.pass() {
                tracing::error!(
                    target: "evenkeel::access_log",
                    %error, lines, left_out, "lines could not be written"
                );
            }
        }
        self.recycled.clear(KEEP_BUFFER);
    }

    /// Says how many lines were dropped since it last did; at the end, whatever the limit.
    fn tell_drops(&mut self, last: bool) {
        let dropped = self.shared.dropped.load(Relaxed);
        if dropped > self.told && (last || self.drops.pass().is_some()) {
            let lines = dropped - self.told;
            self.told = dropped;
            tracing::warn!(target: "evenkeel::access_log", lines, dropped, "lines were dropped");
        }
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(path)
}

/// Threads take shards in turn, when they log for the first time.
fn shard_number() -> usize {
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.get();
    if number != usize::MAX {
        return number;
    }
    let number = NEXT.fetch_add(1, Relaxed) % SHARDS;
    NUMBER.set(number);
    number
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// More threads than this share, and wait for each other now and then.
const SHARDS: usize = 16;
/// A second of a busy thread, and 4 MiB.
const QUEUED_LINES: usize = 8_192;
/// Soon enough for whoever follows the file, and while the lines are in the cache; seldom enough
/// to cost nothing.
const INTERVAL: Duration = Duration::from_millis(10);
/// A second without a line: then a line wakes the writer.
const QUIET_ROUNDS: u32 = 100;
/// A disk that takes longer will not be waited for.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
const KEEP_BUFFER: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    /// Fails as a full disk does.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Events(Arc<Mutex<Vec<u8>>>);

    impl Write for Events {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_not_an_event_for_each_batch_of_lines() {
        let events = Events::default();
        let writer = events.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let handle = JsonLines::writer(io::sink()).unwrap();
        let mut writer = Writer {
            shared: handle.handle.shared.clone(),
            output: Output::Other(Box::new(Full)),
            recycled: Buffer::default(),
            told: 0,
            failures: LogLimit::new(),
            drops: LogLimit::new(),
        };
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                // Under the lock, so that the thread does not take the line.
                let mut shard = lock(&writer.shared.shards[0]);
                let entry = Entry::new(UNIX_EPOCH, Duration::ZERO, "ok");
                while !shard.buf.try_add_entry(&entry) {}
                std::mem::swap(&mut shard.buf, &mut writer.recycled);
                drop(shard);
                writer.write_recycled();
                writer.tell_drops(false);
            }
            writer.tell_drops(true);
        });
        let seen = String::from_utf8(lock(&events.0).clone()).unwrap();
        let count = |what| seen.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("lines could not be written"), 1, "{seen}");
        assert_eq!(count("lines were dropped"), 2, "{seen}");
        assert!(seen.contains("lines=99 dropped=100"), "{seen}");
    }
}
