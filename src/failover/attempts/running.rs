//! Which attempts of a request run, by their numbers in the record.
//!
//! A number is known before the balancer has picked, because attempts of a request begin one after the
//! other and each takes the next index of the record. It stays a promise until the record has that
//! many attempts: an attempt that waits in a queue, or finds no backend, has none, and its number goes
//! to the next one.

use std::{mem, pin::Pin};

use http::Request;
use tower_service::Service;

use super::Role;
use crate::failover::{future::AttemptFuture, replay::ReplayBody};

/// The attempts that run. A number is where the attempt stands, or will stand once the balancer has
/// picked a backend for it, in the list of the [`Exchange`](crate::context::Exchange). It is known
/// ahead, as all attempts of a request begin one after the other.
pub(super) enum Running<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// One attempt.
    Single { number: usize },
    /// The first attempt, and a hedge beside it.
    Pair {
        first: usize,
        hedge: Box<RunningHedge<S, B>>,
    },
    /// The hedge: the first attempt has ended without an answer for the client.
    HedgeAlone { hedge: Box<RunningHedge<S, B>> },
}

/// An attempt that began beside another.
pub(super) struct RunningHedge<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(super) attempt: Pin<Box<AttemptFuture<S, B, S::Future>>>,
    pub(super) number: usize,
}

/// A response with a status that is tried again: the client gets it if nothing better comes.
pub(super) struct HeldResponse<R> {
    pub(super) response: R,
    /// Its attempt; `None` where the record has none.
    pub(super) number: Option<usize>,
    /// The attempt that replaces it as soon as it begins; `None` where the other attempt ran
    /// already, and replaces it by answering.
    pub(super) successor: Option<usize>,
}

/// An attempt that has ended.
pub(super) struct Ended {
    pub(super) number: usize,
    /// The attempt that a hedge ran beside, and wins against if it has answered.
    pub(super) beaten: Option<usize>,
    /// No other attempt runs.
    pub(super) alone: bool,
}

impl<S, B> Running<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// Returns the numbers of the attempt that began first, and of the hedge.
    pub(super) fn numbers(&self) -> (Option<usize>, Option<usize>) {
        match self {
            Self::Single { number } => (Some(*number), None),
            Self::Pair { first, hedge } => (Some(*first), Some(hedge.number)),
            Self::HedgeAlone { hedge } => (None, Some(hedge.number)),
        }
    }

    pub(super) fn is_hedged(&self) -> bool {
        !matches!(self, Self::Single { .. })
    }

    /// Takes an attempt that has ended out; a hedge is dropped. Where no other attempt runs, the
    /// number of the one that ended stays until the next begins.
    pub(super) fn end(&mut self, role: Role) -> Ended {
        let number = match self {
            Self::Single { number } => *number,
            Self::Pair { first, .. } if role == Role::First => *first,
            Self::Pair { hedge, .. } | Self::HedgeAlone { hedge } => hedge.number,
        };
        match (mem::replace(self, Self::Single { number }), role) {
            (Self::Single { .. } | Self::HedgeAlone { .. }, _) => Ended {
                number,
                beaten: None,
                alone: true,
            },
            (Self::Pair { hedge, .. }, Role::First) => {
                *self = Self::HedgeAlone { hedge };
                Ended {
                    number,
                    beaten: None,
                    alone: false,
                }
            }
            (Self::Pair { first, .. }, Role::Hedge) => {
                *self = Self::Single { number: first };
                Ended {
                    number,
                    beaten: Some(first),
                    alone: false,
                }
            }
        }
    }
}
