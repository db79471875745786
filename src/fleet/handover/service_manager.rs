//! [`ServiceManager`]: what systemd learns of the process (sd_notify(3)).

use std::{
    env, fmt, io,
    os::unix::net::{SocketAddr, UnixDatagram},
    path::Path,
};

use rustix::time::{ClockId, clock_gettime};

/// The service manager that started this process, such as systemd with `Type=notify`. It learns when
/// the process is ready, reloads, stops, and which process serves after a hand-over.
///
/// Without the variable `NOTIFY_SOCKET`, no method does anything. A message that cannot be sent is
/// logged at WARN; none waits.
#[derive(Debug, Default)]
pub struct ServiceManager {
    link: Option<Link>,
}

struct Link {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl ServiceManager {
    /// Finds the service manager in the variable `NOTIFY_SOCKET`.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Self::default();
        };
        match Link::new(path.as_ref()) {
            Ok(link) => Self { link: Some(link) },
            Err(error) => {
                tracing::warn!(target: "evenkeel::fleet", ?path, %error, "NOTIFY_SOCKET");
                Self::default()
            }
        }
    }

    /// Reports that this process serves, and that it is the main one of its service.
    pub fn ready(&self) {
        self.send(&format!("READY=1\nMAINPID={}\n", std::process::id()));
    }

    /// Reports that a reload begins; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
    }

    /// Reports that the service stops. Do not call it after a hand-over: the service goes on.
    pub fn stopping(&self) {
        self.send("STOPPING=1\n");
    }

    /// Reports that another process is the main one from now on. systemd believes it of the main
    /// process alone, unless the unit has `NotifyAccess=all`.
    pub fn replaced_by(&self, process: u32) {
        self.send(&format!("MAINPID={process}\nREADY=1\n"));
    }

    /// Shows a line in the status of the service. Line breaks become blanks.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}\n", text.replace(['\n', '\r'], " ")));
    }

    fn send(&self, message: &str) {
        let Some(link) = &self.link else {
            return;
        };
        let sent = link.socket.send_to_addr(message.as_bytes(), &link.address);
        if let Err(error) = sent {
            tracing::warn!(target: "evenkeel::fleet", %error, "cannot notify the service manager");
        }
    }
}

impl Link {
    fn new(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address: address(path)?,
        })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Parses a path, or a name in the abstract namespace of Linux, which begins with `@`.
fn address(path: &Path) -> io::Result<SocketAddr> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        #[cfg(target_os = "android")]
        use std::os::android::net::SocketAddrExt;
        #[cfg(target_os = "linux")]
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        if let Some(name) = path.as_os_str().as_bytes().strip_prefix(b"@") {
            return SocketAddr::from_abstract_name(name);
        }
    }
    match path.is_absolute() {
        true => SocketAddr::from_pathname(path),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an absolute path, or a name that begins with @, is accepted",
        )),
    }
}
