//! Failover over balance over a scripted proxy, on the paused clock.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, Error, ErrorKind, Pool,
    balance::{self, Balance, BalanceLayer},
    context::{Exchange, Outcome},
    failover::{Budget, Failover, FailoverLayer, ReplayBody},
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

pub(super) type Sent = Request<ReplayBody<Full<Bytes>>>;
pub(super) type Proxy = BoxCloneSyncService<Sent, Response<Full<Bytes>>, Error>;
pub(super) type Answer = Result<Response<balance::ResponseBody<Full<Bytes>>>, Error>;

/// What one attempt does, and how long after it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub(super) after: u64,
    pub(super) end: End,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Answers with 200 when it is polled for this time.
    AtPoll(u32),
    /// Waits for a connection that never comes: nothing is sent.
    Dials,
    Fails(ErrorKind),
    Hangs,
    /// Hangs, and offers no head.
    Keeps,
    Status(u16),
    /// 503, with this `Retry-After`.
    Later(&'static str),
    /// 503, with a `Retry-After` of a second, when it is polled for this time.
    LaterAtPoll(u32),
}

pub(super) const fn act(after: u64, end: End) -> Act {
    Act { after, end }
}

/// A pool, and what its attempts do, in their order.
pub(super) struct ScriptedStack {
    pub(super) pool: Pool,
    pub(super) begun: Arc<AtomicUsize>,
    pub(super) budget: Budget,
    /// What stands below failover.
    pub(super) balance: Balance<Proxy>,
    service: Failover<Balance<Proxy>>,
}

/// What is in the budget of a stage.
pub(super) const SAVED: usize = 10;

impl ScriptedStack {
    pub(super) fn new(acts: &[Act], layer: impl FnOnce(FailoverLayer) -> FailoverLayer) -> Self {
        let ids = ["a", "b", "c"];
        let backends = ids.map(|id| Backend::new(id, "http://127.0.0.1:1").unwrap());
        Self::over(Pool::new(backends).unwrap(), acts, layer)
    }

    pub(super) fn over(
        pool: Pool,
        acts: &[Act],
        layer: impl FnOnce(FailoverLayer) -> FailoverLayer,
    ) -> Self {
        Self::balanced(pool.clone(), &BalanceLayer::new(pool), acts, layer)
    }

    pub(super) fn balanced(
        pool: Pool,
        balance: &BalanceLayer,
        acts: &[Act],
        layer: impl FnOnce(FailoverLayer) -> FailoverLayer,
    ) -> Self {
        let budget = Budget::new(0.0, SAVED as f64 / 10.0).unwrap();
        let begun = Arc::new(AtomicUsize::new(0));
        let (acts, counted): (Arc<[Act]>, _) = (acts.into(), begun.clone());
        let proxy = tower::service_fn(move |request: Sent| {
            let nth = counted.fetch_add(1, Relaxed);
            play(acts[nth.min(acts.len() - 1)], request)
        });
        let balance = balance.layer(Proxy::new(proxy));
        Self {
            pool,
            begun,
            service: layer(FailoverLayer::new().budget(budget.clone())).layer(balance.clone()),
            balance,
            budget,
        }
    }

    pub(super) fn call(
        &self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = Answer> + use<> {
        let mut service = self.service.clone();
        async move { service.ready().await?.call(request).await }
    }

    /// Sends a request to the end of its body; returns the status or the kind, and how long it
    /// took.
    pub(super) async fn run(&self, mut request: Request<Full<Bytes>>) -> Run {
        let exchange = Exchange::of(request.extensions_mut());
        let began = Instant::now();
        let end = match self.call(request).await {
            Ok(response) => {
                let status = response.status().as_u16();
                response.into_body().collect().await.unwrap();
                Ok(status)
            }
            Err(error) => Err(error.kind()),
        };
        Run {
            end,
            took: began.elapsed(),
            outcomes: outcomes(&exchange),
            by: exchange
                .answered_by()
                .map(|backend| backend.id().to_owned()),
        }
    }

    pub(super) fn spent(&self) -> usize {
        let left = (0..SAVED).take_while(|_| self.budget.withdraw(Instant::now()));
        SAVED - left.count()
    }

    pub(super) fn leases(&self) -> usize {
        let snapshot = self.pool.snapshot();
        let backends = ["a", "b", "c"]
            .into_iter()
            .filter_map(|id| snapshot.get(id));
        backends.map(|backend| backend.in_flight() as usize).sum()
    }
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) end: Result<u16, ErrorKind>,
    pub(super) took: Duration,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) by: Option<String>,
}

/// How each attempt ended; none may be left open.
pub(super) fn outcomes(exchange: &Exchange) -> Vec<Outcome> {
    exchange.attempts(|all| {
        all.iter()
            .map(|a| a.outcome.expect("an open attempt"))
            .collect()
    })
}

pub(super) fn request(method: Method, body: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(body.as_bytes())));
    *request.method_mut() = method;
    request.headers_mut().insert("x-mine", "1".parse().unwrap());
    request
}

pub(super) fn get() -> Request<Full<Bytes>> {
    request(Method::GET, "")
}

/// Does what the proxy does: offers the head while it waits, and gives it back when it fails.
fn play(
    act: Act,
    request: Sent,
) -> Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Error>> + Send>> {
    Box::pin(async move {
        let (head, body) = request.into_parts();
        assert_eq!(
            head.headers["x-mine"], "1",
            "each attempt is the same request"
        );
        let exchange = head.extensions.get::<Exchange>().cloned().unwrap();
        if !matches!(act.end, End::Dials) && !http_body::Body::is_end_stream(&body) {
            body.collect().await.unwrap();
        }
        let mut wait = pin!(async {
            match act.end {
                End::AtPoll(mut left) | End::LaterAtPoll(mut left) => {
                    poll_fn(|_| {
                        left -= 1;
                        match left {
                            0 => Poll::Ready(()),
                            _ => Poll::Pending,
                        }
                    })
                    .await;
                }
                End::Dials | End::Hangs | End::Keeps => std::future::pending().await,
                End::Fails(_) | End::Later(_) | End::Status(_) => {
                    sleep(Duration::from_millis(act.after)).await;
                }
            }
        });
        poll_fn(|cx| {
            let polled: Poll<()> = wait.as_mut().poll(cx);
            if polled.is_pending() && !matches!(act.end, End::Keeps) {
                exchange.offer_head_copy(&head, !matches!(act.end, End::Dials));
            }
            polled
        })
        .await;
        let mut response = Response::new(Full::new(Bytes::from_static(b"some bytes")));
        match act.end {
            End::Fails(kind) => {
                let error = Error::new(kind).with_unsent(head);
                return Err(if kind == ErrorKind::Connect {
                    error
                } else {
                    error.after_sending()
                });
            }
            End::Later(_) | End::LaterAtPoll(_) => {
                let seconds = match act.end {
                    End::Later(seconds) => seconds,
                    _ => "1",
                };
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                response
                    .headers_mut()
                    .insert("retry-after", seconds.parse().unwrap());
            }
            End::Status(status) => *response.status_mut() = status.try_into().unwrap(),
            End::AtPoll(_) | End::Dials | End::Hangs | End::Keeps => {}
        }
        Ok(response)
    })
}
