//! A site with automatic certificates. By default it orders from the staging environment of Let's Encrypt,
//! whose certificates no browser accepts: change two lines to get true ones for a name of yours that leads
//! to this machine.
//!
//! ```sh
//! cargo build --features full --example acme
//! sudo target/debug/examples/acme     # ports 80 and 443
//! curl -ki https://localhost/         # a placeholder, until the order has succeeded
//! ```
//!
//! `examples/acme_ring` is the same with the cryptography provider ring.
//!
//! With another directory, such as that of a test server: `ACME_DIRECTORY=https://127.0.0.1:14000/dir`,
//! `ACME_CA=pebble.minica.pem`, `HTTPS_ADDRESS=127.0.0.1:5001` and `HTTP_ADDRESS=127.0.0.1:5002`.
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{convert::Infallible, env, future::IntoFuture, sync::Arc};

use bytes::Bytes;
use evenkeel::{
    BoxError,
    server::Body,
    store::FileStore,
    tls::{
        Certificates, HttpsRedirectLayer, TlsConfig, TlsLayer,
        acme::{Acme, Authority, Challenge, ChallengeAnswers, Http01Layer},
    },
};
use http::{Request, Response};
use http_body_util::Full;
use tokio::net::TcpListener;
use tower::{Layer, service_fn};

/// Change this line to names of yours …
const NAMES: [&str; 1] = ["www.example.com"];

fn authority() -> Result<Authority, BoxError> {
    let Ok(directory) = env::var("ACME_DIRECTORY") else {
        // … and this one to `Authority::lets_encrypt()`.
        return Ok(Authority::lets_encrypt_staging());
    };
    let authority = Authority::new(directory)?;
    Ok(match env::var("ACME_CA") {
        Ok(file) => authority.roots_pem(&std::fs::read(file)?)?,
        Err(_) => authority,
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let of = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let secure = TcpListener::bind(of("HTTPS_ADDRESS", "[::]:443")).await?;
    let cleartext = TcpListener::bind(of("HTTP_ADDRESS", "[::]:80")).await?;

    let (certificates, answers) = (Certificates::empty(), ChallengeAnswers::new());
    let store = FileStore::new(of("ACME_STORAGE", "acme-state"))?;
    let acme = Acme::new(Arc::new(store))
        .certificate(NAMES)?
        // Read them first: https://letsencrypt.org/repository/
        .terms_of_service_agreed(true)
        .authorities([authority()?])
        .challenges([Challenge::TlsAlpn01, Challenge::Http01])?
        .answers(answers.clone())
        .start(&certificates)
        .await?;

    let app = service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello\n"))))
    });
    let https = evenkeel::serve(secure, app).layer(TlsLayer::new(TlsConfig::new(certificates)));
    let redirect = HttpsRedirectLayer::new().layer(Http01Layer::new(answers).layer(app));
    let http = evenkeel::serve(cleartext, redirect);
    println!("serving {}", NAMES.join(", "));
    let issued = async {
        acme.issued().await;
        println!("certificates in force: {:#?}", acme.statuses());
        std::future::pending::<std::io::Result<()>>().await
    };
    tokio::try_join!(https.into_future(), http.into_future(), issued)?;
    Ok(())
}
