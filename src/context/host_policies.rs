//! `HostPolicies`: which host names share the TLS policy of a connection.
//!
//! Why it exists: two hosts of one listener may have other requirements (client certificates,
//! versions), and HTTP/2 lets a client send requests for both over one connection (RFC 9113 §9.1.1). A
//! connection that was made for a host without a client certificate must not carry a request for one
//! that asks for it. So each request's host is compared with the policy of the connection's, and 421
//! is the answer if they differ.
//!
//! Names are compared in the spelling that a backend might see; whatever a backend may read otherwise
//! has no policy, and so is never covered.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// The host names that have a TLS policy of their own. The number of a policy is its place in the list,
/// from 1 on; all other names have policy 0.
#[derive(Debug, Default)]
pub(crate) struct HostPolicies {
    exact: HashMap<Box<str>, usize>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, usize>,
}

impl HostPolicies {
    /// Indexes names in lower case; `*.` stands for one label.
    #[cfg(feature = "__tls")]
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut made = Self::default();
        for (name, number) in names.into_iter().zip(1..) {
            match name.strip_prefix("*.") {
                Some(rest) => made.wildcard.insert(rest.into(), number),
                None => made.exact.insert(name.into(), number),
            };
        }
        made
    }

    /// Returns the policy of a name in lower case: the exact name's, else that of its wildcard, else 0.
    pub(crate) fn find(&self, name: &str) -> usize {
        if let Some(number) = self.exact.get(name) {
            return *number;
        }
        // One label only (RFC 6125 §6.4.3): `*.a.test` is neither `a.test` nor `y.x.a.test`.
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let number = parent.and_then(|parent| self.wildcard.get(parent));
        number.copied().unwrap_or_default()
    }
}

/// The policy of a connection, among those of its listener.
#[derive(Clone, Debug)]
pub(crate) struct ConnPolicy {
    pub(crate) hosts: Arc<HostPolicies>,
    pub(crate) number: usize,
}

impl ConnPolicy {
    /// Returns true if the host, with or without a port, has this policy. A host with other characters
    /// than those of a name has none.
    pub(crate) fn covers(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            // The colons of an address in brackets are no port.
            Some((name, port)) if !port.ends_with(']') => name,
            _ => host,
        };
        // The root of DNS may be written: `a.test.` is the same host.
        let name = name.strip_suffix('.').unwrap_or(name);
        // A backend may decode `%61` or leave out what precedes `@`: a host in such a spelling could
        // reach one that asks for a certificate over a connection that did not.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_literal = name.starts_with('[') && name.ends_with(']');
        if !is_literal && !name.bytes().all(is_plain) {
            return false;
        }
        let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        self.hosts.find(&name) == self.number
    }
}

#[cfg(all(test, feature = "__tls"))]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_a_backend_may_read_otherwise_has_no_policy() {
        let hosts = Arc::new(HostPolicies::new(["a.test"]));
        for number in [0, 1] {
            let policy = ConnPolicy {
                hosts: hosts.clone(),
                number,
            };
            for host in ["%61.test", "x@a.test", "a.test/", "ä.test", "a,a.test"] {
                assert!(!policy.covers(host), "{host}");
            }
            assert_eq!(policy.covers("[::1]:443"), number == 0);
            assert_eq!(policy.covers("other_host-1.test"), number == 0);
        }
    }

    #[test]
    fn a_host_has_the_policy_of_its_name_in_any_spelling() {
        let hosts = HostPolicies::new(["a.test", "*.a.test", "b.test"]);
        let hosts = Arc::new(hosts);
        for (host, number) in [
            ("a.test", 1),
            ("A.Test:8443", 1),
            ("a.test.", 1),
            ("a.test.:443", 1),
            ("x.a.test", 2),
            ("X.a.test:1", 2),
            ("x.y.a.test", 0),
            ("b.test", 3),
            ("c.test", 0),
            ("127.0.0.1:8443", 0),
            ("[::1]", 0),
            ("[::1]:8443", 0),
            ("", 0),
        ] {
            for at in 0..4 {
                let hosts = hosts.clone();
                let covers = ConnPolicy { hosts, number: at }.covers(host);
                assert_eq!(
                    covers,
                    at == number,
                    "{host} on a connection of policy {at}"
                );
            }
        }
    }
}
