//! [`Running`]: the process that serves, and how it hands over.

use std::{fmt, future::pending, io, pin::pin, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    sync::{oneshot, watch},
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
/// When it is dropped, the Unix socket is removed, and the next process starts on its own:
/// [close](Self::close) it before a shutdown begins.
pub struct Running {
    task: Option<AbortHandle>,
    successor: Option<oneshot::Receiver<u32>>,
    closing: watch::Sender<bool>,
}

impl Running {
    pub(super) fn without_successor() -> Self {
        Self {
            task: None,
            successor: None,
            closing: watch::Sender::new(false),
        }
    }

    pub(super) fn new(
        handover: Handover,
        socket: PathSocket,
        sockets: Sockets,
        predecessor: Option<UnixStream>,
        state: Box<dyn Fn() -> State + Send + Sync>,
    ) -> Self {
        let (sender, successor) = oneshot::channel();
        let (closing, closed) = watch::channel(false);
        let hander = Hander {
            handover,
            socket,
            sockets,
            state,
            closed,
        };
        let run = async move {
            if let Some(predecessor) = predecessor {
                serving(predecessor).await;
            }
            // Without a successor, the sender is dropped, after the socket at the path.
            if let Some(process) = hander.run().await {
                let _ = sender.send(process);
            }
        };
        Self {
            task: Some(tokio::spawn(run).abort_handle()),
            successor: Some(successor),
            closing,
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

    /// Ends the offer to hand over, before a shutdown begins, and removes the Unix socket. Returns the id
    /// of a successor that is ready: it takes over all the same, within 10 s, and this process ends as
    /// after [`handed_over`](Self::handed_over).
    ///
    /// A successor that still starts goes on, with the sockets that it has, and serves in place of this
    /// process: a program that started it, and is to end as a whole, ends it as well.
    pub async fn close(mut self) -> Option<u32> {
        self.closing.send_replace(true);
        // The task ends, and drops its sender, if there is nothing to wait for.
        self.successor.take()?.await.ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a hand-over, and after `close`, the task ends by itself.
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

/// Says the last word to the predecessor, which stops accepting then, and waits until it has heard it.
async fn serving(mut predecessor: UnixStream) {
    // If it is gone, there is no more to say.
    let _ = Message::Serving.send(&mut predecessor).await;
    // It looks whether the connection is still there.
    let _ = timeout(ANSWER_TIMEOUT, predecessor.read(&mut [0])).await;
}

struct Hander {
    handover: Handover,
    socket: PathSocket,
    sockets: Sockets,
    state: Box<dyn Fn() -> State + Send + Sync>,
    closed: watch::Receiver<bool>,
}

impl Hander {
    /// Returns the successor; `None` after [`Running::close`].
    async fn run(mut self) -> Option<u32> {
        loop {
            let stream = tokio::select! {
                biased;
                () = self.closing() => return None,
                stream = self.accept() => stream,
            };
            let process = process_of(&stream);
            let error = match self.hand_over(stream, process).await {
                // The successor waits for the end of the connection.
                Ok(_stream) => {
                    tracing::info!(target: "evenkeel::fleet", process, "handed over: another process serves");
                    return Some(process);
                }
                Err(error) => error,
            };
            if *self.closed.borrow() {
                return None;
            }
            tracing::error!(
                target: "evenkeel::fleet",
                process, %error, "a new process did not take over: this one serves on"
            );
            if let Err(error) = self.publish_again() {
                tracing::error!(target: "evenkeel::fleet", %error, "no process can take over from this one");
            }
        }
    }

    /// Waits until [`Running::close`] is called, or its handle is gone.
    async fn closing(&self) {
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
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
            let mut other = tokio::select! {
                biased;
                ended = &mut attempt => return ended,
                other = self.accept() => other,
            };
            refuse(
                &mut other,
                format!("process {process} is about to take over"),
            )
            .await;
        }
    }

    /// Hands over to one process. Until that is ready, a shutdown ends the attempt.
    async fn attempt(&self, mut stream: UnixStream) -> io::Result<UnixStream> {
        tokio::select! {
            biased;
            () = self.closing() => return Err(io::Error::other("this process stops")),
            begun = self.begin(&mut stream) => begun?,
        }
        let finished = timeout(ANSWER_TIMEOUT, self.finish(&mut stream)).await;
        let finished = finished.unwrap_or_else(|late| Err(late.into()));
        match finished {
            Ok(()) => Ok(stream),
            Err(error) => {
                // If it lives, it must not take this process for dead. It removes its socket from
                // the path before it closes the connection.
                refuse(&mut stream, error.to_string()).await;
                let _ = timeout(REFUSAL_TIMEOUT, stream.read(&mut [0])).await;
                Err(error)
            }
        }
    }

    /// Passes the sockets and the state, and waits until the new process is ready.
    async fn begin(&self, stream: &mut UnixStream) -> io::Result<()> {
        let hello = Message::receive(stream, MAX_REQUEST);
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
        timeout(ANSWER_TIMEOUT, self.offer(stream, version)).await??;
        let ready = Message::receive(stream, MAX_REQUEST);
        let limit = self.handover.configured_start_timeout();
        match timeout(limit, ready).await {
            Ok(Ok(Message::Ready)) => Ok(()),
            Ok(Ok(_)) => Err(invalid("a message that does not belong here")),
            Ok(Err(error)) if is_gone(&error) => {
                Err(io::Error::other("it ended before it was ready"))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let reason = format!("not ready within {limit:?}");
                refuse(stream, reason.clone()).await;
                Err(io::Error::new(io::ErrorKind::TimedOut, reason))
            }
        }
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

    /// Gives the new process the last state, and waits until it serves. Until then this process does.
    async fn finish(&self, stream: &mut UnixStream) -> io::Result<()> {
        let state = (self.state)();
        Message::Final { state }.send(stream).await?;
        match next(stream).await? {
            Message::Taken => Message::Release.send(stream).await?,
            _ => return Err(invalid("a message that does not belong here")),
        }
        match next(stream).await? {
            Message::Serving => {}
            _ => return Err(invalid("a message that does not belong here")),
        }
        // What it sent may be here although it is gone.
        match stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Ok(0) => Err(ended()),
            Ok(_) => Err(invalid("a message that does not belong here")),
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
async fn refuse(stream: &mut UnixStream, reason: String) {
    let refusal = Message::Refused { reason };
    let _ = timeout(REFUSAL_TIMEOUT, refusal.send(stream)).await;
}

/// Receives a message of a process that takes over.
async fn next(stream: &mut UnixStream) -> io::Result<Message> {
    let received = Message::receive(stream, MAX_REQUEST).await;
    received.map_err(|error| match is_gone(&error) {
        true => ended(),
        false => error,
    })
}

fn ended() -> io::Error {
    io::Error::other("it ended before it had taken over")
}

/// Long enough for other connections to close and free a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The message goes into an empty buffer, so it does not wait.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
