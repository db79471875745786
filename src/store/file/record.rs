//! What stands in a file of the store: one line of text, then the value.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// A value or a lock, and when it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Since 1970; `None` without a lifetime.
    pub(super) ends: Option<Duration>,
    /// The value, or the holder of a lock.
    pub(super) content: Bytes,
}

impl Record {
    /// Makes a record that ends `lifetime` after `now`.
    pub(super) fn new(content: Bytes, lifetime: Option<Duration>, now: SystemTime) -> Self {
        // A lifetime beyond the clock is none.
        let ends = lifetime.and_then(|lifetime| since_1970(now).checked_add(lifetime));
        Self { ends, content }
    }

    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        self.ends.is_some_and(|ends| ends <= since_1970(now))
    }

    /// Returns the bytes of the file.
    pub(super) fn write(&self) -> Vec<u8> {
        let ends = match self.ends {
            // Rounded up: a value never ends before its lifetime.
            Some(ends) => ends.as_nanos().div_ceil(1_000_000).to_string(),
            None => "-".to_owned(),
        };
        let mut bytes = format!("{MAGIC}{ends}\n").into_bytes();
        bytes.extend_from_slice(&self.content);
        bytes
    }

    /// Reads the bytes of a file; `None` if no store of this version wrote them.
    pub(super) fn read(bytes: &Bytes) -> Option<Self> {
        let end = bytes.iter().take(MAX_LINE).position(|b| *b == b'\n')?;
        let line = std::str::from_utf8(&bytes[..end]).ok()?;
        let ends = match line.strip_prefix(MAGIC)? {
            "-" => None,
            ms => Some(Duration::from_millis(ms.parse().ok()?)),
        };
        Some(Self {
            ends,
            content: bytes.slice(end + 1..),
        })
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The begin of each file. The number is the version of the format.
const MAGIC: &str = "evenkeel-store 1 ";
/// The longest first line: the magic, and the milliseconds of a `u64`.
const MAX_LINE: usize = MAGIC.len() + 21;
/// What a record adds to its value, at most.
pub(super) const OVERHEAD: usize = MAX_LINE + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let now = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_500);
        for (lifetime, content) in [
            (None, &b""[..]),
            (None, b"\n\0\xff"),
            (Some(Duration::ZERO), b"a"),
            (Some(Duration::from_secs(90)), b"a\nb"),
            (Some(Duration::MAX), b"a"),
        ] {
            let record = Record::new(Bytes::from_static(content), lifetime, now);
            let bytes = Bytes::from(record.write());
            assert!(bytes.len() <= content.len() + OVERHEAD);
            let read = Record::read(&bytes).unwrap();
            assert_eq!(read.content, content);
            assert!(!read.has_ended(now), "{lifetime:?}: rounded up");
            let later = now + lifetime.unwrap_or_default().min(Duration::from_secs(90));
            let later = later + Duration::from_millis(1);
            let ends = lifetime.is_some_and(|lifetime| lifetime < Duration::MAX);
            assert_eq!(read.has_ended(later), ends, "{lifetime:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bytes in [
            "",
            "\n",
            "a",
            "evenkeel-store 1 -",
            "evenkeel-store 1 \n",
            "evenkeel-store 1 x\n",
            "evenkeel-store 1 -1\n",
            "evenkeel-store 2 -\n",
            "evenkeel-store 1 99999999999999999999999\n",
            "-----BEGIN CERTIFICATE-----\n",
        ] {
            assert_eq!(Record::read(&Bytes::from(bytes)), None, "{bytes:?}");
        }
    }
}
