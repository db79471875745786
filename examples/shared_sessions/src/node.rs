//! A node of the application: axum, with its sessions in Redis.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use evenkeel::{
    BoxError,
    endpoints::{Dependency, HealthService},
};
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tower_sessions::{Expiry, Session, SessionManagerLayer, cookie::SameSite, session};
use tower_sessions_redis_store::{
    RedisStore,
    fred::prelude::{
        Builder, ClientLike, Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy,
    },
};

use crate::say;

/// Serves until SIGTERM.
pub(crate) async fn serve(name: &str, address: &str, redis: &str) -> Result<(), BoxError> {
    // Every wait for Redis has a bound, and a lost connection is made again.
    let pool = Builder::from_config(Config::from_url(redis)?)
        .with_performance_config(|config: &mut PerformanceConfig| {
            config.default_command_timeout = COMMAND_TIMEOUT;
        })
        .with_connection_config(|config: &mut ConnectionConfig| {
            config.connection_timeout = COMMAND_TIMEOUT;
        })
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 1_000, 2))
        .build_pool(CONNECTIONS)?;
    let connected = pool.init().await?;

    let sessions = SessionManagerLayer::new(RedisStore::new(pool.clone()))
        .with_name("session")
        // Cleartext in this example; leave it out behind TLS.
        .with_secure(false)
        .with_same_site(SameSite::Lax)
        .with_expiry(Expiry::OnInactivity(session_length()));
    // A soft dependency: without Redis, pages that need no log-in still work. As a hard one it would
    // take all nodes out of service at once.
    let redis = Dependency::new("redis", move || {
        let pool = pool.clone();
        async move { pool.ping::<()>(None).await }
    })?;
    let health = HealthService::new([redis.soft(0.5)?])?;

    let app = Router::new()
        .route("/login", post(log_in))
        .route("/whoami", get(who_am_i))
        .layer(sessions)
        .route_service("/health", health.clone())
        .with_state(Arc::<str>::from(name));
    let listener = TcpListener::bind(address).await?;
    say(&format!("{name}: http://{}", listener.local_addr()?));
    let mut terminate = signal(SignalKind::terminate())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await?;
    connected.abort();
    Ok(())
}

#[derive(Deserialize)]
struct LogIn {
    user: String,
}

/// Begins a session. A real application asks for a proof of identity.
async fn log_in(
    State(node): State<Arc<str>>,
    session: Session,
    Query(LogIn { user }): Query<LogIn>,
) -> Result<Response, Failed> {
    // A session id from before the log-in may be known to others (session fixation).
    session.cycle_id().await?;
    session.insert(USER, &user).await?;
    Ok(answer(
        &node,
        StatusCode::OK,
        format!("{user} is logged in\n"),
    ))
}

async fn who_am_i(State(node): State<Arc<str>>, session: Session) -> Result<Response, Failed> {
    let user: Option<String> = session.get(USER).await?;
    Ok(match user {
        Some(user) => answer(&node, StatusCode::OK, format!("{user}\n")),
        None => answer(&node, StatusCode::UNAUTHORIZED, "log in first\n".into()),
    })
}

fn answer(node: &str, status: StatusCode, text: String) -> Response {
    (status, [("x-backend", node)], text).into_response()
}

/// Redis did not answer. 503 lets the balancer try another node, which may reach it.
struct Failed;

impl From<session::Error> for Failed {
    fn from(error: session::Error) -> Self {
        say(&format!("the session store failed: {error}"));
        Self
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, "no sessions at present\n").into_response()
    }
}

fn session_length() -> tower_sessions::cookie::time::Duration {
    tower_sessions::cookie::time::Duration::minutes(30)
}

/// The key of the user in a session's data.
const USER: &str = "user";
/// Connections to Redis; each carries many commands at once.
const CONNECTIONS: usize = 4;
/// How long Redis may take. A page is not worth a longer wait.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);
