//! Drives an HTTP/1.1 connection: its graceful end, and the tunnel that it may become.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
};

use super::{
    draining::{Draining, begun},
    state::{Phase, State},
};
use crate::context::Drain;

/// Drives the codec to its end.
pub(super) async fn drive<C: Future>(
    mut conn: Pin<&mut C>,
    end: impl Fn(Pin<&mut C>),
    drain: Option<&Drain>,
    state: &State,
) -> C::Output {
    let mut begun = pin!(begun(drain.cloned()));
    let mut draining = Draining::new(drain, begun.as_mut());
    poll_fn(|cx| {
        draining.notice(cx, state);
        loop {
            // The codec first: a request that came in time is answered.
            let polled = conn.as_mut().poll(cx);
            if polled.is_ready() || !draining.ends(state) {
                return polled;
            }
            end(conn.as_mut());
        }
    })
    .await
}

/// Waits for the end of the tunnel that the connection became, if it did: until its owner drops
/// the stream. The codec must have been dropped, as that may still hold it.
pub(super) async fn tunnel(state: &State) {
    if state.phase() == Phase::Tunnel {
        let tunnel = Cut { state };
        tunnel.state.closed.notified().await;
    }
}

/// Ends a tunnel when the connection's task is.
struct Cut<'a> {
    state: &'a State,
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        self.state.cut();
    }
}
