//! `src/settings/reference.md` is complete, its examples are accepted, and its defaults are those
//! of the code.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use evenkeel::{
    Pool,
    context::Peer,
    endpoints::Readiness,
    server::{Http, Listener, Serve},
    settings::Settings,
    tls::{TicketSecret, TlsConfig, acme::ChallengeAnswers},
};
use tempfile::TempDir;

use crate::support::pki::Authority;

const REFERENCE: &str = include_str!("../../../src/settings/reference.md");

/// One row of the reference.
struct Row {
    section: &'static str,
    key: &'static str,
    default: &'static str,
    example: &'static str,
}

impl Row {
    /// The path of the key from the root, such as `pool.backends.id`.
    fn path(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

fn rows() -> Vec<Row> {
    let mut section = "";
    let mut rows = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix("### `") {
            let name = heading.split('`').next().unwrap();
            section = name.trim_matches(['[', ']']);
        }
        if !line.starts_with("| `") {
            continue;
        }
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [key, meaning, kind, default, example] = cells[..] else {
            panic!("a row has five cells: {line}");
        };
        assert!(!meaning.is_empty() && !kind.is_empty(), "{line}");
        rows.push(Row {
            section,
            key: key.trim_matches('`'),
            default,
            example: example.trim_matches('`'),
        });
    }
    rows
}

/// Returns the keys that the code accepts in the table at a path, as its refusal of another key
/// lists them; nothing if there is no table with known keys. A path has `[]` after a list.
fn accepted_keys(path: &[String]) -> Option<Vec<String>> {
    let mut text = "no_such_key = 1".to_owned();
    for part in path.iter().rev() {
        text = match part.strip_suffix("[]") {
            Some(list) => format!("{list} = [{{ {text} }}]"),
            None => format!("{part} = {{ {text} }}"),
        };
    }
    let error = Settings::from_toml(&text).expect_err(&text);
    let (_, keys) = error
        .message()
        .split_once("unknown key `no_such_key`; accepted: ")?;
    Some(
        keys.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect(),
    )
}

/// Collects the paths of all keys that hold no table with known keys.
fn collect_leaves(path: &[String], keys: &[String], leaves: &mut BTreeSet<String>) {
    for key in keys {
        let below = |name: String| [path, &[name]].concat();
        let (table, list) = (below(key.clone()), below(format!("{key}[]")));
        let found = [table.clone(), list]
            .into_iter()
            .find_map(|path| accepted_keys(&path).map(|keys| (path, keys)));
        match found {
            Some((path, keys)) => collect_leaves(&path, &keys, leaves),
            None => drop(leaves.insert(table.join(".").replace("[]", ""))),
        }
    }
}

#[test]
fn every_key_of_the_code_has_a_row_and_every_row_a_key() {
    let mut accepted = BTreeSet::new();
    collect_leaves(&[], &accepted_keys(&[]).unwrap(), &mut accepted);
    assert!(accepted.contains("pool.backends.id") && accepted.contains("failover.backoff.base"));
    let documented: BTreeSet<_> = rows().iter().map(Row::path).collect();
    let missing: Vec<_> = accepted.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&accepted).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    assert!(unknown.is_empty(), "no such key: {unknown:?}");
    assert_eq!(rows().len(), documented.len(), "one row a key");
}

/// What a section needs to be accepted, key and value.
fn required(section: &str) -> &'static [(&'static str, &'static str)] {
    match section {
        "listen" => &[("address", "\"127.0.0.1:0\"")],
        "listen.tls" => &[(
            "certificates",
            "[{ chain = \"cert.pem\", key = \"key.pem\" }]",
        )],
        "listen.tls.acme" => &[
            ("domains", "[\"a.example\"]"),
            ("agree_to_terms", "true"),
            ("storage", "\"acme\""),
        ],
        "pool.backends" => &[("id", "\"a\""), ("url", "\"http://127.0.0.1:1\"")],
        "sticky" => &[(
            "keys",
            "[\"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\"]",
        )],
        "access_log" | "access_log.outputs" => &[("file", "\"access.jsonl\"")],
        "admin" => &[("address", "\"127.0.0.1:9900\"")],
        "fleet" => &[("redis", "\"redis://127.0.0.1\"")],
        _ => &[],
    }
}

/// What a key needs beside it to be accepted.
fn needed_by(path: &str) -> &'static [(&'static str, &'static str)] {
    match path {
        "pool.hash" => &[("strategy", "\"consistent-hash\"")],
        "pool.load_factor" | "pool.affinity_floor" => {
            &[("strategy", "\"consistent-hash\""), ("hash", "\"path\"")]
        }
        "listen.proxy_protocol.required"
        | "listen.proxy_protocol.timeout"
        | "listen.proxy_protocol.trust_unix"
        | "listen.proxy_protocol.max_length" => &[("proxy_protocol.trusted", "[\"10.0.0.0/8\"]")],
        "health.send" | "health.expect" => &[("type", "\"tcp\"")],
        "health.service" => &[("type", "\"grpc\"")],
        "listen.tls.client_auth" | "listen.tls.client_crl" => &[("client_ca", "[\"clients.pem\"]")],
        "fleet.start_timeout" => &[("handover", "\"/run/edge.sock\"")],
        "proxy.client_field" => &[("trusted", "[\"10.0.0.0/8\"]")],
        "access_log.rotate.keep" | "access_log.outputs.rotate.keep" => {
            &[("rotate.size", "\"1MiB\"")]
        }
        "access_log.sample.ratio" | "access_log.outputs.sample.ratio" => {
            &[("sample.slow", "\"3s\"")]
        }
        "access_log.sample.slow" | "access_log.outputs.sample.slow" => &[("sample.ratio", "0.5")],
        "access_log.outputs.syslog.facility"
        | "access_log.outputs.syslog.app_name"
        | "access_log.outputs.syslog.cee" => &[("syslog.unix", "\"/dev/log\"")],
        _ => &[],
    }
}

/// Settings in which a row's section has this line; the rest is what is required.
fn with(row: &Row, line: &str, folder: &Path) -> Settings {
    let mut text = String::new();
    let mut sections = vec!["listen", "listen.tls", "pool", "pool.backends"];
    if row.section == "listen.tls.acme" {
        sections.insert(2, row.section);
    } else if row.section == "access_log.outputs" {
        sections.push("access_log.outputs");
    } else if !sections.contains(&row.section) {
        sections.push(row.section);
    }
    for section in sections {
        let header = match section {
            "listen" | "pool.backends" | "access_log.outputs" => format!("[[{section}]]"),
            section => format!("[{section}]"),
        };
        let _ = writeln!(text, "{header}");
        let is_here = section == row.section;
        let needed = if is_here { needed_by(&row.path()) } else { &[] };
        for (key, value) in required(section).iter().chain(needed) {
            // The row's own line stands for what it sets, and an output has one place.
            let first = key.split('.').next().unwrap();
            let is_set = [*key, first]
                .iter()
                .any(|key| line.starts_with(&format!("{key} = ")));
            let has_place = ["syslog", "tcp", "udp", "unix"].iter().any(|place| {
                let is_needed = needed.iter().any(|(key, _)| key.starts_with(place));
                *key == "file" && (is_needed || line.starts_with(place))
            });
            let has_place = has_place || *key == "redis" && line.starts_with("redis_file");
            if !is_here || !is_set && !has_place {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        if is_here {
            let _ = writeln!(text, "{line}");
        }
    }
    if line.contains("\"http-01\"") {
        text.push_str("[[listen]]\naddress = \"127.0.0.1:0\"\n");
    }
    for name in FILES
        .into_iter()
        .chain(["access.jsonl", "access.log", "acme", "copies"])
    {
        let path = folder.join(name);
        text = text.replace(&format!("\"{name}\""), &format!("{path:?}"));
    }
    Settings::from_toml(&text).unwrap_or_else(|error| panic!("{error}: {line}\n{text}"))
}

/// Shows everything that is made of settings, with the defaults of the code filled in.
fn made_of(settings: &Settings) -> String {
    let pool = settings.pool();
    let readiness = Readiness::new(pool.clone());
    let registry = settings.certificate_registry();
    let listen = &settings.listen[0];
    let mut http = Http::new(())
        .half_close(listen.half_close)
        .allow_empty_host(listen.allow_empty_host)
        .allow_raw_target(listen.allow_raw_target);
    if let Some(rate) = listen.min_rate {
        http = http.min_rate(rate).unwrap();
    }
    let mut serve = Serve::new(Nowhere, http.clone());
    if let Some(max) = listen.max_connections {
        serve = serve.max_connections(max).unwrap();
    }
    let backends = settings.backends();
    let failover = format!("{:?}", settings.failover_layer());
    // The layer's latency window knows when it was made.
    let failover = match (
        failover.split_once("epoch: "),
        failover.split_once("current: "),
    ) {
        (Some((before, _)), Some((_, after))) => format!("{before}{after}"),
        _ => failover,
    };
    format!(
        "{:?}",
        (
            (settings.lame_duck(), settings.drain(), http, serve),
            (&registry, settings.readiness(&pool, &registry)),
            (
                settings.endpoints_layer(0, &readiness),
                listen.request_timeout,
                (tls_config(settings), acme(settings)),
                settings.tls(0).unwrap().unwrap().0,
                settings.hsts(0),
                settings.proxy_protocol(0),
            ),
            (settings.strategy(), settings.routing()),
            (&backends, backends[0].configured_protocol()),
            settings.health_layer(&pool),
            settings.sticky_layer(&pool),
            (
                settings.proxy(),
                settings.forwarded_layer(),
                settings.trace_layer()
            ),
            failover,
            (
                settings.access_log().unwrap(),
                &settings.admin,
                settings.handover()
            ),
            fleet(settings, &pool),
        )
    )
}

/// The default name of an instance is random: another one stands for it.
fn fleet(settings: &Settings, pool: &Pool) -> impl std::fmt::Debug {
    let given = settings.fleet.as_ref();
    let fleet = settings.fleet(pool).unwrap().map(|fleet| {
        let fleet = match given.and_then(|given| given.instance.as_ref()) {
            Some(_) => fleet,
            None => fleet.instance("lb-0").unwrap(),
        };
        let tickets = TicketSecret::random().unwrap();
        settings.share_tickets(fleet, &tickets).unwrap()
    });
    // The store does not show its roots.
    (fleet, given.map(|given| given.redis_ca.is_some()))
}

/// A listener that accepts nothing, for a server that is only shown.
struct Nowhere;

impl Listener for Nowhere {
    type Io = tokio::net::TcpStream;

    async fn accept(&mut self) -> (Self::Io, Peer) {
        std::future::pending().await
    }

    fn local(&self) -> Peer {
        Peer::Unknown
    }
}

/// The layer does not show its configuration; this one is made in the same way.
fn tls_config(settings: &Settings) -> TlsConfig {
    let given = settings.listen[0].tls.as_ref().unwrap();
    let (_layer, certificates) = settings.tls(0).unwrap().unwrap();
    let mut config = TlsConfig::new(certificates);
    if let Some(version) = given.min_version {
        config = config.min_version(version);
    }
    config = config.strict_sni(given.strict_sni);
    match &given.alpn {
        Some(names) => config.alpn(names.iter().map(String::as_str)).unwrap(),
        None => config,
    }
}

/// What is made for automatic certificates; the store is a folder of its own.
fn acme(settings: &Settings) -> String {
    let answers = ChallengeAnswers::new();
    format!("{:?}", settings.acme(0, &answers).unwrap())
}

fn folder_with_certificate() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let texts = [
        issued.chain,
        issued.key,
        authority.pem(),
        authority.pem(),
        authority.revoke(&[1]),
        "c2VjcmV0\n".to_owned(),
        "0123456789abcdef0123456789abcdef\n".to_owned(),
        "redis://:secret@10.0.0.9\n".to_owned(),
    ];
    for (name, text) in FILES.iter().zip(texts) {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn every_example_is_accepted_and_every_default_is_that_of_the_code() {
    let folder = folder_with_certificate();
    for row in rows() {
        let (path, default) = (row.path(), row.default);
        let example = with(&row, row.example, folder.path());
        let key = row.key.split('.').next().unwrap();
        let sets_key = row.example.starts_with(&format!("{key} = "))
            || row.example.starts_with(&format!("{} = ", row.key));
        assert!(sets_key, "{path}: {}", row.example);
        let Some(value) = default.strip_prefix('`') else {
            let is_known = WORDS.iter().any(|word| default.starts_with(word));
            assert!(is_known, "{path}: the default {default}");
            continue;
        };
        let value = value.split('`').next().unwrap();
        // A listener with `ready` is what the default of `lame_duck` speaks of.
        let absent = match path.as_str() {
            "server.shutdown.lame_duck" => continue,
            _ => with(&row, "", folder.path()),
        };
        let given = with(&row, &format!("{} = {value}", row.key), folder.path());
        assert_eq!(made_of(&given), made_of(&absent), "{path}: not {value}");
        assert_ne!(made_of(&example), made_of(&absent), "{path}: no difference");
    }
}

/// The files that examples name.
const FILES: [&str; 8] = [
    "cert.pem",
    "key.pem",
    "ca.pem",
    "clients.pem",
    "revoked.pem",
    "eab.key",
    "tickets.key",
    "redis.url",
];

/// How a default begins that is no value.
const WORDS: [&str; 5] = ["required", "none", "all cores", "the ", "`"];
