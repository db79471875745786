//! `TCP_USER_TIMEOUT` and keepalive: the kernel ends connections whose peer has vanished.
//!
//! A host that loses power or its network sends no FIN and no RST. The deadlines of this crate
//! restart with every byte that the kernel accepts, and the kernel accepts bytes into its send
//! buffer whether or not the peer is there. Only the kernel knows what the peer has acknowledged,
//! so only the kernel can end such a connection while a slow transfer still hands it bytes.
//!
//! | | accepted connections | connections to backends |
//! |---|---|---|
//! | set on | the listening socket, once | each socket: a system call of 0.7 µs |
//! | sent data is not acknowledged | ends after the time-out | ends after the time-out |
//! | the peer's window stays shut | ends, from the first probe on | ends, from the first probe on |
//! | nothing is sent | probed after the time-out, ends a quarter of it later | no probes: a deadline runs |
//!
//! RFC 5482 describes the user time-out. On systems without the option, `set` does nothing, and the
//! deadlines of HTTP remain.

use std::time::Duration;

use socket2::SockRef;
use socket2::TcpKeepalive;

use crate::error::ConfigError;

/// Sets `TCP_USER_TIMEOUT`: the kernel ends the connection once sent data stays unacknowledged, or
/// the peer's receive window stays closed, for `timeout`. Costs one system call; a failure is
/// logged and ignored.
///
/// Call it once for a connection, after it is made.
pub(crate) fn set(socket: &SockRef<'_>, timeout: Duration) {
    if let Err(error) = set_user_timeout(socket, timeout) {
        tracing::debug!(target: "evenkeel::connect", %error, "TCP_USER_TIMEOUT");
    }
}

/// Sets `TCP_USER_TIMEOUT` and keepalive on a listening socket. Sockets that it accepts inherit
/// both, so a connection costs no system call. The kernel probes a peer that is silent for
/// `timeout`.
///
/// Call it before `listen`. Linux copies the options at the handshake; a connection that waits in
/// the queue has those of before.
pub(crate) fn set_for_accepted(listener: &SockRef<'_>, timeout: Duration) {
    // With the user time-out set, Linux ends a probed connection by that and not by the number of
    // probes (tcp(7)).
    let keepalive = TcpKeepalive::new().with_time(timeout);
    // Other systems lack `TCP_KEEPINTVL` or give it another name.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    let keepalive =
        keepalive.with_interval((timeout / PROBES_PER_TIMEOUT).max(Duration::from_secs(1)));
    let result =
        set_user_timeout(listener, timeout).and_then(|()| listener.set_tcp_keepalive(&keepalive));
    if let Err(error) = result {
        tracing::warn!(
            target: "evenkeel::server", %error,
            "cannot set TCP_USER_TIMEOUT and keepalive: only HTTP deadlines end dead connections"
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

/// Returns `timeout` if it is within 1 s to 1 h.
///
/// # Errors
///
/// A `ConfigError` for the field `tcp_user_timeout` otherwise.
pub(crate) fn validate(timeout: Duration) -> Result<Duration, ConfigError> {
    if timeout < MIN || timeout > Duration::from_secs(3_600) {
        return Err(ConfigError::new(
            "tcp_user_timeout",
            format!("{timeout:?}: 1 s to 1 h is accepted"),
        ));
    }
    Ok(timeout)
}

/// Below a second, two packets lost in a row would end a healthy connection.
const MIN: Duration = Duration::from_secs(1);
/// Equal to nginx's `send_timeout`, and to the default idle time of a connection.
pub(crate) const DEFAULT: Duration = Duration::from_secs(60);
/// How many probes a silent peer gets within a further `timeout`.
const PROBES_PER_TIMEOUT: u32 = 4;

#[cfg(all(test, target_os = "linux"))]
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
