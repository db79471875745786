//! Pebble, the test server of Let's Encrypt, with its validation on, and the DNS that it asks. In front of
//! it stands a proxy of the test's own, which counts, fails, and speaks RFC 9773.
//!
//! ```text
//! Acme ── TLS ──▶ Front ── TLS ──▶ pebble ──▶ ports of the test's listeners
//!                                     └─ DNS ─▶ pebble-challtestsrv
//! ```

use std::{
    collections::HashMap,
    convert::Infallible,
    fs, io,
    net::{SocketAddr, TcpListener as StdListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use evenkeel::tls::acme::Authority as AcmeAuthority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

use super::pki::{self, Authority};

/// A running pebble. It ends when dropped.
pub(crate) struct Pebble {
    resolver: Child,
    process: Child,
    command: Command,
    own: SocketAddr,
    /// Where the test's listeners must be.
    pub(crate) http: SocketAddr,
    pub(crate) tls: SocketAddr,
    management: SocketAddr,
    /// Where records of the DNS are set.
    dns: SocketAddr,
    /// The authority of the certificates of pebble's own ports.
    authority: Authority,
    pub(crate) front: Front,
    _folder: TempDir,
}

/// How pebble is to behave.
#[derive(Default)]
pub(crate) struct Options {
    /// The lifetime of certificates in seconds.
    pub(crate) lifetime: Option<u64>,
    /// How many of 100 good nonces are refused.
    pub(crate) rejected_nonces: u8,
    /// The identifier and the key of an external account, without which none is made.
    pub(crate) external_account: Option<(&'static str, &'static str)>,
    pub(crate) suggests_renewal: bool,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for process in [&mut self.process, &mut self.resolver] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Pebble {
    /// Starts it; `None`, with a word about it, if it is not installed.
    pub(crate) async fn start(options: Options) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let issued = authority.issue(&["127.0.0.1", "localhost"]);
        let path = |name: &str| folder.path().join(name);
        fs::write(path("cert.pem"), &issued.chain).unwrap();
        fs::write(path("key.pem"), &issued.key).unwrap();
        let [own, management, http, tls, dns, dns_management] = free_addresses();
        let mut config = json!({
            "listenAddress": own.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": path("cert.pem"),
            "privateKey": path("key.pem"),
            "httpPort": http.port(),
            "tlsPort": tls.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": options.external_account.is_some(),
        });
        if let Some(seconds) = options.lifetime {
            config["certificateValidityPeriod"] = seconds.into();
        }
        if let Some((id, key)) = options.external_account {
            config["externalAccountMACKeys"] = json!({ id: key });
        }
        let config = json!({ "pebble": config }).to_string();
        fs::write(path("pebble.json"), config).unwrap();
        let mut resolver = Command::new("pebble-challtestsrv");
        resolver.args(["-dns01", &dns.to_string()]);
        resolver.args(["-management", &dns_management.to_string()]);
        resolver.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        resolver.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(path("pebble.json"));
        pebble.args(["-dnsserver", &dns.to_string()]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        pebble.env("PEBBLE_AUTHZREUSE", "0");
        pebble.env(
            "PEBBLE_WFE_NONCEREJECT",
            options.rejected_nonces.to_string(),
        );
        let (resolver, process) = (spawn(&mut resolver)?, spawn(&mut pebble)?);
        for address in [own, management, dns_management] {
            listens(address).await;
        }
        let front = Front::start(own, &authority, options.suggests_renewal).await;
        Some(Self {
            resolver,
            process,
            command: pebble,
            own,
            http,
            tls,
            management,
            dns: dns_management,
            authority,
            front,
            _folder: folder,
        })
    }

    /// Ends it and starts another, which has no accounts and another root.
    pub(crate) async fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(&mut self.command).unwrap();
        listens(self.own).await;
    }

    /// Where it is asked for certificates.
    pub(crate) fn directory(&self) -> AcmeAuthority {
        let url = format!("https://{}/dir", self.front.address);
        let directory = AcmeAuthority::new(url).unwrap();
        directory
            .roots_pem(self.roots_of_directory().as_bytes())
            .unwrap()
    }

    pub(crate) fn roots_of_directory(&self) -> String {
        self.authority.pem()
    }

    /// A client that trusts what pebble issues.
    pub(crate) async fn client(&self) -> rustls::ClientConfig {
        let request = "GET /roots/0 HTTP/1.1\r\nhost: pebble\r\nconnection: close\r\n\r\n";
        let client = http1(self.authority.client());
        let stream = pki::connect(self.management, client, "127.0.0.1").await;
        let answer = exchange(stream.unwrap(), request).await;
        let (_, pem) = answer.split_once("\r\n\r\n").unwrap();
        let mut roots = RootCertStore::empty();
        let pem = &pem[pem.find("-----BEGIN").unwrap()..];
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(pki::test_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// Adds a TXT record to the DNS, or removes all of its name.
    pub(crate) async fn set_txt(&self, name: &str, value: Option<&str>) {
        set_txt(self.dns, name, value).await;
    }

    pub(crate) fn dns(&self) -> SocketAddr {
        self.dns
    }
}

/// Does the same at the management port of the DNS.
pub(crate) async fn set_txt(dns: SocketAddr, name: &str, value: Option<&str>) {
    let host = format!("{name}.");
    let (path, body) = match value {
        Some(value) => ("/set-txt", json!({ "host": host, "value": value })),
        None => ("/clear-txt", json!({ "host": host })),
    };
    let body = body.to_string();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: dns\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let answer = exchange(TcpStream::connect(dns).await.unwrap(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn spawn(command: &mut Command) -> Option<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    match command.stderr(Stdio::null()).spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            super::not_run("pebble is not installed (Debian: apt-get install pebble)");
            None
        }
        Err(error) => panic!("{command:?}: {error}"),
    }
}

/// Addresses without a listener, below the ports that the kernel gives to clients and to listeners of
/// port 0: none of those takes one before it is bound again.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    [(); N].map(|()| {
        loop {
            let nth = NEXT.fetch_add(1, Relaxed);
            // Where another run of the tests begins elsewhere.
            let first = u16::try_from(std::process::id() % 8_000).unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + (first + nth) % 12_000));
            if StdListener::bind(address).is_ok() {
                return address;
            }
        }
    })
}

async fn listens(address: SocketAddr) {
    let connected = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected)
        .await
        .expect("it must listen");
}

/// Sends a request and reads until the end.
pub(crate) async fn exchange(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    request: &str,
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Some ends come without a TLS alert.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// The proxy in front of pebble.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The status and the field Retry-After of an answer.
pub(crate) type Failure = (StatusCode, Option<&'static str>);

#[derive(Clone, Default)]
pub(crate) struct ByName {
    /// Each order waits for a permit.
    pub(crate) gate: Option<Arc<Semaphore>>,
    pub(crate) failure: Option<Failure>,
}

pub(crate) struct State {
    pebble: SocketAddr,
    client: rustls::ClientConfig,
    address: SocketAddr,
    suggests_renewal: bool,
    /// Each order waits for a permit.
    pub(crate) gate: Semaphore,
    /// An answer to orders in place of pebble's.
    pub(crate) failure: Mutex<Option<Failure>>,
    /// What holds for the orders of one name.
    pub(crate) by_name: Mutex<HashMap<&'static str, ByName>>,
    /// Each request to check a challenge waits for a permit.
    pub(crate) check_gate: Semaphore,
    /// Each question about a renewal waits for a permit.
    pub(crate) renewal_gate: Semaphore,
    /// An answer to these questions.
    pub(crate) renewal_failure: Mutex<Option<Failure>>,
    /// When each order came.
    pub(crate) orders: Mutex<Vec<Instant>>,
    /// Requests for accounts, nonces and all else.
    pub(crate) requests: Mutex<Vec<String>>,
    /// The certificates that orders said they replace.
    pub(crate) replaced: Mutex<Vec<String>>,
    /// The certificates that renewal information was asked for.
    pub(crate) asked: Mutex<Vec<String>>,
}

impl State {
    pub(crate) fn orders(&self) -> usize {
        self.orders.lock().unwrap().len()
    }

    /// How many requests there were whose path contains this.
    pub(crate) fn requests(&self, part: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|path| path.contains(part)).count()
    }

    /// Waits for the gate of an order's names; returns the failure that is set for one of them.
    async fn wait_by_name(&self, names: &[String]) -> Option<Failure> {
        let found = |name: &String| self.by_name.lock().unwrap().get(name.as_str()).cloned();
        let gates: Vec<_> = names.iter().filter_map(found).collect();
        for gate in gates.into_iter().filter_map(|by_name| by_name.gate) {
            drop(gate.acquire().await.unwrap());
        }
        // It may have been set meanwhile.
        names
            .iter()
            .filter_map(found)
            .find_map(|by_name| by_name.failure)
    }
}

impl Front {
    async fn start(pebble: SocketAddr, authority: &Authority, suggests_renewal: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let issued = authority.issue(&["127.0.0.1"]);
        let config = rustls::ServerConfig::builder_with_provider(pki::test_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(issued.certificates(), issued.key())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let state = Arc::new(State {
            pebble,
            client: http1(authority.client()),
            address,
            suggests_renewal,
            gate: Semaphore::new(1_000),
            failure: Mutex::default(),
            by_name: Mutex::default(),
            check_gate: Semaphore::new(1_000),
            renewal_gate: Semaphore::new(1_000),
            renewal_failure: Mutex::default(),
            orders: Mutex::default(),
            requests: Mutex::default(),
            replaced: Mutex::default(),
            asked: Mutex::default(),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                running.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(state.answer(request).await) }
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            state,
            task,
        }
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = head.uri.path().to_owned();
        self.requests.lock().unwrap().push(path.clone());
        if let Some(certificate) = path.strip_prefix("/renewal/") {
            self.asked.lock().unwrap().push(certificate.to_owned());
            drop(self.renewal_gate.acquire().await.unwrap());
            if let Some((status, retry_after)) = *self.renewal_failure.lock().unwrap() {
                return refusal(status, retry_after);
            }
            // A window that has passed: now is the time.
            let window = json!({ "start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z" });
            let info = json!({ "suggestedWindow": window, "explanationURL": "https://why.test/" });
            let answer = Response::builder().header("retry-after", "600");
            return answer.body(Full::new(info.to_string().into())).unwrap();
        }
        let mut replaces = None;
        if path.contains(CHECK) {
            drop(self.check_gate.acquire().await.unwrap());
        }
        if path.ends_with("/order-plz") {
            self.orders.lock().unwrap().push(Instant::now());
            drop(self.gate.acquire().await.unwrap());
            if let Some((status, retry_after)) = *self.failure.lock().unwrap() {
                return refusal(status, retry_after);
            }
            let order = payload(&body);
            let identifiers = order["identifiers"].as_array().unwrap().iter();
            let names = identifiers.map(|name| name["value"].as_str().unwrap().to_owned());
            let names: Vec<_> = names.collect();
            if let Some((status, retry_after)) = self.wait_by_name(&names).await {
                return refusal(status, retry_after);
            }
            replaces = order["replaces"].as_str().map(str::to_owned);
            self.replaced.lock().unwrap().extend(replaces.clone());
        }
        let (mut head, body) = self
            .forward(Request::from_parts(head, Full::new(body)))
            .await;
        head.headers.remove("content-length");
        let changed = match (path.as_str(), replaces) {
            ("/dir", _) if self.suggests_renewal => {
                Some(("renewalInfo", format!("https://{}/renewal", self.address)))
            }
            (_, Some(replaces)) => Some(("replaces", replaces)),
            _ => None,
        };
        let body = match (changed, serde_json::from_slice::<Value>(&body)) {
            (Some((key, value)), Ok(mut json)) => {
                json[key] = value.into();
                Bytes::from(json.to_string())
            }
            _ => body,
        };
        Response::from_parts(head, Full::new(body))
    }

    async fn forward(&self, request: Request<Full<Bytes>>) -> (http::response::Parts, Bytes) {
        let stream = pki::connect(self.pebble, self.client.clone(), "127.0.0.1").await;
        let io = TokioIo::new(stream.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let is_head = request.method() == Method::HEAD;
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = match is_head {
            true => Bytes::new(),
            false => body.collect().await.unwrap().to_bytes(),
        };
        (head, body)
    }
}

fn refusal(status: StatusCode, retry_after: Option<&str>) -> Response<Full<Bytes>> {
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => "rateLimited",
        _ => "serverInternal",
    };
    let problem = json!({
        "type": format!("urn:ietf:params:acme:error:{kind}"),
        "detail": "as the test says",
        "status": status.as_u16(),
    });
    let mut refusal = Response::builder().status(status);
    if let Some(retry_after) = retry_after {
        refusal = refusal.header("retry-after", retry_after);
    }
    let body = Full::new(problem.to_string().into());
    refusal.body(body).unwrap()
}

/// The payload of a signed request (RFC 7515 §7.2.2).
fn payload(body: &[u8]) -> Value {
    let signed: Value = serde_json::from_slice(body).unwrap();
    let payload = signed["payload"].as_str().unwrap();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// Clients whose ALPN says HTTP/1.1.
fn http1(mut client: rustls::ClientConfig) -> rustls::ClientConfig {
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    client
}

/// In the paths of pebble's challenges.
pub(crate) const CHECK: &str = "/chalZ/";
/// Longer than anything takes that happens at all.
const PATIENCE: Duration = Duration::from_secs(30);
