//! HTTP/2 on a connection: its codec, its streams, its writes, its deadlines and its graceful end.

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
    context::{ConnInfo, Drain},
    error::BoxError,
    log_limit::LogLimit,
    wire::fields::MAX_HEAD,
};

/// Serves the connection to its end, gathers what is written, and ends it where the client does
/// not help.
pub(super) async fn serve<Io, S, B>(
    io: Io,
    ahead: Bytes,
    service: AppService<S>,
    drain: Option<&Drain>,
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
    let mut begun = pin!(shutdown_begun(drain.cloned()));
    let mut shutdown = ShutdownWatcher::new(drain, begun.as_mut());
    let mut idle_policy = IdlePolicy::new(&state);
    let mut reset_limit = ResetLimit::new();
    let mut enhanced_calm = false;
    let mut driver = Driver::new(io, service);
    poll_fn(|cx| {
        shutdown.poll_shutdown(cx, &state);
        loop {
            let polled = driver.poll(cx);
            let socket = writes.flush(cx);
            // The socket has one place for a writer's waker, and the codec's was there before.
            driver.codec_ready |= socket.blocked;
            if let Poll::Ready(ended) = &polled {
                let by_codec = ended.as_ref().is_err_and(|error| {
                    error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
                });
                if by_codec && !enhanced_calm {
                    warn(&driver.service.reporter.info, &state);
                }
                return polled;
            }
            if socket.broken {
                return Poll::Ready(Ok(()));
            }
            let begun = driver.service.streams_begun.get();
            if !enhanced_calm && !reset_limit.allow(|| state.now(), begun, state.resets()) {
                enhanced_calm = true;
                warn(&driver.service.reporter.info, &state);
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
struct Driver<Io, S, B>
where
    S: Service<Request<Body>>,
{
    codec: Codec<Io>,
    service: AppService<S>,
    /// `None` where each is a task of its own.
    streams: Option<Streams<Stream<S, S::Future, B>>>,
    ready_queue: Arc<ReadyQueue>,
    /// The codec's.
    waker: Waker,
    /// The codec is to be polled.
    codec_ready: bool,
    /// And these streams.
    queue: VecDeque<usize>,
    shutting_down: bool,
}

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
    /// Here HTTP/2's codec is configured.
    fn new(io: WriteCoalescer<Io>, service: AppService<S>) -> Self {
        let greeting = h2::server::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
            .handshake(io);
        // On one thread, tasks would run one after the other all the same.
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

    /// Tells the client to go once its streams have ended.
    fn end(&mut self) {
        self.shutting_down = true;
        self.codec_ready = true;
        if let Codec::Serving(conn) = &mut self.codec {
            conn.graceful_shutdown();
        }
    }

    /// Ends the connection, and with it its streams, for what the client does (RFC 9113 §10.5).
    #[cold]
    fn enhance_calm(&mut self) {
        self.codec_ready = true;
        if let Codec::Serving(conn) = &mut self.codec {
            conn.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
    }

    /// Polls whoever was woken. What a stream sends goes out in the same round.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        // Where no wake of ours was the reason, the codec may have lost one to whoever flushes.
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
        // Others on this thread have their turn first.
        self.ready_queue.wake_later(cx.waker());
        Poll::Pending
    }

    fn poll_codec(&mut self) -> Poll<Result<(), h2::Error>> {
        let cx = &mut Context::from_waker(&self.waker);
        if let Codec::Greeting(greeting) = &mut self.codec {
            let mut conn = ready!(Pin::new(greeting).poll(cx))?;
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
                // A spawn moves its future six times over, into memory of a size and an alignment
                // that the allocator has to search for; a box, it moves as a pointer.
                None => drop(tokio::spawn(Box::pin(stream))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Says that a connection is closed for what the client does.
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

/// A wake of one's own is answered at once, this often: codec and streams wake each other.
const MAX_ROUNDS: usize = 16;
/// Streams that a client may make the codec reset by what it sends: far above what mistakes come
/// to, and a bound on what malice does.
const MAX_LOCAL_RESETS: usize = 1_024;
