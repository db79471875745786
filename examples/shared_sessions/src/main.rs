//! Log-ins that outlive their node: sessions in Redis, behind sticky cookies.
//!
//! Two cookies have two duties. evenkeel's says which node serves the user, so that the node's cache
//! is warm; it holds no data, and any node may take over. The application's names the session, whose
//! data are in Redis, where every node finds them. So a user whose node dies is moved to another one
//! and is still logged in.
//!
//! ```sh
//! redis-server --port 6379 --save '' &
//! cargo run --manifest-path examples/shared_sessions/Cargo.toml -- redis://127.0.0.1:6379
//! ```
//!
//! starts two nodes and a balancer, logs a user in, and kills the user's node. It exits with 1 if the
//! user has to log in again. A node alone, to be put behind a balancer of your own:
//!
//! ```sh
//! cargo run --manifest-path examples/shared_sessions/Cargo.toml -- node a 127.0.0.1:9001 redis://127.0.0.1:6379
//! curl -i -X POST http://127.0.0.1:9001/login?user=ada
//! ```

mod demonstration;
mod node;

use std::{env, process::ExitCode};

use evenkeel::BoxError;

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["node", name, address, redis] => {
            node::serve(name, address, redis).await?;
            Ok(ExitCode::SUCCESS)
        }
        [redis] if redis.contains("://") => demonstration::run(redis).await,
        _ => {
            say("usage: shared_sessions REDIS_URL | node NAME ADDRESS:PORT REDIS_URL");
            Ok(ExitCode::from(2))
        }
    }
}

#[expect(clippy::print_stdout, reason = "an example talks to people")]
fn say(text: &str) {
    println!("{text}");
}
