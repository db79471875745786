//! An application in axum whose `/health` reports its dependencies: a hard one and a soft one.
//!
//! ```sh
//! cargo run --example endpoints
//! curl -i http://127.0.0.1:3000/health
//! curl -X POST http://127.0.0.1:3000/mail        # the soft one fails: 200, degraded
//! curl -X POST http://127.0.0.1:3000/database    # the hard one fails: 503; again to recover
//! ```
//!
//! SIGTERM drains the application: `/health` fails at once, and the listener closes 5 s later.
#![expect(clippy::print_stdout, reason = "an example prints its address")]

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use evenkeel::{
    BoxError,
    endpoints::{Dependency, HealthService},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

static DATABASE_IS_UP: AtomicBool = AtomicBool::new(true);
static MAIL_IS_UP: AtomicBool = AtomicBool::new(true);

/// Stands for a query to the dependency.
async fn query(is_up: &AtomicBool) -> Result<(), BoxError> {
    match is_up.load(Relaxed) {
        true => Ok(()),
        false => Err("connection refused".into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let health = HealthService::new([
        Dependency::new("database", || query(&DATABASE_IS_UP))?,
        Dependency::new("mail", || query(&MAIL_IS_UP))?.soft(0.5)?,
    ])?;
    let toggle = |is_up: &'static AtomicBool| {
        post(move || async {
            let was_up = is_up.fetch_xor(true, Relaxed);
            if was_up { "down\n" } else { "up\n" }
        })
    };
    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/database", toggle(&DATABASE_IS_UP))
        .route("/mail", toggle(&MAIL_IS_UP))
        .route_service("/health", health.clone());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("try: curl -i http://{}/health", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let end = async move {
        terminate.recv().await;
        health.drain();
        sleep(Duration::from_secs(5)).await;
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(end)
        .await?;
    Ok(())
}
