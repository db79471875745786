//! The streams of a connection that are answered in its own task: a task each would cost an
//! allocation, and a way through the scheduler for every wake.

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

/// Places for streams; one that is free keeps its memory.
pub(super) struct Streams<F> {
    places: Vec<Place<F>>,
    free: Vec<usize>,
    due: Arc<Due>,
}

struct Place<F> {
    stream: Pin<Box<Option<F>>>,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
}

impl<F: Future<Output = ()>> Streams<F> {
    pub(super) fn new(due: Arc<Due>) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            due,
        }
    }

    /// Gives a stream a place, and polls it for the first time.
    pub(super) fn begin(&mut self, stream: F) {
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place].stream.set(Some(stream));
                place
            }
            None => self.add(stream),
        };
        self.poll(place);
    }

    #[cold]
    fn add(&mut self, stream: F) -> usize {
        let place = self.places.len();
        let bell = Arc::new(Bell {
            due: self.due.clone(),
            place,
            rung: AtomicBool::new(false),
        });
        self.places.push(Place {
            stream: Box::pin(Some(stream)),
            waker: bell.clone().into(),
            bell,
        });
        place
    }

    /// Polls the stream of a place; a wake may come late, when it is free or another's.
    pub(super) fn poll(&mut self, place: usize) {
        let Some(at) = self.places.get_mut(place) else {
            return;
        };
        // A swap, so that what is read from here on is no older than a ring that it took back.
        at.bell.rung.swap(false, AcqRel);
        let Some(stream) = at.stream.as_mut().as_pin_mut() else {
            return;
        };
        let cx = &mut Context::from_waker(&at.waker);
        // As on a task of its own: a panic ends its stream, not the others.
        let polled = catch_unwind(AssertUnwindSafe(|| stream.poll(cx)));
        if !matches!(polled, Ok(Poll::Pending)) {
            at.stream.set(None);
            self.free.push(place);
            if self.free.len() == self.places.len() {
                self.shrink();
            }
        }
    }

    /// An idle connection keeps a few places only.
    fn shrink(&mut self) {
        if self.places.len() > KEPT {
            self.places.truncate(KEPT);
            self.free.clear();
            self.free.extend(0..KEPT);
        }
    }
}

/// Who is to be polled: the codec, and streams by their places.
#[derive(Default)]
pub(super) struct Due {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    codec: bool,
    places: Vec<usize>,
    /// Whom to wake, unless it is awake.
    connection: Option<Waker>,
    awake: bool,
}

impl Due {
    /// Returns what wakes the codec.
    pub(super) fn codec(self: &Arc<Self>) -> Waker {
        self.clone().into()
    }

    /// The connection is polled; returns true where that is because of a wake from here.
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

    /// Adds who was woken since; returns false, and lets wakes through to the connection again,
    /// where there is nobody.
    pub(super) fn next(&self, queue: &mut VecDeque<usize>, codec: &mut bool) -> bool {
        let mut inner = self.lock();
        *codec |= mem::take(&mut inner.codec);
        queue.extend(inner.places.drain(..));
        inner.awake = *codec || !queue.is_empty();
        inner.awake
    }

    pub(super) fn take_codec(&self) -> bool {
        mem::take(&mut self.lock().codec)
    }

    /// Has the connection polled again, once others had their turn.
    pub(super) fn put_off(&self, waker: &Waker) {
        waker.wake_by_ref();
    }

    fn note(&self, who: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        who(&mut inner);
        if mem::replace(&mut inner.awake, true) {
            return;
        }
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

impl Wake for Due {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.note(|inner| inner.codec = true);
    }
}

/// What wakes the stream of a place.
struct Bell {
    due: Arc<Due>,
    place: usize,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, AcqRel) {
            self.due.note(|inner| inner.places.push(self.place));
        }
    }
}

/// Most clients ask for no more at once, again and again.
const KEPT: usize = 8;

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
        due: Arc<Due>,
        woken: Arc<Woken>,
        queue: VecDeque<usize>,
    }

    impl Table {
        /// Polls the connection as its driver does; returns whether it was woken from here, and
        /// whether the codec is due.
        fn round<F: Future<Output = ()>>(&mut self, streams: &mut Streams<F>) -> (bool, bool) {
            let ours = self.due.begin(&self.woken.clone().into());
            let mut codec = false;
            let mut due = false;
            while self.due.next(&mut self.queue, &mut codec) {
                due |= mem::take(&mut codec);
                while let Some(place) = self.queue.pop_front() {
                    streams.poll(place);
                }
            }
            (ours, due)
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
        let mut streams = Streams::new(table.due.clone());
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
    fn whoever_is_woken_during_a_round_is_polled_in_it() {
        let mut table = Table::default();
        let mut streams = Streams::new(table.due.clone());
        let (due, mut polls) = (table.due.clone(), 0);
        streams.begin(poll_fn(move |cx| {
            polls += 1;
            due.codec().wake();
            cx.waker().wake_by_ref();
            match polls {
                3 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        }));
        // The first poll was in nobody's round.
        let before = table.woken();
        assert_eq!(table.round(&mut streams), (true, true));
        assert_eq!(streams.free.len(), 1);
        assert_eq!(table.woken(), before, "it is awake");
        assert_eq!(table.round(&mut streams), (false, false));
    }

    #[test]
    fn a_wake_of_another_s_making_is_told_apart() {
        let mut table = Table::default();
        let mut streams = Streams::<std::future::Pending<()>>::new(table.due.clone());
        assert_eq!(table.round(&mut streams), (false, false));
        table.due.codec().wake();
        assert_eq!(table.woken(), 1);
        assert_eq!(table.round(&mut streams), (true, true));
        assert_eq!(table.round(&mut streams), (false, false));
    }

    #[test]
    fn places_are_used_again_and_few_are_kept() {
        let table = Table::default();
        let mut streams = Streams::new(table.due.clone());
        for _ in 0..3 {
            streams.begin(poll_fn(|_| Poll::Ready(())));
            assert_eq!(streams.places.len(), 1, "one that is free is taken");
        }
        let mut streams = Streams::new(table.due);
        let left: Vec<Shared> = (0..4 * KEPT).map(|_| Shared::default()).collect();
        for left in &left {
            streams.begin(twice(left));
        }
        assert_eq!(streams.places.len(), 4 * KEPT);
        for place in (0..4 * KEPT).rev() {
            streams.poll(place);
        }
        assert_eq!((streams.places.len(), streams.free.len()), (KEPT, KEPT));
        streams.poll(3 * KEPT);
        for left in &left {
            left.lock().unwrap().take();
            streams.begin(twice(left));
        }
        assert_eq!(streams.places.len(), 4 * KEPT, "and others are made anew");
    }

    #[test]
    fn a_panic_ends_its_stream_alone() {
        let table = Table::default();
        let mut streams = Streams::new(table.due);
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
