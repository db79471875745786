//! Retry policies: which failures, and which responses, are worth another attempt.
//!
//! A policy sees plain values (the error, the heads, whether the body was touched) and returns a
//! decision; it cannot retry by itself, nor see the budget. So a test of a policy needs no service,
//! and a policy cannot break what the layer guarantees: a body that is not whole is never sent again.
//!
//! `decide_status` and `may_hedge` were added because a policy that protects a path (payments, for
//! instance) must cover all three ways in which a request is sent twice.

use std::fmt;

use http::{HeaderMap, Method, StatusCode, request::Parts};

use crate::error::{Error, ErrorKind};

/// Decides which requests get another attempt: after a failure, after a response with a status that
/// is retried, and as a hedge.
///
/// The layer has the last word: it makes no attempt that the number of attempts, the budget or the
/// body does not allow. All methods are called on the path of a request, so they must not block.
///
/// # Example
///
/// [`FailoverLayer::with_policy`](super::FailoverLayer::with_policy) takes such a policy:
///
/// ```
/// use evenkeel::{
///     Error, ErrorKind,
///     failover::{Answered, Decision, Failed, Policy, Standard},
/// };
/// use http::{HeaderMap, Request, StatusCode, request::Parts};
///
/// /// Retries and hedges as the standard policy does, except for payments: each is sent once.
/// #[derive(Debug, Default)]
/// struct NoPayments(Standard);
///
/// fn is_payment(request: &Parts) -> bool {
///     request.uri.path().starts_with("/pay")
/// }
///
/// impl Policy for NoPayments {
///     fn decide(&self, failed: &Failed<'_>) -> Decision {
///         match is_payment(failed.head()) {
///             true => Decision::Keep,
///             false => self.0.decide(failed),
///         }
///     }
///
///     fn decide_status(&self, answered: &Answered<'_>) -> Decision {
///         match is_payment(answered.head()) {
///             true => Decision::Keep,
///             false => self.0.decide_status(answered),
///         }
///     }
///
///     fn may_hedge(&self, head: &Parts) -> bool {
///         !is_payment(head) && self.0.may_hedge(head)
///     }
/// }
///
/// # fn main() -> Result<(), evenkeel::BoxError> {
/// // A policy decides by plain values, so a test needs no backend.
/// let policy = NoPayments::default();
/// let (pay, ()) = Request::put("/pay").body(())?.into_parts();
/// let (order, ()) = Request::put("/order").body(())?.into_parts();
/// let error = Error::new(ErrorKind::ResponseClosed).after_sending();
/// assert_eq!(policy.decide(&Failed::new(&error, &pay, true)), Decision::Keep);
/// assert_eq!(policy.decide(&Failed::new(&error, &order, true)), Decision::Retry);
///
/// let (status, fields) = (StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
/// let answered = Answered::new(status, &fields, &pay);
/// assert_eq!(policy.decide_status(&answered), Decision::Keep);
/// assert!(policy.may_hedge(&order) && !policy.may_hedge(&pay));
/// # Ok(())
/// # }
/// ```
pub trait Policy: fmt::Debug + Send + Sync {
    /// Decides about one attempt that failed, the end of its time included.
    fn decide(&self, failed: &Failed<'_>) -> Decision;

    /// Decides about one response with a status of
    /// [`retry_statuses`](super::FailoverLayer::retry_statuses). The layer asks once for each such
    /// response to a request with an idempotent method, and for no other. A response that is kept
    /// goes to the client at once, also while a hedge runs.
    ///
    /// Default: [`Decision::Retry`].
    fn decide_status(&self, answered: &Answered<'_>) -> Decision {
        let _ = answered;
        Decision::Retry
    }

    /// Returns true if this request may be sent to a second backend beside the first. The layer asks
    /// when a hedge is due, for a request that [`Hedge`](super::Hedge) concerns, and not again once
    /// the answer was false.
    ///
    /// Default: true.
    fn may_hedge(&self, head: &Parts) -> bool {
        let _ = head;
        true
    }

    /// Returns true if the part of the request's body that is read should be kept, because
    /// [`decide`](Self::decide) may want it sent again.
    ///
    /// A policy that keeps all bodies allows a POST to be sent again if a backend says that it did
    /// not process it (HTTP/2: a refused stream, a connection that goes away). The price is memory.
    ///
    /// Default: for idempotent methods.
    fn keeps_body(&self, method: &Method) -> bool {
        method.is_idempotent()
    }
}

/// The decision of a [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// The request ends with this error or response.
    Keep,
    /// Another backend should be tried.
    Retry,
}

/// An attempt that failed, as a [`Policy`] sees it.
#[derive(Debug)]
pub struct Failed<'a> {
    error: &'a Error,
    head: &'a Parts,
    body_untouched: bool,
}

impl<'a> Failed<'a> {
    /// Makes a failure of plain values, as a test of a policy needs it. `body_untouched`: nothing of
    /// the request's body was read, or there is none.
    #[must_use]
    pub fn new(error: &'a Error, head: &'a Parts, body_untouched: bool) -> Self {
        Self {
            error,
            head,
            body_untouched,
        }
    }

    /// Returns the error that the attempt failed with.
    #[must_use]
    pub fn error(&self) -> &'a Error {
        self.error
    }

    /// Returns the request's head.
    #[must_use]
    pub fn head(&self) -> &'a Parts {
        self.head
    }

    /// Returns true if nothing of the request's body was read, or there is none.
    #[must_use]
    pub fn is_body_untouched(&self) -> bool {
        self.body_untouched
    }
}

/// A response with a status that is retried, as a [`Policy`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
    head: &'a Parts,
}

impl<'a> Answered<'a> {
    /// Makes a response of plain values, as a test of a policy needs it: its status, its fields, and
    /// the head of the request.
    #[must_use]
    pub fn new(status: StatusCode, headers: &'a HeaderMap, head: &'a Parts) -> Self {
        Self {
            status,
            headers,
            head,
        }
    }

    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the fields of the response.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the request's head.
    #[must_use]
    pub fn head(&self) -> &'a Parts {
        self.head
    }
}

/// Retries only requests that are safe to repeat: any request of which nothing was sent, or that the
/// backend says it did not process (RFC 9113 §8.7); otherwise only idempotent ones (RFC 9110 §9.2.2).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Standard;

impl Policy for Standard {
    fn decide(&self, failed: &Failed<'_>) -> Decision {
        // First the cause: a retry would fail in the same way, however safe it is.
        if !concerns_the_backend(failed.error) {
            return Decision::Keep;
        }
        // Both: where a part of the body was read, the next attempt may lack it.
        let nothing_sent = !failed.error.is_after_sending() && failed.body_untouched;
        if nothing_sent || failed.error.is_unprocessed() || failed.head.method.is_idempotent() {
            Decision::Retry
        } else {
            Decision::Keep
        }
    }
}

/// Returns true if another backend might do better.
fn concerns_the_backend(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::BadRequest
        | ErrorKind::BodyTooLarge
        | ErrorKind::ClientBody
        | ErrorKind::ClientBodyTimeout
        | ErrorKind::MethodRefused => false,
        // No backend was asked, none is there, or the time is up: an immediate retry would end the
        // same way.
        ErrorKind::LoadShed
        | ErrorKind::NoBackend
        | ErrorKind::NotRouted
        | ErrorKind::Overloaded
        | ErrorKind::QueueTimeout
        | ErrorKind::Timeout => false,
        // The response head is there: the client has it.
        ErrorKind::ResponseBody | ErrorKind::ResponseBodyTimeout | ErrorKind::Upgrade => false,
        ErrorKind::Connect
        | ErrorKind::ConnectTimeout
        | ErrorKind::ConnectTls
        // Another backend may have an idle connection, or need no port or name.
        | ErrorKind::Local
        | ErrorKind::RequestWrite
        | ErrorKind::RequestWriteTimeout
        | ErrorKind::ResponseClosed
        | ErrorKind::ResponseHead
        | ErrorKind::ResponseHeadTimeout
        | ErrorKind::Service => true,
    }
}

fn _obj_safe(_: Box<dyn Policy>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_that_are_safe_to_repeat_are_retried() {
        use Decision::{Keep, Retry};
        // Kind, bytes were sent, the body was untouched, then what becomes of a GET and a POST.
        let table = [
            (ErrorKind::Connect, false, true, Retry, Retry),
            (ErrorKind::ConnectTimeout, false, true, Retry, Retry),
            (ErrorKind::ConnectTls, false, true, Retry, Retry),
            (ErrorKind::Local, false, true, Retry, Retry),
            (ErrorKind::Local, true, true, Retry, Keep),
            (ErrorKind::Connect, false, false, Retry, Keep),
            (ErrorKind::RequestWrite, true, true, Retry, Keep),
            (ErrorKind::ResponseClosed, true, true, Retry, Keep),
            (ErrorKind::ResponseHead, true, true, Retry, Keep),
            (ErrorKind::ResponseHeadTimeout, true, false, Retry, Keep),
            (ErrorKind::Service, false, true, Retry, Retry),
            (ErrorKind::Service, true, true, Retry, Keep),
            (ErrorKind::BadRequest, false, true, Keep, Keep),
            (ErrorKind::ClientBody, true, false, Keep, Keep),
            (ErrorKind::ClientBodyTimeout, true, false, Keep, Keep),
            (ErrorKind::MethodRefused, false, true, Keep, Keep),
            (ErrorKind::NoBackend, false, true, Keep, Keep),
            (ErrorKind::Overloaded, false, true, Keep, Keep),
            (ErrorKind::QueueTimeout, false, true, Keep, Keep),
            (ErrorKind::NotRouted, false, true, Keep, Keep),
            (ErrorKind::ResponseBody, true, true, Keep, Keep),
            (ErrorKind::Upgrade, true, true, Keep, Keep),
        ];
        for (kind, sent, untouched, get, post) in table {
            let mut error = Error::new(kind);
            if sent {
                error = error.after_sending();
            }
            for (method, wanted) in [(Method::GET, get), (Method::POST, post)] {
                let (mut head, ()) = http::Request::new(()).into_parts();
                head.method = method.clone();
                let failed = Failed::new(&error, &head, untouched);
                assert_eq!(
                    Standard.decide(&failed),
                    wanted,
                    "{method} after {kind}, sent: {sent}, body untouched: {untouched}"
                );
            }
        }
    }

    #[test]
    fn a_request_that_was_not_processed_is_retried_with_any_method() {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = Method::POST;
        for (kind, wanted) in [
            (ErrorKind::ResponseClosed, Decision::Retry),
            (ErrorKind::ClientBody, Decision::Keep),
        ] {
            let error = Error::new(kind).after_sending().unprocessed();
            let failed = Failed::new(&error, &head, false);
            assert_eq!(Standard.decide(&failed), wanted, "{kind}");
        }
    }

    #[test]
    fn idempotent_methods_are_those_of_rfc_9110() {
        for method in [Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS] {
            assert!(Standard.keeps_body(&method), "{method} is idempotent");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(!Standard.keeps_body(&method), "{method} is not");
        }
    }
}
