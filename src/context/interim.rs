//! Interim responses on their way to the client.

#[cfg(feature = "server")]
use std::task::{Context, Poll};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use http::{Extensions, HeaderMap, StatusCode};

/// Sends interim responses (102, 103) to the client of a request; a request extension.
///
/// [`evenkeel::serve`](crate::server::serve) inserts it. The proxy passes on what a backend sends,
/// and a handler may send its own, such as 103 (Early Hints), while it prepares the response:
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
/// A request whose server inserts none (axum's or hyper's own) has no way to send them.
#[derive(Clone)]
pub struct Interim {
    queue: Arc<Queue>,
    /// The request that this handle belongs to: a connection of HTTP/1.1 uses one queue for all.
    request: u64,
}

/// What a server and the handles of its requests share.
struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The request that may send; handles of earlier ones are refused.
    request: u64,
    /// The final response has not begun, and the client's version has interim responses.
    open: bool,
    sent: usize,
    bytes: usize,
    waiting: VecDeque<(StatusCode, HeaderMap)>,
    waker: Option<Waker>,
}

impl Interim {
    /// Finds the extension.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get::<Self>()
    }

    /// Sends an interim response, as soon as the connection is written to. Returns false if it is
    /// not sent: the final response has begun, the status is not one of 102 to 199, the client
    /// speaks HTTP/1.0, or the request has sent 8 of them or 16 KiB of their fields.
    pub fn send(&self, status: StatusCode, headers: HeaderMap) -> bool {
        // 100 is the answer to `Expect`, and 101 ends the exchange.
        if !(102..200).contains(&status.as_u16()) {
            return false;
        }
        let bytes = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + LINE)
            .sum::<usize>();
        let mut state = self.queue.lock();
        let is_current = state.open && state.request == self.request;
        if !is_current || state.sent == MOST || state.bytes + bytes > MOST_BYTES {
            return false;
        }
        state.sent += 1;
        state.bytes += bytes;
        state.waiting.push_back((status, headers));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Puts the handle into a request's extensions, where an earlier request may have left a place.
    #[cfg(feature = "server")]
    pub(crate) fn note(self, extensions: &mut Extensions) {
        match extensions.get_mut::<Self>() {
            Some(place) => *place = self,
            None => {
                extensions.insert(self);
            }
        }
    }

    /// Leaves the place to the next request; false where there is none.
    #[cfg(all(feature = "proxy", feature = "server"))]
    pub(super) fn leave_place(extensions: &mut Extensions) -> bool {
        let Some(place) = extensions.get_mut::<Self>() else {
            return false;
        };
        // An error says that the thread is about to end.
        let closed = CLOSED.try_with(Self::clone);
        closed.map(|closed| *place = closed).is_ok()
    }
}

impl Queue {
    #[cfg(feature = "server")]
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(feature = "proxy", feature = "server"))]
thread_local! {
    /// Stands in a place until the next request has it.
    static CLOSED: Interim = Interim {
        queue: Queue::new(),
        request: 0,
    };
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interim")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// The server's end: one a connection of HTTP/1.1, one a stream of HTTP/2.
#[cfg(feature = "server")]
pub(crate) struct InterimQueue {
    queue: Arc<Queue>,
}

#[cfg(feature = "server")]
impl InterimQueue {
    pub(crate) fn new() -> Self {
        Self {
            queue: Queue::new(),
        }
    }

    /// Begins a request: what handles of earlier ones send is refused from now on, and what they
    /// sent is forgotten. `open` is false where the client knows no interim responses.
    pub(crate) fn begin(&mut self, open: bool) -> Interim {
        let mut state = self.queue.lock();
        state.request += 1;
        state.open = open;
        state.sent = 0;
        state.bytes = 0;
        state.waiting.clear();
        let request = state.request;
        drop(state);
        Interim {
            queue: self.queue.clone(),
            request,
        }
    }

    /// Ends the time for interim responses, as the final one begins; returns those that were sent
    /// before it and still wait.
    pub(crate) fn end(&mut self) -> VecDeque<(StatusCode, HeaderMap)> {
        let mut state = self.queue.lock();
        state.open = false;
        state.waker = None;
        std::mem::take(&mut state.waiting)
    }

    /// Takes the next response that waits; registers the task to be woken by the next one. Takes a
    /// lock that only the request's own task wants.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(StatusCode, HeaderMap)> {
        let mut state = self.queue.lock();
        if let Some(next) = state.waiting.pop_front() {
            return Poll::Ready(next);
        }
        let registered = state.waker.as_ref();
        if !registered.is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// More would only delay the final response; a page has use for one or two.
const MOST: usize = 8;
const MOST_BYTES: usize = 16 * 1024;
/// What a field's line needs besides its name and value.
const LINE: usize = 4;

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    fn next(queue: &mut InterimQueue) -> Option<StatusCode> {
        match queue.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((status, _)) => Some(status),
            Poll::Pending => None,
        }
    }

    #[test]
    fn responses_arrive_in_order_until_the_final_one_begins() {
        let mut queue = InterimQueue::new();
        let interim = queue.begin(true);
        assert_eq!(next(&mut queue), None);
        assert!(interim.send(StatusCode::PROCESSING, HeaderMap::new()));
        assert!(interim.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        assert_eq!(next(&mut queue), Some(StatusCode::PROCESSING));
        assert_eq!(
            queue.end().len(),
            1,
            "what waits goes out before the final response"
        );
        assert!(!interim.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        assert_eq!(next(&mut queue), None);
    }

    #[test]
    fn a_handle_of_an_earlier_request_sends_nothing() {
        let mut queue = InterimQueue::new();
        let earlier = queue.begin(true);
        let current = queue.begin(true);
        assert!(!earlier.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        assert!(current.send(StatusCode::EARLY_HINTS, HeaderMap::new()));
        queue.begin(true);
        assert_eq!(next(&mut queue), None, "what waited is forgotten");
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
            assert_eq!(taken, sent < MOST);
        }
        let interim = queue.begin(true);
        let large = |bytes: usize| {
            let value = http::HeaderValue::try_from("x".repeat(bytes)).unwrap();
            HeaderMap::from_iter([(http::header::LINK, value)])
        };
        assert!(interim.send(StatusCode::EARLY_HINTS, large(MOST_BYTES / 2)));
        assert!(!interim.send(StatusCode::EARLY_HINTS, large(MOST_BYTES / 2)));
        assert!(
            !queue
                .begin(false)
                .send(StatusCode::EARLY_HINTS, HeaderMap::new())
        );
    }
}
