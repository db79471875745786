//! The id of a request: a trusted client's `X-Request-Id`, or a random one.
//!
//! Ids are 128 random bits from a fast generator that is not cryptographic: an id finds a request in
//! two logs, and nothing is granted for knowing one. Many ids share a block of 4 KiB, since a
//! `HeaderValue` of its own bytes would cost an allocation for each request.

use std::{cell::RefCell, net::IpAddr, sync::Arc};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::json::hexadecimal;
use crate::context::ConnInfo;

/// The senders whose `X-Request-Id` becomes the id of the request.
#[derive(Clone)]
pub(super) enum Trust {
    AllPeers,
    Nothing,
    Senders(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>),
}

impl Trust {
    /// Returns true if `value` has the form of an id and comes from a trusted sender.
    pub(super) fn accepts<B>(&self, value: &HeaderValue, request: &Request<B>) -> bool {
        let bytes = value.as_bytes();
        is_id(bytes)
            && match self {
                Self::AllPeers => true,
                Self::Nothing => false,
                Self::Senders(accepts) => sender(request).is_some_and(|sender| accepts(sender)),
            }
    }
}

/// Returns true for 1 to [`MAX_ID`] visible ASCII characters. Looks at every byte: without an early
/// end, the loop compiles to a few vector instructions.
fn is_id(bytes: &[u8]) -> bool {
    let visible = bytes.iter().map(u8::is_ascii_graphic);
    (1..=MAX_ID).contains(&bytes.len()) && visible.fold(true, |all, it| all & it)
}

/// Returns the last hop: it is trusted or not for what it sends, whatever client it forwards for.
fn sender<B>(request: &Request<B>) -> Option<IpAddr> {
    let extensions = request.extensions();
    let sender = match ConnInfo::of(extensions) {
        // Not the client: a trusted proxy in front names one, and the id is the proxy's word.
        Some(conn) => conn.sender(),
        None => ConnInfo::peer_of(extensions),
    };
    sender.map(|sender| sender.ip())
}

/// The change to the fields with a request's id before it goes on to the backend.
///
/// Decided while the headers are borrowed for the line, and applied behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdField {
    Remove,
    Set(u128),
    Keep,
}

impl IdField {
    #[inline]
    pub(super) fn apply(self, headers: &mut HeaderMap, name: &HeaderName) {
        match self {
            Self::Remove => drop(headers.remove(name)),
            Self::Set(id) => {
                if let Some(value) = header_value(id) {
                    headers.insert(name, value);
                }
            }
            Self::Keep => {}
        }
    }
}

/// Returns true for a field whose value means something else, to HTTP or to the log.
pub(super) fn is_taken(name: &HeaderName) -> bool {
    TAKEN.contains(name)
}

/// Returns an id as a header value, in a block that it shares with other ids of this thread.
pub(super) fn header_value(id: u128) -> Option<HeaderValue> {
    let digits = hexadecimal(id);
    // `try_with` fails if the thread is about to end.
    let shared = IDS.try_with(|ids| {
        let mut ids = ids.borrow_mut();
        if ids.capacity() < digits.len() {
            *ids = BytesMut::with_capacity(IDS_BLOCK);
        }
        // `split` leaves the rest of the block here; the values share its memory.
        ids.extend_from_slice(&digits);
        ids.split().freeze()
    });
    HeaderValue::from_maybe_shared(shared.ok()?).ok()
}

thread_local! {
    static IDS: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Fields that a proxy, a server or a line reads.
const TAKEN: [HeaderName; 19] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    header::LOCATION,
    header::REFERER,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::USER_AGENT,
    header::VIA,
];
/// The longest id that is accepted, in bytes.
const MAX_ID: usize = 128;
/// The size of a block of ids: a caller that clones one id keeps this many bytes alive.
const IDS_BLOCK: usize = 4_096;
