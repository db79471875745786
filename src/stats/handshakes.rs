//! The TLS handshakes of a listener, counted by what they agreed on or why they failed.

use super::shard::{Counter, Sharded, Writer};
use crate::context::{HandshakeFailure, TlsInfo};

/// TLS handshakes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandshakeStats {
    /// The version: `TLSv1.2`, `TLSv1.3` or `other`.
    pub version: &'static str,
    /// The cipher suite's IANA name, or `other`.
    pub cipher: &'static str,
    /// The key exchange group's IANA name, or `other`; `none` if the handshake had none, as where a
    /// session of TLS 1.2 is resumed.
    pub key_exchange: &'static str,
    /// True if the clients resumed an earlier session.
    pub resumed: bool,
    /// How many there were.
    pub count: u64,
}

/// What one thread counted.
#[derive(Default)]
pub(super) struct HandshakeCounters {
    /// By suite, then by group, then full and resumed.
    succeeded: [[[Counter; 2]; GROUPS.len()]; SUITES.len()],
    /// In the order of `HandshakeFailure::ALL`.
    failed: [Counter; HandshakeFailure::ALL.len()],
}

impl HandshakeCounters {
    pub(super) fn succeed(&self, writer: Writer, tls: &TlsInfo) {
        let suite = suite(tls.version, tls.cipher);
        let group = group(tls.key_exchange);
        let counter = self.succeeded.get(suite).and_then(|suite| suite.get(group));
        if let Some(counter) = counter {
            counter[usize::from(tls.resumed)].add(writer, 1);
        }
    }

    pub(super) fn fail(&self, writer: Writer, failure: HandshakeFailure) {
        let at = HandshakeFailure::ALL.iter().position(|f| *f == failure);
        if let Some(counter) = at.and_then(|at| self.failed.get(at)) {
            counter.add(writer, 1);
        }
    }
}

/// Returns the handshakes that succeeded, without the combinations that did not occur.
pub(super) fn succeeded<T: Default>(
    counters: &Sharded<T>,
    of: impl Fn(&T) -> &HandshakeCounters,
) -> Vec<HandshakeStats> {
    let suites = SUITES.iter().enumerate();
    let kinds = suites.flat_map(|(suite, (version, cipher))| {
        let groups = GROUPS.iter().enumerate();
        let of = &of;
        groups.flat_map(move |(group, key_exchange)| {
            [false, true].map(|resumed| HandshakeStats {
                version,
                cipher,
                key_exchange,
                resumed,
                count: counters.sum(|c| &of(c).succeeded[suite][group][usize::from(resumed)]),
            })
        })
    });
    kinds.filter(|kind| kind.count > 0).collect()
}

/// Returns the handshakes that failed by cause, without the causes that did not occur.
pub(super) fn failed<T: Default>(
    counters: &Sharded<T>,
    of: impl Fn(&T) -> &HandshakeCounters,
) -> Vec<(&'static str, u64)> {
    let causes = HandshakeFailure::ALL.iter().enumerate();
    let counted = causes.map(|(at, cause)| {
        let count = counters.sum(|c| &of(c).failed[at]);
        (cause.as_str(), count)
    });
    counted.filter(|(_, count)| *count > 0).collect()
}

/// Returns the index of the suite, or of `other` of its version.
fn suite(version: &str, cipher: &str) -> usize {
    let is_it = |(v, c): &(&str, &str)| *v == version && *c == cipher;
    let is_other = |(v, c): &(&str, &str)| *v == version && *c == OTHER;
    let found = SUITES.iter().position(is_it);
    let found = found.or_else(|| SUITES.iter().position(is_other));
    found.unwrap_or(SUITES.len() - 1)
}

/// Returns the index of the group, or of `other`.
fn group(name: Option<&str>) -> usize {
    let name = name.unwrap_or(NONE);
    let found = GROUPS.iter().position(|group| *group == name);
    found.unwrap_or(GROUPS.len() - 1)
}

const OTHER: &str = "other";
const NONE: &str = "none";
/// The suites of rustls, the frequent ones first. A configuration of rustls may have others, which are
/// counted together, so that no handshake can make a series that is not here.
const SUITES: [(&str, &str); 12] = [
    ("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    ("TLSv1.3", "TLS_AES_128_GCM_SHA256"),
    ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256"),
    ("TLSv1.3", OTHER),
    ("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLSv1.2", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("TLSv1.2", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("TLSv1.2", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLSv1.2", OTHER),
    (OTHER, OTHER),
];
/// The groups of both crypto providers, the frequent ones first.
const GROUPS: [&str; 8] = [
    "X25519MLKEM768",
    "x25519",
    "secp256r1",
    "secp384r1",
    "SecP256r1MLKEM768",
    "MLKEM768",
    NONE,
    OTHER,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suite_and_group_has_a_counter_of_its_own_and_others_share_one() {
        for (at, (version, cipher)) in SUITES.iter().enumerate() {
            assert_eq!(suite(version, cipher), at, "{version} {cipher}");
        }
        assert_eq!(SUITES[suite("TLSv1.3", "new")], ("TLSv1.3", OTHER));
        assert_eq!(SUITES[suite("TLSv1.2", "")], ("TLSv1.2", OTHER));
        assert_eq!(SUITES[suite("", "new")], (OTHER, OTHER));
        for (at, name) in GROUPS.iter().enumerate() {
            assert_eq!(group(Some(name)), at, "{name}");
        }
        assert_eq!(GROUPS[group(None)], NONE);
        assert_eq!(GROUPS[group(Some("new"))], OTHER);
    }
}
