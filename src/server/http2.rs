//! Drives an HTTP/2 connection: its writes, its deadlines and its graceful end.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::AsyncWrite;

use super::{
    draining::{Draining, begun},
    gather::{Gather, Gathered},
    state::State,
};
use crate::context::Drain;

/// Drives the codec, gathers what it writes, and ends it where the client does not help.
pub(super) async fn drive<C, T, E, Io>(
    mut conn: Pin<&mut C>,
    end: impl Fn(Pin<&mut C>),
    gather: Gather<Io>,
    drain: Option<&Drain>,
    state: &State,
) -> Result<(), E>
where
    C: Future<Output = Result<T, E>>,
    Io: AsyncWrite + Unpin,
{
    let mut begun = pin!(begun(drain.cloned()));
    let mut draining = Draining::new(drain, begun.as_mut());
    let mut patience = Patience::default();
    poll_fn(|cx| {
        draining.notice(cx, state);
        loop {
            let polled = conn.as_mut().poll(cx);
            let gathered = gather.flush(cx);
            if let Poll::Ready(result) = polled {
                return Poll::Ready(result.map(|_| ()));
            }
            if gathered.broken {
                return Poll::Ready(Ok(()));
            }
            let verdict = patience.judge(cx, gathered, state);
            if verdict == Verdict::Over {
                return Poll::Ready(Ok(()));
            }
            if patience.going || !(verdict == Verdict::Idle || draining.ends(state)) {
                return Poll::Pending;
            }
            patience.goes(state);
            end(conn.as_mut());
        }
    })
    .await
}

/// How long a client may do nothing.
#[derive(Default)]
struct Patience {
    /// A byte came: the client speaks HTTP/2.
    met: bool,
    /// Time runs.
    waits: bool,
    active: bool,
    /// The client was told to go.
    going: bool,
    moves: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing to object to.
    Fine,
    /// No streams for too long.
    Idle,
    /// Not worth a word.
    Over,
}

impl Patience {
    fn judge(&mut self, cx: &mut Context<'_>, gathered: Gathered, state: &State) -> Verdict {
        if gathered.moved {
            state.has_moved();
        }
        if !self.met {
            // Until then, the deadline of the first head.
            if !gathered.received {
                return match state.poll_expired(cx) {
                    Poll::Ready(()) => Verdict::Over,
                    Poll::Pending => Verdict::Fine,
                };
            }
            self.met = true;
            self.active = !state.is_active();
        }
        let active = state.is_active();
        if active && !gathered.blocked && !state.is_offering() {
            if self.waits || !self.active {
                state.disarm();
            }
            (self.waits, self.active) = (false, true);
            return Verdict::Fine;
        }
        let moves = state.moves();
        if !self.waits || self.active != active || self.moves != moves {
            (self.waits, self.active, self.moves) = (true, active, moves);
            self.wait(gathered.blocked, state);
        }
        match state.poll_expired(cx) {
            Poll::Pending => Verdict::Fine,
            Poll::Ready(()) if active || self.going || gathered.blocked => Verdict::Over,
            Poll::Ready(()) => Verdict::Idle,
        }
    }

    fn wait(&self, blocked: bool, state: &State) {
        if self.going && !self.active && !blocked {
            state.linger(GOODBYE);
        } else {
            state.wait_idle();
        }
    }

    fn goes(&mut self, state: &State) {
        self.going = true;
        if !state.is_active() {
            self.waits = true;
            self.active = false;
            self.wait(false, state);
        }
    }
}

/// Long enough for a client to answer that it was told; the connection ends then anyway.
const GOODBYE: Duration = Duration::from_secs(5);
