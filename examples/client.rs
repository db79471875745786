//! A load balancer as a client: a program's requests go to one of several backends, checked, and
//! tried again elsewhere where one fails; there is no server in between.
//!
//! ```sh
//! cargo run --example backend -- a 127.0.0.1:9001 &
//! cargo run --example backend -- b 127.0.0.1:9002 &
//! cargo run --example client -- a=http://127.0.0.1:9001 b=http://127.0.0.1:9002
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::env;

use bytes::Bytes;
use evenkeel::{BoxError, LoadBalancer, Pool, discover};
use http::Request;
use http_body_util::{BodyExt, Empty, Full};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let list: Vec<String> = env::args().skip(1).collect();
    let backends = discover::list(&list.join(" "))?;
    if backends.is_empty() {
        return Err("usage: client a=http://127.0.0.1:9001 b=http://127.0.0.1:9002 …".into());
    }
    // Cheap to clone: each task of a program has its own handle.
    let mut balancer = LoadBalancer::new(Pool::new(backends)?);

    for _ in 0..2 {
        let request = Request::get("/").header("host", "shop.example");
        let request = request.body(Empty::<Bytes>::new())?;
        // The first waits until a backend has passed its first check.
        let response = balancer.send(request).await;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        println!("GET: {status}, {} bytes from a backend", body.len());
    }

    let request = Request::post("/echo").header("host", "shop.example");
    let request = request.body(Full::from(Bytes::from_static(b"hello")))?;
    let response = balancer.send(request).await;
    let body = response.into_body().collect().await?.to_bytes();
    println!("POST: {}", String::from_utf8_lossy(&body));
    Ok(())
}
