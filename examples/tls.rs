//! `TlsLayer` around an axum listener, `HstsLayer` on its responses, and `HttpsRedirectLayer` on a
//! cleartext port. The example makes its certificate at the start.
//!
//! ```sh
//! cargo run --features tls,axum --example tls
//! curl -ki https://127.0.0.1:8443/
//! curl -kiL http://127.0.0.1:8080/
//! curl http://127.0.0.1:8443/     # plaintext on the TLS port
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{error::Error, future::IntoFuture, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get, serve::ListenerExt};
use evenkeel::{
    context::ConnInfo,
    tls::{Certificate, Certificates, HstsLayer, HttpsRedirectLayer, TlsConfig, TlsLayer},
};
use tokio::net::TcpListener;
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    let certificate = Certificate::pem(made.cert.pem(), made.signing_key.serialize_pem());
    let config = TlsConfig::new(Certificates::new([certificate])?);

    let app = Router::new().route("/", get(show));
    // A minute is enough for a trial: for that time, a browser that trusts the certificate refuses
    // cleartext on every port of the host.
    let hsts = HstsLayer::new().max_age(Duration::from_secs(60));
    let secure = app.clone().layer(hsts);
    let listener = TcpListener::bind("127.0.0.1:8443").await?.tap_io(|io| {
        // An error means that the socket is closed, which the handshake reports.
        let _ = io.set_nodelay(true);
    });
    let secure = axum::serve(
        TlsLayer::new(config).layer(listener),
        secure.into_make_service_with_connect_info::<ConnInfo>(),
    );

    let redirect = app.layer(HttpsRedirectLayer::new().port(8443));
    let redirect = axum::serve(
        TcpListener::bind("127.0.0.1:8080").await?,
        redirect.into_make_service_with_connect_info::<ConnInfo>(),
    );
    println!("https://127.0.0.1:8443/ and http://127.0.0.1:8080/, which redirects");
    tokio::try_join!(secure.into_future(), redirect.into_future())?;
    Ok(())
}

async fn show(ConnectInfo(conn): ConnectInfo<ConnInfo>) -> String {
    format!("{:#?}\n", conn.tls())
}
