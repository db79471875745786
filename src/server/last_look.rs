//! [`LastLook`]: a connection whose time is over looks at its socket once more before it closes.
//!
//! A thread that gets no processor for a while asks the kernel for events, waits, and then notices
//! deadlines: what clients sent in the meantime would be lost, although it came in time. So the
//! connection lets the runtime ask for events again, and closes only if nothing has come. A server
//! that ends under load lost requests that way.

use std::{future::Future, pin::pin, task::Context};

use tokio::task::yield_now;

/// Whether the second look is under way.
#[derive(Debug, Default)]
pub(super) struct LastLook {
    under_way: bool,
}

impl LastLook {
    /// Returns true if the look is under way: the time was over at the poll before.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Notes that bytes came. They make the next look a fresh one, unless the deadline that is over still
    /// counts: a client that sends byte after byte would outlive it.
    pub(super) fn renew_unless(&mut self, is_expired: impl FnOnce() -> bool) {
        if self.under_way && !is_expired() {
            self.under_way = false;
        }
    }

    /// Returns true if the connection has looked a second time. The first call returns false, and wakes
    /// the task after the runtime has asked the kernel for events of sockets.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.under_way {
            return true;
        }
        self.under_way = true;
        // The first poll hands the waker to the runtime, which keeps it until it has asked for events.
        let _ = pin!(yield_now()).poll(cx);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write, net, pin::Pin, task::Poll};

    use tokio::{
        io::{AsyncRead, ReadBuf},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn bytes_that_came_while_the_thread_had_no_processor_are_read() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let mut io = TcpStream::from_std(accepted).unwrap();
        let mut look = LastLook::default();
        let read = poll_fn(|cx| {
            let mut bytes = [0; 8];
            let mut buf = ReadBuf::new(&mut bytes);
            if let Poll::Ready(read) = Pin::new(&mut io).poll_read(cx, &mut buf) {
                return Poll::Ready(read.map(|()| buf.filled().len()));
            }
            // They come, the runtime does not know of them yet, and the deadline is noticed.
            if !look.is_under_way() {
                client.write_all(b"hi").unwrap();
            }
            match look.is_over(cx) {
                true => Poll::Ready(Ok(0)),
                false => Poll::Pending,
            }
        });
        assert_eq!(read.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn bytes_behind_the_deadline_give_no_further_look() {
        let mut look = LastLook::default();
        poll_fn(|cx| {
            assert!(!look.is_over(cx));
            look.renew_unless(|| true);
            assert!(look.is_over(cx));
            look.renew_unless(|| false);
            assert!(!look.is_over(cx));
            Poll::Ready(())
        })
        .await;
    }
}
