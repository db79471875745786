//! The request stack of one worker thread, exchanged as a whole on SIGHUP.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use evenkeel::{LoadBalancer, load_balancer, server};
use http::{Request, Response};
use tower_service::Service;

/// What a worker's connections call: the load balancer of the day.
pub(crate) struct Current {
    balancer: ArcSwap<LoadBalancer>,
    generation: AtomicU64,
}

impl Current {
    pub(crate) fn new(balancer: LoadBalancer) -> Arc<Self> {
        Arc::new(Self {
            balancer: ArcSwap::from_pointee(balancer),
            generation: AtomicU64::new(0),
        })
    }

    /// Puts another in its place; requests in flight end where they began.
    pub(crate) fn replace(&self, balancer: LoadBalancer) {
        self.balancer.store(Arc::new(balancer));
        self.generation.fetch_add(1, Relaxed);
    }
}

/// One connection's handle: notices a replacement for the price of a load a request.
#[derive(Clone)]
pub(crate) struct App {
    current: Arc<Current>,
    generation: u64,
    balancer: LoadBalancer,
}

impl App {
    pub(crate) fn new(current: Arc<Current>) -> Self {
        Self {
            generation: current.generation.load(Relaxed),
            balancer: LoadBalancer::clone(&current.balancer.load()),
            current,
        }
    }
}

impl Service<Request<server::Body>> for App {
    type Response = Response<load_balancer::Body>;
    type Error = Infallible;
    type Future = load_balancer::ResponseFuture<server::Body>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let generation = self.current.generation.load(Relaxed);
        if generation != self.generation {
            self.generation = generation;
            self.balancer = LoadBalancer::clone(&self.current.balancer.load());
        }
        Service::<Request<server::Body>>::poll_ready(&mut self.balancer, cx)
    }

    fn call(&mut self, request: Request<server::Body>) -> Self::Future {
        self.balancer.call(request)
    }
}
