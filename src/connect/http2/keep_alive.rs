//! The keep-alive of an HTTP/2 connection: a PING finds backends that vanish while streams are open.
//!
//! ```text
//!    Idle ──(a stream opens)──▶ Silent ──(10 s without a byte)──▶ Pinged ──(5 s)──▶ lost
//!      ▲                          │                                  │
//!      └──(no stream, or bytes)───┴──────────────(answer)────────────┘
//! ```
//!
//! TCP alone does not notice a backend that lost its power while a response is awaited: nothing is
//! sent that could go unacknowledged. A PING does so within 15 s, where the time-out of a response
//! may be minutes. An idle connection sends none: gRPC servers close clients that do
//! (`too_many_pings`).

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Link;

/// Finds backends that vanish while streams wait for them.
pub(super) struct KeepAlive {
    pings: PingPong,
    sleep: Pin<Box<Sleep>>,
    beat: Beat,
}

#[derive(Clone, Copy)]
enum Beat {
    /// No stream is open.
    Idle,
    /// A PING is due unless the backend sends something.
    Silent,
    /// A PING was sent.
    Pinged,
}

impl KeepAlive {
    pub(super) fn new(pings: PingPong, began: Instant) -> Self {
        Self {
            pings,
            sleep: Box::pin(sleep_until(began + PING)),
            beat: Beat::Idle,
        }
    }

    /// Is ready if the backend did not answer a PING. An opening stream wakes the driver, so an idle
    /// connection needs no timer.
    pub(super) fn poll_lost(&mut self, link: &Link, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.beat {
                Beat::Idle if link.streams.load(Relaxed) == 0 => return Poll::Pending,
                Beat::Idle => {
                    self.sleep.as_mut().reset(link.silent_since() + PING);
                    self.beat = Beat::Silent;
                }
                Beat::Silent => {
                    if self.sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.beat = Beat::Idle;
                    if link.streams.load(Relaxed) == 0
                        || link.silent_since() + PING > Instant::now()
                    {
                        continue;
                    }
                    if self.pings.send_ping(Ping::opaque()).is_err() {
                        // The connection has ended; its own future returns the error.
                        return Poll::Pending;
                    }
                    self.sleep.as_mut().reset(Instant::now() + PONG);
                    self.beat = Beat::Pinged;
                }
                Beat::Pinged => match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        link.hear();
                        self.beat = Beat::Idle;
                    }
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => return self.sleep.as_mut().poll(cx),
                },
            }
        }
    }
}

/// With open streams, a vanished backend is noticed within PING + PONG.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
