//! The thread that writes queued lines to the output.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

use super::queue::{Queue, lock};
use crate::{access_log::json::Buffer, log_limit::LogLimit};

pub(super) enum Output {
    File { path: PathBuf, file: fs::File },
    Other(Box<dyn Write + Send>),
}

impl Output {
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File {
            file: open(path)?,
            path: path.to_owned(),
        })
    }

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

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(path)
}

pub(super) struct Writer {
    queue: Arc<Queue>,
    output: Output,
    /// Swapped with the buffer of a shard, so that both keep their memory.
    buffer: Buffer,
    /// Lines that were dropped and warned about.
    warned_drops: u64,
    /// Clients decide how many lines there are, and so how often a write fails.
    failures: LogLimit,
    drops: LogLimit,
}

impl Writer {
    pub(super) fn new(queue: Arc<Queue>, output: Output) -> Self {
        Self {
            queue,
            output,
            buffer: Buffer::default(),
            warned_drops: 0,
            failures: LogLimit::new(),
            drops: LogLimit::new(),
        }
    }

    /// Writes lines until the sink is closed and the queue is empty.
    pub(super) fn run(mut self) {
        let mut quiet_rounds = 0;
        loop {
            let requested = lock(&self.queue.flushes).requested;
            // Read before the lines are, so that those logged before the close are among them.
            let closing = self.queue.closing.load(SeqCst);
            if self.queue.reopen.swap(false, Relaxed) {
                if let Err(error) = self.output.reopen() {
                    tracing::error!(target: "evenkeel::access_log", %error, "the log cannot be reopened");
                }
            }
            let wrote = self.write_queued();
            let is_last = closing && !wrote;
            self.warn_of_drops(is_last);
            lock(&self.queue.flushes).done = if is_last { u64::MAX } else { requested };
            self.queue.flushed.notify_all();
            if is_last {
                return;
            }
            quiet_rounds = if wrote { 0 } else { quiet_rounds + 1 };
            if quiet_rounds < QUIET_ROUNDS {
                thread::park_timeout(INTERVAL);
            } else if !self.queue.asleep.swap(true, SeqCst) {
                // One more round with the flag set: a thread that read it before has added its line
                // by now, and a later one unparks this thread.
            } else {
                thread::park();
                self.queue.asleep.store(false, SeqCst);
                quiet_rounds = 0;
            }
        }
    }

    /// Writes the lines of all shards; returns false if there were none.
    fn write_queued(&mut self) -> bool {
        let mut wrote = false;
        for number in 0..self.queue.shards.len() {
            {
                let mut shard = lock(&self.queue.shards[number]);
                if shard.lines == 0 {
                    continue;
                }
                std::mem::swap(&mut shard.buffer, &mut self.buffer);
                shard.lines = 0;
            }
            wrote = true;
            self.write_buffer();
        }
        wrote
    }

    fn write_buffer(&mut self) {
        let written = self.buffer.written();
        if let Err(error) = self.output.write(written) {
            let lines = written.iter().filter(|&&b| b == b'\n').count();
            self.queue.dropped.fetch_add(lines as u64, Relaxed);
            if let Some(left_out) = self.failures.pass() {
                tracing::error!(
                    target: "evenkeel::access_log",
                    %error, lines, left_out, "lines could not be written"
                );
            }
        }
        self.buffer.clear(MAX_KEPT_BUFFER);
    }

    /// Logs how many lines were dropped since the last warning; the last warning ignores the limit.
    fn warn_of_drops(&mut self, is_last: bool) {
        let dropped = self.queue.dropped.load(Relaxed);
        if dropped > self.warned_drops && (is_last || self.drops.pass().is_some()) {
            let lines = dropped - self.warned_drops;
            self.warned_drops = dropped;
            tracing::warn!(target: "evenkeel::access_log", lines, dropped, "lines were dropped");
        }
    }
}

/// Short enough for `tail -f`, and for lines to be in the cache still; long enough that the thread
/// costs nothing measurable.
pub(in crate::access_log) const INTERVAL: Duration = Duration::from_millis(10);
/// A second without a line: after that, the next line wakes the thread.
const QUIET_ROUNDS: u32 = 100;
/// A buffer that grew beyond this, in bytes, is freed after it is written.
const MAX_KEPT_BUFFER: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::UNIX_EPOCH,
    };

    use super::*;
    use crate::access_log::{Entry, JsonLines};

    /// A writer that fails as a full disk does.
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
    fn a_full_disk_is_logged_once_and_not_for_each_batch_of_lines() {
        let events = Events::default();
        let writer = events.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let lines = JsonLines::writer(io::sink()).unwrap();
        let queue = lines.handle.queue.clone();
        let mut writer = Writer::new(queue, Output::Other(Box::new(Full)));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                // The lock is held, so that the other thread does not take the line.
                let mut shard = lock(&writer.queue.shards[0]);
                let entry = Entry::new(UNIX_EPOCH, Duration::ZERO, "ok");
                while !shard.buffer.try_add_entry(&entry) {}
                std::mem::swap(&mut shard.buffer, &mut writer.buffer);
                drop(shard);
                writer.write_buffer();
                writer.warn_of_drops(false);
            }
            writer.warn_of_drops(true);
        });
        let seen = String::from_utf8(lock(&events.0).clone()).unwrap();
        let count = |what| seen.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("lines could not be written"), 1, "{seen}");
        assert_eq!(count("lines were dropped"), 2, "{seen}");
        assert!(seen.contains("lines=99 dropped=100"), "{seen}");
    }
}
