//! Retry policies: which failures are worth another attempt.

use std::fmt;

use http::{Method, request::Parts};

use crate::error::{Error, ErrorKind};

/// Decides which failures are worth another attempt.
///
/// The layer has the last word: it makes no retry that the attempts, the budget or the body do not
/// allow.
///
/// # Example
///
/// ```
/// use evenkeel::failover::{Decision, Failed, FailoverLayer, Policy, Standard};
///
/// /// Retries as the standard policy does, except for payments.
/// #[derive(Debug, Default)]
/// struct NoPayments(Standard);
///
/// impl Policy for NoPayments {
///     fn decide(&self, failed: &Failed<'_>) -> Decision {
///         match failed.head().uri.path().starts_with("/pay") {
///             true => Decision::Keep,
///             false => self.0.decide(failed),
///         }
///     }
/// }
///
/// let failover = FailoverLayer::new().with_policy(NoPayments::default());
/// # drop(failover);
/// ```
pub trait Policy: fmt::Debug + Send + Sync {
    /// Decides about one attempt that failed. Called on the path of the request, so it must not block.
    fn decide(&self, failed: &Failed<'_>) -> Decision;

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
    /// The request fails with this error.
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
    pub(super) fn new(error: &'a Error, head: &'a Parts, body_untouched: bool) -> Self {
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

/// Retries only requests that are safe to repeat: any request of which nothing was sent, or that the
/// backend says it did not process (RFC 9113 §8.7); otherwise only idempotent ones (RFC 9110 §9.2.2).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Standard;

impl Policy for Standard {
    fn decide(&self, failed: &Failed<'_>) -> Decision {
        if !concerns_the_backend(failed.error) {
            return Decision::Keep;
        }
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
