//! The URL of a Redis server: where it is, and how to log in.

use std::{fmt, str::FromStr};

use redis::{ConnectionAddr, ConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use crate::{error::ConfigError, pool::Backend};

/// A server, the user and the database.
#[derive(Clone)]
pub(super) struct RedisUrl {
    /// The server as the connector dials it. It belongs to no pool.
    pub(super) server: Backend,
    pub(super) login: RedisConnectionInfo,
    /// The server for logs, without user and password.
    pub(super) shown: Box<str>,
}

impl RedisUrl {
    /// Parses a URL. No message shows a part of it, as any part may be the password.
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        let bad = |why: &str| ConfigError::new("redis", format!("{why}; {ACCEPTED} is accepted"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("no URL"))?;
        let (scheme, is_tls) = match scheme {
            "redis" | "valkey" => ("redis", false),
            "rediss" | "valkeys" => ("redis", true),
            "unix" | "redis+unix" | "valkey+unix" => ("unix", false),
            _ => return Err(bad("another scheme")),
        };
        if is_tls && cfg!(not(feature = "__tls")) {
            return Err(bad("built without the feature `tls`"));
        }
        if rest.contains('#') {
            return Err(bad("a fragment, or a `#` that is not written as `%23`"));
        }
        // The crate would refuse `rediss` without TLS of its own.
        let given = ConnectionInfo::from_str(&format!("{scheme}://{rest}"));
        let given = given.map_err(|_error| bad("it cannot be read"))?;
        let login = given.redis_settings();
        if login.db() < 0 {
            return Err(bad("the number of the database is below 0"));
        }
        let http = if is_tls { "https" } else { "http" };
        let (server, shown) = match given.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let host = match host.contains(':') {
                    true => format!("[{host}]"),
                    false => host.clone(),
                };
                let server = Backend::new("redis", &format!("{http}://{host}:{port}"));
                let server = server.map_err(|_error| bad("no host"))?;
                (server, format!("{host}:{port}"))
            }
            ConnectionAddr::Unix(path) => {
                let server = Backend::new("redis", "http://localhost")?.unix_socket(path);
                (server, path.display().to_string())
            }
            _ => return Err(bad("it cannot be read")),
        };
        // Version 3 of the protocol carries messages and answers over one connection.
        let login = login
            .clone()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("evenkeel", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            server,
            login,
            shown: shown.into(),
        })
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisUrl").field(&self.shown).finish()
    }
}

const ACCEPTED: &str = "`redis://user:password@host:6379/0`, `rediss://…` for TLS, or \
                        `unix:///path?db=0&user=…&pass=…`, with other characters than letters and \
                        digits of a password percent-encoded,";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_the_server_the_user_and_the_database() {
        let table = [
            ("redis://h", ("h:6379", None, None, 0)),
            ("redis://h:1/7", ("h:1", None, None, 7)),
            ("valkey://:p@h", ("h:6379", None, Some("p"), 0)),
            (
                "redis://u:p%23%2f@10.0.0.1",
                ("10.0.0.1:6379", Some("u"), Some("p#/"), 0),
            ),
            (
                "rediss://u:p@[::1]:2/1",
                ("[::1]:2", Some("u"), Some("p"), 1),
            ),
            (
                "unix:///run/r.sock?db=2&user=u&pass=p",
                ("/run/r.sock", Some("u"), Some("p"), 2),
            ),
        ];
        for (url, (shown, user, password, db)) in table {
            if url.starts_with("rediss") && cfg!(not(feature = "__tls")) {
                continue;
            }
            let parsed = RedisUrl::parse(url).unwrap();
            let login = &parsed.login;
            let found = (
                &*parsed.shown,
                login.username(),
                login.password(),
                login.db(),
            );
            assert_eq!(found, (shown, user, password, db), "{url}");
        }
        #[cfg(feature = "__tls")]
        {
            use crate::pool::Scheme;
            let scheme = |url| RedisUrl::parse(url).unwrap().server.scheme();
            assert_eq!(scheme("rediss://h"), Scheme::Https);
            assert_eq!(scheme("redis://h"), Scheme::Http);
        }
    }

    #[test]
    fn a_refused_url_is_not_shown() {
        for url in [
            "",
            "secret",
            "http://secret@h",
            "redis://",
            "redis://:secret@h/x",
            "redis://h/-1",
            "redis://:sec#ret@h",
            "redis://:secret@h/?protocol=9",
            "redis://:secret@h:0",
            "unix://",
            "redis://:secret@0.0.0.0",
        ] {
            let error = RedisUrl::parse(url).unwrap_err();
            assert_eq!(error.field(), "redis", "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let shown = format!("{:?}", RedisUrl::parse("redis://u:secret@h").unwrap());
        assert_eq!(shown, "RedisUrl(\"h:6379\")");
    }
}
