//! The kind of an error that a layer of another crate returned.
//!
//! Why the chain of sources is walked: tower's layers wrap errors (`buffer` in a clone of its own, a
//! time-out in a box), and the type that says what happened is somewhere inside. The search ends at
//! the first cause that says something. An error of this crate is trusted as it is, but for two kinds
//! that only say where something failed (`service`, `client_body`): there a cause of another crate may
//! say why.
//!
//! `RespondLayer::classify` is asked before the built-in table for each cause, so that it can overrule
//! it.

use std::{error::Error as StdError, iter, time::Duration};

use crate::error::{BoxError, Error, ErrorKind};

/// The user's function: returns the kind of an error, or `None`.
pub(super) type Classifier = dyn Fn(&(dyn StdError + 'static)) -> Option<ErrorKind> + Send + Sync;

/// Returns the error with its kind. An error of this crate keeps its kind, unless the kind is so
/// general that a source of another crate can say more.
pub(super) fn classify(error: BoxError, classifier: Option<&Classifier>) -> Error {
    // The error itself, not one behind it: a box in a box is another type.
    let own = error.downcast_ref::<Error>().map(Error::kind);
    if own.is_some_and(|kind| !source_decides(kind)) {
        return Error::from_boxed(error);
    }
    let mut retry_after = None;
    let mut found = None;
    let first: &(dyn StdError + 'static) = &*error;
    for cause in iter::successors(Some(first), |error| (**error).source()) {
        if let Some(inner) = cause.downcast_ref::<Error>() {
            retry_after = inner.retry_after();
            // A layer that clones errors, such as `tower::buffer`, wraps those of this crate.
            found = Some(inner.kind()).filter(|kind| !source_decides(*kind));
        } else {
            found = classifier.and_then(|classifier| classifier(cause));
            found = found.or_else(|| classify_foreign(cause));
        }
        if found.is_some() {
            break;
        }
    }
    let Some(kind) = found else {
        return Error::from_boxed(error);
    };
    let kind = match (own, kind) {
        // A time-out while the client's body was read is the client's: 408 and not 504.
        (Some(ErrorKind::ClientBody), ErrorKind::Timeout) => ErrorKind::ClientBodyTimeout,
        (_, kind) => kind,
    };
    let classified = Error::new(kind).with_source(error);
    // A wrapped error keeps its time; a load shedder knows none, and a second is a fair guess.
    match retry_after.or_else(|| (kind == ErrorKind::LoadShed).then_some(RETRY_AFTER)) {
        Some(after) => classified.with_retry_after(after),
        None => classified,
    }
}

/// Returns true if a source decides the kind in place of this general one.
fn source_decides(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ClientBody | ErrorKind::Service)
}

fn classify_foreign(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    if error.is::<http_body_util::LengthLimitError>() {
        return Some(ErrorKind::BodyTooLarge);
    }
    if error.is::<tokio::time::error::Elapsed>() {
        return Some(ErrorKind::Timeout);
    }
    #[cfg(feature = "tower")]
    {
        if error.is::<tower::timeout::error::Elapsed>() {
            return Some(ErrorKind::Timeout);
        }
        if error.is::<tower::load_shed::error::Overloaded>() {
            return Some(ErrorKind::LoadShed);
        }
    }
    None
}

/// The same as for a backend at its cap.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Around(BoxError);

    impl std::fmt::Display for Around {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("around")
        }
    }

    impl StdError for Around {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&*self.0)
        }
    }

    async fn elapsed() -> tokio::time::error::Elapsed {
        let never = std::future::pending::<()>();
        let timeout = tokio::time::timeout(Duration::ZERO, never);
        timeout.await.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_known_cause_decides_the_kind() {
        let own = |kind| Error::new(kind);
        let table: [(BoxError, ErrorKind); 8] = [
            (elapsed().await.into(), ErrorKind::Timeout),
            (
                own(ErrorKind::Service).with_source(elapsed().await).into(),
                ErrorKind::Timeout,
            ),
            (
                own(ErrorKind::ClientBody)
                    .with_source(elapsed().await)
                    .into(),
                ErrorKind::ClientBodyTimeout,
            ),
            (
                own(ErrorKind::Connect).with_source(elapsed().await).into(),
                ErrorKind::Connect,
            ),
            (
                Around(own(ErrorKind::NoBackend).into()).into(),
                ErrorKind::NoBackend,
            ),
            (
                Around(own(ErrorKind::Service).with_source(elapsed().await).into()).into(),
                ErrorKind::Timeout,
            ),
            ("boom".into(), ErrorKind::Service),
            (own(ErrorKind::ClientBody).into(), ErrorKind::ClientBody),
        ];
        for (error, kind) in table {
            let shown = error.to_string();
            assert_eq!(classify(error, None).kind(), kind, "{shown}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_classifier_of_the_user_is_asked_first() {
        let users = |error: &(dyn StdError + 'static)| {
            let is_ours = error.is::<Around>() || error.is::<tokio::time::error::Elapsed>();
            is_ours.then_some(ErrorKind::Overloaded)
        };
        for (error, kind) in [
            (Around("x".into()).into(), ErrorKind::Overloaded),
            (elapsed().await.into(), ErrorKind::Overloaded),
            (
                BoxError::from(Error::new(ErrorKind::Connect)),
                ErrorKind::Connect,
            ),
            ("boom".into(), ErrorKind::Service),
        ] {
            assert_eq!(classify(error, Some(&users)).kind(), kind);
        }
    }

    #[test]
    fn what_is_known_of_an_error_survives() {
        let busy = Error::new(ErrorKind::Overloaded).with_retry_after(Duration::from_secs(7));
        let error = classify(Around(busy.into()).into(), None);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        let source = StdError::source(&error).unwrap();
        assert!(source.is::<Around>(), "the cause is kept");
    }
}
