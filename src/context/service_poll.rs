//! Who dropped a future before its end: the server, as the client is gone, or a layer that the
//! server polls just now, which answers instead.
//!
//! A drop alone does not tell. A server says when it polls the service; what is dropped meanwhile
//! was dropped by a layer, and hears the status of the response once it is there.

#[cfg(feature = "access-log")]
use std::{
    cell::{Cell, RefCell},
    mem,
};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Response, StatusCode};

/// Polls a service's future for a server, and drops it as soon as it is ready: what a layer gave up
/// may be in there still.
#[inline(always)]
pub(crate) fn poll<F, B, E>(
    mut future: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<B>, E>>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    #[cfg(feature = "access-log")]
    let polling = Polling {
        outer: POLL_STATE.replace(PollState::Polled),
    };
    let Some(running) = future.as_mut().as_pin_mut() else {
        return Poll::Pending;
    };
    let polled = running.poll(cx);
    if polled.is_ready() {
        future.set(None);
    }
    #[cfg(feature = "access-log")]
    {
        if POLL_STATE.get() == PollState::HasCallbacks {
            run_callbacks(match &polled {
                Poll::Ready(Ok(response)) => Some(response.status()),
                Poll::Pending | Poll::Ready(Err(_)) => None,
            });
        }
        drop(polling);
    }
    polled
}

/// Drops a service's future for a server that answers with this status itself.
#[cold]
pub(crate) fn give_up<F>(mut future: Pin<&mut Option<F>>, status: StatusCode) {
    #[cfg(feature = "access-log")]
    let polling = Polling {
        outer: POLL_STATE.replace(PollState::Polled),
    };
    future.set(None);
    #[cfg(feature = "access-log")]
    {
        if POLL_STATE.get() == PollState::HasCallbacks {
            run_callbacks(Some(status));
        }
        drop(polling);
    }
    #[cfg(not(feature = "access-log"))]
    let _ = status;
}

/// Returns true if a server polls its service on this thread.
#[cfg(feature = "access-log")]
pub(crate) fn is_polled() -> bool {
    POLL_STATE.get() != PollState::Idle
}

/// Leaves what is to be called when this poll is over: with the status of the response, or without
/// one where there is none yet. To be called within a poll.
#[cfg(feature = "access-log")]
pub(crate) fn after_poll(callback: AfterPoll) {
    POLL_STATE.set(PollState::HasCallbacks);
    CALLBACKS.with_borrow_mut(|callbacks| callbacks.push(callback));
}

#[cfg(feature = "access-log")]
type AfterPoll = Box<dyn FnOnce(Option<StatusCode>)>;

#[cfg(feature = "access-log")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum PollState {
    Idle,
    /// Something was left in this poll.
    HasCallbacks,
    Polled,
}

/// Its drop is the end of a poll, a panic included.
#[cfg(feature = "access-log")]
struct Polling {
    outer: PollState,
}

#[cfg(feature = "access-log")]
impl Drop for Polling {
    fn drop(&mut self) {
        if POLL_STATE.replace(self.outer) == PollState::HasCallbacks {
            run_callbacks(None);
        }
    }
}

#[cfg(feature = "access-log")]
#[cold]
#[inline(never)]
fn run_callbacks(status: Option<StatusCode>) {
    POLL_STATE.set(PollState::Idle);
    for callback in CALLBACKS.with_borrow_mut(mem::take) {
        callback(status);
    }
}

#[cfg(feature = "access-log")]
thread_local! {
    static POLL_STATE: Cell<PollState> = const { Cell::new(PollState::Idle) };
    static CALLBACKS: RefCell<Vec<AfterPoll>> = const { RefCell::new(Vec::new()) };
}

#[cfg(all(test, feature = "access-log"))]
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
