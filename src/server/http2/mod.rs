//! HTTP/2 on a connection: the driver of its codec, streams, writes, deadlines and graceful shutdown.
//!
//! ```text
//!             ┌────────────────────────── serve: one loop ──────────────────────────┐
//!  socket ──▶ │ h2 codec ──▶ request_head ──▶ stream ──▶ service                    │
//!         ◀── │ write_coalescer ◀── h2 codec ◀── fields ◀─┘                          │
//!             │ after each round: reset_limit, idle_policy, shutdown                │
//!             └─────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # The loop
//!
//! The `h2` crate is a state machine without a task: it reads, writes and answers PING and SETTINGS
//! while it is polled. The task of the connection polls it and, on a `current_thread` runtime, the
//! streams too:
//!
//! 1. `ReadyQueue::begin` takes the waker of the task, and says whether a stream or the codec woke
//!    it. If neither did, the socket did, and the codec has to look.
//! 2. Up to `MAX_ROUNDS` times: the streams that were woken, then the codec if it was. A stream
//!    that sends wakes the codec, so that its frames are in the same write.
//! 3. `WriteCoalescer::flush` writes all frames of these rounds with one system call.
//! 4. `ResetLimit`, `IdlePolicy` and `ShutdownWatcher` decide whether the connection goes on.
//!
//! On a `multi_thread` runtime with several workers each stream is a task, which wakes the codec
//! through `h2`; steps 1, 3 and 4 are the same.
//!
//! | end of the connection | how |
//! |---|---|
//! | the client closes, or the codec fails | `poll` is ready; open streams see an error of their reads and writes |
//! | idle for too long, or a shutdown | GOAWAY; the streams end; then the codec is ready |
//! | no answer to GOAWAY within 5 s, a blocked socket, no first request in time | the socket is dropped |
//! | too many resets | GOAWAY with ENHANCE_YOUR_CALM; all streams are dropped |
//!
//! # Why the codec and not hyper's server
//!
//! hyper spawns a task for each stream, and writes each frame apart. Over the codec itself a
//! request takes 35,100 instead of 39,400 instructions. What is lost: `hyper::upgrade::on` cannot
//! be made from outside, so a CONNECT is two bodies (`a_tunnel_is_two_bodies`).

mod fields;
mod idle_policy;
mod interim;
mod request_body;
mod request_head;
mod reset_limit;
mod stream;
mod streams;
mod write_coalescer;

use std::{
    borrow::Cow,
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::{Handle, RuntimeFlavor},
    task::coop,
};
use tower_service::Service;

pub(super) use self::request_body::RequestBody;
#[cfg(test)]
pub(super) use self::reset_limit::{RESET_BURST, RESETS_PER_SECOND};
use self::{
    idle_policy::{IdleAction, IdlePolicy},
    reset_limit::ResetLimit,
    stream::Stream,
    streams::{ReadyQueue, Streams},
    write_coalescer::WriteCoalescer,
};
use super::{
    Body,
    app::AppService,
    http::{MAX_STREAMS, WINDOW},
    shutdown::{ShutdownWatcher, shutdown_begun},
    state::State,
};
use crate::{
    context::{ConnInfo, ConnectionEventKind, ShutdownSignal},
    error::BoxError,
    log_limit::LogLimit,
    wire::fields::MAX_HEAD,
};

/// Serves the connection to its end: polls the driver, writes its frames at once, and closes the
/// connection of a client that idles, blocks or misbehaves.
pub(super) async fn serve<Io, S, B>(
    io: Io,
    ahead: Bytes,
    service: AppService<S>,
    signal: Option<&ShutdownSignal>,
) -> Result<(), h2::Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let state = service.state.clone();
    let io = WriteCoalescer::new(io, ahead);
    let writes = io.handle();
    let mut begun = pin!(shutdown_begun(signal.cloned()));
    let mut shutdown = ShutdownWatcher::new(signal, begun.as_mut());
    let mut idle_policy = IdlePolicy::new(&state);
    let mut reset_limit = ResetLimit::new();
    let mut enhanced_calm = false;
    let mut driver = Driver::new(io, service);
    poll_fn(|cx| {
        shutdown.poll_shutdown(cx, &state);
        loop {
            let polled = driver.poll(cx);
            let socket = writes.flush(cx);
            // A socket keeps one waker of a writer. The flush has replaced the codec's, so the codec is
            // polled again with the next wake.
            // `what_the_socket_has_no_room_for_goes_out_beside_a_stream_that_never_rests` holds
            // this.
            driver.codec_ready |= socket.blocked;
            if let Poll::Ready(ended) = &polled {
                if let Err(error) = ended
                    && error.is_library()
                    && !enhanced_calm
                {
                    driver.report_error(error);
                }
                return polled;
            }
            if socket.broken {
                return Poll::Ready(Ok(()));
            }
            // After the flush, so that GOAWAY follows the responses that are complete.
            let begun = driver.service.streams_begun.get();
            let reset = state.resets();
            let answered = || state.streams_answered(begun, reset);
            if !enhanced_calm && !reset_limit.allow(|| state.now(), answered, reset) {
                enhanced_calm = true;
                warn(&driver.service.reporter.info, &state);
                driver.report("the client resets too many streams");
                driver.enhance_calm();
                continue;
            }
            let action = idle_policy.check(cx, socket, begun, &state);
            if action == IdleAction::Close {
                return Poll::Ready(Ok(()));
            }
            if idle_policy.goodbye_sent
                || !(action == IdleAction::GoAway || shutdown.may_end(&state))
            {
                return Poll::Pending;
            }
            idle_policy.start_goodbye(&state);
            driver.end();
        }
    })
    .await
}

/// A connection and its streams.
///
/// Dropping it drops the codec and the streams, which cancels their requests. On a `multi_thread`
/// runtime the spawned streams see the end of the codec instead.
struct Driver<Io, S, B>
where
    S: Service<Request<Body>>,
{
    codec: Codec<Io>,
    service: AppService<S>,
    /// `None` if each stream is a task of its own.
    streams: Option<Streams<Stream<S, S::Future, B>>>,
    ready_queue: Arc<ReadyQueue>,
    /// The waker of the codec.
    waker: Waker,
    /// The codec has to be polled.
    codec_ready: bool,
    /// The slots of the streams that have to be polled.
    queue: VecDeque<usize>,
    shutting_down: bool,
}

/// The preface and SETTINGS of the client come first; no request can arrive in `Greeting`.
enum Codec<Io> {
    Greeting(h2::server::Handshake<WriteCoalescer<Io>, Bytes>),
    Serving(h2::server::Connection<WriteCoalescer<Io>, Bytes>),
}

impl<Io, S, B> Driver<Io, S, B>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Configures the codec, and chooses where streams run.
    ///
    /// The limits of the codec are fixed, but for the size of a head; see the constants of `http`.
    fn new(io: WriteCoalescer<Io>, service: AppService<S>) -> Self {
        let greeting = h2::server::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
            .handshake(io);
        // On one thread, tasks of their own would not run in parallel either.
        let spawns = Handle::try_current().is_ok_and(|runtime| {
            runtime.runtime_flavor() != RuntimeFlavor::CurrentThread
                && runtime.metrics().num_workers() > 1
        });
        let ready_queue = Arc::new(ReadyQueue::default());
        Self {
            codec: Codec::Greeting(greeting),
            service,
            streams: (!spawns).then(|| Streams::new(ready_queue.clone())),
            waker: ready_queue.codec(),
            ready_queue,
            codec_ready: true,
            queue: VecDeque::new(),
            shutting_down: false,
        }
    }

    /// Sends GOAWAY; the connection closes once its streams have ended.
    ///
    /// The first GOAWAY names the largest stream number, so that requests on their way are still
    /// taken; the codec sends the final one behind a PING (RFC 9113 §6.8).
    /// `a_graceful_end_answers_what_came_before_the_last_goodbye_and_nothing_after` holds the
    /// order.
    fn end(&mut self) {
        self.shutting_down = true;
        self.codec_ready = true;
        if let Codec::Serving(conn) = &mut self.codec {
            conn.graceful_shutdown();
        }
    }

    /// Closes the connection and its streams with ENHANCE_YOUR_CALM (RFC 9113 §10.5).
    #[cold]
    fn enhance_calm(&mut self) {
        self.codec_ready = true;
        if let Codec::Serving(conn) = &mut self.codec {
            conn.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
    }

    /// Reports the end of a connection whose client broke the protocol, or one of the limits that the codec
    /// has of its own (malformed frames, resets that are not read).
    #[cold]
    fn report_error(&self, error: &h2::Error) {
        if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
            warn(&self.service.reporter.info, &self.service.state);
        }
        self.report(error.to_string());
    }

    /// Reports that the server closes the connection because of its client.
    #[cold]
    fn report(&self, detail: impl Into<Cow<'static, str>>) {
        let reporter = &self.service.reporter;
        reporter.report(ConnectionEventKind::ProtocolError, detail);
    }

    /// Polls the codec and the streams that were woken, so that what a stream sends is written in the same
    /// round.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        // A poll without a wake of the queue came from the socket, whose wake may be for the codec.
        self.codec_ready |= !self.ready_queue.begin(cx.waker());
        for _ in 0..MAX_ROUNDS {
            if !self
                .ready_queue
                .next(&mut self.queue, &mut self.codec_ready)
            {
                return Poll::Pending;
            }
            if let Some(streams) = &mut self.streams {
                while let Some(slot) = self.queue.pop_front() {
                    streams.poll(slot);
                    // A stream whose body is always ready leaves the rest of the queue to the next
                    // poll.
                    if !coop::has_budget_remaining() {
                        break;
                    }
                }
            }
            if self.codec_ready || self.ready_queue.take_codec() {
                self.codec_ready = false;
                if let Poll::Ready(result) = self.poll_codec() {
                    return Poll::Ready(result);
                }
            }
            if !coop::has_budget_remaining() {
                break;
            }
        }
        // Yields to the other tasks of this thread.
        self.ready_queue.wake_later(cx.waker());
        Poll::Pending
    }

    /// Ready when the connection has ended. Its waker is that of the [`ReadyQueue`] and not the
    /// task's, so that the task knows what woke it.
    fn poll_codec(&mut self) -> Poll<Result<(), h2::Error>> {
        let cx = &mut Context::from_waker(&self.waker);
        if let Codec::Greeting(greeting) = &mut self.codec {
            let mut conn = ready!(Pin::new(greeting).poll(cx))?;
            // The shutdown came during the greeting, when there was no connection to say GOAWAY on.
            if self.shutting_down {
                conn.graceful_shutdown();
            }
            self.codec = Codec::Serving(conn);
        }
        let Codec::Serving(conn) = &mut self.codec else {
            return Poll::Pending;
        };
        while let Some(accepted) = ready!(conn.poll_accept(cx)) {
            let (request, reply) = accepted?;
            let Some(stream) = Stream::new(&self.service, request, reply) else {
                continue;
            };
            match &mut self.streams {
                Some(streams) => streams.begin(stream),
                // Boxed: a spawn moves its future six times, into memory of a size and an alignment
                // that the allocator has to search for. A box moves as a pointer.
                None => drop(tokio::spawn(Box::pin(stream))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Logs that a connection is closed for abuse.
#[cold]
fn warn(info: &ConnInfo, state: &State) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Some(left_out) = LIMIT.pass() {
        tracing::warn!(
            target: "evenkeel::server",
            client = ?info.client(), peer = ?info.peer(),
            resets = state.resets(), left_out,
            "an HTTP/2 connection was closed: its client resets too many streams, or costs too much"
        );
    }
}

/// Codec and streams wake each other. So many rounds are run before the task yields.
const MAX_ROUNDS: usize = 16;
/// How many streams a client can make the codec reset by malformed frames: far more than mistakes cause,
/// and a limit on abuse.
const MAX_LOCAL_RESETS: usize = 1_024;
