//! What goes out before the final response: 100 (Continue), and what the service sends through
//! [`Interim`].

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

/// A stream's end of both.
pub(super) struct InterimSender {
    /// `None` once the final response has begun.
    queue: Option<InterimQueue>,
    expectation: Option<Arc<Expectation>>,
}

impl InterimSender {
    /// Begins a request; returns the note for its extensions. The queue comes from the thread's
    /// store of unused ones, so that most requests allocate none.
    pub(super) fn begin(expectation: Option<Arc<Expectation>>) -> (Self, Interim) {
        // An error says that the thread is about to end.
        let kept = RECYCLED_QUEUES.try_with(|queues| queues.borrow_mut().pop());
        let mut queue = kept.ok().flatten().unwrap_or_else(InterimQueue::new);
        let interim = queue.begin(true);
        let sender = Self {
            queue: Some(queue),
            expectation,
        };
        (sender, interim)
    }

    /// Sends what waits; the task is woken for what comes later.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, reply: &mut SendResponse<Bytes>) {
        if let Some(expectation) = &self.expectation {
            if expectation.poll_body_wanted(cx).is_ready() {
                self.expectation = None;
                send(reply, StatusCode::CONTINUE, HeaderMap::new());
            }
        }
        if let Some(queue) = &mut self.queue {
            for (status, headers) in queue.poll(cx).into_iter().flatten() {
                send(reply, status, headers);
            }
        }
    }

    /// Sends what waits, as the final response begins.
    pub(super) fn end(&mut self, reply: &mut SendResponse<Bytes>) {
        // The client learns from the final response whether its body is wanted.
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

fn recycle(queue: InterimQueue) {
    let _ = RECYCLED_QUEUES.try_with(|queues| {
        let mut queues = queues.borrow_mut();
        if queues.len() < MAX_RECYCLED {
            queues.push(queue);
        }
    });
}

fn send(reply: &mut SendResponse<Bytes>, status: StatusCode, mut headers: HeaderMap) {
    fields::normalize_interim(&mut headers);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Err(error) = reply.send_informational(response) {
        tracing::debug!(target: "evenkeel::server", %error, %status, "an interim response cannot be sent");
    }
}

/// A client waits for 100 (Continue) until its body is asked for; the body and the stream may be
/// on different tasks.
#[derive(Default)]
pub(in crate::server) struct Expectation {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    body_wanted: bool,
    /// The stream's.
    waker: Option<Waker>,
}

impl Expectation {
    /// The body is asked for.
    pub(super) fn want_body(&self) {
        let mut inner = self.lock();
        inner.body_wanted = true;
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

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

/// As many as streams usually end between two that begin; each is some hundred bytes.
const MAX_RECYCLED: usize = 64;
