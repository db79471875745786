//! Replaces a running process by a new one on the same listening sockets, without a refused
//! connection and without a failed request.
//!
//! A new process asks the running one for its sockets over a Unix socket, builds its stack, accepts,
//! and says that it is ready. Only then does the old process stop accepting; it lets its requests end,
//! and exits. Where systemd holds the sockets (socket activation), they are taken from it, and a
//! restart keeps the connections that arrive meanwhile in the queue of the kernel.
//!
//! # Why descriptors are passed
//!
//! With `SO_REUSEPORT` alone, a new process could bind sockets of its own beside those of the old one.
//! But each socket has a queue of its own, and to close a socket resets the connections in its queue:
//! clients that the kernel has connected already and that no process has accepted. However fast the
//! old process accepts before it closes, more may come in between. A passed descriptor is the same
//! socket with the same queue, which closes with its last copy. A test shows both: of 200 connections
//! in the queues, closing one of two sockets with `SO_REUSEPORT` reset 96 in one run, and closing the old
//! copies of passed sockets resets none. (Linux can move them between sockets since 5.14,
//! with `net.ipv4.tcp_migrate_req`, which is off by default.)
//!
//! # Example
//!
//! Two processes in one: the first serves, the second takes over.
//!
//! ```
//! use evenkeel::{
//!     Backend, LoadBalancer, Pool,
//!     fleet::handover::{Handover, PassedSockets, Running, Start, State},
//! };
//! use tokio::{sync::oneshot, task::JoinHandle};
//!
//! type Server = JoinHandle<std::io::Result<()>>;
//!
//! /// What `main` does; `stop` makes the server drain.
//! async fn start(
//!     path: &std::path::Path,
//!     stopped: oneshot::Receiver<()>,
//! ) -> Result<(Running, Server), evenkeel::BoxError> {
//!     let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//!     let passed = PassedSockets::take()?;
//!     let mut start = Start::begin(Some(Handover::new(path)?), passed).await?;
//!     start.restore("main", &pool);
//!     let listener = start.listener("127.0.0.1:0".parse()?)?;
//!     println!("{:?} served at {}", start.predecessor(), listener.local_addr()?);
//!     let server = evenkeel::serve(listener, LoadBalancer::new(pool.clone()))
//!         .handed_over(async { stopped.await.unwrap_or(()) });
//!     let server = tokio::spawn(server.into_future());
//!     let running = start.ready(move || State::new().pool("main", &pool)).await?;
//!     Ok((running, server))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("upgrade.sock");
//! let (stop, stopped) = oneshot::channel();
//! let (mut old, server) = start(&path, stopped).await?;
//! // Later, the same program of another version:
//! let (_stop, stopped) = oneshot::channel();
//! let (new, _) = start(&path, stopped).await?;
//! // The old one:
//! old.handed_over().await;
//! let _ = stop.send(());
//! server.await??;
//! # drop(new);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! In `main`, around the stack:
//!
//! 1. Read the settings and the certificates. A mistake ends the new process before it asks for
//!    anything.
//! 2. [`PassedSockets::take`] takes the sockets of systemd, before other threads start.
//!    [`Start::begin`] asks the running process.
//! 3. [`Start::restore`] gives each pool the state of its predecessor, before checks begin.
//!    [`State::find_secret`] has the ticket keys for `TicketKeys::import`, and what a fleet shares for
//!    `FleetHandle::import`, which takes the place of [`Start::restore_orders`]; [`Start::follow`] has
//!    what changes until the end of the start.
//! 4. [`Start::listeners`] returns the sockets of each address, and binds those that are missing.
//! 5. Serve them, with [`Serve::handed_over`](crate::server::Serve::handed_over), or
//!    `with_graceful_shutdown` of axum.
//! 6. [`Start::ready`] replaces the old process. [`ServiceManager::ready`] tells systemd.
//! 7. [`Running::handed_over`] completes when a successor serves: complete the signal of step 5, and
//!    exit when the servers have ended. Do not fail readiness: the address is served on.
//! 8. Before a shutdown without a successor, [`Running::close`] ends the offer.
//!
//! What goes over:
//!
//! | what | how |
//! |---|---|
//! | listening sockets | by their address in the settings; new addresses are bound, and those that the new settings do not name are closed |
//! | health | as a hint: healthy backends serve at once, unhealthy ones need a passing check |
//! | drains, maintenance, evacuations | as they are, with their deadlines |
//! | weights that operators set | where the configured weight is the same |
//! | secrets, such as ticket keys | as they are; over the Unix socket only |
//! | orders and secrets that a [fleet](crate::fleet) shares | with the times at which they were given, so that later ones of other instances win |
//! | connections, retry budgets, counters of metrics | not at all: connections end in the old process, and counters begin at 0 |
//!
//! What clients see: the old process answers each request that it has, and says `connection: close` (in
//! HTTP/2, GOAWAY). An idle connection may wait for its next request until its idle time-out, or the drain's
//! last 2 s. Tunnels, such as WebSockets, stay with
//! the old process until its drain time-out; then their TCP connections are closed, without a
//! close frame, which only the ends of a tunnel can send. Give the old process the time that sessions
//! last: several processes can drain at once.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | time from a new process' question until it is ready | 60 s |
//! | time for each answer | 10 s |
//! | state | 16 MiB |
//! | sockets | 4096 |
//!
//! # When it fails
//!
//! **A new process that fails** (a mistake in its settings, a crash, an end before it is ready, a start
//! that takes too long) changes nothing: the old process logs an ERROR and serves on, with the same
//! sockets. A new process that is refused has to end; it may have accepted connections by then, which
//! it should let end first.
//!
//! **A death at any moment of the exchange** leaves one process that serves. Both accept until the new one
//! has the state, its own Unix socket is at the path, and its program goes on; then it says so, and the
//! old process stops. A new process that dies after that is a server that crashed: the old one does not
//! come back, and a supervisor starts the next.
//!
//! **A shutdown of the old process while a new one starts**: [`Running::close`] lets a new process that is
//! ready take over. One that still starts goes on with the sockets that it got, and serves by itself; a
//! program that started it and is to end as a whole ends it, as the example `edge` does.
//!
//! **An old process that dies** in the middle leaves the new one with the sockets that it got; others
//! are bound. One that was killed before leaves a dead Unix socket, which the next process replaces.
//!
//! **Another user** is refused on both sides: the kernel tells each process as which user the other
//! runs. The Unix socket has the mode 0600. A process of the same user can take the sockets and the ticket
//! keys over; it could read them from the memory of the process as well.
//!
//! **Two new processes at once**: the first is served, the second is refused while the first starts.
//!
//! **Another version of the protocol** is refused with a message. The protocol has a version, and a
//! reader ignores what it does not know.
//!
//! **Deployment caveat.** Both processes need the same path: a new process that asks at another one finds
//! none there, and starts beside the old one. Where the path changes, [`Handover::ask_at`] has the old
//! one; a process that starts its successor should pass the path at which it listens. Files are not passed: two processes write to the same log
//! for the time of the drain, which files that are opened for appending allow; do not let both rotate
//! them. What the old process holds exclusively, such as a port that is not passed, the new one cannot
//! have until it ends.
//!
//! # Cost
//!
//! Nothing for a request. A process that can hand over holds one copy of each listening socket.

mod config;
mod descriptors;
mod message;
mod path_socket;
mod running;
mod service_manager;
mod sockets;
mod start;
mod state;
#[cfg(test)]
mod tests;

pub use config::Handover;
pub use running::Running;
pub use service_manager::ServiceManager;
pub use sockets::PassedSockets;
pub use start::Start;
pub use state::State;
