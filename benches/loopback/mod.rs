//! A whole path on one thread, shared by the benches `end_to_end` and `growth`: clients on socket
//! pairs, `server::Http`, the stack under test, and backends on Unix sockets that answer without
//! thinking.

mod h2;

use std::{
    io,
    os::unix::net as unix,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    access_log::{AccessLogLayer, Lines},
    context::{Conn, ConnInfo, Peer, Selected},
    health::HealthLayer,
    proxy::{self, Proxy},
    server::{self, Http},
    sticky::{Keys, StickyLayer},
};
use http::{Request, Response};
use http_body::Body;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use tower::{Service, service_fn};

pub(crate) type Result<T> = std::result::Result<T, evenkeel::BoxError>;

/// What stands between the server and the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A service that answers at once: what the server costs.
    Answer,
    /// `Proxy` alone, given its backend.
    Bare,
    /// The stack without stickiness and log.
    Plain,
    /// With stickiness; clients present their cookie.
    Sticky,
    /// With the access log.
    Log,
    /// With the access log on a full disk.
    LogFull,
    /// With an access log whose output hangs.
    LogStalled,
    /// With both.
    All,
    /// As `Plain`, with a body of a KiB in each request.
    Post,
    /// As `Plain`, with HTTP/2 in front, [`h2::AT_ONCE`] streams at once.
    H2,
}

impl Mode {
    pub(crate) const ALL: [(&'static str, Self); 10] = [
        ("answer", Self::Answer),
        ("bare", Self::Bare),
        ("plain", Self::Plain),
        ("sticky", Self::Sticky),
        ("log", Self::Log),
        ("full", Self::LogFull),
        ("stalled", Self::LogStalled),
        ("all", Self::All),
        ("post", Self::Post),
        ("h2", Self::H2),
    ];

    fn log(self) -> Result<Option<Lines>> {
        Ok(match self {
            Self::Log | Self::All => Some(Lines::writer(io::sink())?),
            Self::LogFull => Some(Lines::file("/dev/full")?),
            Self::LogStalled => Some(Lines::writer(Hanging)?),
            _ => None,
        })
    }

    fn is_sticky(self) -> bool {
        matches!(self, Self::Sticky | Self::All)
    }
}

/// An output whose writes never return, as those to a full pipe that nothing is read from.
struct Hanging;

impl io::Write for Hanging {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        loop {
            std::thread::park();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Backends on Unix sockets in `folder`, each answering with `size` bytes; the tasks end with the
/// runtime.
pub(crate) fn backends(folder: &Path, count: usize, size: usize) -> Result<Pool> {
    let (pool, listeners) = bind(folder, count)?;
    let answer: Arc<[u8]> = answer(size).into();
    for listener in listeners {
        listen(listener, &answer)?;
    }
    Ok(pool)
}

/// Backends on Unix sockets in `folder`, and what they are to [`listen`] on.
pub(crate) fn bind(folder: &Path, count: usize) -> Result<(Pool, Vec<unix::UnixListener>)> {
    let mut all = Vec::with_capacity(count);
    let mut listeners = Vec::with_capacity(count);
    for i in 0..count {
        let path = folder.join(i.to_string());
        listeners.push(unix::UnixListener::bind(&path)?);
        all.push(Backend::new(format!("b{i}"), "http://backend.test")?.unix_socket(path));
    }
    Ok((Pool::new(all)?, listeners))
}

/// Answers in this runtime, for as long as it lives.
pub(crate) fn listen(listener: unix::UnixListener, answer: &Arc<[u8]>) -> Result<()> {
    listener.set_nonblocking(true)?;
    tokio::spawn(accept(UnixListener::from_std(listener)?, answer.clone()));
    Ok(())
}

/// A response whose last byte tells its end.
pub(crate) fn answer(size: usize) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nserver: backend\r\ndate: Thu, 26 Nov 2026 12:00:00 GMT\r\n\
         content-type: text/plain\r\ncontent-length: {size}\r\n\r\n"
    )
    .into_bytes();
    bytes.resize(bytes.len() + size - 1, b'x');
    bytes.push(END);
    bytes
}

async fn accept(listener: UnixListener, answer: Arc<[u8]>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut buf = [0; 4_096];
            let mut got = 0;
            while let Ok(n @ 1..) = stream.read(&mut buf[got..]).await {
                got += n;
                if !is_whole(&buf[..got]) {
                    continue;
                }
                got = 0;
                if stream.write_all(&answer).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// Whether a request is there to its end: bodies end with a byte of their own.
fn is_whole(request: &[u8]) -> bool {
    match request.starts_with(b"POST") {
        true => request.last() == Some(&END),
        false => request.ends_with(b"\r\n\r\n"),
    }
}

/// Opens a client's connection to the stack that `mode` names.
#[derive(Clone)]
pub(crate) struct Door {
    mode: Mode,
    balancer: LoadBalancer,
    first: Backend,
    proxy: Proxy,
    body: Bytes,
}

impl Door {
    pub(crate) fn new(mode: Mode, pool: &Pool, size: usize) -> Result<Self> {
        let mut builder = LoadBalancer::builder(pool.clone())
            .health(HealthLayer::new(pool.clone()).no_checks())?;
        if mode.is_sticky() {
            let sticky = StickyLayer::new(pool.clone(), Keys::new([7; 32]));
            builder = builder.sticky(sticky)?;
        }
        if let Some(sink) = mode.log()? {
            builder = builder.access_log(AccessLogLayer::new(sink).node("lb-1"));
        }
        let first = pool.snapshot().backends().first().cloned();
        let mut body = vec![b'x'; size - 1];
        body.push(END);
        Ok(Self {
            mode,
            balancer: builder.build(),
            first: first.ok_or("no backend")?,
            proxy: Proxy::new(),
            body: body.into(),
        })
    }

    /// Opens a connection, and makes its first requests: the cookie is there from then on.
    pub(crate) async fn open(&self) -> Result<Client> {
        let stream = match self.mode {
            Mode::Answer => {
                let body = self.body.clone();
                serve(service_fn(move |request: Request<server::Body>| {
                    drop(request);
                    let body = http_body_util::Full::new(body.clone());
                    std::future::ready(Ok::<_, evenkeel::BoxError>(Response::new(body)))
                }))?
            }
            Mode::Bare => {
                let (mut proxy, backend) = (self.proxy.clone(), self.first.clone());
                serve(service_fn(move |mut request: Request<server::Body>| {
                    request.extensions_mut().insert(Selected(backend.clone()));
                    let call: proxy::ResponseFuture = proxy.call(request);
                    call
                }))?
            }
            _ => serve(self.balancer.clone())?,
        };
        let mut client = Client {
            stream,
            request: match self.mode {
                Mode::Post => post(&self.body),
                _ => head(None),
            },
            buf: vec![0; 128 * 1024],
            streams: None,
        };
        if self.mode == Mode::H2 {
            client.streams = Some(h2::Streams::open(&mut client.stream).await?);
            return Ok(client);
        }
        let cookie = cookie(client.request().await?);
        if self.mode.is_sticky() {
            client.request = head(Some(&cookie.ok_or("no cookie")?));
        }
        client.request().await?;
        Ok(client)
    }
}

fn serve<S, B>(app: S) -> Result<UnixStream>
where
    S: Service<Request<server::Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<evenkeel::BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<evenkeel::BoxError>,
{
    let (ours, theirs) = UnixStream::pair()?;
    let peer = Peer::Tcp(([192, 0, 2, 9], 1_234).into());
    let local = Peer::Tcp(([192, 0, 2, 1], 443).into());
    let conn = Conn::new(theirs, ConnInfo::new(peer, local));
    // A point of `growth` waits for its turn, on a busy machine for long.
    let mut http = Http::new(app).idle_timeout(Duration::from_secs(3_600))?;
    tokio::spawn(http.call(conn));
    Ok(ours)
}

fn head(cookie: Option<&str>) -> Vec<u8> {
    let cookie = cookie.map_or(String::new(), |c| format!("Cookie: {c}\r\n"));
    format!(
        "GET /path/to/something?query=1 HTTP/1.1\r\nHost: shop.example\r\n\
         User-Agent: bench/1.0\r\n{cookie}\r\n"
    )
    .into_bytes()
}

fn post(body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST /path/to/something?query=1 HTTP/1.1\r\nHost: shop.example\r\n\
         User-Agent: bench/1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// The cookie that a response sets, as it is to be presented.
fn cookie(response: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(response);
    let set = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("set-cookie").then_some(value)
    })?;
    Some(set.split(';').next()?.trim().to_owned())
}

/// A client's connection.
pub(crate) struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    buf: Vec<u8>,
    streams: Option<h2::Streams>,
}

impl Client {
    /// Makes a request and reads the whole response.
    pub(crate) async fn request(&mut self) -> Result<&[u8]> {
        self.stream.write_all(&self.request).await?;
        let mut got = 0;
        while got == 0 || self.buf[got - 1] != END {
            match self.stream.read(&mut self.buf[got..]).await? {
                0 => return Err("closed early".into()),
                n => got += n,
            }
        }
        let response = &self.buf[..got];
        if !response.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(response).into());
        }
        Ok(response)
    }

    /// Makes `count` requests, one after the other in HTTP/1.1.
    pub(crate) async fn requests(&mut self, count: usize) -> Result<()> {
        if let Some(streams) = &mut self.streams {
            return streams.requests(&mut self.stream, count).await;
        }
        for _ in 0..count {
            self.request().await?;
        }
        Ok(())
    }
}

/// The CPU time of this thread, kernel included; where the kernel does not tell, the clock.
pub(crate) fn cpu() -> Duration {
    // The kernel brings the sum up to date here, else at its next tick only: up to 4 ms late.
    std::thread::yield_now();
    static BEGAN: OnceLock<tokio::time::Instant> = OnceLock::new();
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let statistics = statistics.and_then(|text| text.split(' ').next()?.parse().ok());
    statistics.map_or_else(
        || BEGAN.get_or_init(tokio::time::Instant::now).elapsed(),
        Duration::from_nanos,
    )
}

/// What no other byte of a body is.
const END: u8 = b'!';
