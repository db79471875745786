//! What a connection holds in each of its states: bytes of heap of the thread that serves, the
//! connection to a backend included. Clients and backends live on other threads.

use std::{
    io::{self, Read, Write},
    os::unix::net as unix,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use evenkeel::{
    Backend, LoadBalancer, Pool,
    context::{Conn, ConnInfo, Peer},
    health::HealthLayer,
    server::Http,
    tls::{Certificate, Certificates, TlsConfig, TlsLayer},
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};
use tokio::{net::UnixStream, runtime::Builder};
use tower::{Layer, Service};

use crate::loopback::Result;

/// What clients do, and how much a connection may hold then.
const STATES: [(&str, usize, Over, Client); 8] = [
    ("idle", 4, Over::Clear, |client| ask(client, GET, b"ok")),
    ("idle after ten requests", 4, Over::Clear, |client| {
        (0..10).try_for_each(|_| ask(client, GET, b"ok"))
    }),
    ("idle after a body", 4, Over::Clear, |client| {
        client.write_all(POST)?;
        client.write_all(&[b'x'; UPLOAD])?;
        until(client, b"ok")
    }),
    ("idle after requests ahead", 4, Over::Clear, |client| {
        client.write_all(&GET.repeat(AHEAD))?;
        (0..AHEAD).try_for_each(|_| until(client, b"ok"))
    }),
    ("slow reader", 40, Over::Clear, |client| {
        client.write_all(LARGE)
    }),
    ("slow reader, TLS", 64, Over::Tls, |client| {
        client.write_all(LARGE)
    }),
    ("idle tunnel", 16, Over::Clear, |client| {
        ask(client, UPGRADE, b"\r\n\r\n")
    }),
    ("tunnel after traffic", 16, Over::Clear, |client| {
        ask(client, UPGRADE, b"\r\n\r\n")?;
        client.write_all(&[b'y'; UPLOAD])?;
        client.read_exact(&mut [0; UPLOAD])
    }),
];

/// Measures each state; returns false if one holds more than it may.
pub(crate) fn measure(connections: usize, say: impl Fn(&str)) -> Result<bool> {
    let mut fine = true;
    for (state, most, over, client) in STATES {
        let (held, kept) = held(connections, over, client)?;
        let is_over = held > most as f64 || kept > KEPT;
        let verdict = if is_over { "  TOO MUCH" } else { "" };
        fine &= verdict.is_empty();
        say(&format!(
            "memory        {state:26}{held:7.2} KiB, {most} at most; {kept:5.2} stay after its end{verdict}"
        ));
    }
    Ok(fine)
}

/// What lies between a connection and HTTP.
#[derive(Clone, Copy)]
enum Over {
    Clear,
    Tls,
}

impl Over {
    fn client(self, io: unix::UnixStream, tls: Arc<ClientConfig>) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Clear => Box::new(io),
            Self::Tls => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let session = ClientConnection::new(tls, name).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(session, io))
            }
        })
    }
}

type Client = fn(&mut dyn Stream) -> io::Result<()>;

/// A client's end of a connection.
trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// KiB that a connection gives back at its end, and that stay with the thread.
fn held(connections: usize, over: Over, client: Client) -> Result<(f64, f64)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let pool = backend(folder.path())?;
    let bench = Bench {
        over,
        client,
        balancer: LoadBalancer::builder(pool.clone())
            .health(HealthLayer::new(pool).no_checks())?
            .build(),
        own: Own::new()?,
    };
    // What the thread keeps for all connections is there already.
    let first = runtime.block_on(bench.open(WARM))?;
    let mut open = 0;
    let mut result = Ok(());
    let closed = allocation_counter::measure(|| {
        let mut opened = Ok(Opened::default());
        let counted = allocation_counter::measure(|| {
            opened = runtime.block_on(bench.open(connections));
        });
        open = counted.bytes_current;
        result = opened.and_then(|opened| runtime.block_on(opened.close()));
    });
    result?;
    runtime.block_on(first.close())?;
    let kib = |bytes: i64| bytes as f64 / connections as f64 / 1_024.0;
    // What stays after its end is the thread's, not the connection's.
    Ok((kib(open - closed.bytes_current), kib(closed.bytes_current)))
}

#[derive(Default)]
struct Opened {
    clients: Vec<Box<dyn Stream>>,
    served: Vec<tokio::task::JoinHandle<()>>,
}

impl Opened {
    async fn close(self) -> Result<()> {
        // They were made on another thread, which is to count their end.
        tokio::task::spawn_blocking(move || drop(self.clients)).await?;
        for served in self.served {
            served.await?;
        }
        Ok(())
    }
}

struct Bench {
    over: Over,
    client: Client,
    balancer: LoadBalancer,
    own: Own,
}

impl Bench {
    /// Brings this many connections into the state.
    async fn open(&self, connections: usize) -> Result<Opened> {
        let mut opened = Opened {
            clients: Vec::with_capacity(connections),
            served: Vec::with_capacity(connections),
        };
        for _ in 0..connections {
            let (ours, theirs) = unix::UnixStream::pair()?;
            theirs.set_nonblocking(true)?;
            let conn = Conn::new(
                UnixStream::from_std(theirs)?,
                ConnInfo::new(Peer::Unix, Peer::Unix),
            );
            let http = Http::new(self.balancer.clone());
            let served = match self.over {
                Over::Clear => ends({ http }.call(conn)),
                Over::Tls => ends(self.own.layer.layer(http).call(conn)),
            };
            opened.served.push(served);
            let (over, act, config) = (self.over, self.client, self.own.client.clone());
            let done = tokio::task::spawn_blocking(move || {
                let mut client = over.client(ours, config)?;
                act(&mut *client).map(|()| client)
            });
            opened.clients.push(done.await??);
        }
        // What still moves comes to rest.
        tokio::time::sleep(REST).await;
        Ok(opened)
    }
}

fn ends(served: impl Future<Output: Send> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { drop(served.await) })
}

/// A certificate of our own, and a client that trusts it.
struct Own {
    layer: TlsLayer,
    client: Arc<ClientConfig>,
}

impl Own {
    fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let certificate = Certificate::pem(made.cert.pem(), made.signing_key.serialize_pem());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let client = ClientConfig::builder_with_provider(
            rustls::crypto::aws_lc_rs::default_provider().into(),
        )
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
        Ok(Self {
            layer: TlsLayer::new(TlsConfig::new(Certificates::new([certificate])?)),
            client: Arc::new(client),
        })
    }
}

fn ask(client: &mut dyn Stream, request: &[u8], ends: &[u8]) -> io::Result<()> {
    client.write_all(request)?;
    until(client, ends)
}

fn until(client: &mut dyn Stream, ends: &[u8]) -> io::Result<()> {
    let mut got = Vec::new();
    while !got.ends_with(ends) {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        got.push(byte[0]);
    }
    Ok(())
}

/// A backend on threads of its own: it answers by path, and carries a tunnel.
fn backend(folder: &Path) -> Result<Pool> {
    let path = folder.join("backend");
    let listener = unix::UnixListener::bind(&path)?;
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(Pool::new([
        Backend::new("a", "http://backend.test")?.unix_socket(path)
    ])?)
}

fn answer(mut stream: unix::UnixStream) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if head.starts_with(b"POST") {
            stream.read_exact(&mut [0; UPLOAD])?;
        }
        if head.starts_with(b"GET /large") {
            stream.write_all(
                format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes(),
            )?;
            stream.write_all(&vec![b'x'; SIZE])?;
        } else if head.starts_with(b"GET /tunnel") {
            stream.write_all(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")?;
            let mut buf = [0; 4_096];
            loop {
                let n = stream.read(&mut buf)?;
                stream.write_all(&buf[..n])?;
                if n == 0 {
                    return Ok(());
                }
            }
        } else {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        }
    }
}

/// Connections before those that are measured.
const WARM: usize = 8;
/// KiB that may stay a connection: what the thread has at hand for the next one.
const KEPT: f64 = 2.0;
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const LARGE: &[u8] = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40000\r\n\r\n";
const UPGRADE: &[u8] =
    b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
const UPLOAD: usize = 40_000;
const AHEAD: usize = 100;
/// Far more than sockets hold.
const SIZE: usize = 16 * 1024 * 1024;
const REST: Duration = Duration::from_millis(300);
