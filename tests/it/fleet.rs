//! Several balancers: instances that share state through a real redis-server, sockets that a process
//! hands over, a virtual address that moves, checks from outside, shared sessions.

#[cfg(target_os = "linux")]
mod checks;
#[cfg(target_os = "linux")]
mod documents;
mod exchange;
mod failures;
mod handover;
#[cfg(target_os = "linux")]
mod sessions;
mod store;
#[cfg(target_os = "linux")]
mod vip;

use std::{future::Future, time::Duration};

use evenkeel::{
    Backend, Pool,
    fleet::{Fleet, FleetHandle, RedisStore},
};
use tokio::time::{Instant, sleep, timeout};

use crate::support::redis::RedisServer;

const PATIENCE: Duration = Duration::from_secs(60);

fn store(server: &RedisServer) -> RedisStore {
    RedisStore::new(&server.url())
        .unwrap()
        .prefix("shop")
        .unwrap()
}

/// One of several with the same backends.
struct Instance {
    pool: Pool,
    handle: FleetHandle,
}

impl Instance {
    async fn start(server: &RedisServer, name: &str) -> Self {
        Self::start_with(server, name, |fleet| fleet).await
    }

    async fn start_with(
        server: &RedisServer,
        name: &str,
        configure: impl FnOnce(Fleet) -> Fleet,
    ) -> Self {
        Self::of(pool(), store(server), name, configure).await
    }

    async fn of(
        pool: Pool,
        store: RedisStore,
        name: &str,
        configure: impl FnOnce(Fleet) -> Fleet,
    ) -> Self {
        let fleet = Fleet::new(store, pool.clone()).instance(name).unwrap();
        let starting = configure(fleet).start();
        let handle = timeout(PATIENCE, starting).await.expect("a bounded wait");
        Self { pool, handle }
    }

    fn mode(&self, id: &str) -> &'static str {
        let snapshot = self.pool.snapshot();
        snapshot
            .get(id)
            .map_or("gone", |backend| backend.mode().as_str())
    }

    fn weight(&self, id: &str) -> u32 {
        self.pool.snapshot().get(id).unwrap().configured_weight()
    }

    async fn has_mode(&self, id: &str, mode: &str) {
        let is_so = || async { self.mode(id) == mode };
        until(is_so, &format!("{id} must become {mode}")).await;
    }
}

fn backend(id: &str) -> Backend {
    Backend::new(id, "http://127.0.0.1:1").unwrap()
}

fn pool() -> Pool {
    Pool::new(["a", "b"].map(backend)).unwrap()
}

/// Looks until something is so, which no event announces; returns how long that took.
async fn until<F: Future<Output = bool>>(is_so: impl Fn() -> F, what: &str) -> Duration {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}
