//! Interim responses (102, 103) on their way to the client: the handle of a request, and the queue of
//! the server.
//!
//! The handle of a request may outlive it: a handler may keep it, and a backend may send a late 103.
//! On an HTTP/1.1 connection the next request is then under way, and a 103 of the former would be
//! taken for its own. So the queue has a number of the current request, each handle has its own, and a
//! response of another number is refused or thrown away at each of three places: when it is sent
//! (`current`), when it is taken (`State::of`), and when the final response begins (`end`).
//!
//! `current` and `has_some` are stored with `Release` and loaded with `Acquire`, so that the server
//! sees what was queued before the flag; all else is under the lock.

use std::task::Context;
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    task::Waker,
};

use http::{Extensions, HeaderMap, StatusCode};

/// Sends interim responses (102, 103) to the client of a request; a request extension.
///
/// `evenkeel::serve` inserts it. The proxy passes on the interim responses of a backend, and a
/// handler may send its own, such as 103 (Early Hints), while it prepares the response:
///
/// ```
/// use evenkeel::context::Interim;
/// use http::{HeaderMap, Request, StatusCode, header};
///
/// fn hint<B>(request: &Request<B>) {
///     if let Some(interim) = Interim::of(request.extensions()) {
///         let mut fields = HeaderMap::new();
///         fields.insert(header::LINK, "</style.css>; rel=preload".parse().unwrap());
///         interim.send(StatusCode::EARLY_HINTS, fields);
///     }
/// }
/// # hint(&Request::new(()));
/// ```
///
/// The servers of axum and hyper insert none: under them, interim responses are dropped.
#[derive(Clone)]
pub struct Interim {
    queue: Arc<Queue>,
    /// The number of the request that this handle belongs to: the requests of an HTTP/1.1 connection
    /// share one queue.
    request: u64,
}

/// The queue that a server and the handles of its requests share.
struct Queue {
    /// The number of the request that may send; 0 while none may.
    current: AtomicU64,
    /// True if a response waits. While none does, the server takes no lock.
    has_some: AtomicBool,
    state: Mutex<State>,
}

/// Reset when another request touches it first, and not when that one begins: beginning takes no lock.
#[derive(Default)]
struct State {
    /// The number of the request that the fields below belong to.
    request: u64,
    sent: usize,
    bytes: usize,
    waiting: VecDeque<(StatusCode, HeaderMap)>,
    waker: Option<Waker>,
}

impl Interim {
    /// Returns the extension; `None` under a server that passes on no interim responses.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get::<Self>()
    }

    /// Sends an interim response with the next write to the connection. Returns false if it is not
    /// sent: if the final response has begun, the status is not within 102 to 199, the client speaks
    /// HTTP/1.0, or the request has sent 8 interim responses or 16 KiB of their fields already.
    pub fn send(&self, status: StatusCode, headers: HeaderMap) -> bool {
        // 100 is the answer to `Expect`, and 101 ends the exchange.
        if !(102..200).contains(&status.as_u16()) {
            return false;
        }
        let bytes = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + LINE_OVERHEAD)
            .sum::<usize>();
        let mut state = self.queue.lock();
        // Under the lock: no later request can have queued a response in the state that is changed
        // here.
        if self.queue.current.load(Acquire) != self.request {
            return false;
        }
        // The first response of a request clears what the request before left.
        state.of(self.request);
        if state.sent == MAX_INTERIM_RESPONSES || state.bytes + bytes > MAX_INTERIM_BYTES {
            return false;
        }
        state.sent += 1;
        state.bytes += bytes;
        state.waiting.push_back((status, headers));
        self.queue.has_some.store(true, Release);
        // Woken without the lock: the woken task takes it.
        let waker = state.waker.clone();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Returns true until the final response begins.
    pub(crate) fn is_open(&self) -> bool {
        self.queue.current.load(Acquire) == self.request
    }
}

impl Queue {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            current: AtomicU64::new(0),
            has_some: AtomicBool::new(false),
            state: Mutex::new(State::default()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Discards the responses and the counts of an earlier request.
    fn of(&mut self, request: u64) {
        if self.request != request {
            self.request = request;
            self.sent = 0;
            self.bytes = 0;
            self.waiting.clear();
        }
    }
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interim")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// The server's side of the queue. An HTTP/1.1 connection has one, and an HTTP/2 stream has one.
pub(crate) struct InterimQueue {
    queue: Arc<Queue>,
    request: u64,
    /// The task that the queue wakes, kept to notice that another task polls.
    task: Option<Waker>,
}

impl InterimQueue {
    pub(crate) fn new() -> Self {
        Self {
            queue: Queue::new(),
            request: 0,
            task: None,
        }
    }

    /// Begins a request. Handles of earlier requests can send no more, and their responses that still
    /// wait are discarded. `open` is false if the client does not understand interim responses.
    pub(crate) fn begin(&mut self, open: bool) -> Interim {
        self.request += 1;
        // Without the lock: what waits of the request before is cleared when the state is used next.
        let current = if open { self.request } else { 0 };
        self.queue.current.store(current, Release);
        Interim {
            queue: self.queue.clone(),
            request: self.request,
        }
    }

    /// Refuses further interim responses, as the final one begins. Returns those that wait.
    pub(crate) fn end(&mut self) -> Option<VecDeque<(StatusCode, HeaderMap)>> {
        self.queue.current.store(0, Release);
        self.queue.has_some.load(Acquire).then(|| self.take())
    }

    /// Takes the responses that wait, and registers the task that the next one wakes. Costs one load
    /// and one comparison while none waits.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Option<VecDeque<(StatusCode, HeaderMap)>> {
        let task = self.task.as_ref();
        let is_registered = task.is_some_and(|task| task.will_wake(cx.waker()));
        // Once for each task: a connection is mostly polled by one, and the lock is not taken again.
        if !is_registered {
            self.task = Some(cx.waker().clone());
            self.queue.lock().waker = self.task.clone();
        }
        // A response that came after the final one began is discarded by the next request.
        let waits = self.queue.has_some.load(Acquire) && self.queue.current.load(Acquire) != 0;
        waits.then(|| self.take())
    }

    #[cold]
    fn take(&mut self) -> VecDeque<(StatusCode, HeaderMap)> {
        let mut state = self.queue.lock();
        // Under the lock, so that a response which is queued now sets it again.
        self.queue.has_some.store(false, Release);
        state.of(self.request);
        std::mem::take(&mut state.waiting)
    }
}

/// A page needs one or two; more would delay the final response.
pub(crate) const MAX_INTERIM_RESPONSES: usize = 8;
pub(crate) const MAX_INTERIM_BYTES: usize = 16 * 1024;
/// The bytes that a field's line needs beside its name and value: `: ` and the line end.
const LINE_OVERHEAD: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn next(queue: &mut InterimQueue) -> Vec<u16> {
        let waiting = queue.poll(&Context::from_waker(Waker::noop()));
        waiting
            .iter()
            .flatten()
            .map(|(status, _)| status.as_u16())
            .collect()
    }

    #[test]
    fn responses_arrive_in_order_until_the_final_one_begins() {
        let mut queue = InterimQueue::new();
        let interim = queue.begin(true);
        assert!(next(&mut queue).is_empty());
        assert!(interim.send(StatusCode::PROCESSING, HeaderMap::new()));
        assert!(interim.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        assert_eq!(next(&mut queue), [102, 103]);
        assert!(interim.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        assert_eq!(
            queue.end().map(|all| all.len()),
            Some(1),
            "what waits goes out before the final response"
        );
        assert!(!interim.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        assert!(next(&mut queue).is_empty());
    }

    #[test]
    fn a_handle_of_an_earlier_request_sends_nothing() {
        let mut queue = InterimQueue::new();
        let earlier = queue.begin(true);
        let current = queue.begin(true);
        assert!(!earlier.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        assert!(current.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        queue.begin(true);
        assert!(next(&mut queue).is_empty(), "what waited is forgotten");
    }

    #[test]
    fn only_what_is_interim_and_within_the_bounds_is_sent() {
        let mut queue = InterimQueue::new();
        let interim = queue.begin(true);
        for status in [100, 101, 200, 404] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(!interim.send(status, HeaderMap::new()), "{status}");
        }
        for sent in 0..10 {
            let taken = interim.send(StatusCode::PROCESSING, HeaderMap::new());
            assert_eq!(taken, sent < MAX_INTERIM_RESPONSES);
        }
        let interim = queue.begin(true);
        let large = |bytes: usize| {
            let value = http::HeaderValue::try_from("x".repeat(bytes)).unwrap();
            HeaderMap::from_iter([(http::header::LINK, value)])
        };
        assert!(interim.send(StatusCode::EARLY_HINTS, large(MAX_INTERIM_BYTES / 2)));
        assert!(!interim.send(StatusCode::EARLY_HINTS, large(MAX_INTERIM_BYTES / 2)));
        assert!(
            !queue
                .begin(false)
                .send(StatusCode::EARLY_HINTS, HeaderMap::new())
        );
    }
}
