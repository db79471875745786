//! Prepares header and trailer fields for HTTP/2.
//!
//! A service writes its response for HTTP/1.1 as well, so it may name fields that HTTP/2 forbids; a
//! client has to treat a response with one as malformed (RFC 9113 §8.2.2). One pass over the names
//! decides whether anything has to be done: most responses need the date alone.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    server::date,
    wire::{connection, fields::trim_values, trailers},
};

/// Prepares the fields of a response: removes connection-specific ones (RFC 9113 §8.2.2) and blanks
/// around values (§8.2.1), adds the date, and the length if it is known.
///
/// `length` is the exact size of the body if it is known; a `Content-Length` of the service is
/// kept. `opens_tunnel`: a 2xx to CONNECT has no length.
pub(super) fn normalize(headers: &mut HeaderMap, length: Option<u64>, opens_tunnel: bool) {
    let (mut hops, mut dated, mut measured) = (false, false, false);
    let mut blanks = false;
    for (name, value) in headers.iter() {
        blanks |= has_blanks(value);
        match *name {
            header::DATE => dated = true,
            header::CONTENT_LENGTH => measured = true,
            _ => hops |= connection::is_hop_by_hop(name),
        }
    }
    if hops {
        connection::remove_hop_by_hop(headers);
    }
    if blanks {
        trim_values(headers);
    }
    if !dated {
        headers.insert(header::DATE, date::now());
    }
    if opens_tunnel {
        // RFC 9110 §9.3.6.
        if measured {
            headers.remove(header::CONTENT_LENGTH);
        }
    } else if let Some(length) = length.filter(|_| !measured) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Prepares the fields of an interim response, which has neither a date nor a length (RFC 9110 §8.6).
pub(super) fn normalize_interim(headers: &mut HeaderMap) {
    connection::remove_hop_by_hop(headers);
    headers.remove(header::CONTENT_LENGTH);
    trim_values(headers);
}

/// Keeps the fields that may be trailers, in both directions. The codec has dropped pseudo-fields of
/// request trailers.
pub(super) fn normalize_trailers(headers: &mut HeaderMap) {
    trailers::retain(headers, &[]);
    trim_values(headers);
}

/// Only the ends count: the codec does not trim, and clients may reset a stream for it (RFC 9113
/// §8.2.1).
fn has_blanks(value: &HeaderValue) -> bool {
    matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(fields: &[(&'static str, &'static str)], length: Option<u64>, opens: bool) -> String {
        let mut headers = HeaderMap::new();
        for &(name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        normalize(&mut headers, length, opens);
        let date = headers.remove("date").expect("every answer is dated");
        assert!(date.to_str().unwrap().ends_with(" GMT"));
        let lines = headers.iter().map(|(name, value)| {
            let value = value.to_str().unwrap();
            format!("{name}={value}")
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines.join(" ")
    }

    #[test]
    fn nothing_of_a_connection_of_http1_is_left() {
        for (fields, left) in [
            (&[("a", "1")][..], "a=1"),
            (&[("connection", "close")], ""),
            (
                &[("connection", "A, b"), ("a", "1"), ("b", "2"), ("c", "3")],
                "c=3",
            ),
            (
                &[
                    ("connection", "a"),
                    ("connection", "b"),
                    ("a", "1"),
                    ("b", "2"),
                ],
                "",
            ),
            (&[("keep-alive", "timeout=5"), ("a", "1")], "a=1"),
            (&[("proxy-connection", "close")], ""),
            (&[("te", "trailers"), ("transfer-encoding", "chunked")], ""),
            (&[("upgrade", "h2c"), ("a", "1"), ("a", "2")], "a=1 a=2"),
        ] {
            assert_eq!(fitted(fields, None, false), left, "{fields:?}");
        }
    }

    #[test]
    fn blanks_around_values_go_and_blanks_within_stay() {
        let fields = &[("a", " \t1 2\t "), ("b", "\t"), ("b", "3")];
        assert_eq!(fitted(fields, None, false), "a=1 2 b= b=3");
    }

    #[test]
    fn trailers_are_neither_framing_nor_of_a_connection() {
        let mut headers = HeaderMap::new();
        for name in ["sum", "content-length", "host", "keep-alive", "sum", "te"] {
            headers.append(name, HeaderValue::from_static(" 1"));
        }
        normalize_trailers(&mut headers);
        let fields = headers.iter();
        let left: Vec<_> = fields
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(left, [("sum", "1"), ("sum", "1")]);
    }

    #[test]
    fn an_interim_response_has_no_length_and_no_date() {
        let mut headers = HeaderMap::new();
        for name in ["link", "content-length", "connection", "upgrade"] {
            headers.append(name, HeaderValue::from_static("link2"));
        }
        normalize_interim(&mut headers);
        assert_eq!(
            headers
                .keys()
                .map(http::HeaderName::as_str)
                .collect::<Vec<_>>(),
            ["link"]
        );
    }

    #[test]
    fn a_date_is_kept_and_a_length_too() {
        let mut headers = HeaderMap::new();
        let date = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
        headers.insert(header::DATE, date.clone());
        normalize(&mut headers, None, false);
        assert_eq!(headers["date"], date);
        assert_eq!(fitted(&[], Some(7), false), "content-length=7");
        assert_eq!(fitted(&[], Some(0), false), "content-length=0");
        assert_eq!(
            fitted(&[("content-length", "9")], Some(7), false),
            "content-length=9"
        );
        assert_eq!(
            fitted(&[("content-length", "9")], None, false),
            "content-length=9"
        );
        assert_eq!(
            fitted(&[("content-length", "9")], Some(7), true),
            "",
            "a tunnel has none"
        );
        assert_eq!(fitted(&[], Some(7), true), "");
    }
}
