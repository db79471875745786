//! Polls the streams of a connection within its task. A task for each stream would cost an allocation,
//! and a pass through the scheduler for every wake.
//!
//! ```text
//!    waker of a stream ──▶ StreamWaker.woken ──▶ ReadyQueue.slots ──┐
//!    waker of the codec ─────────────────────▶ ReadyQueue.codec ───┼─▶ wakes the task, unless awake
//!                                                                  │
//!    driver: begin() ▸ next() ▸ poll slots, codec ▸ next() ▸ … ▸ next() is false: awake = false
//! ```
//!
//! `awake` is true from the first wake until `next` finds nothing left. In between, wakes only add
//! to the queue: a stream that wakes the codec during a round costs no wake of the task. `next`
//! reads the queue and clears `awake` under one lock, so a wake comes either before, and is found,
//! or after, and reaches the task.
//!
//! A late wake may find its slot free or reused by another stream, which is then polled once for
//! nothing. Wakers of a slot are never replaced; a stream polled for the first time in a reused
//! slot has the same waker.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    task::{Context, Poll, Wake, Waker},
};

/// The slots of the streams; a free slot keeps its memory.
///
/// The boxes keep the streams pinned while the vector grows.
pub(super) struct Streams<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    ready: Arc<ReadyQueue>,
}

/// The box is made once and kept: `Option` says whether a stream is in it.
struct Slot<F> {
    stream: Pin<Box<Option<F>>>,
    handle: Arc<StreamWaker>,
    /// Wakes through `handle`; kept so that a poll clones no `Arc`.
    waker: Waker,
}

impl<F: Future<Output = ()>> Streams<F> {
    /// `ready` is the queue of the same connection: wakes of the streams go there.
    pub(super) fn new(ready: Arc<ReadyQueue>) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ready,
        }
    }

    /// Puts a stream into a slot, and polls it for the first time.
    pub(super) fn begin(&mut self, stream: F) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot].stream.set(Some(stream));
                slot
            }
            None => self.add(stream),
        };
        self.poll(slot);
    }

    /// Three allocations: the box, the handle, and at times the vector. A connection makes as many
    /// slots as it ever had streams at once.
    #[cold]
    fn add(&mut self, stream: F) -> usize {
        let slot = self.slots.len();
        let handle = Arc::new(StreamWaker {
            ready: self.ready.clone(),
            slot,
            woken: AtomicBool::new(false),
        });
        self.slots.push(Slot {
            stream: Box::pin(Some(stream)),
            waker: handle.clone().into(),
            handle,
        });
        slot
    }

    /// Polls the stream of a slot. A late wake may find the slot free or reused, which is harmless.
    ///
    /// A slot that `shrink` has removed is ignored as well.
    pub(super) fn poll(&mut self, slot: usize) {
        let Some(at) = self.slots.get_mut(slot) else {
            return;
        };
        // A swap with AcqRel, so that the poll sees what happened before the wake that it clears.
        at.handle.woken.swap(false, AcqRel);
        let Some(stream) = at.stream.as_mut().as_pin_mut() else {
            return;
        };
        let cx = &mut Context::from_waker(&at.waker);
        // As for a task of its own, a panic ends its stream and not the others.
        let polled = catch_unwind(AssertUnwindSafe(|| stream.poll(cx)));
        if !matches!(polled, Ok(Poll::Pending)) {
            at.stream.set(None);
            self.free.push(slot);
            if self.free.len() == self.slots.len() {
                self.shrink();
            }
        }
    }

    /// Frees the memory of most slots once the connection is idle.
    fn shrink(&mut self) {
        if self.slots.len() > MAX_IDLE_SLOTS {
            // Only when all are free: slots are indexes, and those in use must not move.
            self.slots.truncate(MAX_IDLE_SLOTS);
            self.free.clear();
            self.free.extend(0..MAX_IDLE_SLOTS);
        }
    }
}

/// What has to be polled: the codec, and streams by their slots.
#[derive(Default)]
pub(super) struct ReadyQueue {
    inner: Mutex<Inner>,
}

/// Under the lock: no code of a user runs while it is held.
#[derive(Default)]
struct Inner {
    codec: bool,
    slots: Vec<usize>,
    /// The task of the connection, which is woken unless `awake` is set.
    connection: Option<Waker>,
    awake: bool,
}

impl ReadyQueue {
    /// Returns the waker of the codec.
    pub(super) fn codec(self: &Arc<Self>) -> Waker {
        self.clone().into()
    }

    /// Begins a poll of the connection; returns true if a wake of this queue caused it.
    ///
    /// Call it once at the beginning of each poll: from then on `awake` is set.
    pub(super) fn begin(&self, waker: &Waker) -> bool {
        let mut inner = self.lock();
        if !inner
            .connection
            .as_ref()
            .is_some_and(|w| w.will_wake(waker))
        {
            inner.connection = Some(waker.clone());
        }
        mem::replace(&mut inner.awake, true)
    }

    /// Adds the codec and the streams that were woken. Returns false if there are none; from then on,
    /// a wake reaches the task of the connection again.
    pub(super) fn next(&self, queue: &mut VecDeque<usize>, codec: &mut bool) -> bool {
        let mut inner = self.lock();
        *codec |= mem::take(&mut inner.codec);
        queue.extend(inner.slots.drain(..));
        inner.awake = *codec || !queue.is_empty();
        inner.awake
    }

    /// A stream that sent something in this round has woken the codec behind the last `next`.
    pub(super) fn take_codec(&self) -> bool {
        mem::take(&mut self.lock().codec)
    }

    /// Makes the runtime poll the connection again after other tasks.
    pub(super) fn wake_later(&self, waker: &Waker) {
        waker.wake_by_ref();
    }

    /// Marks what has to be polled, and wakes the task unless it is awake. Called from any thread.
    fn wake_with(&self, mark: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        mark(&mut inner);
        if mem::replace(&mut inner.awake, true) {
            return;
        }
        // Woken after the lock is released: a wake may poll the task on another thread at once.
        let connection = inner.connection.clone();
        drop(inner);
        if let Some(connection) = connection {
            connection.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for ReadyQueue {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_with(|inner| inner.codec = true);
    }
}

/// The waker of the stream in a slot.
struct StreamWaker {
    ready: Arc<ReadyQueue>,
    slot: usize,
    woken: AtomicBool,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A stream is in the queue at most once: `poll` clears the flag before it polls.
        if !self.woken.swap(true, AcqRel) {
            self.ready.wake_with(|inner| inner.slots.push(self.slot));
        }
    }
}

/// How many slots an idle connection keeps: most clients have no more streams at once.
const MAX_IDLE_SLOTS: usize = 8;

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, sync::atomic::Ordering::SeqCst};

    use super::*;

    /// Counts the wakes of the connection.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[derive(Default)]
    struct Table {
        ready: Arc<ReadyQueue>,
        woken: Arc<Woken>,
        queue: VecDeque<usize>,
    }

    impl Table {
        /// Polls the connection as its driver does; returns whether it was woken from here, and
        /// whether the codec is due.
        fn round<F: Future<Output = ()>>(&mut self, streams: &mut Streams<F>) -> (bool, bool) {
            let ours = self.ready.begin(&self.woken.clone().into());
            let mut codec = false;
            let mut ready = false;
            while self.ready.next(&mut self.queue, &mut codec) {
                ready |= mem::take(&mut codec);
                while let Some(slot) = self.queue.pop_front() {
                    streams.poll(slot);
                }
            }
            (ours, ready)
        }

        fn woken(&self) -> usize {
            self.woken.0.load(SeqCst)
        }
    }

    type Shared = Arc<Mutex<Option<Waker>>>;

    /// Leaves its waker, and ends at the second poll.
    fn twice(left: &Shared) -> impl Future<Output = ()> + use<> {
        let left = left.clone();
        poll_fn(
            move |cx| match left.lock().unwrap().replace(cx.waker().clone()) {
                None => Poll::Pending,
                Some(_) => Poll::Ready(()),
            },
        )
    }

    #[test]
    fn a_wake_reaches_its_stream_and_wakes_the_connection_once() {
        let mut table = Table::default();
        let mut streams = Streams::new(table.ready.clone());
        let left: Vec<Shared> = (0..3).map(|_| Shared::default()).collect();
        for left in &left {
            streams.begin(twice(left));
        }
        table.round(&mut streams);
        assert_eq!((table.woken(), streams.free.len()), (0, 0));
        for left in &left[1..] {
            let waker = left.lock().unwrap().clone().unwrap();
            waker.wake_by_ref();
            waker.wake();
        }
        assert_eq!(table.woken(), 1, "once for all of them");
        assert_eq!(table.round(&mut streams), (true, false));
        assert_eq!(streams.free, [1, 2]);
        let late = left[1].lock().unwrap().clone().unwrap();
        late.wake();
        assert_eq!(table.woken(), 2);
        table.round(&mut streams);
        assert_eq!(streams.free, [1, 2], "a free place is left alone");
    }

    #[test]
    fn a_stream_that_is_woken_during_a_round_is_polled_in_it() {
        let mut table = Table::default();
        let mut streams = Streams::new(table.ready.clone());
        let (ready, mut polls) = (table.ready.clone(), 0);
        streams.begin(poll_fn(move |cx| {
            polls += 1;
            ready.codec().wake();
            cx.waker().wake_by_ref();
            match polls {
                3 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        }));
        // The first poll happened outside a round.
        let before = table.woken();
        assert_eq!(table.round(&mut streams), (true, true));
        assert_eq!(streams.free.len(), 1);
        assert_eq!(table.woken(), before, "it is awake");
        assert_eq!(table.round(&mut streams), (false, false));
    }

    #[test]
    fn a_wake_from_elsewhere_is_recognized() {
        let mut table = Table::default();
        let mut streams = Streams::<std::future::Pending<()>>::new(table.ready.clone());
        assert_eq!(table.round(&mut streams), (false, false));
        table.ready.codec().wake();
        assert_eq!(table.woken(), 1);
        assert_eq!(table.round(&mut streams), (true, true));
        assert_eq!(table.round(&mut streams), (false, false));
    }

    #[test]
    fn slots_are_reused_and_few_are_kept() {
        let table = Table::default();
        let mut streams = Streams::new(table.ready.clone());
        for _ in 0..3 {
            streams.begin(poll_fn(|_| Poll::Ready(())));
            assert_eq!(streams.slots.len(), 1, "one that is free is taken");
        }
        let mut streams = Streams::new(table.ready);
        let left: Vec<Shared> = (0..4 * MAX_IDLE_SLOTS).map(|_| Shared::default()).collect();
        for left in &left {
            streams.begin(twice(left));
        }
        assert_eq!(streams.slots.len(), 4 * MAX_IDLE_SLOTS);
        for slot in (0..4 * MAX_IDLE_SLOTS).rev() {
            streams.poll(slot);
        }
        assert_eq!(
            (streams.slots.len(), streams.free.len()),
            (MAX_IDLE_SLOTS, MAX_IDLE_SLOTS)
        );
        streams.poll(3 * MAX_IDLE_SLOTS);
        for left in &left {
            left.lock().unwrap().take();
            streams.begin(twice(left));
        }
        assert_eq!(
            streams.slots.len(),
            4 * MAX_IDLE_SLOTS,
            "and others are allocated"
        );
    }

    #[test]
    fn a_panic_ends_its_stream_alone() {
        let table = Table::default();
        let mut streams = Streams::new(table.ready);
        let ended = Arc::new(AtomicUsize::new(0));
        for panics in [true, false] {
            let ended = ended.clone();
            streams.begin(poll_fn(move |_| {
                assert!(!panics, "on purpose");
                ended.fetch_add(1, SeqCst);
                Poll::Ready(())
            }));
        }
        assert_eq!((ended.load(SeqCst), streams.free.len()), (1, 1));
    }
}
