//! [`Start`]: a process that starts, and what it takes over.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Handover, Running, State,
    config::ANSWER_TIMEOUT,
    descriptors::{self, invalid},
    message::{MAX_MESSAGE, Message, SocketGroup, VERSION},
    path_socket::PathSocket,
    sockets::{PassedSockets, Sockets},
    state::Part,
};
use crate::pool::Pool;

/// A process that starts: it has the sockets and the state of its predecessor, or of systemd, or none
/// yet. [`ready`](Self::ready) makes it the one that serves.
///
/// If it is dropped before that, the predecessor serves on.
pub struct Start {
    handover: Option<Handover>,
    predecessor: Option<Predecessor>,
    inherited: Sockets,
    used: Sockets,
    state: State,
    received: Instant,
    /// Those that get what changes until this process is ready.
    pools: Vec<(Part, String, Pool)>,
    followers: Vec<Follower>,
}

/// Gets the last state of the predecessor.
type Follower = Box<dyn FnOnce(&State) + Send>;

/// The process that serves until now.
struct Predecessor {
    process: u32,
    stream: UnixStream,
}

impl Start {
    /// Asks the process that runs at the path of `handover` for its sockets and its state, and adds
    /// the sockets that systemd `passed`, for addresses that the process does not have. Without any of them, [`listeners`](Self::listeners) binds
    /// all sockets.
    ///
    /// Call it after the settings were read, so that a mistake in them disturbs no other process.
    ///
    /// # Errors
    ///
    /// If a process runs there and refuses, runs as another user, or does not answer within 10 s.
    pub async fn begin(handover: Option<Handover>, passed: PassedSockets) -> io::Result<Self> {
        let mut start = Self {
            handover: None,
            predecessor: None,
            inherited: Sockets::default(),
            used: Sockets::default(),
            state: State::new(),
            received: Instant::now(),
            pools: Vec::new(),
            followers: Vec::new(),
        };
        if let Some(handover) = handover {
            start.ask(&handover).await?;
            start.handover = Some(handover);
        }
        start.inherited.add(passed.0);
        if !start.inherited.is_empty() {
            tracing::info!(
                target: "evenkeel::fleet",
                process = start.predecessor(),
                addresses = ?start.inherited.addresses(),
                "inherited listening sockets"
            );
        }
        Ok(start)
    }

    /// Returns the id of the process that serves until now; `None` if there is none.
    #[must_use]
    pub fn predecessor(&self) -> Option<u32> {
        Some(self.predecessor.as_ref()?.process)
    }

    /// Returns what the predecessor knew; empty without one.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the sockets of an address, for `count` threads: inherited ones as far as they go, then
    /// ones that are bound. All of them must be accepted from, and there may be more than `count`:
    /// the predecessor had more threads, and connections wait in the queue of each socket.
    ///
    /// An inherited socket belongs to the address that its process gave here, even if the port is 0
    /// and the system chose another, or else to the address that it is bound to. Two calls with the
    /// same address return different sockets.
    ///
    /// The sockets do not block, as tokio needs them. For several threads they are bound with
    /// `SO_REUSEPORT`, and have a queue each. The threads get copies of an inherited socket, and share
    /// its queue, where it does not have this option (systemd sets it with `ReusePort=`, and a process of
    /// one thread needs none), or where no further socket can be bound beside it: sockets of one port
    /// belong to one user, and those of systemd to root.
    ///
    /// # Errors
    ///
    /// Those of binding, with the address; for an inherited address, those of copying.
    pub fn listeners(
        &mut self,
        address: SocketAddr,
        count: NonZeroUsize,
    ) -> io::Result<Vec<TcpListener>> {
        let taken = self.inherited.take(address, count, &mut self.used);
        taken.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
    }

    /// Returns the one socket of an address; see [`listeners`](Self::listeners). Needs a runtime.
    ///
    /// # Errors
    ///
    /// Those of binding, and if several sockets were inherited for this address.
    pub fn listener(&mut self, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let mut sockets = self.listeners(address, NonZeroUsize::MIN)?;
        match (sockets.pop(), sockets.is_empty()) {
            (Some(socket), true) => tokio::net::TcpListener::from_std(socket),
            _ => Err(io::Error::other(format!(
                "{address}: several sockets were inherited, and each of them has a queue"
            ))),
        }
    }

    /// Gives a pool the health and the orders that the predecessor's [`State`] has under this name:
    /// [`restore_health`](Self::restore_health) and [`restore_orders`](Self::restore_orders). Returns the
    /// number of backends whose health is known.
    pub fn restore(&mut self, name: &str, pool: &Pool) -> usize {
        self.restore_orders(name, pool);
        self.restore_health(name, pool)
    }

    /// Gives a pool the health that the predecessor's [`State`] has under this name. Call it before
    /// checks begin. Backends that it knew to be healthy serve at once; those that it knew to be unhealthy
    /// need a passing check (invariant A of [`pool`](crate::pool)). What changes until this process is
    /// [ready](Self::ready) follows then. Returns the number of backends whose health is known.
    ///
    /// Without active checks, no check ever corrects a backend that was unhealthy: do not call it for
    /// a pool that has none.
    pub fn restore_health(&mut self, name: &str, pool: &Pool) -> usize {
        self.pools
            .push((Part::Health, name.to_owned(), pool.clone()));
        self.state.restore_health(name, pool)
    }

    /// Gives a pool the orders of operators that the predecessor's [`State`] has under this name. Drains
    /// keep their deadlines. What changes until this process is [ready](Self::ready) follows then.
    ///
    /// Do not call it for a pool that follows the orders of a fleet: `FleetHandle::import` takes those of
    /// the predecessor over with the times at which they were given.
    pub fn restore_orders(&mut self, name: &str, pool: &Pool) {
        let age = self.received.elapsed();
        self.pools
            .push((Part::Orders, name.to_owned(), pool.clone()));
        self.state.restore_orders(name, pool, age);
    }

    /// Calls `take` with the last state of the predecessor, when this process replaces it: for what a
    /// program took out of [`state`](Self::state), and what may have changed since. It is called
    /// within [`ready`](Self::ready), and not at all without a predecessor or if that dies before.
    pub fn follow(&mut self, take: impl FnOnce(&State) + Send + 'static) {
        self.followers.push(Box::new(take));
    }

    /// Ends the start: this process accepts connections now. The predecessor stops accepting and
    /// drains, and this process waits for its own successor, which gets what `state` returns then.
    /// Sockets that were inherited and not used are closed.
    ///
    /// # Errors
    ///
    /// If the predecessor refuses, because this process took too long, or does not answer within
    /// 10 s: **it serves on, and this process has to end.** Also if the Unix socket cannot be bound.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the predecessor serves on. So it does if the returned [`Running`] is
    /// dropped at once: the task that it runs says the last word.
    pub async fn ready(
        mut self,
        state: impl Fn() -> State + Send + Sync + 'static,
    ) -> io::Result<Running> {
        if !self.inherited.is_empty() {
            tracing::info!(
                target: "evenkeel::fleet",
                addresses = ?self.inherited.addresses(),
                "closing inherited sockets that the settings do not name"
            );
        }
        self.inherited = Sockets::default();
        let Some(handover) = self.handover.take() else {
            return Ok(Running::without_successor());
        };
        let socket = PathSocket::bind(handover.path())?;
        let mut predecessor = match self.predecessor.take() {
            Some(predecessor) => self.replace(predecessor).await?,
            None => None,
        };
        socket.publish()?;
        let is_released = match &mut predecessor {
            Some(predecessor) => released(predecessor).await,
            None => Ok(false),
        };
        match is_released {
            Ok(is_released) => {
                let stream = predecessor.filter(|_| is_released).map(|it| it.stream);
                let state = Box::new(state);
                Ok(Running::new(handover, socket, self.used, stream, state))
            }
            Err(error) => {
                // Before the connection closes: the predecessor puts its own socket at the path then.
                drop(socket);
                Err(error)
            }
        }
    }

    async fn ask(&mut self, handover: &Handover) -> io::Result<()> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while let Some(stream) = handover.connect().await? {
            match timeout_at(deadline, self.receive(stream)).await {
                Ok(Ok(())) => return Ok(()),
                // It is ending, or has just handed over: another process may be at the path now.
                Ok(Err(error)) if is_gone(&error) => sleep(RETRY).await,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(silent("its sockets")),
            }
        }
        Ok(())
    }

    async fn receive(&mut self, mut stream: UnixStream) -> io::Result<()> {
        // A refusal may be there although this fails.
        let sent = Message::hello().send(&mut stream).await;
        let answer = Message::receive(&mut stream, MAX_MESSAGE).await;
        let (process, sockets, state) = match answer {
            Ok(Message::Offer {
                version: VERSION,
                process,
                sockets,
                state,
            }) => (process, sockets, state),
            Ok(Message::Refused { reason }) => return Err(refused(&reason)),
            Ok(_) => return Err(invalid("an answer that does not belong here")),
            Err(error) => return Err(sent.err().unwrap_or(error)),
        };
        let mut received = Vec::new();
        let taken = descriptors::receive(&stream, count(&sockets)?, &mut received).await;
        self.inherited = Sockets::of_descriptors(&sockets, received)?;
        self.state = state;
        self.received = Instant::now();
        match taken {
            Ok(()) => self.predecessor = Some(Predecessor { process, stream }),
            Err(error) if is_gone(&error) => tracing::warn!(
                target: "evenkeel::fleet",
                process, "the process that was to hand over is gone: this one starts on its own"
            ),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes over the last state of the predecessor; `None` if it is gone.
    async fn replace(&mut self, mut predecessor: Predecessor) -> io::Result<Option<Predecessor>> {
        match predecessor.ask(&Message::Ready, "its last state").await? {
            Some(Message::Final { state }) => {
                for (part, name, pool) in &self.pools {
                    state.update(*part, name, pool);
                }
                for take in std::mem::take(&mut self.followers) {
                    take(&state);
                }
                Ok(Some(predecessor))
            }
            Some(_) => Err(invalid("an answer that does not belong here")),
            None => Ok(None),
        }
    }
}

/// Waits until the predecessor releases the sockets, with this process' own socket at the path; `false` if
/// it is gone.
async fn released(predecessor: &mut Predecessor) -> io::Result<bool> {
    match predecessor.ask(&Message::Taken, "the release").await? {
        Some(Message::Release) => {
            let process = predecessor.process;
            tracing::info!(target: "evenkeel::fleet", process, "took over");
            Ok(true)
        }
        Some(_) => Err(invalid("an answer that does not belong here")),
        None => Ok(false),
    }
}

impl Predecessor {
    /// Sends a message and waits for the answer; `None` if the predecessor is gone.
    async fn ask(&mut self, message: &Message, what: &str) -> io::Result<Option<Message>> {
        // A refusal may be there although this fails.
        let _ = message.send(&mut self.stream).await;
        let answer = Message::receive(&mut self.stream, MAX_MESSAGE);
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Message::Refused { reason })) => Err(refused(&reason)),
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(error)) if is_gone(&error) => {
                tracing::warn!(
                    target: "evenkeel::fleet",
                    process = self.process,
                    "the process that was to hand over is gone: this one serves in its place"
                );
                Ok(None)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(silent(what)),
        }
    }
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("predecessor", &self.predecessor())
            .field("inherited", &self.inherited.addresses())
            .field("used", &self.used.addresses())
            .finish_non_exhaustive()
    }
}

/// Returns how many sockets were announced.
fn count(sockets: &[SocketGroup]) -> io::Result<usize> {
    let counts = sockets.iter().map(|group| group.count);
    let sum = counts.fold(0, usize::saturating_add);
    match sum <= MAX_SOCKETS {
        true => Ok(sum),
        false => Err(invalid("over 4,096 sockets were announced")),
    }
}

/// Returns true if the other process closed the connection.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
    )
}

fn refused(reason: &str) -> io::Error {
    io::Error::other(format!("the running process does not hand over: {reason}"))
}

fn silent(what: &str) -> io::Error {
    let message = format!("the running process did not send {what} within {ANSWER_TIMEOUT:?}");
    io::Error::new(io::ErrorKind::TimedOut, message)
}

/// 64 listeners on 64 threads.
pub(super) const MAX_SOCKETS: usize = 4_096;
/// Longer than the moment between two sockets at the path.
const RETRY: std::time::Duration = std::time::Duration::from_millis(20);
