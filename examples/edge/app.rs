//! The request stack of one worker thread, exchanged as a whole on SIGHUP.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use evenkeel::{LoadBalancer, load_balancer, server};
use http::{Request, Response};
use tower_service::Service;

/// The service that the connections of one worker call. They share one load balancer and one
/// thread; another thread takes the lock only to replace the balancer. If each connection had a clone
/// instead, an idle connection would keep the replaced balancer and its health checks alive.
#[derive(Clone)]
pub(crate) struct App {
    balancer: Arc<Mutex<LoadBalancer>>,
}

impl App {
    pub(crate) fn new(balancer: LoadBalancer) -> Self {
        Self {
            balancer: Arc::new(Mutex::new(balancer)),
        }
    }

    /// Replaces the balancer; requests in flight end in the old one.
    pub(crate) fn replace(&self, balancer: LoadBalancer) {
        let old = std::mem::replace(&mut *self.lock(), balancer);
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, LoadBalancer> {
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<Request<server::Body>> for App {
    type Response = Response<load_balancer::Body>;
    type Error = Infallible;
    type Future = load_balancer::ResponseFuture<server::Body>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<server::Body>) -> Self::Future {
        let mut balancer = self.lock();
        // A load balancer is always ready; the call starts checks that do not run yet.
        let mut cx = Context::from_waker(Waker::noop());
        let ready = Service::<Request<server::Body>>::poll_ready(&mut *balancer, &mut cx);
        debug_assert!(ready.is_ready(), "a load balancer waits in its futures");
        balancer.call(request)
    }
}
