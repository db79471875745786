//! Which of the hops in a list is the client. Pure. The lists are read from the right, as each hop adds
//! its element at the end; elements further left may come from the client.
//!
//! A client can send any text: open quotes, escaped quotes, thousands of elements, several lines. Only
//! what trusted hops added can decide, and that stands at the right end; a property test puts it
//! behind any text.

use std::{
    iter,
    net::{IpAddr, Ipv6Addr},
};

use crate::context::TrustedPeers;

/// Returns the client, given the addresses that a trusted hop sent, the last one first; `None` stands
/// for an element that is not an address. The client is the first address that is not trusted or, if
/// all are trusted, the last one before the end of the list or an element that is not an address.
///
/// At most [`MAX_HOPS`] elements are read, however long the list is.
pub(super) fn client(
    trusted: &TrustedPeers,
    addresses: impl Iterator<Item = Option<IpAddr>>,
) -> Option<IpAddr> {
    let mut found = None;
    for address in addresses.take(MAX_HOPS).map_while(|address| address) {
        found = Some(address);
        if !trusted.contains(address) {
            break;
        }
    }
    found
}

/// Reads a line of `X-Forwarded-For`, the last element first. Empty elements are skipped (RFC 9110
/// §5.6.1).
pub(super) fn x_forwarded_for(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    let elements = line.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    elements.filter(|e| !e.is_empty()).map(address)
}

/// Reads a line of `Forwarded` (RFC 7239 §4), the last element first.
pub(super) fn forwarded(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    let mut rest = Some(line);
    let elements = iter::from_fn(move || {
        let (element, before) = split_last(rest?, b',');
        rest = before;
        Some(element.trim_ascii())
    });
    elements.filter(|e| !e.is_empty()).map(node)
}

/// Returns the address in the `for` parameter of an element.
///
/// An element that is malformed hides what is left of it: the client is then the last hop that is
/// known.
fn node(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let (pair, before) = split_last(pairs, b';');
        rest = before;
        if pair.trim_ascii().is_empty() {
            continue;
        }
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"for") {
            let quoted = value
                .strip_prefix(b"\"")
                .and_then(|v| v.strip_suffix(b"\""));
            // RFC 7239 §4 allows a parameter once: with two, neither counts.
            if found.replace(address(quoted.unwrap_or(value))?).is_some() {
                return None;
            }
        }
    }
    found
}

/// Splits at the last separator that is not quoted (RFC 9110 §5.6.4). Reads from the right, so that a
/// quote which a client left open cannot hide what a trusted hop added.
fn split_last(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut quoted = false;
    for (at, &byte) in text.iter().enumerate().rev() {
        if byte == b'"' {
            let before = text[..at].iter().rev();
            let escapes = before.take_while(|&&byte| byte == b'\\').count();
            quoted = !quoted || escapes % 2 == 1;
        } else if byte == separator && !quoted {
            return (&text[at + 1..], Some(&text[..at]));
        }
    }
    (text, None)
}

/// Reads an address with or without a port; an IPv6 address with a port is in brackets (RFC 7239
/// §6).
///
/// An IPv4 address in IPv6 form becomes IPv4, as networks are compared in that form.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let is_port = |port: &str| !port.is_empty() && port.len() <= MAX_PORT_LENGTH;
    let found = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
                return None;
            }
            address.parse::<Ipv6Addr>().ok()?.into()
        }
        None => match text.split_once(':') {
            Some((v4, port)) if !port.contains(':') && is_port(port) => {
                IpAddr::V4(v4.parse().ok()?)
            }
            _ => text.parse().ok()?,
        },
    };
    Some(found.to_canonical())
}

/// Longer than any chain of balancers; bounds what a forged list can cost.
pub(super) const MAX_HOPS: usize = 32;
/// A number, or a name that hides one (RFC 7239 §6.3).
const MAX_PORT_LENGTH: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> TrustedPeers {
        TrustedPeers::new(["10.0.0.0/8", "fd00::/8"]).unwrap()
    }

    fn found(addresses: impl Iterator<Item = Option<IpAddr>>) -> Option<String> {
        client(&trusted(), addresses).map(|client| client.to_string())
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_not_trusted() {
        for (line, client) in [
            ("203.0.113.7", Some("203.0.113.7")),
            ("203.0.113.7, 10.0.0.1", Some("203.0.113.7")),
            ("203.0.113.7,10.0.0.1 , 10.9.9.9", Some("203.0.113.7")),
            // The elements before it may be forged.
            (
                "10.0.0.3, 198.51.100.1, 203.0.113.7, 10.0.0.1",
                Some("203.0.113.7"),
            ),
            ("nonsense, 203.0.113.7", Some("203.0.113.7")),
            // All are trusted: the farthest hop sent the request itself.
            ("10.0.0.1, 10.0.0.2", Some("10.0.0.1")),
            // An element that is not an address ends the list.
            ("203.0.113.7, unknown, 10.0.0.2", Some("10.0.0.2")),
            ("203.0.113.7, unknown", None),
            ("", None),
            (" , ", None),
            ("203.0.113.7, ", Some("203.0.113.7")),
            // Other forms in use.
            ("203.0.113.7:4711", Some("203.0.113.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("[2001:db8::7]:4711, fd00::1", Some("2001:db8::7")),
            ("::ffff:203.0.113.7", Some("203.0.113.7")),
            ("203.0.113.7:", None),
            ("[2001:db8::7", None),
            ("[2001:db8::7]x", None),
            ("[203.0.113.7]", None),
            ("203.0.113.700", None),
        ] {
            let found = found(x_forwarded_for(line.as_bytes()));
            assert_eq!(found.as_deref(), client, "{line:?}");
        }
    }

    #[test]
    fn forwarded_names_it_by_for() {
        for (line, client) in [
            ("for=203.0.113.7", Some("203.0.113.7")),
            ("For=\"203.0.113.7:47\";proto=https", Some("203.0.113.7")),
            (
                "proto=http ; for=203.0.113.7, for=10.0.0.1;by=10.0.0.2",
                Some("203.0.113.7"),
            ),
            (
                "for=\"[2001:db8::7]:47\", for=\"[fd00::1]\"",
                Some("2001:db8::7"),
            ),
            ("for=\"[2001:db8::7]:_obscured\"", Some("2001:db8::7")),
            (
                "for=203.0.113.7, for=unknown, for=10.0.0.1",
                Some("10.0.0.1"),
            ),
            ("for=203.0.113.7, for=_hidden", None),
            ("for=203.0.113.7, proto=https", None),
            ("for=203.0.113.7, nonsense", None),
            ("for=203.0.113.7;for=198.51.100.1", None),
            ("", None),
            (";for=203.0.113.7;", Some("203.0.113.7")),
            // A quote that the client left open, and separators inside quotes.
            ("for=\"x, for=203.0.113.7", Some("203.0.113.7")),
            ("for=\"x\\, for=203.0.113.7", Some("203.0.113.7")),
            (
                "for=203.0.113.7;host=\"a,b;for=198.51.100.1\"",
                Some("203.0.113.7"),
            ),
            (
                "for=203.0.113.7;host=\"a\\\",for=198.51.100.1\"",
                Some("203.0.113.7"),
            ),
        ] {
            let found = found(forwarded(line.as_bytes()));
            assert_eq!(found.as_deref(), client, "{line:?}");
        }
    }

    #[test]
    fn a_forged_list_is_not_read_without_end() {
        let line = "10.0.0.1,".repeat(100);
        assert_eq!(x_forwarded_for(line.as_bytes()).count(), 100);
        let mut read = 0;
        let counted = x_forwarded_for(line.as_bytes()).inspect(|_| read += 1);
        assert!(client(&trusted(), counted).is_some());
        assert_eq!(read, MAX_HOPS);
    }

    proptest! {
        #[test]
        fn what_a_trusted_hop_adds_is_found_behind_any_text(before in "[ -~]{0,40}", v6: bool) {
            let client = if v6 { "2001:db8::7" } else { "203.0.113.7" };
            let line = format!("{before},{client}");
            let of_list = found(x_forwarded_for(line.as_bytes()));
            prop_assert_eq!(of_list.as_deref(), Some(client));
            let node = if v6 { format!("\"[{client}]\"") } else { client.to_owned() };
            let line = format!("{before},for={node};host=\"a.test\";proto=http");
            let of_pairs = found(forwarded(line.as_bytes()));
            prop_assert_eq!(of_pairs.as_deref(), Some(client));
        }
    }
}
