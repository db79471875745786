//! What a line says.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::{Method, Uri, Version};

use crate::context::{Attempt, AuthFailure, Peer, StickyVerdict, TlsInfo};

/// What a line says: borrowed, for a [`Sink`](super::Sink) to format or count.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// When the request came, or the connection that ended without one.
    pub time: SystemTime,
    /// This balancer's name.
    pub node: Option<&'a str>,
    /// The address that the client connected to.
    pub listener: Option<Peer>,
    /// The transport's peer.
    pub peer: Option<Peer>,
    /// The client: the peer, or who it speaks for.
    pub client: Option<SocketAddr>,
    /// The request, where there was one.
    pub request: Option<RequestEntry<'a>>,
    /// The request that the server refused before a service saw it, as far as it could be read.
    pub refused: Option<RefusedEntry<'a>>,
    /// The response's status.
    pub status: Option<u16>,
    /// To the last byte.
    pub duration: Duration,
    /// To the response head.
    pub ttfb: Option<Duration>,
    /// Body bytes from the client.
    pub received: u64,
    /// Body bytes to the client.
    pub sent: u64,
    /// The attempts, in order.
    pub attempts: &'a [Attempt],
    /// The strategy that decided, and among how many backends.
    pub decision: Option<(&'static str, usize)>,
    /// What became of stickiness.
    pub sticky: Option<StickyVerdict>,
    /// What the TLS handshake settled.
    pub tls: Option<&'a TlsInfo>,
    /// A failed authentication.
    pub auth: Option<&'a AuthFailure>,
    /// How it ended.
    pub outcome: &'static str,
    /// More about that, for people.
    pub detail: Option<&'a str>,
}

impl Entry<'_> {
    /// Says nothing but that.
    pub(super) fn new(time: SystemTime, duration: Duration, outcome: &'static str) -> Self {
        Self {
            time,
            node: None,
            listener: None,
            peer: None,
            client: None,
            request: None,
            refused: None,
            status: None,
            duration,
            ttfb: None,
            received: 0,
            sent: 0,
            attempts: &[],
            decision: None,
            sticky: None,
            tls: None,
            auth: None,
            outcome,
            detail: None,
        }
    }
}

/// What the request said.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestEntry<'a> {
    /// Its id: of a trusted client, else made.
    pub id: RequestId<'a>,
    /// The method.
    pub method: &'a Method,
    /// The target; under axum's `nest` the original one.
    pub uri: &'a Uri,
    /// The version.
    pub version: Version,
    /// The Host field.
    pub host: Option<&'a [u8]>,
    /// The query, where it is to be logged, as it is to be logged.
    pub query: Option<&'a str>,
    /// The User-Agent field.
    pub user_agent: Option<&'a [u8]>,
    /// The Referer field, where it is to be logged.
    pub referer: Option<&'a [u8]>,
}

/// What could be read of a request that the server refused.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RefusedEntry<'a> {
    /// The method.
    pub method: Option<&'a Method>,
    /// The path as it came, without the query.
    pub path: Option<&'a str>,
}

/// A request's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestId<'a> {
    /// As the client sent it.
    Given(&'a [u8]),
    /// Made here: shown as 32 hexadecimal digits.
    Made(u128),
}
