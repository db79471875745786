//! The thread that writes queued lines to the output.
//!
//! The rounds of the thread:
//!
//! ```text
//! lines within the last second:  write all shards ─▶ park 10 ms ─▶ …
//! a second without lines:        set `asleep` ─▶ one more round ─▶ park until unparked
//! the output takes no more:      keep the rest, write nothing else, try again in 10 ms
//! closed:                        rounds until one finds nothing, or 2 s of a stalled output
//! ```
//!
//! Order is kept within a thread and not between threads: lines of a shard are in the order of their
//! ends, and the shards follow one another. A line that a target did not take stays in `buffer`, in
//! front of all others; the shards keep what comes meanwhile, up to their limits.
//!
//! All events of this file pass a `LogLimit`: clients choose how many lines there are, and with a full
//! disk each batch was an ERROR, 1,600 a second.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

use memchr::memchr_iter;
use tokio::time::Instant;

use super::{
    Format, logfmt,
    queue::{Queue, lock},
};
use crate::{
    access_log::{json::Buffer, output::Target},
    log_limit::LogLimit,
};

pub(super) struct Writer {
    queue: Arc<Queue>,
    format: Format,
    target: Box<dyn Target>,
    /// Swapped with the buffer of a shard, so that both keep their memory.
    buffer: Buffer,
    /// The same lines in a format that this thread makes.
    text: Vec<u8>,
    /// Bytes at the begin of the lines that the output is done with.
    done: usize,
    /// How many lines of those are left.
    waiting: u64,
    /// Lines that turned out to be lost after they were counted as written.
    lost_late: u64,
    /// Lines that were dropped and warned about.
    warned_drops: u64,
    /// Clients decide how many lines there are, and so how often a write fails.
    failures: LogLimit,
    drops: LogLimit,
}

/// What a round of the writer found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// There were no lines.
    Idle,
    /// All lines are done with.
    Wrote,
    /// The output takes no more lines for now.
    Stalled,
}

impl Writer {
    pub(super) fn new(queue: Arc<Queue>, format: Format, target: Box<dyn Target>) -> Self {
        Self {
            queue,
            format,
            target,
            buffer: Buffer::default(),
            text: Vec::new(),
            done: 0,
            waiting: 0,
            lost_late: 0,
            warned_drops: 0,
            failures: LogLimit::new(),
            drops: LogLimit::new(),
        }
    }

    /// Writes lines until the sink is closed and the queue is empty.
    pub(super) fn run(mut self) {
        let mut quiet_rounds = 0;
        let mut closes_at = None;
        loop {
            // Read before the lines are: a flush that comes later waits for the next round.
            let requested = lock(&self.queue.flushes).requested;
            // Read before the lines are, so that those logged before the close are among them.
            let closing = self.queue.closing.load(SeqCst);
            if self.queue.reopen.swap(false, Relaxed) {
                self.reopen();
            }
            let round = self.write_queued();
            let is_last = closing && self.ends_with(round, &mut closes_at);
            // Before a flush returns, so that a caller that waited finds the warning in its log.
            self.warn_of_drops(is_last);
            if is_last || round != Round::Stalled {
                // After the last round, no flush may wait for another one.
                lock(&self.queue.flushes).done = if is_last { u64::MAX } else { requested };
                self.queue.flushed.notify_all();
            }
            if is_last {
                return;
            }
            quiet_rounds = if round == Round::Idle {
                quiet_rounds + 1
            } else {
                0
            };
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

    /// Returns true if this round of a sink that is closed is the last: no line is left, or the
    /// output has stalled for too long.
    fn ends_with(&mut self, round: Round, closes_at: &mut Option<Instant>) -> bool {
        match round {
            Round::Idle => true,
            Round::Wrote => false,
            Round::Stalled => {
                let now = Instant::now();
                let ends = now >= *closes_at.get_or_insert(now + CLOSING_LIMIT);
                if ends {
                    self.give_up();
                }
                ends
            }
        }
    }

    fn reopen(&mut self) {
        if let Err(error) = self.target.reopen() {
            tracing::error!(target: "evenkeel::access_log", %error, "the log cannot be reopened");
        }
    }

    /// Writes the lines of all shards, those first that an earlier round left.
    fn write_queued(&mut self) -> Round {
        // What an earlier round left comes first, so that lines keep their order.
        let mut round = match self.lines().is_empty() {
            true => Round::Idle,
            false => self.write_lines(),
        };
        for number in 0..self.queue.shards.len() {
            if round == Round::Stalled {
                return round;
            }
            if self.take(number) {
                round = self.write_lines();
            }
        }
        round
    }

    /// Takes the lines of a shard; returns false if there were none.
    fn take(&mut self, number: usize) -> bool {
        {
            let mut shard = lock(&self.queue.shards[number]);
            if shard.lines == 0 {
                return false;
            }
            // `self.buffer` is empty here: the round before is done with, or the loop had returned.
            std::mem::swap(&mut shard.buffer, &mut self.buffer);
            self.waiting = std::mem::take(&mut shard.lines) as u64;
        }
        // Outside the lock of the shard, whose threads go on.
        if self.format == Format::Logfmt {
            logfmt::add_lines(self.buffer.written(), &mut self.text);
        }
        true
    }

    /// Returns the lines that were taken, in their format.
    fn lines(&self) -> &[u8] {
        match self.format {
            Format::Logfmt => &self.text,
            Format::Json | Format::Combined => self.buffer.written(),
        }
    }

    fn write_lines(&mut self) -> Round {
        let lines = match self.format {
            Format::Logfmt => &self.text,
            Format::Json | Format::Combined => self.buffer.written(),
        };
        let rest = lines.get(self.done..).unwrap_or_default();
        // May block: for a write to a pipe as long as its reader wants, for a socket a second or two.
        let done = self.target.write(rest);
        // A target that reports more than it got is taken to be done with all.
        let (over, kept) = rest.split_at_checked(done.bytes).unwrap_or((rest, &[]));
        let stalled = !kept.is_empty();
        // The number of all is known: only a part of them is searched for the ends of lines.
        let over = match stalled {
            true => count(over),
            false => self.waiting,
        };
        self.waiting -= over;
        self.queue.lost.fetch_add(done.lost, Relaxed);
        // A line may turn out to be lost after it was counted as written. A counter never falls, so the
        // next lines make up for it.
        self.lost_late += done.lost;
        let made_up = over.min(self.lost_late);
        self.lost_late -= made_up;
        self.queue.written.fetch_add(over - made_up, Relaxed);
        if let Some(error) = done.error {
            self.log_failure(&error, done.lost);
        }
        if stalled {
            self.done += done.bytes;
            return Round::Stalled;
        }
        self.clear();
        Round::Wrote
    }

    fn clear(&mut self) {
        (self.done, self.waiting) = (0, 0);
        self.buffer.clear(MAX_KEPT_BUFFER);
        self.text.clear();
        self.text.shrink_to(MAX_KEPT_BUFFER);
    }

    #[cold]
    fn log_failure(&self, error: &std::io::Error, lines: u64) {
        let Some(left_out) = self.failures.pass() else {
            return;
        };
        let output = self.target.name();
        if lines > 0 {
            tracing::error!(
                target: "evenkeel::access_log",
                %error, output, lines, left_out, "lines could not be written"
            );
        } else {
            tracing::error!(
                target: "evenkeel::access_log",
                %error, output, left_out, "the output fails; lines wait in the queue"
            );
        }
    }

    /// Counts all lines that are left as lost.
    fn give_up(&mut self) {
        let mut lost = self.waiting;
        self.clear();
        for shard in &self.queue.shards {
            let mut shard = lock(shard);
            lost += shard.lines as u64;
            shard.lines = 0;
            // The sink is closed: no line will use the memory again.
            shard.buffer.clear(0);
        }
        self.queue.lost.fetch_add(lost, Relaxed);
    }

    /// Logs how many lines were dropped since the last warning; the last warning ignores the limit.
    fn warn_of_drops(&mut self, is_last: bool) {
        let dropped = self.queue.dropped();
        if dropped > self.warned_drops && (is_last || self.drops.pass().is_some()) {
            let lines = dropped - self.warned_drops;
            self.warned_drops = dropped;
            tracing::warn!(target: "evenkeel::access_log", lines, dropped, "lines were dropped");
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
}

/// Short enough for `tail -f`, and for lines to be in the cache still; long enough that the thread
/// costs nothing measurable.
pub(in crate::access_log) const INTERVAL: Duration = Duration::from_millis(10);
/// The longest wait for an output that is slow or hangs: what a shutdown may take longer for the log.
pub(in crate::access_log) const CLOSING_LIMIT: Duration = Duration::from_secs(2);
/// A second without a line: after that, the next line wakes the thread.
const QUIET_ROUNDS: u32 = 100;
/// A buffer that grew beyond this, in bytes, is freed after it is written.
const MAX_KEPT_BUFFER: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::Mutex,
        time::UNIX_EPOCH,
    };

    use super::*;
    use crate::access_log::{Entry, Output, lines::queue::QUEUED_BYTES};

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

    /// Returns the writer of this output, without a thread.
    fn writer(format: Format, output: Output) -> Writer {
        Writer::new(Arc::new(Queue::new()), format, output.open().unwrap())
    }

    fn add(writer: &Writer, detail: &str) {
        let entry = Entry {
            detail: Some(detail),
            ..Entry::new(UNIX_EPOCH, Duration::ZERO, "ok")
        };
        let thread = thread::current();
        let queue = &writer.queue;
        while !queue.try_add(&thread, |buffer| buffer.try_add_entry(&entry)) {}
    }

    #[test]
    fn a_full_disk_is_logged_once_and_not_for_each_batch_of_lines() {
        let events = Events::default();
        let log = events.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        let mut writer = writer(Format::Json, Output::file("/dev/full"));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                add(&writer, "");
                assert!(writer.write_queued() == Round::Wrote);
                writer.warn_of_drops(false);
            }
            writer.warn_of_drops(true);
        });
        let seen = String::from_utf8(lock(&events.0).clone()).unwrap();
        let count = |what| seen.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("lines could not be written"), 1, "{seen}");
        assert_eq!(count("lines were dropped"), 2, "{seen}");
        assert!(seen.contains("lines=99 dropped=100"), "{seen}");
        assert!(seen.contains("output=\"file /dev/full\""), "{seen}");
        assert_eq!(writer.queue.written.load(Relaxed), 0);
    }

    /// Takes the bytes that its steps allow, and then nothing.
    struct Slow(Vec<usize>, Events);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = self.0.pop().ok_or(io::ErrorKind::WouldBlock)?;
            self.1.write(&bytes[..len.min(bytes.len())])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_stalled_output_leaves_are_written_later_or_counted() {
        for format in [Format::Json, Format::Logfmt] {
            let events = Events::default();
            let slow = Slow(vec![70, 10], events.clone());
            let mut writer = writer(format, Output::writer(slow));
            for number in 0..4 {
                add(&writer, &number.to_string());
            }
            assert!(writer.write_queued() == Round::Stalled);
            assert!(writer.write_queued() == Round::Stalled);
            let seen = lock(&events.0).clone();
            assert_eq!(seen.len(), 80, "and no byte twice");
            let written = writer.queue.written.load(Relaxed);
            assert_eq!(written, count(&seen), "whole lines only");
            let mut closes_at = Some(Instant::now());
            assert!(writer.ends_with(Round::Stalled, &mut closes_at));
            assert_eq!(written + writer.queue.dropped(), 4);
        }
    }

    #[test]
    fn lines_wait_up_to_a_number_and_up_to_a_size() {
        let queued = writer(Format::Json, Output::stdout());
        for _ in 0..super::super::QUEUED_LINES + 3 {
            add(&queued, "");
        }
        assert_eq!(queued.queue.dropped(), 3);
        let queued = writer(Format::Json, Output::stdout());
        let long = "x".repeat(QUEUED_BYTES / 2);
        for _ in 0..5 {
            add(&queued, &long);
        }
        assert_eq!(queued.queue.dropped(), 3);
    }
}
