//! The stack without a settings file: two backends and a certificate of its own.

use std::{future::IntoFuture, io, net::Ipv4Addr, time::Duration};

use axum::{Router, extract::Request};
use evenkeel::{
    Backend, BoxError, LoadBalancer, Pool,
    fleet::handover::{PassedSockets, Start},
    proxy_protocol::ProxyProtocolLayer,
    tls::{Certificate, Certificates, TlsConfig, TlsLayer, acme::ChallengeAnswers},
};
use tokio::net::TcpListener;

use crate::{
    acme::Automatic,
    listeners::{Listener, Listeners},
    operators::Operators,
};

#[expect(clippy::print_stdout, reason = "the example prints to a terminal")]
pub(crate) async fn start() -> Result<(LoadBalancer, Listeners), BoxError> {
    let pool = Pool::new([
        Backend::new("a", &backend("a").await?)?,
        Backend::new("b", &backend("b").await?)?,
    ])?;
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let own = rcgen::generate_simple_self_signed(names)?;
    let certificate = Certificate::pem(own.cert.pem(), own.signing_key.serialize_pem());
    let certificates = Certificates::new([certificate])?;
    let tls = TlsLayer::new(TlsConfig::new(certificates.clone()));
    let mut start = Start::begin(None, PassedSockets::default()).await?;
    let mut at = |port: u16| start.listener((Ipv4Addr::LOCALHOST, port).into());
    let listener = at(3000).or_else(|_| at(0))?;
    let address = listener.local_addr()?;
    for path in ["hello", "api/users", "users"] {
        println!("curl -k https://{address}/{path}");
    }
    let listeners = Listeners {
        listeners: vec![Listener {
            tcp: vec![listener],
            listen: None,
            proxy_protocol: ProxyProtocolLayer::off(),
            tls: Some((tls, certificates)),
            hsts: None,
            endpoints: None,
        }],
        start,
        handover: None,
        keys: Vec::new(),
        pool: pool.clone(),
        fleet: None,
        state_file: None,
        lame_duck: None,
        drain: Duration::from_secs(5),
        events: (None, None),
        operators: Operators::default(),
        answers: ChallengeAnswers::default(),
        automatic: Automatic::default(),
    };
    Ok((LoadBalancer::new(pool), listeners))
}

/// Starts a backend that answers with the URI and the forwarded fields that it received; returns
/// its URL.
async fn backend(name: &'static str) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let answer = async move |request: Request| {
        let mut text = format!("{name} sees {}\n", request.uri());
        for field in ["x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
            let value = request.headers().get(field).and_then(|v| v.to_str().ok());
            text.push_str(&format!("  {field}: {}\n", value.unwrap_or("none")));
        }
        text
    };
    tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
    Ok(url)
}
