//! An axum router on `evenkeel::serve`: deadlines for slow clients, a limit on connections, and a
//! graceful shutdown on Ctrl-C.
//!
//! ```sh
//! cargo run --example serve
//! curl -si http://127.0.0.1:3000/
//! ```

use std::error::Error;

use axum::{Extension, Router, routing::get};
use evenkeel::context::ConnInfo;
use tokio::net::TcpListener;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to people")]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = Router::new().route("/", get(hello));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000/");
    evenkeel::serve(listener, app)
        .max_connections(1_000)?
        .shutdown(async {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await?;
    Ok(())
}

async fn hello(Extension(conn): Extension<ConnInfo>) -> String {
    format!("hello, connection {}\n", conn.number())
}
