//! Automatic certificates, from pebble.
#![cfg(feature = "full")]

mod directories;
mod endings;
mod failures;
mod instances;
mod issuance;
mod renewals;
mod takeovers;

use std::path::{Path, PathBuf};

use evenkeel::{
    store::{FileStore, Store},
    tls::{
        HttpsRedirectLayer,
        acme::{self, Acme, AcmeHandle, Challenge, ChallengeAnswers, Http01Layer},
    },
};
use http::Request;
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use super::*;
use crate::support::{
    pebble::{self, Options, Pebble, exchange},
    pki,
};

/// Listeners on the ports that pebble checks, or on others.
struct Site {
    tls: SocketAddr,
    http: SocketAddr,
    certificates: Certificates,
    answers: ChallengeAnswers,
    serving: JoinSet<std::io::Result<()>>,
}

impl Site {
    /// Serves where pebble checks.
    async fn start(pebble: &Pebble) -> Self {
        Self::start_at(pebble.tls, pebble.http).await
    }

    /// Serves where pebble does not check.
    async fn start_elsewhere() -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        Self::start_at(any, any).await
    }

    async fn start_at(tls: SocketAddr, http: SocketAddr) -> Self {
        let (certificates, answers) = (Certificates::empty(), ChallengeAnswers::new());
        let app = service_fn(async |request: Request<evenkeel::server::Body>| {
            let path = request.uri().path().to_owned();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(path))))
        });
        let (secure, cleartext) = (
            TcpListener::bind(tls).await.unwrap(),
            TcpListener::bind(http).await.unwrap(),
        );
        let (tls, http) = (
            secure.local_addr().unwrap(),
            cleartext.local_addr().unwrap(),
        );
        let mut serving = JoinSet::new();
        let layer = TlsLayer::new(TlsConfig::new(certificates.clone()));
        serving.spawn(evenkeel::serve(secure, app).layer(layer).into_future());
        let redirected =
            HttpsRedirectLayer::new().layer(Http01Layer::new(answers.clone()).layer(app));
        serving.spawn(evenkeel::serve(cleartext, redirected).into_future());
        Self {
            tls,
            http,
            certificates,
            answers,
            serving,
        }
    }

    fn acme(&self, folder: &TempDir, pebble: &Pebble) -> Acme {
        self.acme_on(Arc::new(FileStore::new(folder.path()).unwrap()), pebble)
    }

    fn acme_on(&self, store: Arc<dyn Store>, pebble: &Pebble) -> Acme {
        Acme::new(store)
            .terms_of_service_agreed(true)
            .email("admin@a.test")
            .unwrap()
            .authorities([pebble.directory()])
            .answers(self.answers.clone())
            .poll_interval(Duration::from_millis(200))
            .unwrap()
    }

    /// Shakes hands for `name` and gets a page; returns the certificate.
    async fn visit(
        &self,
        client: &rustls::ClientConfig,
        name: &str,
    ) -> std::io::Result<CertificateDer<'static>> {
        let stream = pki::connect(self.tls, client.clone(), name).await?;
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let request = "GET /page HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        let answer = exchange(stream, request).await;
        let is_whole = answer.starts_with("HTTP/1.1 200") && answer.ends_with("/page");
        is_whole
            .then_some(certificate.into_owned())
            .ok_or_else(|| std::io::Error::other(format!("the answer was {answer:?}")))
    }

    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
        exchange(TcpStream::connect(self.http).await.unwrap(), &request).await
    }
}

async fn issued(handle: &AcmeHandle) {
    let waited = tokio::time::timeout(2 * PATIENCE, handle.issued()).await;
    waited.unwrap_or_else(|_| panic!("{:#?}", handle.statuses()));
}

/// Waits until the last order has failed; returns why.
async fn failure(handle: &mut AcmeHandle) -> String {
    let failed = async {
        loop {
            if let Some(failure) = handle.statuses()[0].failure.clone() {
                return failure;
            }
            handle.changed().await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, failed)
        .await
        .expect("it must fail")
}

/// Waits for what no event announces.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let so = tokio::time::timeout(2 * PATIENCE, so).await;
    so.unwrap_or_else(|_| panic!("{what}"));
}

/// The files in a folder and below; none where there is no folder.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(files_in(&path)),
            false => found.push(path),
        }
    }
    found
}
