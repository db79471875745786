//! Several checks as one: `All` and `Any`.
//!
//! The checks run in one task, polled one after the other at each wake: they are a handful, and a
//! task for each would have to be cancelled. When one decides, the others are dropped, which closes
//! their connections.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    CheckReport,
    check::{CheckFuture, HealthCheck, Target},
};

/// A check that passes if all of its checks pass. They run at the same time.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{Backend, health::{All, HealthCheck, HttpCheck, Target, TcpCheck}};
/// use tokio::{net::TcpListener, time::Instant};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// let check = All::new()
///     .with("cache", TcpCheck::new())
///     .with("app", HttpCheck::new().path("/ready")?);
///
/// // A listener that accepts connections and answers no request.
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let backend = Backend::new("a", &format!("http://{}", listener.local_addr()?))?;
/// let deadline = Instant::now() + Duration::from_millis(100);
/// let report = check.check(&Target::new(backend, deadline)).await;
/// assert!(!report.is_pass());
/// assert!(report.reason().detail.starts_with("app: "));
/// # Ok(())
/// # }
/// ```
///
/// It ends at the first failure, and the detail of the reason begins with the name of that check. A
/// check that could not be made
/// ([`CheckReport::local`]) decides if no other fails. The least share of those
/// that are degraded counts, and one that drains drains it. Without any check it passes.
#[derive(Clone, Default)]
#[must_use]
pub struct All {
    checks: Named,
}

/// A check that passes if one of its checks passes. They run at the same time.
///
/// It ends at the first pass, and the detail of the reason begins with the name of that check. If all
/// fail, it reports the first failure with the names of all; if one could not be made
/// ([`CheckReport::local`]), it reports that. Without any check it fails.
#[derive(Clone, Default)]
#[must_use]
pub struct Any {
    checks: Named,
}

type Named = Vec<(Arc<str>, Arc<dyn HealthCheck>)>;

impl All {
    /// Makes it without any check yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check under a name that stands in reasons.
    pub fn with(mut self, name: &str, check: impl HealthCheck + 'static) -> Self {
        self.checks.push((name.into(), Arc::new(check)));
        self
    }
}

impl Any {
    /// Makes it without any check yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check under a name that stands in reasons.
    pub fn with(mut self, name: &str, check: impl HealthCheck + 'static) -> Self {
        self.checks.push((name.into(), Arc::new(check)));
        self
    }
}

impl HealthCheck for All {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        Box::pin(async move {
            let mut running = Running::start(&self.checks, target);
            let mut least = CheckReport::pass("L7OK", "all");
            let mut unmade = None;
            while let Some((name, report)) = running.next().await {
                if report.is_local() {
                    unmade.get_or_insert_with(|| report.named(name));
                    continue;
                }
                if !report.is_pass() {
                    return report.named(name);
                }
                // A drain counts as worse than any share: it asks for no new traffic at all.
                let worse = report.is_draining() && !least.is_draining()
                    || !least.is_draining() && report.capacity() < least.capacity();
                if worse {
                    least = report.named(name);
                }
            }
            unmade.unwrap_or(least)
        })
    }
}

impl HealthCheck for Any {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        Box::pin(async move {
            let mut running = Running::start(&self.checks, target);
            let mut first = None;
            let mut unmade = None;
            while let Some((name, report)) = running.next().await {
                if report.is_pass() {
                    return report.named(name);
                }
                // One check that could not be made may have passed: the result is then unknown, not
                // a failure.
                if report.is_local() {
                    unmade.get_or_insert_with(|| report.named(name));
                    continue;
                }
                first = first.or(Some(report));
            }
            if let Some(unmade) = unmade {
                return unmade;
            }
            match first {
                Some(report) => report.named(&names(&self.checks).join(", ")),
                None => CheckReport::fail("L7RSP", "there is no check"),
            }
        })
    }
}

/// Checks that run beside one another, in one task; dropped together.
struct Running<'a>(Vec<(&'a str, CheckFuture<'a>)>);

impl<'a> Running<'a> {
    fn start(checks: &'a Named, target: &'a Target) -> Self {
        let each = checks.iter();
        Self(
            each.map(|(name, check)| (&**name, check.check(target)))
                .collect(),
        )
    }

    /// Returns the next that ends; `None` when all have.
    async fn next(&mut self) -> Option<(&'a str, CheckReport)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(&'a str, CheckReport)>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        // A handful: each is asked at every wake.
        for i in 0..self.0.len() {
            if let Poll::Ready(report) = Pin::new(&mut self.0[i].1).poll(cx) {
                let (name, _) = self.0.remove(i);
                return Poll::Ready(Some((name, report)));
            }
        }
        Poll::Pending
    }
}

fn names(checks: &Named) -> Vec<&str> {
    checks.iter().map(|(name, _)| &**name).collect()
}

impl fmt::Debug for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("All").field(&names(&self.checks)).finish()
    }
}

impl fmt::Debug for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Any").field(&names(&self.checks)).finish()
    }
}
