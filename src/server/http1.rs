//! Drives an HTTP/1.1 connection: its graceful end, and the tunnel that it may become.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
};

use super::{
    draining::{Draining, begun},
    state::{Phase, State},
};
use crate::context::Drain;

/// Drives the codec; ends when the stream is dropped, by the codec or by a tunnel's owner.
pub(super) async fn drive<C: Future>(
    conn: C,
    end: impl Fn(Pin<&mut C>),
    drain: Option<Drain>,
    state: Arc<State>,
) -> C::Output {
    let mut begun = pin!(begun(drain.clone()));
    let mut draining = Draining::new(drain, begun.as_mut());
    let output = {
        let mut conn = pin!(conn);
        poll_fn(|cx| {
            draining.notice(cx, &state);
            loop {
                // The codec first: a request that came in time is answered.
                let polled = conn.as_mut().poll(cx);
                if polled.is_ready() || !draining.ends(&state) {
                    return polled;
                }
                end(conn.as_mut());
            }
        })
        .await
    };
    if state.phase() == Phase::Tunnel {
        let tunnel = Cut { state };
        tunnel.state.closed.notified().await;
    }
    output
}

/// Ends a tunnel when the connection's task is.
struct Cut {
    state: Arc<State>,
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.state.cut();
    }
}
