//! Peers that vanish without a word: what the operating system is told, so that it ends their
//! connections.
//!
//! Deadlines of our own are moved by every byte that the kernel takes, and for as long as little
//! is written it takes all, whether anybody is there or not. Only the kernel knows what was
//! acknowledged.

use std::time::Duration;

use socket2::SockRef;
#[cfg(feature = "server")]
use socket2::TcpKeepalive;

use crate::error::ConfigError;

/// Ends the connection once nothing of what was sent is acknowledged for so long, or the peer's
/// window stays shut for so long. One system call.
#[cfg(feature = "proxy")]
pub(crate) fn set(socket: &SockRef<'_>, timeout: Duration) {
    if let Err(error) = set_user_timeout(socket, timeout) {
        tracing::debug!(target: "evenkeel::connect", %error, "TCP_USER_TIMEOUT");
    }
}

/// Has every connection that a listening socket accepts from now on inherit [`set`], and asks
/// of those that are silent for so long whether their peer is there.
#[cfg(feature = "server")]
pub(crate) fn set_for_accepted(listener: &SockRef<'_>, timeout: Duration) {
    let keepalive = TcpKeepalive::new().with_time(timeout);
    // Others have no such option, or go by another name.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    let keepalive =
        keepalive.with_interval((timeout / PROBES_PER_TIMEOUT).max(Duration::from_secs(1)));
    let result =
        set_user_timeout(listener, timeout).and_then(|()| listener.set_tcp_keepalive(&keepalive));
    if let Err(error) = result {
        tracing::warn!(
            target: "evenkeel::server", %error,
            "clients that vanish can only be noticed by the deadlines"
        );
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
fn set_user_timeout(socket: &SockRef<'_>, timeout: Duration) -> std::io::Result<()> {
    socket.set_tcp_user_timeout(Some(timeout))
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "fuchsia")))]
fn set_user_timeout(_: &SockRef<'_>, _: Duration) -> std::io::Result<()> {
    Ok(())
}

/// Accepts what makes sense.
pub(crate) fn validate(timeout: Duration) -> Result<Duration, ConfigError> {
    if timeout < MIN || timeout > Duration::from_secs(3_600) {
        return Err(ConfigError::new(
            "tcp_user_timeout",
            format!("{timeout:?}: 1 s to 1 h is accepted"),
        ));
    }
    Ok(timeout)
}

/// Less, and two packets lost in a row would end what is well.
const MIN: Duration = Duration::from_secs(1);
/// As long as nginx's `send_timeout`, and as what is idle is kept.
pub(crate) const DEFAULT: Duration = Duration::from_secs(60);
/// How often a silent peer is keepalive again within the time that it was silent for.
#[cfg(feature = "server")]
const PROBES_PER_TIMEOUT: u32 = 4;

#[cfg(all(test, target_os = "linux", feature = "server", feature = "proxy"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn accepted_sockets_inherit_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let timeout = Duration::from_secs(7);
        set_for_accepted(&SockRef::from(&listener), timeout);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(timeout));
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), timeout);
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn setting_the_timeout_takes_about_a_microsecond() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let began = tokio::time::Instant::now();
        for _ in 0..1_000 {
            set(&SockRef::from(&stream), DEFAULT);
        }
        let each = began.elapsed() / 1_000;
        println!("TCP_USER_TIMEOUT: {each:?} a connection");
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(DEFAULT));
        assert!(each < Duration::from_micros(100), "{each:?}");
    }

    #[test]
    fn a_timeout_out_of_range_is_refused() {
        for wrong in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
            let error = validate(wrong).unwrap_err();
            assert_eq!(error.field(), "tcp_user_timeout");
            assert!(error.message().ends_with("1 s to 1 h is accepted"));
        }
    }
}
