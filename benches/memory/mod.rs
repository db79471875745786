//! What a connection holds in each of its states: bytes of heap of the thread that serves, the
//! connection to a backend included. Clients and backends live on other threads.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net as unix,
    path::Path,
    thread,
    time::Duration,
};

use evenkeel::{
    Backend, LoadBalancer, Pool,
    context::{Conn, ConnInfo, Peer},
    health::HealthLayer,
    server::Http,
};
use tokio::{net::UnixStream, runtime::Builder};
use tower::Service;

use crate::loopback::Result;

/// What clients do, and how much a connection may hold then.
const STATES: [(
    &str,
    usize,
    fn(&mut unix::UnixStream) -> std::io::Result<()>,
); 7] = [
    ("idle", 4, |client| ask(client, GET, b"ok")),
    ("idle after ten requests", 4, |client| {
        (0..10).try_for_each(|_| ask(client, GET, b"ok"))
    }),
    ("idle after a body", 4, |client| {
        client.write_all(POST)?;
        client.write_all(&[b'x'; UPLOAD])?;
        until(client, b"ok")
    }),
    ("idle after requests ahead", 4, |client| {
        client.write_all(&GET.repeat(AHEAD))?;
        (0..AHEAD).try_for_each(|_| until(client, b"ok"))
    }),
    ("slow reader", 40, |client| client.write_all(LARGE)),
    ("idle tunnel", 16, |client| {
        ask(client, UPGRADE, b"\r\n\r\n")
    }),
    ("tunnel after traffic", 16, |client| {
        ask(client, UPGRADE, b"\r\n\r\n")?;
        client.write_all(&[b'y'; UPLOAD])?;
        client.read_exact(&mut [0; UPLOAD])
    }),
];

/// Measures each state; returns false if one holds more than it may.
pub(crate) fn measure(connections: usize, say: impl Fn(&str)) -> Result<bool> {
    let mut fine = true;
    for (state, most, client) in STATES {
        let held = held(connections, client)?;
        let over = if held > most as f64 { "  TOO MUCH" } else { "" };
        fine &= over.is_empty();
        say(&format!(
            "memory        {state:26}{held:7.2} KiB, {most} at most{over}"
        ));
    }
    Ok(fine)
}

/// KiB a connection.
fn held(
    connections: usize,
    client: fn(&mut unix::UnixStream) -> std::io::Result<()>,
) -> Result<f64> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let pool = backend(folder.path())?;
    let balancer = LoadBalancer::builder(pool.clone())
        .health(HealthLayer::new(pool).no_checks())
        .build();
    // What the thread keeps for all connections is there already.
    let (first, _) = runtime.block_on(open(&balancer, 8, client))?;
    let mut result = Ok((Vec::new(), Vec::new()));
    let counted = allocation_counter::measure(|| {
        result = runtime.block_on(open(&balancer, connections, client));
    });
    let (open, tasks) = result?;
    let held = counted.bytes_current as f64 / connections as f64 / 1_024.0;
    for client in first.iter().chain(&open) {
        client.shutdown(Shutdown::Both)?;
    }
    drop(tasks);
    Ok(held)
}

type Opened = (Vec<unix::UnixStream>, Vec<tokio::task::JoinHandle<()>>);

/// Brings this many connections into a state.
async fn open(
    balancer: &LoadBalancer,
    connections: usize,
    client: fn(&mut unix::UnixStream) -> std::io::Result<()>,
) -> Result<Opened> {
    let mut opened = (
        Vec::with_capacity(connections),
        Vec::with_capacity(connections),
    );
    for _ in 0..connections {
        let (mut ours, theirs) = unix::UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let conn = Conn::new(
            UnixStream::from_std(theirs)?,
            ConnInfo::new(Peer::Unix, Peer::Unix),
        );
        let served = Http::new(balancer.clone()).call(conn);
        opened
            .1
            .push(tokio::spawn(async move { drop(served.await) }));
        let done = tokio::task::spawn_blocking(move || client(&mut ours).map(|()| ours));
        opened.0.push(done.await??);
    }
    // What still moves comes to rest.
    tokio::time::sleep(REST).await;
    Ok(opened)
}

fn ask(client: &mut unix::UnixStream, request: &[u8], ends: &[u8]) -> std::io::Result<()> {
    client.write_all(request)?;
    until(client, ends)
}

fn until(client: &mut unix::UnixStream, ends: &[u8]) -> std::io::Result<()> {
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

fn answer(mut stream: unix::UnixStream) -> std::io::Result<()> {
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
