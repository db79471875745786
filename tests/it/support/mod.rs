//! What the tests of many rooms share: backends over real sockets.

#[cfg(feature = "full")]
pub(crate) mod pebble;
#[cfg(feature = "__tls")]
pub(crate) mod pki;
#[cfg(all(unix, feature = "redis"))]
pub(crate) mod redis;
#[cfg(feature = "full")]
pub(crate) mod store_contract;

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

/// Says that a test passes without what it is about. `eprintln!` would be captured, as the test passes.
pub(crate) fn not_run(why: &str) {
    use std::io::Write;

    let _ = writeln!(std::io::stderr(), "NOT RUN: {why}");
}

/// A backend in this process; its connections and its listener close when it is dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Answers every request (HTTP/1.1, or HTTP/2 with prior knowledge) with `answer`.
    pub(crate) async fn serve<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve_on(listener, answer)
    }

    /// Answers on this listener.
    pub(crate) fn serve_on<F, R>(listener: TcpListener, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, opened) = (requests.clone(), connections.clone());
        let task = tokio::spawn(async move {
            // Dropped with the task, and every connection with it.
            let mut running = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                opened.fetch_add(1, Ordering::Relaxed);
                let (answer, counted) = (answer.clone(), counted.clone());
                running.spawn(async move {
                    let service = service_fn(move |request| {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let response = answer(request);
                        async move { Ok::<_, Infallible>(response.await) }
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            requests,
            connections,
            task,
        }
    }

    /// Answers 200 with `name` as the body and in `x-backend`.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::serve(move |_| async move {
            Response::builder()
                .header("x-backend", name)
                .body(Full::new(Bytes::from_static(name.as_bytes())))
                .unwrap()
        })
        .await
    }

    /// Returns its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns how many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns how many connections came.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns an address without a listener: a connection is refused.
pub(crate) fn refused() -> SocketAddr {
    // Bound and not listening, until the end: no other test gets the port.
    static BOUND: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    BOUND.lock().unwrap().push(socket);
    address
}

/// A backend that plays a script: whatever comes, each connection answers each request head with
/// the next piece of its bytes, then closes if it says so.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// The heads that came, in their order.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// What a [`Scripted`] backend does after a request head.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sends these bytes and reads on.
    Send(&'static [u8]),
    /// Sends these bytes and closes.
    SendAndClose(&'static [u8]),
    /// Sends nothing more and keeps the connection open.
    Hang,
}

impl Scripted {
    /// Plays `acts`, over all connections in the order of the requests; the last one is repeated.
    pub(crate) async fn play(acts: Vec<Act>) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (opened, seen) = (connections.clone(), heads.clone());
        let turn = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                opened.fetch_add(1, Ordering::Relaxed);
                let (acts, turn, seen) = (acts.clone(), turn.clone(), seen.clone());
                running.spawn(async move {
                    let mut buf = Vec::new();
                    loop {
                        let end = loop {
                            let found = buf.windows(4).position(|w| w == b"\r\n\r\n");
                            if let Some(end) = found {
                                break end + 4;
                            }
                            match stream.read_buf(&mut buf).await {
                                Ok(0) | Err(_) => return,
                                Ok(_) => {}
                            }
                        };
                        let head: Vec<u8> = buf.drain(..end).collect();
                        let head = String::from_utf8(head).unwrap();
                        seen.lock().unwrap().push(head);
                        let at = turn.fetch_add(1, Ordering::Relaxed).min(acts.len() - 1);
                        match acts[at] {
                            Act::Send(bytes) => stream.write_all(bytes).await.unwrap(),
                            Act::SendAndClose(bytes) => {
                                stream.write_all(bytes).await.unwrap();
                                return;
                            }
                            Act::Hang => std::future::pending().await,
                        }
                    }
                });
            }
        });
        Self {
            address,
            connections,
            heads,
            task,
        }
    }

    /// Returns how many connections came.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the head of the last request.
    pub(crate) fn last_head(&self) -> String {
        self.heads.lock().unwrap().last().cloned().unwrap()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// Takes what was written so far.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl std::io::Write for Written {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a table of the docs shows in backquotes, as bytes.
pub(crate) fn bytes_of(shown: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = shown.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend(c.to_string().bytes());
            continue;
        }
        match chars.next().unwrap() {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            '0' => bytes.push(0),
            'x' => {
                let hex: String = chars.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            other => panic!("an escape that is not known: {other}"),
        }
    }
    bytes
}
