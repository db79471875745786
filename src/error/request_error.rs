//! [`Error`]: why no backend answered a request.

use std::{any::Any, error, fmt, time::Duration};

use http::request::Parts;

use super::{BoxError, ErrorKind};

/// Why no backend answered a request.
///
/// [`kind`](Self::kind) and the predicates say what happened. An error may give the head of the
/// request back ([`take_unsent`](Self::take_unsent)), so that another attempt needs no copy of it.
/// `RespondLayer` turns the error into a status; no other layer does.
///
/// It is one pointer large. An error allocates; a request that succeeds has none.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    source: Option<BoxError>,
    unsent: Option<Parts>,
    touched: bool,
    unprocessed: bool,
    retry_after: Option<Duration>,
}

impl Error {
    /// Makes an error of this kind, without a cause.
    #[must_use]
    pub fn new(kind: ErrorKind) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                source: None,
                unsent: None,
                touched: false,
                unprocessed: false,
                retry_after: None,
            }),
        }
    }

    /// Makes the error of a time-out, with its limit as the cause.
    pub(crate) fn timed_out(kind: ErrorKind, limit: Duration) -> Self {
        Self::new(kind).with_source(format!("the limit is {limit:?}"))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Gives the head of the request back, so that another attempt can use it.
    #[must_use]
    pub fn with_unsent(mut self, head: Parts) -> Self {
        self.inner.unsent = Some(head);
        self
    }

    /// Marks that the backend may have seen a part of the request: only an idempotent request may be
    /// sent again (RFC 9110 §9.2.2).
    #[must_use]
    pub fn after_sending(mut self) -> Self {
        self.inner.touched = true;
        self
    }

    /// Marks that the backend declared the request unprocessed (RFC 9113 §8.7): any request may be sent
    /// again, even if a part of it was sent.
    #[must_use]
    pub fn unprocessed(mut self) -> Self {
        self.inner.unprocessed = true;
        self
    }

    /// Adds the time after which a client may try again; the response has it as `Retry-After`.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.inner.retry_after = Some(after);
        self
    }

    /// Returns the [`Error`] in a [`BoxError`]; an error of another type becomes the cause of an
    /// [`ErrorKind::Service`].
    #[must_use]
    pub fn from_boxed(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(other) => Self::new(ErrorKind::Service).with_source(other),
        }
    }

    /// Returns the phase and side of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Returns an error that is an `Error`, boxed or not, as one.
    pub(crate) fn of<E: 'static>(error: &E) -> Option<&Self> {
        let error = error as &dyn Any;
        let plain = error.downcast_ref::<Self>();
        let boxed = || error.downcast_ref::<BoxError>()?.downcast_ref::<Self>();
        plain.or_else(boxed)
    }

    /// Takes the head of the request, where it is given back.
    pub fn take_unsent(&mut self) -> Option<Parts> {
        self.inner.unsent.take()
    }

    /// Returns true if a byte of the request may have reached a backend's application.
    #[must_use]
    pub fn is_after_sending(&self) -> bool {
        self.inner.touched
    }

    /// Returns true if the backend declared the request unprocessed.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        self.inner.unprocessed
    }

    /// Returns the time after which a client may try again; `None` if it is unknown.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Returns true if no connection to the backend could be made. Nothing was sent then.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connect | ErrorKind::ConnectTimeout | ErrorKind::ConnectTls
        )
    }

    /// Returns true if the cause is in this process or its host, such as a lack of descriptors. Neither
    /// the client nor a backend is charged.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.inner.kind == ErrorKind::Local
    }

    /// Returns true if a time-out caused the error.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::ClientBodyTimeout
                | ErrorKind::ConnectTimeout
                | ErrorKind::QueueTimeout
                | ErrorKind::RequestWriteTimeout
                | ErrorKind::ResponseBodyTimeout
                | ErrorKind::ResponseHeadTimeout
                | ErrorKind::Timeout
        )
    }

    /// Returns true if the client caused the error. No backend is charged (invariant E of the
    /// [pool](crate::pool)).
    #[must_use]
    pub fn is_client(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::BadRequest
                | ErrorKind::BodyTooLarge
                | ErrorKind::ClientBody
                | ErrorKind::ClientBodyTimeout
                | ErrorKind::MethodRefused
        )
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.inner.kind);
        if let Some(source) = &self.inner.source {
            out.field("source", source);
        }
        out.finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.inner.kind.describe())?;
        if let Some(source) = &self.inner.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.inner
            .source
            .as_deref()
            .map(|source| source as &(dyn error::Error + 'static))
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_a_box() {
        let boxed: BoxError = Error::new(ErrorKind::Connect).after_sending().into();
        let back = Error::from_boxed(boxed);
        assert_eq!(back.kind(), ErrorKind::Connect, "the kind must survive");
        assert!(back.is_after_sending(), "what is known must survive");
    }

    #[test]
    fn a_foreign_error_is_kept_as_the_cause() {
        let error = Error::from_boxed("boom".into());
        assert_eq!(error.kind(), ErrorKind::Service);
        assert_eq!(error.to_string(), "the inner service failed: boom");
    }
}
