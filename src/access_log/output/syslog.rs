//! [`Syslog`]: the format of RFC 5424 and its transports.
//!
//! The head of a message is made in two constant parts around its time, so that a line costs two
//! copies. The values in the head are checked once, when they are set: a space or a newline in one
//! would begin another field or another message.
//!
//! Octet counting over TCP (RFC 6587 §3.4.1) and not the newline of §3.4.2: the length says where a
//! message ends whatever is in it. rsyslog reads both, without a setting.

use std::{
    fmt::Write,
    fs,
    path::PathBuf,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{calendar::date, error::ConfigError};

/// A syslog server, and what the head of each message says ([RFC 5424]).
///
/// Each line is one message:
///
/// ```text
/// <134>1 2025-01-31T12:00:00.012Z lb-1 evenkeel 4711 access - @cee: {"time":"2025-01-31T12:00:00.000Z",…}
/// ```
///
/// The time of the message is when it was sent, and that of the line when the request arrived. The
/// severity is 6 (informational), the message id `access`, and there is no structured data: the
/// line has the fields. rsyslog's `mmjsonparse` makes properties of all of them, of JSON with the
/// [cookie](Self::cee).
///
/// rsyslog cuts messages longer than its `$MaxMessageSize`, 8 KiB by default. Set it to 64 KiB if
/// clients send long paths, as a JSON line that was cut is no JSON.
///
/// # Defaults
///
/// | what | default |
/// |---|---|
/// | facility | `local0` |
/// | host name | the system's, or `-` if it cannot be read |
/// | app name | `evenkeel` |
/// | process id | this process' |
/// | cookie | off |
///
/// [RFC 5424]: https://www.rfc-editor.org/rfc/rfc5424
#[derive(Clone, Debug)]
#[must_use]
pub struct Syslog {
    transport: Transport,
    facility: Facility,
    hostname: Option<String>,
    app_name: String,
    proc_id: Option<String>,
    cee: bool,
}

/// How messages travel.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    Unix(PathBuf),
    Udp(String),
    Tcp(String),
}

impl Syslog {
    /// Sends messages as datagrams to this Unix socket, commonly `/dev/log`.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::new(Transport::Unix(path.into()))
    }

    /// Sends messages over UDP ([RFC 5426](https://www.rfc-editor.org/rfc/rfc5426)) to this address,
    /// such as `syslog.example:514`. A message longer than the path's MTU, about 1,400 bytes, travels
    /// in fragments; one lost fragment loses it.
    pub fn udp(address: impl Into<String>) -> Self {
        Self::new(Transport::Udp(address.into()))
    }

    /// Sends messages over a TCP connection to this address, such as `syslog.example:601`, each
    /// preceded by its length: the octet counting of
    /// [RFC 6587 §3.4.1](https://www.rfc-editor.org/rfc/rfc6587#section-3.4.1).
    pub fn tcp(address: impl Into<String>) -> Self {
        Self::new(Transport::Tcp(address.into()))
    }

    fn new(transport: Transport) -> Self {
        Self {
            transport,
            facility: Facility::Local0,
            hostname: None,
            app_name: APP_NAME.into(),
            proc_id: None,
            cee: false,
        }
    }

    /// Sets the facility.
    ///
    /// Default: `local0`.
    pub fn facility(mut self, facility: Facility) -> Self {
        self.facility = facility;
        self
    }

    /// Sets the host name of the messages.
    ///
    /// Default: the system's.
    ///
    /// # Errors
    ///
    /// Unless it consists of 1 to 255 visible ASCII characters.
    pub fn hostname(mut self, hostname: impl Into<String>) -> Result<Self, ConfigError> {
        self.hostname = Some(checked("hostname", hostname.into(), 255)?);
        Ok(self)
    }

    /// Sets the app name, by which a syslog server often chooses the file.
    ///
    /// Default: `evenkeel`.
    ///
    /// # Errors
    ///
    /// Unless it consists of 1 to 48 visible ASCII characters.
    pub fn app_name(mut self, app_name: impl Into<String>) -> Result<Self, ConfigError> {
        self.app_name = checked("app_name", app_name.into(), 48)?;
        Ok(self)
    }

    /// Sets the process id, which need not be a number.
    ///
    /// Default: the id of this process.
    ///
    /// # Errors
    ///
    /// Unless it consists of 1 to 128 visible ASCII characters.
    pub fn proc_id(mut self, proc_id: impl Into<String>) -> Result<Self, ConfigError> {
        self.proc_id = Some(checked("proc_id", proc_id.into(), 128)?);
        Ok(self)
    }

    /// Precedes each line by `@cee: `, the cookie by which rsyslog's `mmjsonparse` and others know
    /// that JSON follows.
    ///
    /// Default: off.
    pub fn cee(mut self, on: bool) -> Self {
        self.cee = on;
        self
    }

    /// Returns the transport, and how to frame a line.
    pub(super) fn into_parts(self) -> (Transport, Framing) {
        let before = format!("<{}>1 ", 8 * self.facility as u16 + INFORMATIONAL);
        let hostname = self.hostname.or_else(system_hostname);
        let proc_id = self
            .proc_id
            .unwrap_or_else(|| std::process::id().to_string());
        let after = format!(
            " {} {} {proc_id} access - {}",
            hostname.as_deref().unwrap_or("-"),
            self.app_name,
            if self.cee { "@cee: " } else { "" },
        );
        (self.transport, Framing::Syslog { before, after })
    }
}

/// The part of a system that a message comes from ([RFC 5424 §6.2.1]).
///
/// [RFC 5424 §6.2.1]: https://www.rfc-editor.org/rfc/rfc5424#section-6.2.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Facility {
    /// User-level messages.
    User = 1,
    /// System daemons.
    Daemon = 3,
    /// Security messages.
    Auth = 4,
    /// Security messages that few may read.
    AuthPriv = 10,
    /// Local use 0.
    Local0 = 16,
    /// Local use 1.
    Local1 = 17,
    /// Local use 2.
    Local2 = 18,
    /// Local use 3.
    Local3 = 19,
    /// Local use 4.
    Local4 = 20,
    /// Local use 5.
    Local5 = 21,
    /// Local use 6.
    Local6 = 22,
    /// Local use 7.
    Local7 = 23,
}

impl FromStr for Facility {
    type Err = ConfigError;

    /// Reads `user`, `daemon`, `auth`, `authpriv`, or `local0` to `local7`.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Ok(match name {
            "user" => Self::User,
            "daemon" => Self::Daemon,
            "auth" => Self::Auth,
            "authpriv" => Self::AuthPriv,
            "local0" => Self::Local0,
            "local1" => Self::Local1,
            "local2" => Self::Local2,
            "local3" => Self::Local3,
            "local4" => Self::Local4,
            "local5" => Self::Local5,
            "local6" => Self::Local6,
            "local7" => Self::Local7,
            _ => {
                let message =
                    format!("{name:?} is none of user, daemon, auth, authpriv, local0 to local7");
                return Err(ConfigError::new("facility", message));
            }
        })
    }
}

/// What surrounds a line on its way.
pub(super) enum Framing {
    /// Nothing but the newline of a stream.
    Line,
    /// The head of a message, in two parts: before and after its time.
    Syslog { before: String, after: String },
}

impl Framing {
    /// Returns the time for the heads of messages.
    pub(super) fn now(&self) -> String {
        match self {
            Self::Line => String::new(),
            Self::Syslog { .. } => timestamp(SystemTime::now()),
        }
    }

    /// Adds a line without its newline as a datagram.
    pub(super) fn add_datagram(&self, now: &str, line: &[u8], out: &mut Vec<u8>) {
        if let Self::Syslog { before, after } = self {
            for part in [before, now, after] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        out.extend_from_slice(line);
    }

    /// Adds a line with its newline to a stream.
    pub(super) fn add_to_stream(&self, now: &str, line: &[u8], out: &mut Vec<u8>) {
        let Self::Syslog { before, after } = self else {
            return out.extend_from_slice(line);
        };
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let len = before.len() + now.len() + after.len() + line.len();
        out.extend_from_slice(len.to_string().as_bytes());
        out.push(b' ');
        self.add_datagram(now, line, out);
    }
}

/// Returns the time as RFC 5424 §6.2.3 writes it.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs();
    let (year, month, day) = date(second / 86_400);
    let (hour, minute, second) = (second / 3_600 % 24, second / 60 % 60, second % 60);
    let mut text = String::new();
    // A `String` takes every write.
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        since.subsec_millis()
    );
    text
}

/// Returns the name of this system, if it can be read and may stand in a message.
fn system_hostname() -> Option<String> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let text = files
        .iter()
        .find_map(|file| fs::read_to_string(file).ok())?;
    checked("hostname", text.trim().to_owned(), 255).ok()
}

/// Returns `value` if it may stand in the head of a message.
fn checked(field: &str, value: String, max_len: usize) -> Result<String, ConfigError> {
    match (1..=max_len).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(value),
        false => Err(ConfigError::new(
            field,
            format!("{value:?} is not 1 to {max_len} visible ASCII characters"),
        )),
    }
}

/// The severity of every message (RFC 5424 §6.2.1): an access log records, and is no alarm.
const INFORMATIONAL: u16 = 6;
/// Names the crate, as `syslog.example` may know many programs.
const APP_NAME: &str = "evenkeel";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn framing(syslog: Syslog) -> Framing {
        syslog.into_parts().1
    }

    #[test]
    fn a_message_is_written_to_the_byte() {
        let syslog = Syslog::unix("/dev/log")
            .facility(Facility::Daemon)
            .hostname("lb-1")
            .unwrap()
            .app_name("shop")
            .unwrap()
            .proc_id("7")
            .unwrap();
        let now = timestamp(UNIX_EPOCH + Duration::from_millis(1_709_164_799_007));
        let mut out = Vec::new();
        framing(syslog.clone()).add_datagram(&now, b"{}", &mut out);
        let message = "<30>1 2024-02-28T23:59:59.007Z lb-1 shop 7 access - {}";
        assert_eq!(String::from_utf8(out).unwrap(), message);
        let mut out = Vec::new();
        framing(syslog.cee(true)).add_to_stream(&now, b"{}\n", &mut out);
        let message = "60 <30>1 2024-02-28T23:59:59.007Z lb-1 shop 7 access - @cee: {}";
        assert_eq!(String::from_utf8(out).unwrap(), message);
    }

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let syslog = Syslog::udp("192.0.2.1:514");
        assert!(syslog.facility == Facility::Local0 && syslog.app_name == "evenkeel");
        assert!(syslog.hostname.is_none() && syslog.proc_id.is_none() && !syslog.cee);
        let Framing::Syslog { before, after } = framing(syslog) else {
            panic!("a syslog has heads");
        };
        assert_eq!(before, "<134>1 ");
        assert!(after.ends_with(&format!(" evenkeel {} access - ", std::process::id())));
    }

    #[test]
    fn what_would_end_a_head_is_refused() {
        for name in ["", "a b", "a\nb", "ä", &"x".repeat(49)] {
            assert!(Syslog::unix("/dev/log").app_name(name).is_err(), "{name:?}");
        }
        assert!(Syslog::unix("/dev/log").hostname("x".repeat(255)).is_ok());
        let refused = Syslog::unix("/dev/log")
            .proc_id("x".repeat(129))
            .unwrap_err();
        assert_eq!(refused.field(), "proc_id");
    }

    #[test]
    fn facilities_are_read_by_name() {
        for (name, number) in [
            ("user", 1),
            ("authpriv", 10),
            ("local0", 16),
            ("local7", 23),
        ] {
            assert_eq!(name.parse::<Facility>().unwrap() as u16, number);
        }
        assert!("local8".parse::<Facility>().is_err());
    }
}
