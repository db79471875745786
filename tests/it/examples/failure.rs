//! A backend process dies under load, and no client notices.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use evenkeel::BoxError;
use http::Uri;
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, timeout},
};

use super::{
    edge::Settings,
    process::{Backend, PATIENCE, Process},
};

type Pooled = Client<HttpConnector, Empty<Bytes>>;

/// Asks once; returns which backend answered.
async fn ask(client: Pooled, url: Uri) -> Result<String, BoxError> {
    let response = timeout(PATIENCE, client.get(url)).await??;
    let status = response.status();
    let name = response.headers().get("x-backend").cloned();
    let body = response.into_body().collect().await?.to_bytes();
    match name {
        Some(name) if status.is_success() => Ok(name.to_str()?.to_owned()),
        _ => Err(format!("{status}: {body:?}").into()),
    }
}

#[tokio::test]
async fn no_request_fails_when_one_of_four_backends_is_killed_and_started_again() {
    let mut backends = Vec::new();
    for name in ["a", "b", "c", "d"] {
        backends.push(Backend::start(name).await);
    }
    let tables: String = backends.iter().map(Backend::settings).collect();
    let settings = Settings::new(&format!(
        "[server]\nthreads = 1\n[[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n{tables}\
         [health]\ninterval = \"1s\"\ntimeout = \"900ms\"\n[failover]\nattempts = 2\n"
    ));
    let mut edge = Process::start("edge", &[&settings.file()]);
    let address = edge.address("listening on http://").await;
    let url: Uri = format!("http://{address}/").parse().unwrap();
    let client: Pooled = Client::builder(TokioExecutor::new()).build_http();

    let began = Instant::now();
    let (mut killed, mut restarted) = (None, None);
    let mut pace = interval(Duration::from_secs(1) / RATE);
    let mut running = JoinSet::new();
    while began.elapsed() < Duration::from_secs(10) {
        pace.tick().await;
        let (client, url, at) = (client.clone(), url.clone(), Instant::now());
        running.spawn(async move { (at, ask(client, url).await) });
        if killed.is_none() && began.elapsed() > Duration::from_secs(3) {
            backends[1].process.kill().await;
            killed = Some(Instant::now());
        }
        if restarted.is_none() && began.elapsed() > Duration::from_secs(6) {
            backends[1] = Backend::start_at("b", backends[1].address).await;
            restarted = Some(Instant::now());
        }
    }
    let (killed, restarted) = (killed.unwrap(), restarted.unwrap());
    let mut failed = Vec::new();
    let mut total = 0;
    let mut phases: [BTreeMap<String, usize>; 3] = Default::default();
    while let Some(done) = running.join_next().await {
        let (at, result) = done.unwrap();
        total += 1;
        match result {
            Ok(name) => {
                let phase = usize::from(at > killed) + usize::from(at > restarted);
                *phases[phase].entry(name).or_default() += 1;
            }
            Err(error) => failed.push((at - began, error)),
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {total} failed: {:#?}",
        failed.len(),
        failed.first()
    );
    let b = phases
        .each_ref()
        .map(|names| names.get("b").copied().unwrap_or(0));
    assert_eq!(
        (phases[0].len(), b[1]),
        (4, 0),
        "four, then three answer: {phases:?}"
    );
    assert!(b[2] > 0, "what came back gets traffic again: {phases:?}");
    edge.signal("-TERM");
    edge.must_succeed().await;
}

/// Requests a second.
const RATE: u32 = 500;
