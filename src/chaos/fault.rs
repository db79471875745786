//! [`Fault`]: what goes wrong, and for which requests.
//!
//! Everything random about a request is drawn here, at its call, from a generator whose seed is that
//! of the layer and the number of the call. Two draws are made for each fault, in the faults' order
//! and whether it meets the request or not; so a fault that is restricted to one backend changes
//! nothing for the others, and a run can be repeated.

use std::time::Duration;

use fastrand::Rng;
use http::{HeaderName, HeaderValue, StatusCode, request::Parts};

use crate::{
    context::Selected,
    error::{ConfigError, ErrorKind},
};

/// One kind of failure, and the requests that it meets.
///
/// A request can meet several faults. Their latencies are added. Of [`abort`](Self::abort),
/// [`hang`](Self::hang) and [`status`](Self::status) the first one added takes effect; of each
/// fault of the body, the first of its kind.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{ErrorKind, chaos::Fault};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let ms = Duration::from_millis;
/// // A tenth of the requests to one backend take from 50 to 70 ms longer.
/// let slow = Fault::latency(ms(50)).jitter(ms(20)).backend("a").share(0.1)?;
/// // Each response breaks off after 1,000 bytes.
/// let broken = Fault::reset(1_000);
/// # drop((slow, broken));
///
/// let refused = Fault::abort(ErrorKind::Connect).share(1.5).unwrap_err();
/// assert_eq!(refused.field(), "share");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Fault {
    effect: Effect,
    jitter: Duration,
    share: f64,
    backend: Option<Box<str>>,
    header: Option<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Debug)]
enum Effect {
    Abort(ErrorKind),
    Bandwidth(u64),
    Hang,
    Latency(Duration),
    Reset(u64),
    Status(StatusCode),
    Truncate(u64),
}

impl Fault {
    /// Delays the response by `delay`, and by up to [`jitter`](Self::jitter). The request is passed
    /// on at once.
    pub fn latency(delay: Duration) -> Self {
        Self::new(Effect::Latency(delay))
    }

    /// Fails the request with an error of this kind. The request is not passed on.
    pub fn abort(kind: ErrorKind) -> Self {
        Self::new(Effect::Abort(kind))
    }

    /// Leaves the request without a response and without an error. It ends when a time-out above
    /// the layer, or the client, gives up. The request is not passed on.
    pub fn hang() -> Self {
        Self::new(Effect::Hang)
    }

    /// Responds with this status and an empty body. The request is not passed on.
    pub fn status(status: StatusCode) -> Self {
        Self::new(Effect::Status(status))
    }

    /// Fails the response body with [`ErrorKind::ResponseBody`] after `after` bytes, as a
    /// connection that is reset does.
    pub fn reset(after: u64) -> Self {
        Self::new(Effect::Reset(after))
    }

    /// Ends the response body after `after` bytes as if it were complete. The header fields stay: a
    /// `Content-Length` then exceeds the body.
    pub fn truncate(after: u64) -> Self {
        Self::new(Effect::Truncate(after))
    }

    /// Limits the response body to this rate, in frames of a tenth of a second.
    ///
    /// # Errors
    ///
    /// When the rate is 0.
    pub fn bandwidth(bytes_per_second: u64) -> Result<Self, ConfigError> {
        if bytes_per_second == 0 {
            return Err(ConfigError::new("bandwidth", "0: 1 or more is accepted"));
        }
        Ok(Self::new(Effect::Bandwidth(bytes_per_second)))
    }

    fn new(effect: Effect) -> Self {
        Self {
            effect,
            jitter: Duration::ZERO,
            share: 1.0,
            backend: None,
            header: None,
        }
    }

    /// Adds a random delay between 0 and `most` to a [`latency`](Self::latency), evenly
    /// distributed. Has no effect on other faults.
    ///
    /// Default: 0.
    pub fn jitter(mut self, most: Duration) -> Self {
        self.jitter = most;
        self
    }

    /// Sets the share of the requests that the fault meets, from 0.0 (none) to 1.0 (all).
    ///
    /// Default: 1.0.
    ///
    /// # Errors
    ///
    /// When the share is below 0.0 or above 1.0.
    pub fn share(mut self, share: f64) -> Result<Self, ConfigError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(ConfigError::new(
                "share",
                format!("{share}: 0.0 to 1.0 is accepted"),
            ));
        }
        self.share = share;
        Ok(self)
    }

    /// Restricts the fault to requests for the backend with this id. A request without
    /// [`Selected`](crate::context::Selected) does not meet the fault then.
    ///
    /// Default: requests for any backend, and requests without one.
    pub fn backend(mut self, id: impl Into<String>) -> Self {
        self.backend = Some(id.into().into());
        self
    }

    /// Restricts the fault to requests that have a header field with this name and value.
    ///
    /// Default: all requests.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// Returns true if the fault meets a request with this head.
    fn applies_to(&self, head: &Parts, random: &mut Rng) -> bool {
        // Drawn for every request: the restrictions of one fault must not change which requests
        // another fault meets.
        let draw = random.f64();
        let backend = self.backend.as_deref().is_none_or(|id| {
            let selected = head.extensions.get::<Selected>();
            selected.is_some_and(|Selected(backend)| backend.id() == id)
        });
        let header = self
            .header
            .as_ref()
            .is_none_or(|(name, value)| head.headers.get_all(name).iter().any(|v| v == value));
        backend && header && draw < self.share
    }
}

/// The faults that one request meets, combined.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestFaults {
    pub(super) delay: Duration,
    pub(super) injection: Injection,
    pub(super) body: BodyFaults,
}

/// What happens instead of the call to the inner service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Injection {
    Abort(ErrorKind),
    Hang,
    /// The request is passed to the inner service.
    #[default]
    Pass,
    Status(StatusCode),
}

/// The faults of a response body; `None` where there is none of its kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BodyFaults {
    pub(super) bytes_per_second: Option<u64>,
    pub(super) reset_after: Option<u64>,
    pub(super) truncate_after: Option<u64>,
}

impl RequestFaults {
    /// Draws the faults that a request with this head meets.
    pub(super) fn draw(faults: &[Fault], head: &Parts, random: &mut Rng) -> Self {
        let mut plan = Self::default();
        for fault in faults {
            // Before the test below: each fault takes the same number of draws for every request.
            let jitter = fault.jitter.mul_f64(random.f64());
            if !fault.applies_to(head, random) {
                continue;
            }
            let body = &mut plan.body;
            match (&fault.effect, plan.injection) {
                (Effect::Latency(delay), _) => {
                    plan.delay = plan.delay.saturating_add(delay.saturating_add(jitter));
                }
                (Effect::Abort(kind), Injection::Pass) => plan.injection = Injection::Abort(*kind),
                (Effect::Status(status), Injection::Pass) => {
                    plan.injection = Injection::Status(*status);
                }
                (Effect::Hang, Injection::Pass) => plan.injection = Injection::Hang,
                (Effect::Abort(_) | Effect::Hang | Effect::Status(_), _) => {}
                (Effect::Bandwidth(pace), _) => {
                    body.bytes_per_second = body.bytes_per_second.or(Some(*pace))
                }
                (Effect::Reset(after), _) => body.reset_after = body.reset_after.or(Some(*after)),
                (Effect::Truncate(after), _) => {
                    body.truncate_after = body.truncate_after.or(Some(*after))
                }
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::pool::Backend;

    fn head(backend: &str) -> Parts {
        let mut request = Request::new(());
        let backend = Backend::new(backend, "http://127.0.0.1:1").unwrap();
        request.extensions_mut().insert(Selected(backend));
        request.headers_mut().insert("x-test", "1".parse().unwrap());
        request.into_parts().0
    }

    #[test]
    fn a_fault_applies_to_the_requests_it_selects() {
        let abort = || Fault::abort(ErrorKind::Connect);
        let named = |name, value| {
            abort().header(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        for (fault, wanted) in [
            (abort(), true),
            (abort().share(0.0).unwrap(), false),
            (abort().backend("a"), true),
            (abort().backend("b"), false),
            (named("x-test", "1"), true),
            (named("x-test", "2"), false),
            (named("x-other", "1"), false),
            (named("x-test", "1").backend("b"), false),
        ] {
            let plan = RequestFaults::draw(
                std::slice::from_ref(&fault),
                &head("a"),
                &mut Rng::with_seed(1),
            );
            let met = matches!(plan.injection, Injection::Abort(_));
            assert_eq!(met, wanted, "{fault:?}");
        }
    }

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let fault = Fault::latency(Duration::ZERO);
        assert!(fault.jitter.is_zero() && fault.backend.is_none() && fault.header.is_none());
        let compared = [
            ("faults", "none".to_owned()),
            ("share", format!("{:?}", fault.share)),
            ("jitter", "none".to_owned()),
            ("backend, header", "any".to_owned()),
        ];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }

    #[test]
    fn a_fault_meets_its_share_of_the_requests() {
        let fault = Fault::abort(ErrorKind::Connect).share(0.25).unwrap();
        let faults = [fault];
        let met = (0..10_000)
            .filter(|n| {
                let plan = RequestFaults::draw(&faults, &head("a"), &mut Rng::with_seed(*n));
                matches!(plan.injection, Injection::Abort(_))
            })
            .count();
        assert!(
            (2_300..2_700).contains(&met),
            "{met} of 10000 is not about a quarter"
        );
        assert_eq!(
            Fault::abort(ErrorKind::Connect)
                .share(1.5)
                .unwrap_err()
                .field(),
            "share"
        );
        assert_eq!(Fault::bandwidth(0).unwrap_err().field(), "bandwidth");
    }

    #[test]
    fn latencies_add_up_and_the_first_injection_counts() {
        let faults = [
            Fault::latency(Duration::from_secs(1)),
            Fault::latency(Duration::from_secs(2)).jitter(Duration::from_secs(1)),
            Fault::status(StatusCode::BAD_GATEWAY),
            Fault::abort(ErrorKind::Connect),
        ];
        let plan = RequestFaults::draw(&faults, &head("a"), &mut Rng::with_seed(1));
        assert!(plan.delay >= Duration::from_secs(3) && plan.delay < Duration::from_secs(4));
        assert!(matches!(
            plan.injection,
            Injection::Status(StatusCode::BAD_GATEWAY)
        ));
    }
}
