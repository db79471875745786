//! A backend to stand behind the other examples: says its name, echoes what it is sent, and can
//! be killed and started again.
//!
//! ```sh
//! cargo run --example backend -- a 127.0.0.1:9001
//! curl -i http://127.0.0.1:9001/anything
//! curl --data hello http://127.0.0.1:9001/echo
//! curl -i http://127.0.0.1:9001/slow?ms=500       # GET /health is what checks ask for
//! ```
//!
//! SIGTERM drains it; SIGUSR2 does, too, and has `/health` say so first. After SIGUSR1 it
//! answers 503 to all but `/health`, until the next.
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{
    collections::HashMap,
    env,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State, WebSocketUpgrade, ws::WebSocket},
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use evenkeel::endpoints::HealthService;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [name, address] = args.as_slice() else {
        return Err("usage: backend NAME ADDRESS:PORT".into());
    };
    let name: Arc<str> = name.as_str().into();
    let health = HealthService::new([])?;
    let app = Router::new()
        .route_service("/health", health.clone())
        .route("/echo", any(echo))
        .route("/slow", get(slow))
        .route("/ws", any(websocket))
        .fallback(whoami)
        .layer(middleware::from_fn(refuse))
        .with_state(name.clone());
    let listener = TcpListener::bind(address).await?;
    println!("{name}: http://{}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut announce = signal(SignalKind::user_defined2())?;
    let mut breaks = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        while breaks.recv().await.is_some() {
            REFUSES.fetch_xor(true, Relaxed);
        }
    });
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = announce.recv() => {
                health.drain();
                sleep(ANNOUNCED).await;
            }
        }
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(end)
        .await?;
    Ok(())
}

/// Fails fast, when it was asked to.
async fn refuse(request: Request, next: Next) -> Response {
    match REFUSES.load(Relaxed) && request.uri().path() != "/health" {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => next.run(request).await,
    }
}

static REFUSES: AtomicBool = AtomicBool::new(false);
/// Long enough for a check each second, that fails twice.
const ANNOUNCED: Duration = Duration::from_millis(2_500);

async fn whoami(State(name): State<Arc<str>>, method: Method, uri: Uri) -> Response {
    answer(&name, format!("{name} answers {method} {uri}\n"))
}

async fn echo(State(name): State<Arc<str>>, body: Body) -> Response {
    answer(&name, body)
}

/// Answers after a while.
async fn slow(State(name): State<Arc<str>>, Query(query): Query<HashMap<String, u64>>) -> Response {
    let ms = query.get("ms").copied().unwrap_or(1_000);
    sleep(Duration::from_millis(ms)).await;
    answer(&name, format!("{name} took {ms} ms\n"))
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo_messages)
}

async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

fn answer(name: &str, body: impl IntoResponse) -> Response {
    ([("x-backend", name)], body).into_response()
}
