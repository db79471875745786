//! How a server polls its service, so that a dropped request knows what dropped it.
//!
//! A layer's future is dropped before its end for one of two reasons: the client is gone and the
//! server drops the request, or a layer above, such as a time-out, gives the request up and answers
//! in its place. The access log records these as different outcomes, and the drop itself does not
//! show which it was. So the server marks the thread while it polls its service: a future that is
//! dropped during a poll was dropped by a layer. It registers a callback with [`after_poll`], and
//! the callback gets the status of the response once the poll has returned it.
//!
//! The mark is thread-local and costs two writes for each poll. It nests: a service may poll another
//! server within its own poll, so that the state before is restored. A callback and not a return
//! value, because the dropped future is deep inside the one that is polled and has no other way up.
//!
//! Limits: a layer that runs its inner service in a task of its own is polled outside the mark, and a
//! drop there counts as the client's.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Response, StatusCode};

/// Polls the future of a server's service. Drops the future as soon as it is ready: it may still
/// hold the future of a request that a layer has given up.
#[inline(always)]
pub(crate) fn poll<F, B, E>(
    mut future: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<B>, E>>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    let mark = PollMark::set();
    let Some(running) = future.as_mut().as_pin_mut() else {
        return Poll::Pending;
    };
    let polled = running.poll(cx);
    if polled.is_ready() {
        future.set(None);
    }
    if POLL_STATE.get() == PollState::HasCallbacks {
        run_callbacks(match &polled {
            Poll::Ready(Ok(response)) => Some(response.status()),
            Poll::Pending | Poll::Ready(Err(_)) => None,
        });
    }
    drop(mark);
    polled
}

/// Drops the future of a server's service; the server itself answers the request with `status`.
#[cold]
pub(crate) fn give_up<F>(mut future: Pin<&mut Option<F>>, status: StatusCode) {
    let mark = PollMark::set();
    future.set(None);
    if POLL_STATE.get() == PollState::HasCallbacks {
        run_callbacks(Some(status));
    }
    drop(mark);
}

/// Returns true while a server polls its service on this thread.
pub(crate) fn is_polled() -> bool {
    POLL_STATE.get() != PollState::Idle
}

/// Registers a callback for the end of the current poll. The callback gets the status of the
/// response, or `None` if the poll returned none. Call it only while [`is_polled`] returns true.
pub(crate) fn after_poll(callback: AfterPoll) {
    POLL_STATE.set(PollState::HasCallbacks);
    CALLBACKS.with_borrow_mut(|callbacks| callbacks.push(callback));
}

type AfterPoll = Box<dyn FnOnce(Option<StatusCode>)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum PollState {
    Idle,
    /// A callback was registered during this poll.
    HasCallbacks,
    Polled,
}

/// Marks the thread as polling until it is dropped, also by a panic of the service.
///
/// A panic that unwinds through the poll runs the callbacks as well, without a status.
struct PollMark {
    /// The state of the poll around this one: a service may be a server itself.
    outer: PollState,
}

impl PollMark {
    #[inline(always)]
    fn set() -> Self {
        Self {
            outer: POLL_STATE.replace(PollState::Polled),
        }
    }
}

impl Drop for PollMark {
    fn drop(&mut self) {
        if POLL_STATE.replace(self.outer) == PollState::HasCallbacks {
            run_callbacks(None);
        }
    }
}

#[cold]
#[inline(never)]
fn run_callbacks(status: Option<StatusCode>) {
    // A callback that drops another request must not register one for a poll that is over.
    POLL_STATE.set(PollState::Idle);
    for callback in CALLBACKS.with_borrow_mut(mem::take) {
        callback(status);
    }
}

thread_local! {
    static POLL_STATE: Cell<PollState> = const { Cell::new(PollState::Idle) };
    static CALLBACKS: RefCell<Vec<AfterPoll>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use std::{panic, rc::Rc};

    use super::*;

    type Answer = Result<Response<()>, ()>;

    fn register(heard: &Rc<RefCell<Vec<Option<u16>>>>) {
        let heard = heard.clone();
        after_poll(Box::new(move |status| {
            heard
                .borrow_mut()
                .push(status.map(|status| status.as_u16()));
        }));
    }

    /// Leaves something when it is dropped.
    struct Held<'a>(&'a Rc<RefCell<Vec<Option<u16>>>>);

    impl Drop for Held<'_> {
        fn drop(&mut self) {
            if is_polled() {
                register(self.0);
            }
        }
    }

    fn poll_once(future: impl Future<Output = Answer>) -> Poll<Answer> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        poll(std::pin::pin!(Some(future)), &mut cx)
    }

    fn gateway_timeout() -> Answer {
        Response::builder().status(504).body(()).map_err(drop)
    }

    #[test]
    fn what_is_dropped_within_a_poll_or_with_its_end_hears_the_status() {
        let heard = Rc::default();
        assert!(!is_polled());
        let held = Held(&heard);
        let answers = poll_once(std::future::poll_fn(move |_| {
            assert!(is_polled());
            // Moves all of it in here.
            let held = &held;
            register(held.0);
            Poll::Ready(gateway_timeout())
        }));
        assert!(answers.is_ready() && !is_polled());
        assert_eq!(*heard.borrow(), [Some(504), Some(504)]);
        let held = Held(&heard);
        let waits = poll_once(std::future::poll_fn(move |_| {
            // Moves all of it in here.
            let held = &held;
            register(held.0);
            Poll::Pending
        }));
        assert!(waits.is_pending());
        let so_far = [Some(504), Some(504), None];
        assert_eq!(*heard.borrow(), so_far, "the server drops the rest itself");
    }

    #[test]
    fn a_panic_ends_the_poll() {
        let heard: Rc<RefCell<Vec<Option<u16>>>> = Rc::default();
        let panics = panic::AssertUnwindSafe(|| {
            poll_once(std::future::poll_fn(|_| {
                register(&heard);
                panic!("on purpose")
            }))
        });
        assert!(panic::catch_unwind(panics).is_err());
        assert!(!is_polled());
        assert_eq!(*heard.borrow(), [None]);
    }
}
