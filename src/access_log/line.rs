//! The life of a line, from the request to its true end.
//!
//! ```text
//!  Line::open          a request arrives: Sink::open keeps what it needs of it
//!    set_response      the response's head: status, time to it, a failed authentication
//!    add_sent          each frame of the response's body
//!  exactly one end
//!    finish            the last byte, or the tunnel's close     Ended::Whole
//!    fail              the service or the body failed           Ended::Failed
//!    drop              the client went away                     Ended::Dropped
//!    drop in a poll    a layer outside the log answered         Ended::Superseded
//!  OpenLine::close     Sink::close writes the line; the memory serves another request
//! ```

use std::{cell::RefCell, sync::Arc};

use http::{Extensions, HeaderValue, Request, Response, StatusCode};

use super::{
    Opening, RequestEntry, auth,
    fields::{Fields, check_client, cut_request, original_uri, redacted_query},
    layer::Config,
    opening::{KeptRequest, OpeningFacts},
    progress::{EndClock, Progress},
};
use crate::context::{
    ConnInfo, Ended, Exchange, LogFields, TraceContext, Tunnel, User, service_poll,
};

/// The line of one request; empty if the sink is not enabled, and once the line is written.
///
/// A drop ends the line: the server drops a request's future, or the body of its response, when the
/// client goes away.
#[derive(Default)]
pub(super) struct Line(Option<Box<OpenLine>>);

/// A line that has not ended. [`recycle`] keeps its memory for another request.
#[derive(Default)]
struct OpenLine {
    request: KeptRequest,
    /// `None` in memory that no request uses.
    progress: Option<Progress>,
}

impl Line {
    /// Returns the line of a request that is not logged.
    pub(super) fn disabled() -> Self {
        Self(None)
    }

    /// Returns true for the line of a request that is not logged, and for one that is written.
    #[inline]
    pub(super) fn is_disabled(&self) -> bool {
        self.0.is_none()
    }

    /// Opens the line of a request, and gives the request the id that the backend may see.
    pub(super) fn open<B>(config: &Arc<Config>, request: &mut Request<B>) -> Self {
        let exchange = Exchange::of(request.extensions_mut());
        // Before the request moves on: the layers below keep the causes of failures from now on.
        exchange.want_details();
        let fields = Fields::find(config, request);
        // Random numbers cost a few nanoseconds: none is drawn for a request that has an id.
        let made_id = match fields.request_id {
            Some(_) => 0,
            None => fastrand::u128(..),
        };
        let uri = original_uri(request);
        let mut line = recycled();
        // A recycled line is as `default` made it: `close` has cleared each part.
        let kept = &mut line.request;
        kept.query = redacted_query(config, uri, &mut kept.truncated);
        let authority = uri.authority().map(|a| a.as_str().as_bytes());
        let extensions = request.extensions();
        let conn = ConnInfo::of(extensions);
        let mut facts = OpeningFacts {
            began: exchange.began(),
            node: &config.node_json,
            conn,
            trace: take_notes(extensions, conn, &exchange),
            request: RequestEntry {
                id: fields.id(made_id),
                method: request.method(),
                uri,
                path: uri.path(),
                version: request.version(),
                host: authority.or_else(|| fields.host.map(HeaderValue::as_bytes)),
                query: kept.query.as_deref(),
                user_agent: fields.user_agent.map(HeaderValue::as_bytes),
                referer: fields.referer.map(HeaderValue::as_bytes),
            },
            client_fingerprint: config.client_fingerprint,
            names: config.names,
        };
        cut_request(&config.limits, &mut facts.request, &mut kept.truncated);
        check_client(conn, &mut kept.truncated);
        config.sink.open(&mut Opening {
            facts: &facts,
            limits: &config.limits,
            fields: &fields,
            kept_json: &mut kept.json,
            kept_fields: &mut kept.fields,
            keeps_extensions: &mut kept.keeps_extensions,
        });
        // Only an entry needs the query again; the JSON has it in its text.
        if kept.fields.is_none() {
            kept.query = None;
        }
        let mut progress = Progress::new(config.clone(), exchange);
        progress.authorization = fields.authorization.cloned();
        progress.returned_id = fields.returned_id(config, made_id);
        line.progress = Some(progress);
        // Last: until here, `fields` borrows the header fields.
        let id_field = fields.id_field(config, made_id);
        id_field.apply(request.headers_mut(), &config.request_id_field);
        Self(Some(line))
    }

    pub(super) fn exchange(&self) -> Option<&Exchange> {
        self.progress().map(|progress| &progress.exchange)
    }

    /// Records the response's head, and gives it the id if the client gets it back.
    pub(super) fn set_response<B>(&mut self, response: &mut Response<B>) {
        let keeps_extensions = self
            .0
            .as_ref()
            .is_some_and(|line| line.request.keeps_extensions);
        if let Some(progress) = self.progress_mut() {
            progress.set_status(response.status());
            let extensions = response.extensions();
            // Most responses have none, and need no look-up.
            if !extensions.is_empty() {
                read_notes(extensions, &progress.exchange);
                progress.auth = extensions.get().cloned().map(Box::new);
                progress.extensions = keeps_extensions.then(|| extensions.clone());
            }
            // Taken, so that the download of a body keeps no credentials and no head alive.
            let authorization = progress.authorization.take();
            if progress.auth.is_none() {
                progress.auth = auth::derived_failure(response, authorization.as_ref());
            }
            if let Some(id) = progress.returned_id.take() {
                let name = progress.config.request_id_field.clone();
                response.headers_mut().insert(name, id);
            }
        }
    }

    pub(super) fn add_sent(&mut self, bytes: usize) {
        if let Some(progress) = self.progress_mut() {
            progress.sent += bytes as u64;
        }
    }

    /// Leaves the line to the tunnel that the response opened: the tunnel's close is its end.
    pub(super) fn leave_to_tunnel(mut self, tunnel: &Tunnel) {
        if let Some(progress) = self.progress_mut() {
            // The line reads the numbers of bytes from the tunnel at its close.
            progress.tunnel = Some(tunnel.clone());
            tunnel.hold(TunnelLine(self));
        }
    }

    /// Ends the line: the last byte went out.
    pub(super) fn finish(&mut self) {
        self.close(Ended::Whole);
    }

    /// Returns the number of attempts that have ended, for [`finish_in_poll`](Self::finish_in_poll).
    #[inline]
    pub(super) fn ends(&self) -> u32 {
        self.exchange().map_or(0, Exchange::ends)
    }

    /// As [`finish`](Self::finish), after a poll of the body that returned its end; `ends` is what
    /// [`ends`](Self::ends) returned before that poll.
    pub(super) fn finish_in_poll(&mut self, ends: u32) {
        if let Some(progress) = self.progress_mut()
            && progress.exchange.ends() != ends
        {
            progress.end_clock = EndClock::Attempt;
        }
        self.finish();
    }

    /// Ends the line with the head of the response, which has no body.
    pub(super) fn finish_at_head(&mut self) {
        if let Some(progress) = self.progress_mut() {
            progress.end_clock = EndClock::Head;
        }
        self.finish();
    }

    /// Ends the line: the service or the body failed.
    #[cold]
    pub(super) fn fail<E: 'static>(&mut self, error: &E) {
        if let Some(exchange) = self.exchange() {
            exchange.set_cause(error);
        }
        self.close(Ended::Failed);
    }

    /// Warns of a service that failed without a response after an attempt at a backend.
    pub(super) fn warn_of_order(&self) {
        if let Some(progress) = self.progress()
            && progress.exchange.attempt_count() > 0
        {
            progress.config.warn_of_order();
        }
    }

    fn progress(&self) -> Option<&Progress> {
        self.0.as_ref()?.progress.as_ref()
    }

    fn progress_mut(&mut self) -> Option<&mut Progress> {
        self.0.as_mut()?.progress.as_mut()
    }

    /// Inlined, because an empty line is dropped at each move of the future and of the body.
    #[inline(always)]
    fn close(&mut self, ended: Ended) {
        if let Some(line) = self.0.take() {
            line.close(ended);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(line) = self.0.take() {
            line.dropped();
        }
    }
}

/// A line that a tunnel holds, and drops as it closes.
struct TunnelLine(Line);

impl Drop for TunnelLine {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl OpenLine {
    /// Ends a line that was dropped before the response's end. Under `evenkeel::serve`, a drop within
    /// a poll of the service is not the client's doing: a layer outside the log gave the request up,
    /// and answers it.
    #[cold]
    #[inline(never)]
    fn dropped(self: Box<Self>) {
        if service_poll::is_polled() {
            return service_poll::after_poll(Box::new(move |status| self.superseded(status)));
        }
        self.close(Ended::Dropped);
    }

    /// Ends a line whose request another layer answered with `status`.
    fn superseded(mut self: Box<Self>, status: Option<StatusCode>) {
        if let (Some(progress), Some(status)) = (&mut self.progress, status) {
            progress.set_status(status);
        }
        self.close(Ended::Superseded);
    }

    #[inline(never)]
    fn close(mut self: Box<Self>, ended: Ended) {
        if let Some(progress) = &self.progress {
            progress.close(&self.request, ended);
        }
        self.progress = None;
        // Most requests have none: the test is cheaper than the call that drops them.
        if self.request.fields.is_some() {
            (self.request.fields, self.request.query) = (None, None);
        }
        self.request.json.clear(MAX_RECYCLED_JSON);
        (self.request.keeps_extensions, self.request.truncated) = Default::default();
        recycle(self);
    }
}

/// Reads the notes that layers above the log left in a request's extensions; returns the trace.
#[inline]
fn take_notes(
    extensions: &Extensions,
    conn: Option<&ConnInfo>,
    exchange: &Exchange,
) -> Option<TraceContext> {
    // The record, and the connection: where nothing else is, there is no note to look for.
    if extensions.len() <= 1 + usize::from(conn.is_some()) {
        return None;
    }
    read_notes(extensions, exchange);
    extensions.get::<TraceContext>().copied()
}

/// Reads the application's notes: of the request where a layer above the log left them, of the response
/// where another did.
#[inline]
fn read_notes(extensions: &Extensions, exchange: &Exchange) {
    if let Some(user) = extensions.get::<User>() {
        exchange.set_user(user.name());
    }
    if let Some(fields) = extensions.get::<LogFields>() {
        exchange.add_log_fields(fields);
    }
}

/// Returns an empty line, in the memory of one that has ended if there is any.
fn recycled() -> Box<OpenLine> {
    // `try_with` fails if the thread is about to end.
    let line = RECYCLED.try_with(|lines| lines.borrow_mut().pop());
    line.ok().flatten().unwrap_or_default()
}

/// Keeps the memory of a line that has ended.
fn recycle(line: Box<OpenLine>) {
    let _ = RECYCLED.try_with(|lines| {
        let mut lines = lines.borrow_mut();
        if lines.len() < MAX_RECYCLED {
            lines.push(line);
        }
    });
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes go out and come back as they are")]
    static RECYCLED: RefCell<Vec<Box<OpenLine>>> = const { RefCell::new(Vec::new()) };
}

/// As many lines as usually end on a thread between two that begin, streams of HTTP/2 included.
const MAX_RECYCLED: usize = 256;
/// A line that needed a larger buffer gives it back, so that clients with long requests do not
/// leave 256 of them behind on each thread.
const MAX_RECYCLED_JSON: usize = 8 * 1024;
