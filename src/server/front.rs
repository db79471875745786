//! HTTP/1.1 as nearly every request is: without a body, and spelled as RFC 9112 has it.
//!
//! The codec is a general one: it keeps two buffers a connection, and hands each message through
//! its own queues. Here a request goes from the thread's read buffer to the service, and its
//! answer through the thread's write buffer to the socket; an idle connection holds neither.
//! Whatever is not of this kind (a body, `Expect`, an upgrade, HTTP/1.0, anything that is not
//! quite right) is put back, and the codec has the connection from there on: it alone decides
//! about what is odd.

mod answer;
mod head;
mod pump;

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

use self::{
    head::{Found, find},
    pump::Pump,
};
use super::{
    Body,
    app::{AppService, conclude},
    draining::{Draining, begun},
    http::HEAD_SIZE,
    state::State,
    stream::Stream,
};
use crate::{context::Drain, error::BoxError};

/// How the connection ended here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As a whole.
    Closed,
    /// What is left of it is for the codec.
    Odd,
}

/// Serves requests until one is for the codec, or the connection is over.
pub(super) async fn serve<Io, S, B>(
    io: &mut Stream<Io>,
    service: &mut AppService<S>,
    drain: Option<&Drain>,
    state: &State,
) -> Result<End, BoxError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut begun = pin!(begun(drain.cloned()));
    let mut draining = Draining::new(drain, begun.as_mut());
    let mut ahead = Ahead::default();
    loop {
        let next = poll_fn(|cx| ahead.poll_next(cx, io, &mut draining, state)).await?;
        let keep = match next {
            Next::Request { keep } => keep,
            Next::End => {
                poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await?;
                return Ok(End::Closed);
            }
            Next::Odd => {
                io.put_back(ahead.read.freeze());
                return Ok(End::Odd);
            }
        };
        let Some(request) = &mut ahead.request else {
            continue;
        };
        let is_head = request.method() == Method::HEAD;
        // Until the body is gone.
        let mut exchanging = service.begin(request);
        let app = service.app.get_mut();
        poll_fn(|cx| match app.poll_ready(cx) {
            Poll::Ready(ready) => Poll::Ready(ready.map_err(Into::into)),
            Poll::Pending => ahead.poll_hang_up(cx, io).map(|gone| Err(gone.into())),
        })
        .await?;
        // Out of its place only now: what lives across a wait is moved once more.
        let Some(request) = ahead.request.take() else {
            continue;
        };
        let mut response = {
            let mut answer = pin!(app.call(request));
            poll_fn(|cx| {
                draining.notice(cx, state);
                match answer.as_mut().poll(cx) {
                    Poll::Ready(response) => Poll::Ready(response.map_err(Into::into)),
                    Poll::Pending => ahead.poll_hang_up(cx, io).map(|gone| Err(gone.into())),
                }
            })
            .await?
        };
        conclude(&mut response, &mut exchanging, false);
        let (parts, body) = response.into_parts();
        let mut body = pin!(body);
        let mut pump = Pump::begin(parts, body.as_ref().get_ref(), is_head, keep)?;
        poll_fn(|cx| match pump.poll(cx, io, body.as_mut()) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => ahead.poll_hang_up(cx, io).map(|gone| Err(gone.into())),
        })
        .await?;
        if !pump.keep() {
            poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await?;
            return Ok(End::Closed);
        }
    }
}

enum Next {
    End,
    Odd,
    /// It lies in its place.
    Request {
        keep: bool,
    },
}

/// What was read and not used: nothing, nearly always.
#[derive(Default)]
struct Ahead {
    read: BytesMut,
    /// How many bytes there have to be until it is worth to look for a head in them: one that
    /// comes byte by byte is not to be read as often.
    worth: usize,
    /// The one that was found last.
    request: Option<Request<Body>>,
}

impl Ahead {
    fn poll_next<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
        draining: &mut Draining<'_>,
        state: &State,
    ) -> Poll<io::Result<Next>> {
        draining.notice(cx, state);
        // What a client sent ahead is answered, whatever is due.
        if !self.read.is_empty() && self.worth == 0 {
            if let Some(next) = self.look_at_kept() {
                return Poll::Ready(Ok(next));
            }
        }
        loop {
            let (read, next) = read(cx, io, |read, mut came| match read {
                Poll::Ready(Ok(())) if !came.is_empty() => self.look(&mut came),
                // In the middle of a head, the codec says what that is.
                Poll::Ready(Ok(())) if self.read.is_empty() => Some(Next::End),
                Poll::Ready(Ok(())) => Some(Next::Odd),
                Poll::Ready(Err(_)) | Poll::Pending => None,
            });
            if let Poll::Ready(Err(error)) = read {
                return Poll::Ready(Err(error));
            }
            if let Some(next) = next {
                return Poll::Ready(Ok(next));
            }
            if read.is_pending() {
                if draining.ends(state) {
                    return Poll::Ready(Ok(Next::End));
                }
                return Poll::Pending;
            }
        }
    }

    /// Looks for a request in what was read, behind what was read before.
    fn look(&mut self, read: &mut &[u8]) -> Option<Next> {
        if !self.read.is_empty() {
            return self.look_behind(read);
        }
        let next = self.take(read);
        if !read.is_empty() {
            self.read.extend_from_slice(read);
        }
        next
    }

    #[cold]
    fn look_behind(&mut self, read: &[u8]) -> Option<Next> {
        // The end may be in both parts.
        let seen = self.read.len().saturating_sub(3);
        self.read.extend_from_slice(read);
        let ends = self.read[seen..].windows(4).any(|four| four == b"\r\n\r\n");
        if !ends && self.read.len() < self.worth {
            return None;
        }
        self.look_at_kept()
    }

    #[cold]
    fn look_at_kept(&mut self) -> Option<Next> {
        let mut bytes = std::mem::take(&mut self.read);
        let next = self.take(&mut bytes);
        self.read = bytes;
        next
    }

    /// Takes a request off the bytes, if a whole one is there.
    fn take(&mut self, bytes: &mut impl Buf) -> Option<Next> {
        self.worth = 0;
        match find(bytes.chunk(), &mut self.request) {
            Found::Partial => {
                self.worth = (2 * bytes.remaining()).min(HEAD_SIZE);
                None
            }
            Found::Odd => Some(Next::Odd),
            Found::Request { keep, length } => {
                bytes.advance(length);
                Some(Next::Request { keep })
            }
        }
    }

    /// Is ready when the client has gone, and with it who the answer is for. What it sends ahead
    /// is kept, to a bound.
    fn poll_hang_up<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<io::Error> {
        while self.read.len() < READ_SIZE {
            let (read, came) = read(cx, io, |_, came| {
                self.read.extend_from_slice(came);
                came.len()
            });
            if let Err(error) = ready!(read) {
                return Poll::Ready(error);
            }
            if came == 0 {
                return Poll::Ready(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Poll::Pending
    }
}

/// Reads into the thread's buffer, and has a look at what came.
fn read<Io: AsyncRead + AsyncWrite + Unpin, T>(
    cx: &mut Context<'_>,
    io: &mut Stream<Io>,
    look: impl FnOnce(&Poll<io::Result<()>>, &[u8]) -> T,
) -> (Poll<io::Result<()>>, T) {
    let mut scratch = READ.take().unwrap_or_else(|| vec![0; READ_SIZE].into());
    let mut buf = ReadBuf::new(&mut scratch);
    let read = Pin::new(io).poll_read(cx, &mut buf);
    let looked = look(&read, buf.filled());
    READ.set(Some(scratch));
    (read, looked)
}

thread_local! {
    /// What every connection of the thread reads into: it is in the cache, and an idle
    /// connection needs none.
    static READ: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// Most heads fit in, and some that are sent ahead.
const READ_SIZE: usize = 16 * 1024;
