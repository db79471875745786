//! Requests at a steady pace to an example, whatever becomes of those before.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel::BoxError;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    sync::{Mutex, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::process::PATIENCE;

type Pooled = Client<HttpConnector, Empty<Bytes>>;

/// What became of one request.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) began: Instant,
    pub(super) took: Duration,
    /// Which backend answered it, or why none did.
    pub(super) result: Result<String, Refused>,
    /// Of those that keep a cookie, which.
    pub(super) session: Option<usize>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "a failed assertion prints all of it")]
pub(super) struct Refused {
    pub(super) status: Option<StatusCode>,
    pub(super) headers: HeaderMap,
    pub(super) why: String,
}

/// Load that runs until it is ended.
pub(super) struct Load {
    stop: watch::Sender<()>,
    task: JoinHandle<Vec<Done>>,
}

impl Load {
    /// Begins; with sessions, each request is one of that many clients that keep their cookie.
    pub(super) fn start(address: SocketAddr, rate: u32, sessions: usize) -> Self {
        let (stop, mut stopped) = watch::channel(());
        let url: Uri = format!("http://{address}/").parse().unwrap();
        let client: Pooled = Client::builder(TokioExecutor::new()).build_http();
        let cookies: Arc<[Mutex<Option<HeaderValue>>]> =
            (0..sessions).map(|_| Mutex::default()).collect();
        let task = tokio::spawn(async move {
            let mut pace = interval(Duration::from_secs(1) / rate);
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut running = JoinSet::new();
            for number in 0.. {
                tokio::select! {
                    _ = stopped.changed() => break,
                    _ = pace.tick() => {}
                }
                let (client, url, cookies) = (client.clone(), url.clone(), cookies.clone());
                running.spawn(async move {
                    let began = Instant::now();
                    let session = (!cookies.is_empty()).then(|| number % cookies.len());
                    let result = ask(client, url, session.map(|nth| &cookies[nth])).await;
                    Done {
                        began,
                        took: began.elapsed(),
                        result,
                        session,
                    }
                });
            }
            running.join_all().await
        });
        Self { stop, task }
    }

    /// Ends, and waits for the answers; in the order in which the requests began.
    pub(super) async fn end(self) -> Vec<Done> {
        self.stop.send(()).unwrap();
        let mut all = self.task.await.unwrap();
        all.sort_by_key(|done| done.began);
        all
    }
}

/// One at a time of each session: a browser's second request has the first one's cookie.
async fn ask(
    client: Pooled,
    url: Uri,
    session: Option<&Mutex<Option<HeaderValue>>>,
) -> Result<String, Refused> {
    let mut cookie = match session {
        Some(session) => Some(session.lock().await),
        None => None,
    };
    let failed = |error: BoxError| Refused {
        status: None,
        headers: HeaderMap::new(),
        why: error.to_string(),
    };
    let mut request = Request::get(url).body(Empty::new()).unwrap();
    if let Some(cookie) = cookie.as_ref().and_then(|cookie| cookie.as_ref()) {
        request.headers_mut().insert(header::COOKIE, cookie.clone());
    }
    let answer = async {
        let (head, body) = client.request(request).await?.into_parts();
        Ok::<_, BoxError>((head, body.collect().await?.to_bytes()))
    };
    let answer = timeout(PATIENCE, answer).await.map_err(Into::into);
    let (head, body) = answer.and_then(|inner| inner).map_err(failed)?;
    let name = head.headers.get("x-backend").cloned();
    let (Some(name), StatusCode::OK) = (name, head.status) else {
        return Err(Refused {
            status: Some(head.status),
            headers: head.headers,
            why: String::from_utf8_lossy(&body).into_owned(),
        });
    };
    if let (Some(cookie), Some(set)) = (&mut cookie, head.headers.get(header::SET_COOKIE)) {
        let set = set.to_str().unwrap().split(';').next().unwrap();
        **cookie = Some(set.parse().unwrap());
    }
    Ok(name.to_str().unwrap().to_owned())
}

/// Counts the answers of each backend; all must have been answered.
#[track_caller]
pub(super) fn none_failed(all: &[Done]) -> BTreeMap<&str, usize> {
    let mut names = BTreeMap::new();
    let failed: Vec<_> = all.iter().filter(|done| done.result.is_err()).collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:#?}",
        failed.len(),
        all.len(),
        &failed[..failed.len().min(3)]
    );
    for done in all {
        *names.entry(done.result.as_deref().unwrap()).or_default() += 1;
    }
    names
}

/// Returns the backends that answered each session, in order, repetitions left out.
pub(super) fn homes(all: &[Done]) -> BTreeMap<usize, Vec<&str>> {
    let mut homes: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    // One at a time: the order of the ends.
    let mut ended: Vec<_> = all.iter().collect();
    ended.sort_by_key(|done| done.began + done.took);
    for done in ended {
        let (Some(session), Ok(name)) = (done.session, &done.result) else {
            continue;
        };
        let homes = homes.entry(session).or_default();
        if homes.last() != Some(&name.as_str()) {
            homes.push(name);
        }
    }
    homes
}
