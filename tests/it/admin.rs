//! The operator's API and the status page, over real sockets.

mod browser;
mod live;
mod operations;
mod reading;
mod webdriver;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evenkeel::{
    Backend, Pool,
    admin::Admin,
    tls::{Certificate, Certificates},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::support::pki::Authority;

const TOKEN: &str = "a-token-of-the-tests";
/// Ends the wait for what should be there at once, on a machine that has a lot to do.
const LIMIT: Duration = Duration::from_secs(30);

/// A server with the API alone; it ends when it is dropped.
struct Served {
    address: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start(admin: Admin) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, admin)
    }

    fn start_on(listener: TcpListener, admin: Admin) -> Self {
        let address = listener.local_addr().unwrap();
        let serving = evenkeel::serve(listener, admin);
        let task = tokio::spawn(async move { serving.await });
        Self { address, task }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pool(ids: &[&str]) -> Pool {
    let backends = ids
        .iter()
        .map(|id| Backend::new(*id, "http://127.0.0.1:9").unwrap());
    Pool::new(backends).unwrap()
}

/// Certificates that end in so many days, of an authority of their own.
fn certificates(names: &[(&str, u64)]) -> Certificates {
    let authority = Authority::new();
    let certificates = Certificates::empty();
    for (name, days) in names {
        let at = SystemTime::now() + Duration::from_secs(days * 86_400);
        let issued = authority.issue_of(&[name], |params| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since;
        });
        let certificate = Certificate::pem(issued.chain, issued.key);
        certificates.insert(name, certificate).unwrap();
    }
    certificates
}

/// A response that was read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// Sends a request over a connection of its own, and returns the head of the response.
async fn open(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let sent = sender.send_request(request);
    timeout(LIMIT, sent).await.unwrap().unwrap()
}

async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let (head, body) = open(address, request).await.into_parts();
    let body = timeout(LIMIT, body.collect()).await.unwrap().unwrap();
    Answer {
        status: head.status,
        headers: head.headers,
        text: String::from_utf8(body.to_bytes().to_vec()).unwrap(),
    }
}

fn request(method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "lb.example:9900");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, request("GET", path, &[], "")).await
}

/// Sends an order with the token, and fields as a form.
async fn order(address: SocketAddr, path: &str, form: &str) -> Answer {
    let authorization = format!("Bearer {TOKEN}");
    let fields = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    ask(address, request("POST", path, &fields, form)).await
}
