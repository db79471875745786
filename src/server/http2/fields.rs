//! The fields of an answer, as HTTP/2 has them.

use http::{HeaderMap, HeaderValue, header};

use crate::server::date;

/// Makes the fields fit: none that belongs to a connection of HTTP/1.1 (RFC 9113 §8.2.2), the date,
/// and the length where it is known.
pub(super) fn fit(headers: &mut HeaderMap, length: Option<u64>, opens_tunnel: bool) {
    let (mut hops, mut dated, mut measured) = (false, false, false);
    for name in headers.keys() {
        match *name {
            header::DATE => dated = true,
            header::CONTENT_LENGTH => measured = true,
            header::CONNECTION | header::TE | header::TRANSFER_ENCODING | header::UPGRADE => {
                hops = true;
            }
            _ => hops |= HOPS.contains(&name.as_str()),
        }
    }
    if hops {
        strip(headers);
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

#[cold]
fn strip(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        let options = value.as_bytes().split(|&byte| byte == b',');
        let options = options.filter_map(|option| std::str::from_utf8(option).ok());
        named.extend(options.map(|option| option.trim().to_ascii_lowercase()));
    }
    for name in named {
        headers.remove(&*name);
    }
    for name in [
        header::CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    for name in HOPS {
        headers.remove(name);
    }
}

/// Those without a constant of their own.
const HOPS: [&str; 2] = ["keep-alive", "proxy-connection"];

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(fields: &[(&'static str, &'static str)], length: Option<u64>, opens: bool) -> String {
        let mut headers = HeaderMap::new();
        for &(name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        fit(&mut headers, length, opens);
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
    fn a_date_is_kept_and_a_length_too() {
        let mut headers = HeaderMap::new();
        let date = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
        headers.insert(header::DATE, date.clone());
        fit(&mut headers, None, false);
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
