//! An application in axum whose `/health` says how its dependencies are: one it cannot do
//! without, one it can.
//!
//! ```sh
//! cargo run --example endpoints
//! curl -i http://127.0.0.1:3000/health
//! curl -X POST http://127.0.0.1:3000/mail        # the soft one fails: degraded, and 200
//! curl -X POST http://127.0.0.1:3000/database    # the hard one: 503; again, and it is back
//! ```
//!
//! SIGTERM drains: `/health` fails first, and five seconds later the listener closes.
#![expect(clippy::print_stdout, reason = "an example talks to people")]

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

/// Stands for a query.
async fn look(is_up: &AtomicBool) -> Result<(), BoxError> {
    match is_up.load(Relaxed) {
        true => Ok(()),
        false => Err("connection refused".into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let health = HealthService::new([
        Dependency::new("database", || look(&DATABASE_IS_UP))?,
        Dependency::new("mail", || look(&MAIL_IS_UP))?.soft(0.5)?,
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
