//! Failures with a local cause: the process or the machine is out of a resource, or the resolver does
//! not answer.
//!
//! Such a failure says nothing about the backend or the client at the other end, so neither active
//! checks nor outlier detection count it against them.
//!
//! | what fails | consequence |
//! |---|---|
//! | a request | `ErrorKind::Local`: 503 with `Retry-After: 1`, and no ejection |
//! | an active check | counts as no check |
//! | `accept` | is tried again after 100 ms |
//!
//! Before this kind existed, a process without descriptors failed every check and every connect, so
//! that all backends went down and stayed so for longer than the cause.

use std::{error, fmt, io, time::Duration};

use crate::{
    error::{Error, ErrorKind},
    log_limit::LogLimit,
};

/// The resource that is missing.
///
/// The order of the variants is the index into `LOG_LIMITS`: one limit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalFault {
    /// ENOBUFS.
    Buffers,
    /// EMFILE.
    Files,
    /// ENOMEM.
    Memory,
    /// EADDRNOTAVAIL for a local address that this machine has: all its ports are in use.
    Ports,
    /// The resolver failed or did not answer.
    Resolver,
    /// ENFILE.
    SystemFiles,
}

impl LocalFault {
    /// Returns the fault that an error of a system call stands for, if it stands for one.
    ///
    /// EADDRNOTAVAIL is not among them: it is a local fault for some calls of `connect` only, and the
    /// module `connect` decides.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error() {
            Some(EMFILE) => Some(Self::Files),
            Some(ENFILE) => Some(Self::SystemFiles),
            Some(ENOBUFS) => Some(Self::Buffers),
            Some(ENOMEM) => Some(Self::Memory),
            _ => None,
        }
    }

    /// Logs the fault, and returns the error for the request or check that failed.
    #[cold]
    pub(crate) fn error(self, cause: &dyn fmt::Display) -> Error {
        self.report(cause);
        Error::new(ErrorKind::Local)
            .with_source(format!("{self}: {cause}"))
            .with_retry_after(RETRY_AFTER)
    }

    /// Logs the fault with the error of the system: at most one ERROR in 10 s for each kind, however
    /// many requests, checks and accepts fail.
    #[cold]
    pub(crate) fn report(self, cause: &dyn fmt::Display) {
        if let Some(left_out) = LOG_LIMITS[self as usize].pass() {
            tracing::error!(
                target: "evenkeel::local_fault",
                fault = self.as_str(), %cause, left_out, "{self}"
            );
        }
    }

    /// The field `fault` of the log line: stable names for alerts.
    fn as_str(self) -> &'static str {
        match self {
            Self::Buffers => "buffers",
            Self::Files => "files",
            Self::Memory => "memory",
            Self::Ports => "ports",
            Self::Resolver => "resolver",
            Self::SystemFiles => "system_files",
        }
    }
}

impl fmt::Display for LocalFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Buffers => "the kernel has no buffer for another socket (ENOBUFS)",
            Self::Files => {
                "this process has as many files and sockets open as it may (EMFILE): raise its \
                 limit, RLIMIT_NOFILE, as by `ulimit -n` or LimitNOFILE="
            }
            Self::Memory => "the kernel has no memory for another socket (ENOMEM)",
            Self::Ports => {
                "no local port is free for another connection to this address (EADDRNOTAVAIL): \
                 widen net.ipv4.ip_local_port_range"
            }
            Self::Resolver => "the resolver does not answer for the name",
            Self::SystemFiles => {
                "the machine has as many files and sockets open as it may (ENFILE): raise \
                 fs.file-max"
            }
        })
    }
}

impl error::Error for LocalFault {}

static LOG_LIMITS: [LogLimit; 6] = [const { LogLimit::new() }; 6];

/// The shortest time that `Retry-After` can express.
const RETRY_AFTER: Duration = Duration::from_secs(1);

// The error numbers of the supported systems; the first three are the same on all.
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
#[cfg(any(target_os = "linux", target_os = "android"))]
const ENOBUFS: i32 = 105;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ENOBUFS: i32 = 55;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_other_end_are_no_faults_of_this_one() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(LocalFault::of(&refused), None);
        for (errno, fault) in [
            (ENOMEM, LocalFault::Memory),
            (ENFILE, LocalFault::SystemFiles),
            (EMFILE, LocalFault::Files),
            (ENOBUFS, LocalFault::Buffers),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(LocalFault::of(&error), Some(fault), "{error}");
        }
    }
}
