//! [`Running`]: the process that serves, and how it hands over.

use std::{fmt, future::pending, io, pin::pin, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    sync::oneshot,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    Handover, State,
    config::{ANSWER_TIMEOUT, check_peer},
    descriptors::{self, invalid},
    message::{MAX_REQUEST, Message, version_of},
    path_socket::PathSocket,
    sockets::Sockets,
    start::is_gone,
};

/// The process that serves. It holds copies of its listening sockets, and hands them to the process
/// that asks for them.
///
/// When it is dropped, the Unix socket is removed, and the next process starts on its own: drop it
/// before a shutdown begins.
pub struct Running {
    task: Option<AbortHandle>,
    successor: Option<oneshot::Receiver<u32>>,
}

impl Running {
    pub(super) fn without_successor() -> Self {
        Self {
            task: None,
            successor: None,
        }
    }

    pub(super) fn new(
        handover: Handover,
        socket: PathSocket,
        sockets: Sockets,
        state: Box<dyn Fn() -> State + Send + Sync>,
    ) -> Self {
        let (sender, successor) = oneshot::channel();
        let hander = Hander {
            handover,
            socket,
            sockets,
            state,
        };
        Self {
            task: Some(tokio::spawn(hander.run(sender)).abort_handle()),
            successor: Some(successor),
        }
    }

    /// Waits until a successor serves in place of this process; returns its process id. From then on
    /// this process stops accepting ([`Serve::handed_over`](crate::server::Serve::handed_over)), lets
    /// its requests end, and exits. It never completes without a [`Handover`].
    ///
    /// A new process that fails is logged as an ERROR, and changes nothing.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time; a later call waits again. It completes once.
    pub async fn handed_over(&mut self) -> u32 {
        if let Some(successor) = &mut self.successor {
            let process = successor.await;
            self.successor = None;
            if let Ok(process) = process {
                return process;
            }
        }
        pending().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a hand-over, the task ends by itself.
        if let (Some(task), Some(_)) = (&self.task, &self.successor) {
            task.abort();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("can_hand_over", &self.successor.is_some())
            .finish_non_exhaustive()
    }
}

struct Hander {
    handover: Handover,
    socket: PathSocket,
    sockets: Sockets,
    state: Box<dyn Fn() -> State + Send + Sync>,
}

impl Hander {
    async fn run(mut self, successor: oneshot::Sender<u32>) {
        loop {
            let stream = self.accept().await;
            let process = process_of(&stream);
            match self.hand_over(stream, process).await {
                Ok(mut stream) => {
                    let _ = successor.send(process);
                    tracing::info!(target: "evenkeel::fleet", process, "handed over: another process serves");
                    drop(self.sockets);
                    // Until then, a third process finds this socket, and is sent on by its end.
                    let _ = timeout(ANSWER_TIMEOUT, stream.read(&mut [0])).await;
                    return;
                }
                Err(error) => tracing::error!(
                    target: "evenkeel::fleet",
                    process, %error, "a new process did not take over: this one serves on"
                ),
            }
            if let Err(error) = self.publish_again() {
                tracing::error!(target: "evenkeel::fleet", %error, "no process can take over from this one");
            }
        }
    }

    /// Waits for a process of the same user.
    async fn accept(&self) -> UnixStream {
        loop {
            match self.socket.listener.accept().await {
                Ok((stream, _)) => match check_peer(&stream) {
                    Ok(()) => return stream,
                    Err(error) => {
                        tracing::warn!(target: "evenkeel::fleet", %error, "refused to hand over");
                    }
                },
                Err(error) => {
                    tracing::error!(target: "evenkeel::fleet", %error, "cannot accept a new process");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Hands over to one process, and refuses others meanwhile.
    async fn hand_over(&self, stream: UnixStream, process: u32) -> io::Result<UnixStream> {
        let mut attempt = pin!(self.attempt(stream));
        loop {
            let other = tokio::select! {
                biased;
                ended = &mut attempt => return ended,
                other = self.accept() => other,
            };
            refuse(other, format!("process {process} is about to take over")).await;
        }
    }

    async fn attempt(&self, mut stream: UnixStream) -> io::Result<UnixStream> {
        let hello = Message::receive(&mut stream, MAX_REQUEST);
        let version = match timeout(ANSWER_TIMEOUT, hello).await?? {
            Message::Hello {
                protocol, versions, ..
            } => version_of(&protocol, &versions),
            _ => return Err(invalid("a message that does not belong here")),
        };
        let version = match version {
            Ok(version) => version,
            Err(reason) => {
                refuse(stream, reason.clone()).await;
                return Err(io::Error::other(reason));
            }
        };
        timeout(ANSWER_TIMEOUT, self.offer(&mut stream, version)).await??;
        let ready = Message::receive(&mut stream, MAX_REQUEST);
        let limit = self.handover.configured_start_timeout();
        match timeout(limit, ready).await {
            Ok(Ok(Message::Ready)) => {}
            Ok(Ok(_)) => return Err(invalid("a message that does not belong here")),
            Ok(Err(error)) if is_gone(&error) => {
                return Err(io::Error::other("it ended before it was ready"));
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let reason = format!("not ready within {limit:?}");
                refuse(stream, reason.clone()).await;
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
        }
        timeout(ANSWER_TIMEOUT, self.finish(&mut stream)).await??;
        Ok(stream)
    }

    async fn offer(&self, stream: &mut UnixStream, version: u32) -> io::Result<()> {
        let offer = Message::Offer {
            version,
            process: std::process::id(),
            sockets: self.sockets.announce(),
            state: (self.state)(),
        };
        offer.send(stream).await?;
        descriptors::send(stream, &self.sockets.descriptors()).await
    }

    async fn finish(&self, stream: &mut UnixStream) -> io::Result<()> {
        let state = (self.state)();
        Message::Final { state }.send(stream).await?;
        match Message::receive(stream, MAX_REQUEST).await {
            Ok(Message::Taken) => Ok(()),
            Ok(_) => Err(invalid("a message that does not belong here")),
            Err(error) if is_gone(&error) => {
                Err(io::Error::other("it ended before it had taken over"))
            }
            Err(error) => Err(error),
        }
    }

    /// Puts the socket back, if a process that failed has replaced it.
    fn publish_again(&mut self) -> io::Result<()> {
        if !self.socket.is_published() {
            let socket = PathSocket::bind(self.handover.path())?;
            socket.publish()?;
            self.socket = socket;
        }
        Ok(())
    }
}

/// Returns the id of the other process, as the kernel has it; 0 where it does not say.
fn process_of(stream: &UnixStream) -> u32 {
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    peer.and_then(|id| u32::try_from(id).ok()).unwrap_or(0)
}

/// Sends a refusal, which fits in the buffer of the socket.
async fn refuse(mut stream: UnixStream, reason: String) {
    let refusal = Message::Refused { reason };
    let _ = timeout(REFUSAL_TIMEOUT, refusal.send(&mut stream)).await;
}

/// Long enough for other connections to close and free a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The message goes into an empty buffer, so it does not wait.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
