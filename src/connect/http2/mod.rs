//! HTTP/2 to a backend: the handshake, the task that drives the connection, and its keep-alive.
//!
//! ```text
//!    Sender ─ turn() ─▶ Turn ─ send() ─▶ Opened { response, body, stream }     the request's task
//!       │ Arc<Mutex<SendRequest>>            │ OpenStream counts for the keep-alive
//!       ▼                                    ▼
//!    Driver: h2 connection, KeepAlive ◀──── Link (atomics)                     a task of its own
//! ```
//!
//! `h2` takes requests above the backend's limit of streams and queues them itself, where no time-out
//! sees what they wait for. Here one request at a time holds the [`Turn`] until its stream is open,
//! and the others wait in the fair queue of the mutex: first come, first served, and a request that
//! is given up leaves the queue by being dropped.
//!
//! Before the backend's SETTINGS come, one stream is allowed: a backend refuses streams above its
//! limit (RFC 9113 §5.1.2), and a burst on a new connection would meet that.
//!
//! Atomics: `closed` and `abandoned` are Release and Acquire, as what they announce is read behind
//! them. The times and the count of streams are `Relaxed`; the keep-alive reads them again before
//! it sends a PING.

mod keep_alive;

use std::{
    fmt,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

use self::keep_alive::KeepAlive;
use crate::error::BoxError;

/// Begins HTTP/2 on a connection. The caller spawns the [`Driver`]; the connection closes once
/// every [`Sender`] is dropped and every stream has ended, or when the driver is dropped.
pub(crate) async fn handshake<T>(io: T) -> Result<(Sender, Driver<T>), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let link = Arc::new(Link {
        began: Instant::now(),
        heard: AtomicU64::new(0),
        busy: AtomicU64::new(0),
        streams: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
        abandoned: AtomicBool::new(false),
    });
    let io = Io {
        inner: io,
        link: link.clone(),
    };
    let (requests, mut connection) = client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(ALL_STREAMS)
        // See the constant: a burst must not meet a limit that has not arrived yet.
        .initial_max_send_streams(BEFORE_SETTINGS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        // A pushed response has no request that could carry it (RFC 9113 §8.4).
        .enable_push(false)
        .handshake(io)
        .await?;
    let keep_alive = connection
        .ping_pong()
        .map(|pings| KeepAlive::new(pings, link.began));
    let requests = Arc::new(Mutex::new(requests));
    let driver = Driver {
        connection,
        keep_alive,
        requests: Arc::downgrade(&requests),
        link: link.clone(),
    };
    Ok((Sender { requests, link }, driver))
}

/// The state that the senders of a connection and its driver share.
struct Link {
    began: Instant,
    /// The time at which the backend last sent data, in milliseconds since `began`.
    heard: AtomicU64,
    /// The time at which the number of open streams last left zero, in milliseconds since `began`.
    busy: AtomicU64,
    /// The number of open streams.
    streams: AtomicUsize,
    /// The connection takes no more requests.
    closed: AtomicBool,
    /// A request was dropped before its stream opened.
    abandoned: AtomicBool,
}

impl Link {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads the clock: called for each read that brought bytes, not for each frame.
    fn hear(&self) {
        self.heard.store(self.now(), Relaxed);
    }

    /// Returns the time since which the backend is silent; time without an open stream does not count.
    fn silent_since(&self) -> Instant {
        let since = self.heard.load(Relaxed).max(self.busy.load(Relaxed));
        self.began + Duration::from_millis(since)
    }
}

/// Opens streams on a connection. A clone belongs to the same connection.
#[derive(Clone)]
pub(crate) struct Sender {
    requests: Arc<Mutex<SendRequest<Bytes>>>,
    link: Arc<Link>,
}

impl Sender {
    /// Returns true if the connection is known to take no more requests. A caller that takes a
    /// [`turn`](Self::turn) next needs no better check.
    pub(crate) fn is_known_closed(&self) -> bool {
        self.link.closed.load(Acquire)
    }

    /// Returns true if the connection takes no more requests.
    ///
    /// Costs a try of the lock; a request that holds it means that the connection is in use.
    pub(crate) fn is_closed(&self) -> bool {
        if self.is_known_closed() {
            return true;
        }
        // A request that holds the lock finds out itself.
        let Ok(mut requests) = self.requests.try_lock() else {
            return false;
        };
        let mut cx = Context::from_waker(Waker::noop());
        let closed = matches!(requests.poll_ready(&mut cx), Poll::Ready(Err(_)));
        self.link.closed.fetch_or(closed, Release);
        closed
    }

    /// Waits until the connection takes a request. If it fails, nothing was sent. Requests take turns in
    /// the order in which they came: above the backend's limit of streams, one waits for a stream and the
    /// others wait for their turn.
    pub(crate) async fn turn(&self) -> Result<Turn, h2::Error> {
        let mut requests = self.requests.clone().lock_owned().await;
        if let Err(error) = poll_fn(|cx| requests.poll_ready(cx)).await {
            self.link.closed.store(true, Release);
            return Err(error);
        }
        Ok(Turn {
            requests,
            link: self.link.clone(),
            opening: false,
        })
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

/// The right to open one stream. Hold it until the stream is open, to keep the order.
///
/// Dropped before [`send`](Self::send), it passes the turn on, and nothing was sent.
pub(crate) struct Turn {
    requests: OwnedMutexGuard<SendRequest<Bytes>>,
    link: Arc<Link>,
    opening: bool,
}

impl Turn {
    /// Queues the head of a request. No byte of it is sent before the driver is polled.
    pub(crate) fn send(
        &mut self,
        request: Request<()>,
        end_of_stream: bool,
    ) -> Result<Opened, h2::Error> {
        // Counted before the driver can see the stream: it measures silence only while streams are open.
        let stream = OpenStream::new(&self.link);
        let (response, body) = self.requests.send_request(request, end_of_stream)?;
        self.opening = true;
        Ok(Opened {
            response,
            body,
            stream,
        })
    }

    /// Waits until the backend's limit leaves room for the stream.
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A connection that ends (GOAWAY) may still open the stream; otherwise the response fails.
        if self.requests.poll_ready(cx).is_pending() {
            return Poll::Pending;
        }
        self.opening = false;
        Poll::Ready(())
    }
}

/// Dropped between `send` and the opening of the stream.
impl Drop for Turn {
    fn drop(&mut self) {
        if self.opening {
            self.link.abandoned.store(true, Release);
        }
    }
}

/// A stream whose head is queued.
pub(crate) struct Opened {
    pub(crate) response: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
    /// Hold it until the response has ended.
    pub(crate) stream: OpenStream,
}

/// Counts a stream for the keep-alive.
pub(crate) struct OpenStream {
    link: Arc<Link>,
}

impl OpenStream {
    /// The count goes up before the stream can be seen, so the keep-alive never misses one.
    fn new(link: &Arc<Link>) -> Self {
        if link.streams.fetch_add(1, Relaxed) == 0 {
            link.busy.store(link.now(), Relaxed);
        }
        Self { link: link.clone() }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.link.streams.fetch_sub(1, Relaxed);
    }
}

/// Reads and writes for all streams of a connection; ends with the connection.
#[must_use = "the connection makes no progress unless its driver is polled"]
pub(crate) struct Driver<T> {
    connection: client::Connection<Io<T>, Bytes>,
    keep_alive: Option<KeepAlive>,
    requests: Weak<Mutex<SendRequest<Bytes>>>,
    link: Arc<Link>,
}

impl<T> Driver<T> {
    /// Releases a stream that opened after its request was dropped: `SendRequest` still holds it as the
    /// one that it waits for.
    ///
    /// Without it, `h2` would keep the next request waiting for a stream that no request reads.
    #[cold]
    fn release_abandoned(&self) {
        let Some(requests) = self.requests.upgrade() else {
            return;
        };
        // A request that holds the lock waits for that stream as well.
        let Ok(mut requests) = requests.try_lock() else {
            return;
        };
        let mut cx = Context::from_waker(Waker::noop());
        if requests.poll_ready(&mut cx).is_pending() {
            self.link.abandoned.store(true, Release);
        }
    }
}

impl<T> Future for Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(keep_alive) = &mut this.keep_alive
            && keep_alive.poll_lost(&this.link, cx).is_ready()
        {
            return Poll::Ready(Err("the backend did not answer a PING within 5 s".into()));
        }
        // After the keep-alive, so that a PING which it sends leaves in the same poll.
        let ended = Pin::new(&mut this.connection).poll(cx);
        if this.link.abandoned.swap(false, Acquire) {
            this.release_abandoned();
        }
        ended.map_err(Into::into)
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.link.closed.store(true, Release);
    }
}

/// Records when the backend sends data.
struct Io<T> {
    inner: T,
    link: Arc<Link>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if buf.filled().len() > filled {
            // Any byte proves that the backend lives.
            this.link.hear();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// How much of a response waits here for a slow client. It limits a stream to this amount in one round
/// trip: 2 Gbit/s at 1 ms, 200 Mbit/s at 10 ms, 20 Mbit/s at 100 ms.
const WINDOW: u32 = 256 * 1024;
/// The largest window. With a smaller one, responses that slow clients do not read would stop all
/// others of the connection. The windows of the streams bound the memory.
const ALL_STREAMS: u32 = (1 << 31) - 1;
/// Streams at once until the SETTINGS of the backend name its limit. A backend refuses streams above its
/// limit; requests that wait are not refused.
const BEFORE_SETTINGS: usize = 1;
/// The limit of HTTP/1.1, 32 KiB, plus the 32 bytes that HTTP/2 counts for each of 100 fields beside
/// name and value (RFC 9113 §6.5.2).
const MAX_HEAD: u32 = 32 * 1024 + 100 * 32;
/// How much of a request body a stream holds until the socket takes it.
const SEND_BUFFER: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::JoinHandle,
    };

    use super::*;

    /// A connection whose other end speaks no HTTP/2 by itself.
    async fn connected() -> (Sender, JoinHandle<Result<(), BoxError>>, DuplexStream) {
        let (ours, theirs) = duplex(1 << 20);
        let (sender, driver) = handshake(ours).await.unwrap();
        (sender, tokio::spawn(driver), theirs)
    }

    async fn ask(sender: &Sender) -> Opened {
        let mut turn = sender.turn().await.unwrap();
        let request = Request::get("http://a/").body(()).unwrap();
        let opened = turn.send(request, true).unwrap();
        poll_fn(|cx| turn.poll_open(cx)).await;
        opened
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_gone_is_noticed_while_streams_are_open() {
        let (sender, driver, _theirs) = connected().await;
        let began = Instant::now();
        let opened = ask(&sender).await;
        let ended = driver.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 15);
        assert!(ended.unwrap_err().to_string().contains("PING"));
        assert!(opened.response.await.unwrap_err().is_io());
        assert!(sender.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_idle_gives_its_first_stream_as_long() {
        let (sender, driver, _theirs) = connected().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        let opened = ask(&sender).await;
        drop(driver.await.unwrap());
        assert_eq!(began.elapsed().as_secs(), 15);
        assert!(opened.response.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_answers_pings_is_waited_for() {
        let (sender, mut driver, theirs) = connected().await;
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let mut held = Vec::new();
            while let Some(request) = connection.accept().await {
                held.push(request);
            }
        });
        let opened = ask(&sender).await;
        let minute = Duration::from_secs(60);
        assert!(tokio::time::timeout(minute, &mut driver).await.is_err());
        // Without a stream and a handle, the connection ends.
        drop((opened, sender));
        driver.await.unwrap().unwrap();
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_left_alone() {
        let (sender, mut driver, mut theirs) = connected().await;
        let minute = Duration::from_secs(60);
        assert!(tokio::time::timeout(minute, &mut driver).await.is_err());
        assert!(!sender.is_closed());
        theirs.shutdown().await.unwrap();
        drop(driver.await.unwrap());
        assert!(sender.is_closed(), "a close is noticed at once");
        let mut said = Vec::new();
        theirs.read_to_end(&mut said).await.unwrap();
        const PING_FRAME: [u8; 4] = [0, 0, 8, 6];
        assert!(!said.windows(4).any(|bytes| bytes == PING_FRAME));
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_before_its_stream_opened_holds_none() {
        let (sender, driver, theirs) = connected().await;
        let (first, second) = (ask(&sender).await, async {
            let mut turn = sender.turn().await.unwrap();
            let request = Request::get("http://a/gone").body(()).unwrap();
            let opened = turn.send(request, true).unwrap();
            // One stream at once until SETTINGS come.
            let mut cx = Context::from_waker(Waker::noop());
            assert!(turn.poll_open(&mut cx).is_pending());
            (turn, opened)
        });
        drop(second.await);
        let mut connection = h2::server::handshake(theirs).await.unwrap();
        let mut resets = 0;
        while let Some(request) = connection.accept().await {
            let (request, mut respond) = request.unwrap();
            if request.uri().path() == "/gone" {
                let served =
                    tokio::spawn(async move { while connection.accept().await.is_some() {} });
                let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                assert_eq!(reason, h2::Reason::CANCEL);
                resets += 1;
                drop((first, sender));
                driver.await.unwrap().unwrap();
                served.await.unwrap();
                break;
            }
            respond
                .send_response(http::Response::new(()), true)
                .unwrap();
        }
        assert_eq!(resets, 1);
    }
}
