//! The options of `Connection`, and the fields that are meant for one hop (RFC 9110 §7.6.1).
//!
//! A message may name its own hop-by-hop fields in `Connection`. A client can abuse that to remove
//! a field that a hop behind relies on, so fields without which a message means something else
//! cannot be named (`is_protected`), and fields that a proxy adds are written after the removal.
//!
//! Used by the server for responses of its service, by the proxy for requests, and by `response`
//! for what a backend answers.

use http::{HeaderMap, HeaderName, header};

use super::Malformed;

/// Splits a comma-separated list into its non-empty elements (RFC 9110 §5.6.1).
///
/// Quotes are not considered: an element may be a part of a quoted string.
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// The options in the `Connection` fields of one message.
///
/// Options of all `Connection` fields of a message add up.
#[derive(Debug, Default)]
pub(crate) struct ConnectionOptions {
    /// The sender closes the connection after this message.
    pub(crate) close: bool,
    /// An HTTP/1.0 sender asks to keep the connection open.
    pub(crate) keep_alive: bool,
    /// The `Upgrade` field is meant for this connection.
    pub(crate) upgrade: bool,
    /// The fields that an option names, and that must not be forwarded; nearly always none.
    pub(crate) nominated: Vec<HeaderName>,
    /// How many options were read, of all kinds.
    count: usize,
}

impl ConnectionOptions {
    /// Reads one `Connection` field, in time linear in its length.
    ///
    /// # Errors
    ///
    /// When all `Connection` fields of the message together have more than 64 options: each option
    /// is compared with every field of the message.
    pub(crate) fn read(&mut self, value: &[u8]) -> Result<(), Malformed> {
        // The values of nearly all messages, without a search for commas.
        match value {
            b"keep-alive" => self.keep_alive = true,
            b"close" => self.close = true,
            _ => return self.read_list(value),
        }
        Ok(())
    }

    fn read_list(&mut self, value: &[u8]) -> Result<(), Malformed> {
        for option in elements(value) {
            // What an option names is compared with each field: 6,400 comparisons at most.
            self.count += 1;
            if self.count > MAX_OPTIONS {
                return Err(Malformed::bad("more than 64 options in Connection"));
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if let Ok(name) = HeaderName::from_bytes(option) {
                // An option that is not a field name cannot name a field.
                if name != header::TE && !is_protected(&name) {
                    self.nominated.push(name);
                }
            }
        }
        Ok(())
    }
}

/// Removes the hop-by-hop fields, and the fields that `Connection` names.
///
/// Cold: responses of services rarely have such fields, and the caller looks first.
#[cold]
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let mut options = ConnectionOptions::default();
    for value in headers.get_all(header::CONNECTION) {
        // Beyond 64 options, the fields that the first ones name are removed all the same.
        let _ = options.read(value.as_bytes());
    }
    let hops = headers.keys().filter(|name| is_hop_by_hop(name));
    let hops: Vec<HeaderName> = hops.cloned().chain(options.nominated).collect();
    for name in hops {
        headers.remove(name);
    }
}

/// Returns true for a field that is always meant for one hop, whether or not `Connection` names it.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::TE | header::TRANSFER_ENCODING | header::UPGRADE
    ) || is_obsolete_hop_by_hop(name.as_str())
}

/// Returns true for the hop-by-hop fields that have no constant in the `http` crate.
pub(crate) fn is_obsolete_hop_by_hop(name: &str) -> bool {
    matches!(name, "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Returns true for a field that `Connection` cannot remove, because the message would have another
/// meaning without it. RFC 9110 §7.6.1 forbids senders to name end-to-end fields.
fn is_protected(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CACHE_CONTROL
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::HOST
            | header::TRANSFER_ENCODING
    )
}

/// Returns true for a field in which proxies describe the client to a backend: `Forwarded`,
/// `X-Forwarded-*` and `X-Real-IP`. Underscores count as hyphens, because many backends (CGI, WSGI)
/// do not distinguish them.
pub(crate) fn describes_client(name: &str) -> bool {
    match name.as_bytes() {
        [b'x', b'-' | b'_', rest @ ..] => match rest.strip_prefix(b"forwarded") {
            Some(rest) => matches!(rest, [b'-' | b'_', ..]),
            None => matches!(rest, b"real-ip" | b"real_ip"),
        },
        name => name == b"forwarded",
    }
}

/// Returns true for a field in which a proxy gives a backend the certificate of a client (RFC 9440), in
/// the spellings of [`describes_client`].
pub(crate) fn names_client_certificate(name: &str) -> bool {
    let Some([b'-' | b'_', rest @ ..]) = name.as_bytes().strip_prefix(b"client") else {
        return false;
    };
    matches!(rest, b"cert" | b"cert-chain" | b"cert_chain")
}

/// Returns true if a challenge or credentials use a scheme that authenticates the connection rather
/// than the request (NTLM, Negotiate): requests of other clients must not use that connection.
///
/// A comma within a parameter also begins an "element", which can only bind a connection too often.
pub(crate) fn authenticates_connection(value: &[u8]) -> bool {
    // One field may hold several challenges (RFC 9110 §11.6.1).
    elements(value).any(|challenge| {
        let scheme = challenge.split(|&b| b == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

/// Clients send one or two options; each is compared with each of up to 100 fields.
const MAX_OPTIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<ConnectionOptions, Malformed> {
        let mut options = ConnectionOptions::default();
        for value in values {
            options.read(value.as_bytes())?;
        }
        Ok(options)
    }

    #[test]
    fn the_fields_of_a_client_certificate_are_known_in_any_spelling() {
        for (name, known) in [
            ("client-cert", true),
            ("client_cert", true),
            ("client-cert-chain", true),
            ("client_cert_chain", true),
            ("client-cert_chain", true),
            ("client-certificate", false),
            ("client", false),
            ("x-client-cert", false),
        ] {
            assert_eq!(names_client_certificate(name), known, "{name}");
        }
    }

    #[test]
    fn options_are_read_in_any_case_and_from_any_field() {
        for (values, close, keep_alive, upgrade) in [
            (&["close"][..], true, false, false),
            (&["Keep-Alive"], false, true, false),
            (&["keep-alive", "x, CLOSE"], true, true, false),
            (&[" upgrade ,te"], false, false, true),
            (&["closed", "close=1", ""], false, false, false),
        ] {
            let options = read(values).unwrap();
            let found = (options.close, options.keep_alive, options.upgrade);
            assert_eq!(found, (close, keep_alive, upgrade), "{values:?}");
        }
    }

    #[test]
    fn an_option_names_a_field_unless_the_message_needs_it() {
        let options = read(&["X-One, x_two, te, host, Content-Length, b@d"]).unwrap();
        assert_eq!(options.nominated, ["x-one", "x_two"]);
    }

    #[test]
    fn more_than_64_options_are_refused() {
        let many = vec!["a"; MAX_OPTIONS].join(",");
        assert!(read(&[&many]).is_ok());
        assert!(read(&[&many, "a"]).is_err());
        assert!(read(&[&"a,".repeat(15_000)]).is_err());
    }

    #[test]
    fn fields_that_describe_the_client_are_recognized_in_both_spellings() {
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x_forwarded_host",
            "x-real-ip",
            "x-real_ip",
        ] {
            assert!(describes_client(name), "{name}");
        }
        for name in ["x-forward", "x-forwardedfor", "x-request-id", "real-ip"] {
            assert!(!describes_client(name), "{name}");
        }
    }
}
