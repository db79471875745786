//! A backend to stand behind the other examples: says who it is, echoes what it is sent, and can
//! be killed and started again.
//!
//! ```sh
//! cargo run --example backend -- a 127.0.0.1:9001
//! curl -i http://127.0.0.1:9001/anything
//! curl --data hello http://127.0.0.1:9001/echo
//! curl -i http://127.0.0.1:9001/slow?ms=500       # GET /health is what checks ask for
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{collections::HashMap, env, error::Error, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Query, State, WebSocketUpgrade, ws::WebSocket},
    http::{Method, Uri},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [name, address] = args.as_slice() else {
        return Err("usage: backend NAME ADDRESS:PORT".into());
    };
    let name: Arc<str> = name.as_str().into();
    let app = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/echo", any(echo))
        .route("/slow", get(slow))
        .route("/ws", any(websocket))
        .fallback(whoami)
        .with_state(name.clone());
    let listener = TcpListener::bind(address).await?;
    println!("{name}: http://{}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let end = async move {
        terminate.recv().await;
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(end)
        .await?;
    Ok(())
}

async fn whoami(State(name): State<Arc<str>>, method: Method, uri: Uri) -> Response {
    answer(&name, format!("{name} answers {method} {uri}\n"))
}

async fn echo(State(name): State<Arc<str>>, body: Body) -> Response {
    answer(&name, body)
}

/// Answers after a while.
async fn slow(State(name): State<Arc<str>>, Query(query): Query<HashMap<String, u64>>) -> Response {
    let ms = query.get("ms").copied().unwrap_or(1_000);
    tokio::time::sleep(Duration::from_millis(ms)).await;
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
