//! The combined log format of Apache and nginx.
//!
//! The format has quotes, brackets and spaces as its only structure, and clients choose most of what
//! stands between them. Each value is therefore escaped by the set of bytes that would end it: a
//! quoted value by `is_plain`, a part of the request line by `is_plain_target`, the user's name by
//! `is_plain_name`. nginx escapes with `\xHH` as well (`escape=default`).
//!
//! Times are in UTC: the local zone would need its rules, and would be ambiguous for an hour each
//! autumn.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{Method, Version};

use crate::{
    access_log::{Entry, RequestEntry},
    calendar::date,
};

/// Adds `entry` as one line.
pub(super) fn write(entry: &Entry<'_>, out: &mut Vec<u8>) {
    match entry.client {
        // A dual-stack listener has IPv4 clients as mapped addresses, which tools for this format do
        // not know.
        Some(client) => add(format_args!("{}", client.ip().to_canonical()), out),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b" - ");
    let refused = entry.auth.and_then(|auth| auth.user.as_deref());
    // As Apache does, the name that was refused is shown; the status says that it was.
    let user = entry.user.or(refused);
    add_escaped(user.unwrap_or_default().as_bytes(), is_plain_name, out);
    add_time(entry.time, out);
    add_request_line(entry, out);
    out.extend_from_slice(b"\" ");
    match entry.status {
        Some(status) => add(format_args!("{status} {}", entry.sent), out),
        None => add(format_args!("- {}", entry.sent), out),
    }
    let referer = entry.request.and_then(|request| request.referer);
    out.extend_from_slice(b" \"");
    add_escaped(referer.unwrap_or_default(), is_plain, out);
    let user_agent = entry.request.and_then(|request| request.user_agent);
    out.extend_from_slice(b"\" \"");
    add_escaped(user_agent.unwrap_or_default(), is_plain, out);
    out.extend_from_slice(b"\"\n");
}

/// Adds the time in brackets, and the quote that begins the request line.
fn add_time(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs();
    let (year, month, day) = date(second / 86_400);
    let month = MONTHS.get(month as usize - 1).unwrap_or(&"Jan");
    let (hour, minute, second) = (second / 3_600 % 24, second / 60 % 60, second % 60);
    add(
        format_args!(" [{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000] \""),
        out,
    );
}

/// A connection without a request has `"-"`, and a refused request what could be read of it.
fn add_request_line(entry: &Entry<'_>, out: &mut Vec<u8>) {
    if let Some(request) = &entry.request {
        return add_request(request, out);
    }
    let refused = entry.refused.as_ref();
    let method = refused
        .and_then(|refused| refused.method)
        .map(Method::as_str);
    let path = refused.and_then(|refused| refused.path);
    add_escaped(method.unwrap_or_default().as_bytes(), is_plain, out);
    if let Some(path) = path {
        out.push(b' ');
        add_escaped(path.as_bytes(), is_plain_target, out);
    }
}

fn add_request(request: &RequestEntry<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    let authority = request.uri.authority().map(|authority| authority.as_str());
    // The target of a CONNECT is the authority alone.
    let target = match (request.path, authority) {
        ("", Some(authority)) => authority,
        (path, _) => path,
    };
    add_escaped(target.as_bytes(), is_plain_target, out);
    if let Some(query) = request.query {
        out.push(b'?');
        if !query.is_empty() {
            add_escaped(query.as_bytes(), is_plain_target, out);
        }
    }
    out.extend_from_slice(match request.version {
        Version::HTTP_09 => b" HTTP/0.9",
        Version::HTTP_10 => b" HTTP/1.0",
        Version::HTTP_2 => b" HTTP/2.0",
        Version::HTTP_3 => b" HTTP/3.0",
        _ => b" HTTP/1.1",
    });
}

/// Adds `value` with `\xHH` for each byte that is not plain, or `-` if it is empty.
fn add_escaped(value: &[u8], is_plain: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    if value.is_empty() {
        return out.push(b'-');
    }
    for &b in value {
        match is_plain(b) {
            true => out.push(b),
            false => add(format_args!("\\x{b:02X}"), out),
        }
    }
}

fn is_plain(b: u8) -> bool {
    matches!(b, b' '..=b'~') && b != b'"' && b != b'\\'
}

/// Returns true for a byte that ends no part of a request line.
fn is_plain_target(b: u8) -> bool {
    is_plain(b) && b != b' '
}

/// Returns true for a byte that ends no field without quotes, and begins no other.
fn is_plain_name(b: u8) -> bool {
    is_plain_target(b) && b != b'[' && b != b']'
}

fn add(text: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    // A `Vec` takes every write.
    let _ = out.write_fmt(text);
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Uri;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        access_log::{RefusedEntry, RequestId},
        context::AuthFailure,
    };

    fn line(entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        write(entry, &mut out);
        String::from_utf8(out).expect("a line is ASCII")
    }

    fn entry(request: Option<RequestEntry<'_>>) -> Entry<'_> {
        let time = UNIX_EPOCH + Duration::from_millis(1_709_164_799_007);
        Entry {
            request,
            status: Some(200),
            sent: 5,
            ..Entry::new(time, Duration::ZERO, "ok")
        }
    }

    fn request(uri: &Uri) -> RequestEntry<'_> {
        RequestEntry {
            id: RequestId::Made(1),
            method: &Method::GET,
            uri,
            path: uri.path(),
            version: Version::HTTP_11,
            host: None,
            query: None,
            user_agent: None,
            referer: None,
        }
    }

    #[test]
    fn a_line_is_written_to_the_byte_as_readers_know_it() {
        let uri = Uri::from_static("http://shop.example/a[1]%20b?token=x");
        let auth = AuthFailure::new("Basic", "no").user("a \"b\" [c]");
        let full = Entry {
            client: Some("[::ffff:192.0.2.9]:1".parse().unwrap()),
            auth: Some(&auth),
            ..entry(Some(RequestEntry {
                query: Some("x=\"1 2\""),
                user_agent: Some(b"Mozilla/5.0 (\"\\\xe9\n)"),
                referer: Some(b"https://shop.example/"),
                version: Version::HTTP_2,
                ..request(&uri)
            }))
        };
        assert_eq!(
            line(&full),
            concat!(
                r#"192.0.2.9 - a\x20\x22b\x22\x20\x5Bc\x5D [28/Feb/2024:23:59:59 +0000] "#,
                r#""GET /a[1]%20b?x=\x221\x202\x22 HTTP/2.0" 200 5 "#,
                r#""https://shop.example/" "Mozilla/5.0 (\x22\x5C\xE9\x0A)""#,
                "\n"
            )
        );
        let connect = Uri::from_static("shop.example:443");
        let tunnel = entry(Some(request(&connect)));
        assert!(line(&tunnel).contains("\"GET shop.example:443 HTTP/1.1\""));
        let refused = Entry {
            refused: Some(RefusedEntry {
                method: Some(&Method::PUT),
                path: Some("/x"),
            }),
            status: Some(431),
            ..entry(None)
        };
        let none = Entry {
            status: None,
            sent: 0,
            ..entry(None)
        };
        for (entry, wanted) in [
            (
                refused,
                r#"- - - [28/Feb/2024:23:59:59 +0000] "PUT /x" 431 5 "-" "-""#,
            ),
            (
                none,
                r#"- - - [28/Feb/2024:23:59:59 +0000] "-" - 0 "-" "-""#,
            ),
        ] {
            assert_eq!(line(&entry).trim_end(), wanted);
        }
    }

    /// Splits a line into its nine fields as log readers do: by spaces, brackets and quotes.
    fn fields(line: &str) -> Vec<&str> {
        let mut fields = Vec::new();
        let mut rest = line.strip_suffix('\n').unwrap();
        while !rest.is_empty() {
            let (end, skip) = match rest.as_bytes()[0] {
                b'[' => (rest.find(']').unwrap() + 1, 1),
                b'"' => (rest[1..].find('"').unwrap() + 2, 1),
                _ => (rest.find(' ').unwrap_or(rest.len()), 1),
            };
            fields.push(&rest[..end]);
            rest = rest.get(end + skip..).unwrap_or("");
        }
        fields
    }

    proptest! {
        #[test]
        fn no_client_adds_a_line_or_a_field(
            user in any::<String>(),
            query in any::<String>(),
            user_agent in prop::collection::vec(any::<u8>(), 0..40),
            referer in prop::collection::vec(prop::sample::select(b"\" \\[]\n\r\x00x".to_vec()), 0..20),
        ) {
            let uri = Uri::from_static("/");
            let auth = AuthFailure::new("Basic", "no").user(user);
            let line = line(&Entry { auth: Some(&auth), ..entry(Some(RequestEntry {
                query: Some(&query),
                user_agent: Some(&user_agent),
                referer: Some(&referer),
                ..request(&uri)
            })) });
            prop_assert_eq!(line.matches('\n').count(), 1);
            let fields = fields(&line);
            prop_assert_eq!(fields.len(), 9, "{}", line);
            prop_assert_eq!(fields[3], "[28/Feb/2024:23:59:59 +0000]");
            prop_assert_eq!(fields[4].split(' ').count(), 3);
            prop_assert_eq!((fields[5], fields[6]), ("200", "5"));
        }
    }
}
