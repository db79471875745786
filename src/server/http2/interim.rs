//! Interim responses of a stream: 100 (Continue), and those that the service sends through [`Interim`].
//!
//! A stream has at most two sources of interim responses: its expectation (one 100, when the
//! service first polls the body) and the service's [`Interim`]. Both stop when the final response
//! begins. `interim_responses_come_before_the_final_one` holds the end.
//!
//! The queue is the server's end of `Interim`. Every request has one and few use it, so a thread
//! gives the queue of a request that has ended to the next. A handle that the earlier one kept sends nothing
//! (`a_note_of_an_earlier_request_sends_nothing`).
//!
//! Both sources use a lock of their own, which is contended only if the body is read on another
//! task.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};

use super::fields;
use crate::context::{Interim, InterimQueue};

/// The sender of a stream's interim responses.
pub(super) struct InterimSender {
    /// `None` once the final response has begun.
    queue: Option<InterimQueue>,
    expectation: Option<Arc<Expectation>>,
}

impl InterimSender {
    /// Begins a request; returns the extension for it. The queue is a recycled one of the thread, so that
    /// most requests allocate none.
    pub(super) fn begin(expectation: Option<Arc<Expectation>>) -> (Self, Interim) {
        // An error means that the thread is ending.
        let kept = RECYCLED_QUEUES.try_with(|queues| queues.borrow_mut().pop());
        let mut queue = kept.ok().flatten().unwrap_or_else(InterimQueue::new);
        let interim = queue.begin(true);
        let sender = Self {
            queue: Some(queue),
            expectation,
        };
        (sender, interim)
    }

    /// Sends the responses in the queue; registers the task for later ones.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, reply: &mut SendResponse<Bytes>) {
        if let Some(expectation) = &self.expectation
            && expectation.poll_body_wanted(cx).is_ready()
        {
            self.expectation = None;
            send(reply, StatusCode::CONTINUE, HeaderMap::new());
        }
        if let Some(queue) = &mut self.queue {
            for (status, headers) in queue.poll(cx).into_iter().flatten() {
                send(reply, status, headers);
            }
        }
    }

    /// Sends the responses in the queue before the final response begins.
    pub(super) fn end(&mut self, reply: &mut SendResponse<Bytes>) {
        // The final response replaces 100 (Continue).
        self.expectation = None;
        if let Some(mut queue) = self.queue.take() {
            for (status, headers) in queue.end().into_iter().flatten() {
                send(reply, status, headers);
            }
            recycle(queue);
        }
    }
}

impl Drop for InterimSender {
    fn drop(&mut self) {
        if let Some(mut queue) = self.queue.take() {
            queue.end();
            recycle(queue);
        }
    }
}

/// The queue was ended before: handles of the former request send nothing any more.
fn recycle(queue: InterimQueue) {
    let _ = RECYCLED_QUEUES.try_with(|queues| {
        let mut queues = queues.borrow_mut();
        if queues.len() < MAX_RECYCLED {
            queues.push(queue);
        }
    });
}

/// A response that the codec refuses is logged and dropped; the final response is not affected.
fn send(reply: &mut SendResponse<Bytes>, status: StatusCode, mut headers: HeaderMap) {
    fields::normalize_interim(&mut headers);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Err(error) = reply.send_informational(response) {
        tracing::debug!(target: "evenkeel::server", %error, %status, "an interim response cannot be sent");
    }
}

/// The state of a client that waits for 100 (Continue): the body sets it at its first poll, and the
/// stream, which may be on another task, sends the 100.
#[derive(Default)]
pub(in crate::server) struct Expectation {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    body_wanted: bool,
    /// The waker of the stream.
    waker: Option<Waker>,
}

impl Expectation {
    /// Makes the stream send 100, since the service polls the body.
    ///
    /// Called by the reader of the body, on any task. The waker is called after the lock is
    /// released.
    pub(super) fn want_body(&self) {
        let mut inner = self.lock();
        inner.body_wanted = true;
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once the service has polled the body.
    fn poll_body_wanted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.body_wanted {
            return Poll::Ready(());
        }
        let registered = inner.waker.as_ref();
        if !registered.is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static RECYCLED_QUEUES: RefCell<Vec<InterimQueue>> = const { RefCell::new(Vec::new()) };
}

/// So many streams usually end between two that begin. A queue has a few hundred bytes.
const MAX_RECYCLED: usize = 64;
