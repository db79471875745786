mod reference;

use std::time::Duration;

use evenkeel::{
    Pool,
    settings::{Settings, SettingsError},
};

/// Settings with everything, one key a line, so that each can be replaced.
const GOOD: &str = r#"
[server]
threads = 1
locality = "eu-1/eu-1a"
shutdown = { lame_duck = "5s", drain = "30s" }
[[listen]]
address = "127.0.0.1:8443"
ready = "/ready"
live = "/live"
half_close = true
allow_empty_host = true
allow_raw_target = true
max_connections = 2000
min_rate = 1000
request_timeout = "5m"
proxy_protocol = { trusted = ["10.0.0.0/8"], timeout = "5s", required = true }
[listen.tls]
certificates = [{ chain = "cert.pem", key = "key.pem" }]
min_version = "1.2"
hsts = "1y"
alpn = ["h2", "http/1.1"]
[[listen]]
address = "127.0.0.1:8080"
[pool]
strategy = "round-robin"
[[pool.backends]]
id = "a"
url = "http://127.0.0.1:9001"
weight = 1
tier = 0
locality = "eu-1/eu-1a/r1"
max_in_flight = 100
protocol = "auto"
[[pool.backends]]
id = "b"
url = "https://[::1]:9002/base"
[health]
path = "/health"
interval = "5s"
timeout = "2s"
fall = 2
rise = 2
host = "app.example"
headers = { x-token = "t" }
statuses = ["200-299", 418]
identity = { header = "x-service", value = "orders" }
port = 9100
shared_failure = 0.8
outliers = { consecutive = 3, failure_rate = 0.4, window = "20s", ejection = "10s" }
[sticky]
cookie = "PROXY_SERVER_ID"
keys = ["5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"]
secure = true
[proxy]
connect_timeout = "2s"
response_timeout = "15s"
idle_timeout = "60s"
max_connection_age = "10m"
trusted = ["10.0.0.0/8"]
send_proxy_protocol = "v2"
[failover]
attempts = 2
hedge = { after = "p95", at_least = "50ms" }
per_try_timeout = "5s"
timeout = "20s"
retry_statuses = [502, 503, 504]
backoff = { base = "25ms", max = "250ms", retry_after = "1s" }
[trace]
trusted = ["192.0.2.0/24"]
sampling_ratio = 0.5
[access_log]
file = "access.jsonl"
format = "logfmt"
rotate = { size = "100MiB", every = "1d", keep = 7 }
sample = { ratio = 0.1, slow = "1s" }
fields = "ecs"
node = "lb-1"
query = false
referer = true
[[access_log.outputs]]
syslog = { unix = "/dev/log", facility = "daemon", app_name = "shop", cee = true }
[[access_log.outputs]]
tcp = "collector.example:9000"
[admin]
address = "127.0.0.1:9900"
metrics = true
status = true
token = "a-token-from-a-secret-store"
[fleet]
redis = "redis://:secret@10.0.0.9/1"
name = "shop"
instance = "lb-1"
ticket_rotation = "12h"
handover = "edge.sock"
start_timeout = "20s"
"#;

const PROXY_PROTOCOL: &str =
    "proxy_protocol = { trusted = [\"10.0.0.0/8\"], timeout = \"5s\", required = true }";
const HEDGE: &str = "hedge = { after = \"p95\", at_least = \"50ms\" }";
const ROTATE: &str = "rotate = { size = \"100MiB\", every = \"1d\", keep = 7 }";
const SAMPLE: &str = "sample = { ratio = 0.1, slow = \"1s\" }";
const SYSLOG: &str =
    "syslog = { unix = \"/dev/log\", facility = \"daemon\", app_name = \"shop\", cee = true }";
const TCP: &str = "tcp = \"collector.example:9000\"";
const TOKEN: &str = "token = \"a-token-from-a-secret-store\"";
const REDIS: &str = "redis = \"redis://:secret@10.0.0.9/1\"";
const BACKOFF: &str = "backoff = { base = \"25ms\", max = \"250ms\", retry_after = \"1s\" }";

fn refused(text: &str) -> SettingsError {
    Settings::from_toml(text).expect_err(text)
}

#[test]
fn every_key_is_read() {
    let settings = Settings::from_toml(GOOD).unwrap();
    let [first, second] = &settings.listen[..] else {
        panic!("two listeners");
    };
    assert!(first.half_close && first.allow_empty_host && first.allow_raw_target);
    assert!(!second.half_close && !second.allow_empty_host && !second.allow_raw_target);
    assert!(settings.hsts(0).is_some());
    assert!(settings.hsts(1).is_none(), "off unless given");
    assert_eq!((first.min_rate, second.min_rate), (Some(1_000), None));
    let limits = (first.max_connections, second.max_connections);
    assert_eq!(limits, (Some(2_000), None));
    assert_eq!(first.request_timeout, Some(Duration::from_secs(300)));
    assert_eq!(second.request_timeout, None);
    let pool = settings.pool();
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.backends().len(), 2);
    let a = snapshot.get("a").unwrap();
    assert_eq!(
        (a.configured_weight(), a.configured_max_in_flight()),
        (1, Some(100))
    );
    assert_eq!(snapshot.get("b").unwrap().base_path(), "/base");
    assert_eq!(settings.lame_duck().as_secs(), 5);
    assert_eq!(settings.drain().as_secs(), 30);
    let _balancer = settings.load_balancer(&pool).build();
    let log = settings.access_log.as_ref().unwrap();
    assert!(log.referer && !log.query);
    assert_eq!(log.outputs.len(), 2);
    let token = settings.admin_token().unwrap().unwrap();
    assert_eq!(token.expose(), "a-token-from-a-secret-store");
}

#[test]
fn an_access_log_has_an_output_and_no_key_without_effect() {
    let rest = "[[listen]]\naddress = \"[::]:80\"\n[pool]\n[[pool.backends]]\nid = \"a\"\nurl = \"http://a\"\n";
    for fine in [
        "[access_log]\nfile = \"stdout\"\n",
        "[access_log]\noutputs = [{ udp = \"[::1]:514\" }, { unix = \"/a\" }]\n",
        "access_log = { outputs = [{ tcp = \"a:1\" }] }\n",
        "[[access_log.outputs]]\nfile = \"stdout\"\n[[access_log.outputs]]\ntcp = \"a:1\"\n",
    ] {
        let text = if fine.starts_with('[') {
            format!("{rest}{fine}")
        } else {
            format!("{fine}{rest}")
        };
        Settings::from_toml(&text).expect(fine);
    }
    for (bad, wanted) in [
        (
            "[access_log]\nnode = \"lb-1\"\n",
            "line 7: [access_log]: the key `file` is missing, or one or more `outputs`",
        ),
        (
            "[access_log]\nsample = { ratio = 0.1 }\noutputs = [{ tcp = \"a:1\" }]\n",
            "line 8: [access_log] sample: for `file` only: each of the `outputs` has its own",
        ),
        (
            "[access_log]\noutputs = [{ tcp = \"a:1\" }, { format = \"json\" }]\n",
            "line 8: [access_log] outputs: the place is missing: one of `file`",
        ),
        (
            "[[access_log.outputs]]\ntcp = \"a:1\"\n[[access_log.outputs]]\nformat = \"json\"\n",
            "line 9: [[access_log.outputs]]: the place is missing: one of `file`, `syslog`, `tcp`, `udp` and `unix`",
        ),
        (
            "[access_log]\nfile = \"stdout\"\nrotate = { every = \"1d\" }\n",
            "line 9: [access_log] rotate: for a `file` that is a path only",
        ),
        (
            "[[access_log.outputs]]\ntcp = \"a:0\"\n[[access_log.outputs]]\ntcp = \"a\"\n",
            "line 8: [[access_log.outputs]] tcp: \"a:0\": a host and a port is accepted",
        ),
        (
            "[access_log]\nfile = \"x\"\n[access_log.rotate]\nkeep = 0\n",
            "line 10: [access_log.rotate] keep: 0 is not from 1 to 999",
        ),
        (
            "[access_log]\nfile = 5\nformat = \"json\"\nrotate = { keep = 2 }\n",
            "line 8: [access_log] file: 5: a text in quotes is accepted",
        ),
        (
            "[access_log]\noutputs = [{ syslog = { udp = \"a\" } }]\n",
            "line 8: [access_log] outputs: \"a\": a host and a port is accepted",
        ),
    ] {
        let text = format!("{rest}{bad}");
        let error = refused(&text).to_string();
        assert!(error.starts_with(wanted), "{bad}\n{error}");
        let all = mistakes(&text);
        assert_eq!(all[0], error, "{all:#?}");
        assert_eq!(
            all.len(),
            bad.matches("tcp = \"a\"").count() + 1,
            "{all:#?}"
        );
    }
}

#[test]
fn a_fleet_has_a_url_which_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.url");
    let with = |line: &str| GOOD.replace(REDIS, line);
    let pool = Pool::new([]).unwrap();
    let text = with(&format!("redis_file = {path:?}"));
    let settings = Settings::from_toml(&text).unwrap();
    for (content, is_accepted) in [
        (None, false),
        (Some("redis://:letmein@10.0.0.9/1\r\n"), true),
        (Some("letmein"), false),
        (Some(""), false),
    ] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        match settings.fleet(&pool) {
            Ok(fleet) => {
                assert!(is_accepted, "{content:?}");
                let shown = format!("{settings:?}{fleet:?}");
                assert!(
                    shown.contains("10.0.0.9:6379") && !shown.contains("letmein"),
                    "{shown}"
                );
            }
            Err(error) => {
                assert!(!is_accepted, "{content:?}: {error}");
                let wanted = "[fleet] redis_file";
                assert_eq!(error.location(), wanted);
                assert!(!error.message().contains("letmein"), "{error}");
            }
        }
    }
    let good = Settings::from_toml(GOOD).unwrap();
    let shown = format!("{good:?}");
    assert!(!shown.contains(":secret"), "{shown}");
    let fleet = format!("{:?}", good.fleet(&pool).unwrap());
    assert!(fleet.contains("instance: \"lb-1\""), "{fleet}");
    let without = refused(&with("")).to_string();
    let wanted = ": [fleet] name: for `redis` or `redis_file`, which are absent";
    assert!(without.ends_with(wanted), "{without}");
    let absent = GOOD.split("[fleet]").next().unwrap();
    let acme = "acme = { domains = [\"a.test\"], agree_to_terms = true, storage = \"redis\" }";
    let homeless = refused(&absent.replace("alpn = [\"h2\", \"http/1.1\"]", acme)).to_string();
    let wanted = "storage: redis: [fleet] names no server; `./redis` is a folder of that name";
    assert!(homeless.ends_with(wanted), "{homeless}");
    let none = refused(&format!("{absent}[fleet]\n")).to_string();
    let wanted = ": [fleet]: the key `redis` is missing, or `redis_file`, or `handover`";
    assert!(none.ends_with(wanted), "{none}");
    assert!(
        Settings::from_toml(absent)
            .unwrap()
            .fleet(&pool)
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_token_is_read_from_its_file_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.token");
    let with = |line: &str| GOOD.replace(TOKEN, line);
    let text = with(&format!("token_file = {path:?}"));
    let settings = Settings::from_toml(&text).unwrap();
    assert!(settings.admin_token().is_err(), "there is no file");
    for (content, is_accepted) in [
        ("sixteen-letters!", true),
        ("sixteen-letters!\r\n", true),
        ("fifteen-letters", false),
        ("two words, and more", false),
        ("", false),
    ] {
        std::fs::write(&path, content).unwrap();
        match settings.admin_token() {
            Ok(token) => {
                assert!(is_accepted, "{content:?}");
                assert_eq!(token.unwrap().expose(), "sixteen-letters!");
            }
            Err(error) => {
                assert!(!is_accepted, "{content:?}");
                assert_eq!(error.location(), "[admin] token_file");
                let shows = !content.is_empty() && error.to_string().contains(content);
                assert!(!shows, "{error}");
                let all = mistakes(&text);
                assert_eq!(all, [error.to_string()]);
            }
        }
    }
    for bad in [
        "token = \"s3cret\"",
        "token = 5353535353535353",
        "token = [\"s3cret\"]",
    ] {
        for mistake in mistakes(&with(bad)) {
            let shows = mistake.contains("s3cret") || mistake.contains("5353");
            assert!(!shows, "{mistake}");
        }
    }
    let shown = format!("{:?}", Settings::from_toml(GOOD).unwrap());
    assert!(!shown.contains("a-token-from"), "{shown}");
    let off = with("").replace("status = true", "status = false\ntoken_file = \"x\"");
    let error = refused(&off).to_string();
    assert!(
        error.contains("[admin] token_file: for the API beside the status page"),
        "{error}"
    );
}

#[test]
fn each_check_type_has_its_own_keys() {
    let with = |health: &str| {
        let before = GOOD.split("[health]").next().unwrap();
        format!("{before}[health]\n{health}\n[proxy]\n")
    };
    for fine in [
        "",
        "type = \"tcp\"\nsend = \"PING\"\nexpect = \"+PONG\"",
        "type = \"grpc\"\nservice = \"shop.Orders\"\npooled = true",
        "method = \"OPTIONS\"\ndraining_statuses = [404]\nbody_contains = \"ok\"\npooled = true",
        "identity = { header = \"x-node\" }\nshared_failure = 0\ndown_interval = \"20s\"",
        "state_file = \"health.json\"\njitter = 0.2\nchanging_interval = \"500ms\"\nconcurrency = 8",
        "address = \"10.0.0.1\"\ntls = true\nserver_name = \"checks.example\"",
        "[health.outliers]\nenabled = false",
        "[health.outliers]\nslower_than = 3.0\nvolume = 50\nstatuses = [\"500-599\", 429]\nmax_ejection = \"10m\"\nfailure_rate = 0\nimmediate_fail = false\nmax_share = 0.3",
    ] {
        let settings = Settings::from_toml(&with(fine)).expect(fine);
        let _layer = settings.health_layer(&settings.pool());
    }
    for (bad, location, message) in [
        (
            "type = \"udp\"",
            "[health] type",
            "http, tcp or grpc is accepted",
        ),
        (
            "type = \"tcp\"\npath = \"/\"",
            "[health] path",
            "accepted with type http, not tcp",
        ),
        (
            "service = \"x\"",
            "[health] service",
            "accepted with type grpc, not http",
        ),
        (
            "type = \"tcp\"\nhost = \"x\"",
            "[health] host",
            "with type http or grpc, not tcp",
        ),
        (
            "method = \"G T\"",
            "[health] method",
            "a method such as \"GET\"",
        ),
        (
            "headers = { \"a b\" = \"x\" }",
            "[health] headers",
            "the name of a header field",
        ),
        (
            "headers = { host = \"x\" }",
            "[health] headers",
            "the check sets this field itself",
        ),
        (
            "statuses = [\"2xx\"]",
            "[health] statuses",
            "\"2xx\": a status such as 204",
        ),
        (
            "statuses = [100]",
            "[health] statuses",
            "ranges within 200 to 599",
        ),
        (
            "draining_statuses = [true]",
            "[health] draining_statuses",
            "boolean: a status",
        ),
        (
            "identity = { header = \"\" }",
            "[health] identity",
            "the name of a header field",
        ),
        (
            "identity = { name = \"x\" }",
            "[health]",
            "unknown key `name`; accepted: `header` or `value`",
        ),
        ("port = 0", "[health] port", "1 to 65535 is accepted"),
        (
            "address = \"http://x\"",
            "[health] address",
            "a host name or an IP address",
        ),
        ("server_name = \"a b\"", "[health] server_name", "\"a b\""),
        (
            "down_interval = \"1\"",
            "[health] down_interval",
            "a number with a unit",
        ),
        (
            "down_interval = \"1ms\"",
            "[health] down_interval",
            "10 ms to 1 day",
        ),
        ("jitter = 2.0", "[health] jitter", "0.0 to 1.0 is accepted"),
        (
            "shared_failure = 0.3",
            "[health] shared_failure",
            "above 0.5, up to 1.0",
        ),
        (
            "concurrency = 0",
            "[health] concurrency",
            "1 or more is accepted",
        ),
        (
            "outliers = { consecutive = 0 }",
            "[health] outliers",
            "1 or more is accepted",
        ),
        (
            "[health.outliers]\nmax_share = 2.0",
            "[health.outliers] max_share",
            "0.0 to 1.0",
        ),
        (
            "[health.outliers]\nwindow = \"1ms\"",
            "[health.outliers] window",
            "1 s to 1 h",
        ),
        (
            "[health.outliers]\nstatuses = [200]",
            "[health.outliers] statuses",
            "within 300 to 599",
        ),
        (
            "[health.outliers]\nslow = 1",
            "[health.outliers]",
            "unknown key `slow`",
        ),
    ] {
        let text = with(bad);
        let error = refused(&text);
        assert_eq!(error.location(), location, "{bad}: {error}");
        assert!(error.message().contains(message), "{bad}: {error}");
        let line = text.lines().nth(error.line().unwrap() - 1).unwrap();
        // Of an unknown key, the place is its section alone.
        if let Some((_, key)) = location.split_once(' ') {
            assert!(line.contains(key), "{bad}: {error}: {line}");
        }
    }
}

#[test]
fn an_absent_key_has_its_default() {
    let settings = Settings::from_toml(
        "[[listen]]\naddress = \"[::]:80\"\n[pool]\n[[pool.backends]]\nid = \"a\"\nurl = \"http://a\"\n",
    )
    .unwrap();
    assert!(settings.sticky.is_none() && settings.health.is_none());
    assert_eq!(
        settings.lame_duck().as_secs(),
        0,
        "no path announces the shutdown"
    );
    assert_eq!(settings.drain().as_secs(), 30);
    let asked = "[[listen]]\naddress = \"[::]:80\"\nready = \"/ready\"\n";
    let backend = "[pool]\n[[pool.backends]]\nid = \"a\"\nurl = \"http://a\"\n";
    let settings = Settings::from_toml(&format!("{asked}{backend}")).unwrap();
    assert_eq!(settings.lame_duck().as_secs(), 5, "with a readiness path");
}

#[test]
fn hedging_is_on_with_the_section_and_off_with_false() {
    let backend = "[[listen]]\naddress = \"[::]:80\"\n[pool]\n[[pool.backends]]\nid = \"a\"\nurl = \"http://a\"\n";
    for (section, hedges) in [
        ("", None),
        ("[failover]\n", Some("Percentile(95), at_least: 50ms")),
        ("[failover]\nhedge = false\n", None),
        (
            "[failover]\nhedge = { after = \"80ms\" }\n",
            Some("Fixed(80ms), at_least: 50ms"),
        ),
        (
            "[failover]\nhedge = { after = \"p99\", at_least = \"20ms\", at_most = \"1s\", methods = [\"GET\", \"OPTIONS\"] }\n",
            Some("Percentile(99), at_least: 20ms, at_most: 1s, methods: [GET, OPTIONS]"),
        ),
    ] {
        let settings = Settings::from_toml(&format!("{backend}{section}")).unwrap();
        let layer = format!("{:?}", settings.failover_layer());
        match hedges {
            None => assert!(layer.contains("hedge: None"), "{section}: {layer}"),
            Some(shown) => assert!(layer.contains(shown), "{section}: {layer}"),
        }
    }
}

#[test]
fn the_proxy_protocol_excludes_backends_of_http2() {
    let text = GOOD.replace("protocol = \"auto\"", "protocol = \"http2\"");
    let error = Settings::from_toml(&text).unwrap_err().to_string();
    let message = "[proxy] send_proxy_protocol: the backend \"a\" has protocol = \"http2\", whose \
                   connections clients share";
    assert!(error.ends_with(message), "{error}");
    let without = text.replace("send_proxy_protocol = \"v2\"\n", "");
    assert!(Settings::from_toml(&without).is_ok());
    // A setting of the backend's own, with and without that of all.
    let http2 = "protocol = \"http2\"\n";
    for text in [&text, &without] {
        for (own, refused) in [("off", false), ("v1", true), ("v2", true)] {
            let own = format!("{http2}send_proxy_protocol = \"{own}\"\n");
            let result = Settings::from_toml(&text.replace(http2, &own));
            let message = "[[pool.backends]] send_proxy_protocol: clients share the connections of \
                           protocol = \"http2\"";
            match result {
                Ok(_) => assert!(!refused, "{own}"),
                Err(error) => assert!(refused && error.to_string().ends_with(message), "{error}"),
            }
        }
    }
}

#[test]
fn each_bad_value_is_refused_by_line_section_and_reason() {
    // What replaces a line of GOOD, and the message then.
    let table = [
        (
            "threads = 1",
            "threads = 0",
            "[server] threads: 0: 1 to 1024 is accepted",
        ),
        (
            "threads = 1",
            "threads = \"x\"",
            "[server] threads: \"x\": a whole number from 0 on is accepted",
        ),
        (
            "threads = 1",
            "thread = 1",
            "[server]: unknown key `thread`; accepted: `threads`, `locality`, `shutdown`, `certificate_expiry`",
        ),
        ("threads = 1", "threads = ", "[server]: "),
        (
            "locality = \"eu-1/eu-1a\"",
            "locality = \"a//b\"",
            "[server] locality: \"a//b\": region, region/zone",
        ),
        (
            "shutdown = { lame_duck = \"5s\", drain = \"30s\" }",
            "shutdown = { drain = \"30 sec\" }",
            "[server] shutdown: \"30 sec\": a number with a unit",
        ),
        (
            "address = \"127.0.0.1:8443\"",
            "address = \"localhost\"",
            "[[listen]] address: \"localhost\": an IP address and a port",
        ),
        (
            "ready = \"/ready\"",
            "ready = \"ready\"",
            "[[listen]] ready: \"ready\": a path such as \"/ready\" is accepted",
        ),
        (
            "ready = \"/ready\"",
            "ready = \"/live\"",
            "[[listen]] ready: \"/live\": it is the path of `live`",
        ),
        (
            "live = \"/live\"",
            "live = \"/l?x\"",
            "[[listen]] live: \"/l?x\": a path such as \"/live\" is accepted",
        ),
        (
            "address = \"127.0.0.1:8443\"",
            "address = \"127.0.0.1:9900\"",
            "[[listen]] address: 127.0.0.1:9900: another listener has this address",
        ),
        (
            "address = \"127.0.0.1:8080\"",
            "address = \"127.0.0.1:8443\"",
            "[[listen]] address: 127.0.0.1:8443: another listener has this address",
        ),
        (
            PROXY_PROTOCOL,
            "proxy_protocol = true",
            "[[listen]] proxy_protocol: true: false, or { trusted",
        ),
        (
            PROXY_PROTOCOL,
            "proxy_protocol = {}",
            "[[listen]]: the key `trusted` is missing",
        ),
        (
            PROXY_PROTOCOL,
            "proxy_protocol = { trusted = [] }",
            "[[listen]] proxy_protocol: trusted: []: 1 or more addresses or networks are accepted",
        ),
        (
            PROXY_PROTOCOL,
            "proxy_protocol = { trusted = [\"10.0.0.0/40\"] }",
            "[[listen]] proxy_protocol: \"10.0.0.0/40\": an address or a network",
        ),
        (
            PROXY_PROTOCOL,
            "proxy_protocol = { trusted = [\"10.0.0.0/8\"], timeout = \"2h\" }",
            "[[listen]] proxy_protocol: timeout: 7200s: more than 0 and at most 1 h is accepted",
        ),
        (
            PROXY_PROTOCOL,
            "proxy_protocol = { trusted = [\"10.0.0.0/8\"], max_length = 100 }",
            "[[listen]] proxy_protocol: max_length: 100: 232 to 4096 is accepted",
        ),
        (
            "max_connections = 2000",
            "max_connections = 0",
            "[[listen]] max_connections: 0: 1 to 2305843009213693951 is accepted",
        ),
        (
            "max_connections = 2000",
            "max_connections = -1",
            "[[listen]] max_connections: -1: a whole number from 0 on is accepted",
        ),
        (
            "min_rate = 1000",
            "min_rate = 2000000",
            "[[listen]] min_rate: 2000000: 0 to 1048576 bytes a second are accepted",
        ),
        (
            "min_version = \"1.2\"",
            "handshake_timeout = \"1ms\"",
            "[listen.tls] handshake_timeout: 1ms: 10 ms to 1 h is accepted",
        ),
        (
            "request_timeout = \"5m\"",
            "request_timeout = \"25h\"",
            "[[listen]] request_timeout: 90000s: 10 ms to 24 h is accepted",
        ),
        (
            "request_timeout = \"5m\"",
            "request_timeout = \"soon\"",
            "[[listen]] request_timeout: \"soon\": a number with a unit is accepted",
        ),
        (
            "certificates = [{ chain = \"cert.pem\", key = \"key.pem\" }]",
            "certificates = []",
            "[listen.tls] certificates: none: 1 or more",
        ),
        (
            "min_version = \"1.2\"",
            "min_version = \"1.1\"",
            "[listen.tls] min_version: \"1.1\": \"1.2\" or \"1.3\" is accepted",
        ),
        (
            "hsts = \"1y\"",
            "hsts = \"101y\"",
            "[listen.tls] hsts: \"101y\": \"0s\" to \"100y\" is accepted, as in",
        ),
        (
            "hsts = \"1y\"",
            "hsts = \"\"",
            "[listen.tls] hsts: \"\": \"0s\" to \"100y\" is accepted, as in",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "alpn = [\"spdy\"]",
            "[listen.tls] alpn: \"spdy\": \"h2\" and \"http/1.1\" are accepted",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "acme = { domains = [\"a.test\"], storage = \"s\" }",
            "[listen.tls] acme: agree_to_terms: it is not true; true is accepted once",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "acme = { domains = [\"a.test\"], storage = \"s\", agree_to_terms = false }",
            "[listen.tls] acme: agree_to_terms: it is not true; true is accepted once",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "acme = { domains = [\"*.a.test\"], agree_to_terms = true, storage = \"s\" }",
            "[listen.tls] acme: domains: *.a.test: a wildcard needs DNS-01",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "acme = { domains = [\"a.test\"], agree_to_terms = true, storage = \"s\", \
             directory = \"http://a.test\" }",
            "[listen.tls] acme: directory: \"http://a.test\": letsencrypt, letsencrypt-staging or a",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "acme = { domains = [\"a.test\"], agree_to_terms = true, storage = \"s\", \
             challenges = [\"dns-01\"] }",
            "[listen.tls] acme: \"dns-01\": tls-alpn-01 or http-01 is accepted",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "client_auth = \"required\"",
            "[listen.tls] client_auth: it needs the roots of the clients",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "client_auth = \"maybe\"",
            "[listen.tls] client_auth: \"maybe\": off, optional or required is accepted",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "client_crl = [\"revoked.pem\"]",
            "[listen.tls] client_crl: it needs the roots of the clients",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "hosts = [{ name = \"a.test\", client_ca = [\"c.pem\"] }]\n\
             client_ca = [\"a.pem\"]\nclient_crl = [\"b.pem\"]",
            "[listen.tls] hosts: \"a.test\": it has roots of its own, and needs client_crl",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "hosts = [{ name = \"a b\" }]",
            "[listen.tls] hosts: \"a b\": a DNS name such as",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "hosts = [{ name = \"a.test\" }, { name = \"A.test\" }]",
            "[listen.tls] hosts: \"A.test\": the host has a policy already",
        ),
        (
            "alpn = [\"h2\", \"http/1.1\"]",
            "hosts = [{ name = \"a.test\", alpn = [\"spdy\"] }]",
            "[listen.tls] hosts: \"spdy\": \"h2\" and \"http/1.1\" are accepted",
        ),
        (
            "trusted = [\"10.0.0.0/8\"]",
            "tls = { ca = \"/dev/null\" }",
            "[proxy] tls: ca: no PEM certificate is there",
        ),
        (
            "trusted = [\"10.0.0.0/8\"]",
            "tls = { server_name = \"a b\" }",
            "[proxy] tls: server_name: \"a b\": ",
        ),
        (
            "trusted = [\"10.0.0.0/8\"]",
            "tls = { danger_no_verification = true, ca = \"mozilla\" }",
            "[proxy] tls: danger_no_verification: true: nothing is verified against ca",
        ),
        (
            "trusted = [\"10.0.0.0/8\"]",
            "client_cert_fields = \"all\"",
            "[proxy] client_cert_fields: \"all\": none, leaf or chain is accepted",
        ),
        (
            "strategy = \"round-robin\"",
            "strategy = \"rr\"",
            "[pool] strategy: \"rr\": round-robin, random",
        ),
        (
            "strategy = \"round-robin\"",
            "strategy = \"consistent-hash\"",
            "[pool] strategy: consistent-hash needs hash",
        ),
        (
            "strategy = \"round-robin\"",
            "hash = { header = \"\" }\nstrategy = \"consistent-hash\"",
            "[pool] hash: consistent-hash needs hash",
        ),
        (
            "strategy = \"round-robin\"",
            "hash = \"path\"",
            "[pool] hash: for strategy = \"consistent-hash\" only",
        ),
        (
            "strategy = \"round-robin\"",
            "load_factor = 1.5",
            "[pool] load_factor: for strategy = \"consistent-hash\" only",
        ),
        (
            "strategy = \"round-robin\"",
            "affinity_floor = 4\nstrategy = \"random\"",
            "[pool] affinity_floor: for strategy = \"consistent-hash\" only",
        ),
        (
            "strategy = \"round-robin\"",
            "load_factor = 0.9\nstrategy = \"consistent-hash\"\nhash = \"path\"",
            "[pool] load_factor: 0.9: 1.0 to 100.0 is accepted",
        ),
        (
            "strategy = \"round-robin\"",
            "affinity_floor = 0\nstrategy = \"consistent-hash\"\nhash = \"path\"",
            "[pool] affinity_floor: 0: 1 to 100000 is accepted",
        ),
        (
            "strategy = \"round-robin\"",
            "panic = 1.5",
            "[pool] panic: 1.5: a share over 0.0",
        ),
        (
            "strategy = \"round-robin\"",
            "slow_start = \"2h\"",
            "[pool] slow_start: ",
        ),
        (
            "strategy = \"round-robin\"",
            "overprovisioning = 0.5",
            "[pool] overprovisioning: 0.5: 1.0 to 1000",
        ),
        (
            "id = \"b\"",
            "id = \"a\"",
            "[[pool.backends]] id: \"a\": another backend has this id",
        ),
        (
            "id = \"b\"",
            "id = \"\"",
            "[[pool.backends]] id: \"\": 1 to 128 visible ASCII",
        ),
        (
            "url = \"http://127.0.0.1:9001\"",
            "url = \"ftp://x\"",
            "[[pool.backends]] url: \"ftp://x\": http:// or https://",
        ),
        (
            "weight = 1",
            "weight = 5000",
            "[[pool.backends]] weight: 5000: 0 to 1000 is accepted",
        ),
        (
            "weight = 1",
            "weight = -1",
            "[[pool.backends]] weight: -1: a whole number from 0 on is accepted",
        ),
        (
            "max_in_flight = 100",
            "max_in_flight = 0",
            "[[pool.backends]] max_in_flight: 0: 1 or more",
        ),
        (
            "protocol = \"auto\"",
            "protocol = \"h3\"",
            "[[pool.backends]] protocol: \"h3\": auto, http1 or http2",
        ),
        ("path = \"/health\"", "path = \"health\"", "[health] path: "),
        (
            "interval = \"5s\"",
            "interval = \"5\"",
            "[health] interval: \"5\": a number with a unit",
        ),
        (
            "interval = \"5s\"",
            "interval = \"1s\"",
            "[health] timeout: ",
        ),
        ("fall = 2", "fall = 0", "[health] fall: "),
        (
            "cookie = \"PROXY_SERVER_ID\"",
            "cookie = \"a b\"",
            "[sticky] cookie: \"a b\": letters",
        ),
        (
            "keys = [\"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\"]",
            "keys = [\"5a\"]",
            "[sticky] keys: number 1: 64 hexadecimal digits",
        ),
        (
            "keys = [\"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\"]",
            "keys = [\"0000000000000000000000000000000000000000000000000000000000000000\"]",
            "[sticky] keys: number 1: zeros only; 64 random digits",
        ),
        (
            "trusted = [\"192.0.2.0/24\"]",
            "trusted = [\"192.0.2.0/33\"]",
            "[trace] trusted: ",
        ),
        (
            "sampling_ratio = 0.5",
            "sampling_ratio = 1.5",
            "[trace] sampling_ratio: 1.5: a number from 0 to 1",
        ),
        (
            "connect_timeout = \"2s\"",
            "connect_timeout = \"0s\"",
            "[proxy] connect_timeout: ",
        ),
        (
            "response_timeout = \"15s\"",
            "response_timeout = \"1ms\"",
            "[proxy] response_timeout: 1ms: 10 ms to 24 h",
        ),
        (
            "max_connection_age = \"10m\"",
            "max_connection_age = \"10ms\"",
            "[proxy] max_connection_age: 10ms: 1 s to 24 h",
        ),
        (
            "trusted = [\"10.0.0.0/8\"]",
            "client_field = \"forwarded\"",
            "[proxy] client_field: it is read from trusted peers only",
        ),
        (
            "send_proxy_protocol = \"v2\"",
            "send_proxy_protocol = true",
            "[proxy] send_proxy_protocol: ",
        ),
        (
            "protocol = \"auto\"",
            "send_proxy_protocol = \"v3\"",
            "[[pool.backends]] send_proxy_protocol: \"v3\": v1, v2 or off is accepted",
        ),
        (
            "send_proxy_protocol = \"v2\"",
            "send_proxy_protocol = \"v3\"",
            "[proxy] send_proxy_protocol: \"v3\": v1 or v2 is accepted",
        ),
        (
            "trusted = [\"10.0.0.0/8\"]",
            "client_field = \"x-real-ip\"",
            "[proxy] client_field: \"x-real-ip\": x-forwarded-for or forwarded",
        ),
        (
            "trusted = [\"10.0.0.0/8\"]",
            "trusted = [\"10.0.0.0/99\"]",
            "[proxy] trusted: \"10.0.0.0/99\"",
        ),
        (
            "attempts = 2",
            "attempts = 0",
            "[failover] attempts: 0: 1 to 10 is accepted",
        ),
        (
            HEDGE,
            "hedge = true",
            "[failover] hedge: true: false, or { after",
        ),
        (HEDGE, "hedge = 5", "[failover] hedge: 5: false, or { after"),
        (
            HEDGE,
            "hedge = { after = \"p49\" }",
            "[failover] hedge: percentile: 49: 50 to 99 is accepted",
        ),
        (
            HEDGE,
            "hedge = { after = \"pool\" }",
            "[failover] hedge: after: \"pool\": \"p50\" to \"p99\"",
        ),
        (
            HEDGE,
            "hedge = { after = \"fast\" }",
            "[failover] hedge: \"fast\": a number with a unit",
        ),
        (
            HEDGE,
            "hedge = { at_least = \"0s\" }",
            "[failover] hedge: at_least: 0ns: 1 ms to 60 s",
        ),
        (
            HEDGE,
            "hedge = { methods = [\"POST\"] }",
            "[failover] hedge: methods: POST: only idempotent methods",
        ),
        (
            HEDGE,
            "hedge = { before = \"p95\" }",
            "[failover]: unknown key `before`; accepted: `after`, `at_least`",
        ),
        (
            "per_try_timeout = \"5s\"",
            "per_try_timeout = \"0s\"",
            "[failover] per_try_timeout: 0ns: 1 ms to 1 h",
        ),
        (
            "timeout = \"20s\"",
            "timeout = \"2h\"",
            "[failover] timeout: 7200s: 1 ms to 1 h",
        ),
        (
            "retry_statuses = [502, 503, 504]",
            "retry_statuses = [200]",
            "[failover] retry_statuses: 200: 400 to 599",
        ),
        (
            BACKOFF,
            "backoff = { base = \"2s\", max = \"1s\" }",
            "[failover] backoff: 2s to 1s: a base up to the most",
        ),
        (
            BACKOFF,
            "backoff = { retry_after = \"2m\" }",
            "[failover] backoff: 120s: 0 s to 60 s",
        ),
        (
            "node = \"lb-1\"",
            "nodes = 1",
            "[access_log]: unknown key `nodes`",
        ),
        (
            "format = \"logfmt\"",
            "format = \"xml\"",
            "[access_log] format: \"xml\": \"json\", \"logfmt\" or \"combined\" is accepted",
        ),
        (
            ROTATE,
            "rotate = { size = \"100MB\" }",
            "[access_log] rotate: \"100MB\": a number with a unit is accepted, as in \"512KiB\"",
        ),
        (
            ROTATE,
            "rotate = { size = \"100B\" }",
            "[access_log] rotate: size: 100 is less than 1024 bytes",
        ),
        (
            ROTATE,
            "rotate = { every = \"0s\" }",
            "[access_log] rotate: every: 0ns is not whole seconds, 1 or more",
        ),
        (
            ROTATE,
            "rotate = { keep = 1000 }",
            "[access_log] rotate: keep: 1000 is not from 1 to 999",
        ),
        (
            ROTATE,
            "rotate = { weekly = true }",
            "[access_log]: unknown key `weekly`; accepted: `size`, `every`, `keep`",
        ),
        (
            SAMPLE,
            "sample = { ratio = 1.5 }",
            "[access_log] sample: ratio: 1.5 is not from 0 to 1",
        ),
        (
            SAMPLE,
            "sample = { slow = \"1\" }",
            "[access_log] sample: \"1\": a number with a unit",
        ),
        (
            "fields = \"ecs\"",
            "fields = \"elastic\"",
            "[access_log] fields: \"elastic\": \"own\", \"otel\" or \"ecs\" is accepted",
        ),
        (
            "query = false",
            "query = \"off\"",
            "[access_log] query: \"off\": true or false is accepted",
        ),
        (
            SYSLOG,
            "syslog = { unix = \"/dev/log\", facility = \"local8\" }",
            "[[access_log.outputs]] syslog: facility: \"local8\" is none of user, daemon",
        ),
        (
            SYSLOG,
            "syslog = { unix = \"/dev/log\", app_name = \"a b\" }",
            "[[access_log.outputs]] syslog: app_name: ",
        ),
        (
            SYSLOG,
            "syslog = { cee = true }",
            "[[access_log.outputs]] syslog: the address is missing: one of `unix`, `udp` and `tcp` is accepted",
        ),
        (
            SYSLOG,
            "syslog = { udp = \"a:1\", tcp = \"a:1\" }",
            "[[access_log.outputs]] syslog: one of `unix`, `udp` and `tcp` is accepted",
        ),
        (
            TCP,
            "tcp = \"collector.example\"",
            "[[access_log.outputs]] tcp: \"collector.example\": a host and a port is accepted",
        ),
        (
            TCP,
            "udp = \"::1:514\"",
            "[[access_log.outputs]] udp: \"::1:514\": a host and a port is accepted",
        ),
        (
            TCP,
            "unix = \"/a\"\ntcp = \"a:1\"",
            "[[access_log.outputs]] unix: beside `tcp`: one of `file`, `syslog`",
        ),
        (
            TCP,
            "rotate = { size = \"1MiB\" }\ntcp = \"a:1\"",
            "[[access_log.outputs]] rotate: for a `file` that is a path only",
        ),
        (
            TCP,
            "file = \"access.jsonl\"",
            "[[access_log.outputs]] file: another output writes to this file",
        ),
        (
            TCP,
            "sample = { ratio = -1.0 }\ntcp = \"a:1\"",
            "[[access_log.outputs]] sample: ratio: -1 is not from 0 to 1",
        ),
        (
            "address = \"127.0.0.1:9900\"",
            "address = \"x\"",
            "[admin] address: ",
        ),
        (
            "metrics = true",
            "metrics = \"/metrics\"",
            "[admin] metrics: \"/metrics\": true or false is accepted",
        ),
        (
            TOKEN,
            "token = \"fifteen-letters\"",
            "[admin] token: 16 or more visible ASCII characters are accepted",
        ),
        (
            TOKEN,
            "token_file = \"x\"\ntoken = \"a-token-from-a-secret-store\"",
            "[admin] token_file: beside `token`: one of the two is accepted",
        ),
        ("[admin]", "[adm]", "[adm]: unknown section `adm`"),
        (
            REDIS,
            "redis = \"http://:secret@10.0.0.9\"",
            "[fleet] redis: another scheme; `redis://user:password@host:6379/0`",
        ),
        (
            REDIS,
            "redis_file = \"x\"\nredis = \"redis://:secret@10.0.0.9\"",
            "[fleet] redis_file: beside `redis`: one of the two is accepted",
        ),
        (
            "name = \"shop\"",
            "name = \"a/b\"",
            "[fleet] name: \"a/b\": 1 to 64 of a-z, 0-9, `.`, `-` and `_`",
        ),
        (
            "instance = \"lb-1\"",
            "instance = \"\"",
            "[fleet] instance: \"\": 1 to 64 of a-z",
        ),
        (
            "ticket_rotation = \"12h\"",
            "ticket_rotation = \"59s\"",
            "[fleet] ticket_rotation: 59s: a minute to a year is accepted",
        ),
        (
            "handover = \"edge.sock\"",
            "handover = \"\"",
            "[fleet] handover: 0 bytes: a path of 1 to 103 is accepted",
        ),
        (
            "start_timeout = \"20s\"",
            "start_timeout = \"2h\"",
            "[fleet] start_timeout: 7200s: 1 s to 1 h is accepted",
        ),
    ];
    for (was, becomes, wanted) in table {
        assert!(GOOD.contains(&format!("\n{was}\n")), "{was} must be a line");
        let text = GOOD.replacen(&format!("\n{was}\n"), &format!("\n{becomes}\n"), 1);
        let line = GOOD.lines().position(|l| l == was).unwrap() + 1;
        let error = refused(&text).to_string();
        let rest = error.split_once(": ").map_or("", |(_, rest)| rest);
        assert!(
            rest.starts_with(wanted),
            "{becomes}\n  wanted: {wanted}\n  got:    {rest}"
        );
        // A time-out that is too long for its interval is named where it stands.
        let at_line = error.starts_with(&format!("line {line}: ")) || wanted.contains("timeout: ");
        assert!(at_line, "line {line} was wanted: {error}");
        let all = mistakes(&text);
        assert_eq!(all, [error], "one mistake is one, in {becomes}");
    }
}

/// All but that files are not there, as none is here.
fn mistakes(text: &str) -> Vec<String> {
    let all = Settings::mistakes(text).into_iter();
    let all = all.map(|mistake| mistake.to_string());
    all.filter(|mistake| !mistake.contains("No such file"))
        .collect()
}

#[test]
fn every_mistake_is_found_in_one_run() {
    assert_eq!(mistakes(GOOD), [""; 0]);
    let mut text = GOOD.to_owned();
    let bad = [
        (
            "threads = 1",
            "thread = 1",
            "[server]: unknown key `thread`",
        ),
        (
            "shutdown = { lame_duck = \"5s\", drain = \"30s\" }",
            "shutdown = { lame_dick = \"5s\", drain = \"30s\", slow = 1 }",
            "[server]: unknown key `lame_dick`",
        ),
        (
            "address = \"127.0.0.1:8443\"",
            "address = 8443",
            "[[listen]] address: 8443: ",
        ),
        (
            "min_version = \"1.2\"",
            "min_version = \"1.1\"",
            "[listen.tls] min_version: \"1.1\"",
        ),
        ("live = \"/live\"", "live = \"live\"", ""),
        (
            "address = \"127.0.0.1:8080\"",
            "address = \"nowhere\"",
            "[[listen]] address: \"nowhere\"",
        ),
        (
            "strategy = \"round-robin\"",
            "strategy = \"robin\"",
            "[pool] strategy: \"robin\"",
        ),
        (
            "weight = 1",
            "weight = 5000",
            "[[pool.backends]] weight: 5000",
        ),
        (
            "protocol = \"auto\"",
            "protocol = \"spdy\"",
            "[[pool.backends]] protocol: \"spdy\"",
        ),
        (
            "url = \"https://[::1]:9002/base\"",
            "url = \"ftp://b\"",
            "[[pool.backends]] url: ",
        ),
        (
            "interval = \"5s\"",
            "interval = \"5\"",
            "[health] interval: \"5\": a number with a unit",
        ),
        (
            "timeout = \"2s\"",
            "timeout = \"2\"",
            "[health] timeout: \"2\": a number with a unit",
        ),
        ("fall = 2", "fall = 0", "[health] fall: 0"),
        ("rise = 2", "rise = \"two\"", "[health] rise: \"two\""),
        (
            "cookie = \"PROXY_SERVER_ID\"",
            "cookie = \"a b\"",
            "[sticky]",
        ),
        ("attempts = 2", "attempts = 0", "[failover] attempts: 0"),
        (
            "node = \"lb-1\"",
            "nodes = \"lb-1\"",
            "[access_log]: unknown key `nodes`",
        ),
        ("[admin]", "[adm]", "[adm]: unknown section `adm`"),
    ];
    for (was, becomes, _) in bad {
        assert!(text.contains(&format!("\n{was}\n")), "{was} must be a line");
        text = text.replacen(&format!("\n{was}\n"), &format!("\n{becomes}\n"), 1);
    }
    let all = mistakes(&text);
    let line = |part: &str| text.lines().position(|l| l == part).unwrap() + 1;
    for (_, becomes, wanted) in bad {
        let wanted = format!("line {}: {wanted}", line(becomes));
        // The first listener goes with its address, and with it what the modules would refuse.
        let is_gone = becomes.starts_with("live");
        let found = all.iter().any(|mistake| mistake.starts_with(&wanted));
        assert!(found != is_gone, "{wanted} was wanted: {all:#?}");
    }
    assert!(
        all.iter().any(|m| m.contains("unknown key `slow`")),
        "{all:#?}"
    );
    assert_eq!(all.len(), bad.len(), "and nothing else: {all:#?}");
    // What is missing hides nothing, and what is not there any more is not missing.
    for (text, wanted) in [
        (
            "[health]\nfall = 0\n[sticky]\n",
            &["[[listen]]", "[pool]", "`keys`", "fall"][..],
        ),
        (
            "listen = []\n[pool]\nstrategy = 1\n",
            &["[[listen]]", "[[pool.backends]]", "strategy"],
        ),
        (
            "[[listen]]\naddress = 1\n[pool]\nbackends = 2\n",
            &["address", "backends"],
        ),
        ("a = \n[pool]\nb = = 2\n", &["line 1", "line 3"]),
    ] {
        let all = mistakes(text);
        for part in wanted {
            assert!(
                all.iter().any(|m| m.contains(part)),
                "{part} was wanted: {all:#?}"
            );
        }
        assert!(
            all.len() <= wanted.len(),
            "no more than {wanted:?}: {all:#?}"
        );
    }
}

#[test]
fn a_value_is_named_by_its_key_in_any_layout() {
    let rest = "\n[[listen]]\naddress = \"[::]:80\"\n[pool]\n[[pool.backends]]\nid = \"a\"\nurl = \"http://a\"\n";
    for (text, wanted) in [
        (
            "[server]\nshutdown = { drain = \"soon\" }",
            "line 2: [server] shutdown: \"soon\": ",
        ),
        (
            "[server]\nshutdown.lame_duck = \"1s\"\nshutdown.drain = \"soon\"",
            "line 3: [server] shutdown: \"soon\": ",
        ),
        (
            "[server.shutdown]\nlame_duck = \"1s\"\ndrain = \"soon\"",
            "line 3: [server.shutdown] drain: \"soon\": ",
        ),
        (
            "[server]\ncertificate_expiry = { warn = \"1d\", error = \"2d\" }",
            "line 2: [server] certificate_expiry: warn is 86400s, shorter than error, 172800s;",
        ),
        (
            "[server]\ncertificate_expiry.error = \"31d\"",
            "line 2: [server] certificate_expiry: warn is 2592000s, shorter than error, 2678400s;",
        ),
        (
            "[server.certificate_expiry]\nunready = true\nwarn = \"6d\"",
            "line 3: [server.certificate_expiry] warn: warn is 518400s, shorter than error, 604800s;",
        ),
        (
            "[server.certificate_expiry]\nerror = \"3d\"\nwarn = \"2d\"",
            "line 3: [server.certificate_expiry] warn: warn is 172800s, shorter than error, 259200s;",
        ),
        (
            "server.shutdown.drain = \"soon\"",
            "line 1: [server] shutdown: \"soon\": ",
        ),
        (
            "[health]\nstatuses = [\n  204,\n  \"2xx\",\n]",
            "line 2: [health] statuses: \"2xx\": ",
        ),
        (
            "[health] # checks\n[health.identity]\nheader = \"a b\"",
            "line 3: [health.identity] header: \"a b\": ",
        ),
        (
            "[failover.hedge]\nmethods = [\"G T\"]",
            "line 2: [failover.hedge] methods: \"G T\" is no method",
        ),
        (
            "[health]\nidentity.value = \"x\"",
            "line 2: [health]: the key `header` is missing",
        ),
    ] {
        let text = format!("{text}{rest}");
        let error = refused(&text).to_string();
        assert!(error.starts_with(wanted), "{wanted} was wanted: {error}");
        assert_eq!(mistakes(&text), [error], "one mistake is one, in {text}");
    }
}

#[test]
fn what_is_made_twice_shares_no_state() {
    let settings = Settings::from_toml(GOOD).unwrap();
    let (one, other) = (settings.pool(), settings.pool());
    let lease = evenkeel::pool::Lease::acquire(one.snapshot().get("a").unwrap());
    assert!(lease.is_some());
    let in_flight = |pool: &Pool| pool.snapshot().get("a").unwrap().in_flight();
    assert_eq!((in_flight(&one), in_flight(&other)), (1, 0));
    // A reload of the same settings keeps the state of the members.
    one.replace(settings.backends()).unwrap();
    assert_eq!(in_flight(&one), 1);
    assert!(settings.health_layer(&other).pool().is_same(&other));
    let sticky = settings.sticky_layer(&other).unwrap();
    assert!(sticky.pool().is_same(&other));
    let readiness = evenkeel::endpoints::Readiness::new(one);
    readiness.fail("shutting down");
    let shown = format!("{:?}", settings.endpoints_layer(0, &readiness).unwrap());
    assert!(shown.contains("shutting down"), "{shown}");
    assert!(settings.endpoints_layer(1, &readiness).is_none());
    assert!(settings.endpoints_layer(2, &readiness).is_none());
}

#[test]
fn files_that_cannot_be_used_are_mistakes_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let with = |log: &str, state: &str| {
        GOOD.replace("access.jsonl", log)
            .replace("path = \"/health\"", &format!("path = \"/health\"\nstate_file = {state:?}"))
            .replace("certificates = [{ chain = \"cert.pem\", key = \"key.pem\" }]",
                "certificates = [{ chain = \"no.pem\", key = \"a.pem\" }, { chain = \"nor.pem\", key = \"b.pem\" }]")
    };
    let all = Settings::mistakes(&with("/nowhere/access.jsonl", &path("")));
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    for wanted in [
        "no.pem",
        "nor.pem",
        "[access_log] file: \"/nowhere/access.jsonl\": ",
        "[health] state_file: ",
    ] {
        assert!(
            all.iter().any(|m| m.contains(wanted)),
            "{wanted} was wanted: {all:#?}"
        );
    }
    assert_eq!(all.len(), 4, "{all:#?}");
    let all = Settings::mistakes(&with(&path("access.jsonl"), &path("health.json")));
    assert_eq!(all.len(), 2, "the certificates alone: {all:#?}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

/// Settings with automatic certificates, in which a line stands for the listener in cleartext.
fn with_acme(storage: &str, challenges: &str, listener: &str) -> String {
    format!(
        "{listener}[[listen]]\naddress = \"127.0.0.1:443\"\n[listen.tls]\n[listen.tls.acme]\n\
         domains = [\"a.test\"]\nagree_to_terms = true\nstorage = {storage:?}\n{challenges}\
         [pool]\n[[pool.backends]]\nid = \"a\"\nurl = \"http://a\"\n\
         [fleet]\nredis = \"redis://127.0.0.1\"\n"
    )
}

#[test]
fn folders_that_cannot_be_written_to_are_mistakes_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("file"), "").unwrap();
    let all = |text: &str| {
        let all = Settings::mistakes(text).into_iter();
        all.map(|mistake| mistake.to_string()).collect::<Vec<_>>()
    };
    let of_acme = |storage: &std::path::Path| all(&with_acme(storage.to_str().unwrap(), "", ""));
    // A folder that is not there is made with those above it, a hand-over's is not.
    assert_eq!(of_acme(&path("new/acme")), [""; 0]);
    assert_eq!(all(&with_acme("redis", "", "")), [""; 0]);
    for storage in [path("file"), path("file/acme")] {
        let found = of_acme(&storage);
        let wanted = format!("line 7: [listen.tls.acme] storage: {}: ", storage.display());
        assert!(
            found.len() == 1 && found[0].starts_with(&wanted),
            "{found:#?}"
        );
    }
    std::fs::create_dir(path("open")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(path("open"), open).unwrap();
    let found = of_acme(&path("open"));
    assert!(found[0].contains("other users can write"), "{found:#?}");

    let handover = |path: &std::path::Path| {
        all(&with_acme("redis", "", "")
            .replace("[fleet]\n", &format!("[fleet]\nhandover = {path:?}\n")))
    };
    assert_eq!(handover(&path("edge.sock")), [""; 0]);
    // What is at the path is replaced: the folder decides.
    assert_eq!(handover(&path("file")), [""; 0]);
    let found = handover(&path("new/edge.sock"));
    let wanted = format!("[fleet] handover: {:?}: its folder", path("new/edge.sock"));
    assert!(found.len() == 1 && found[0].contains(&wanted), "{found:#?}");
    assert_eq!(
        folder.path().read_dir().unwrap().count(),
        2,
        "nothing is left"
    );
}

#[test]
fn a_challenge_in_cleartext_needs_a_listener_in_cleartext() {
    const HTTP01: &str = "challenges = [\"tls-alpn-01\", \"http-01\"]\n";
    const LISTENER: &str = "[[listen]]\naddress = \"127.0.0.1:80\"\n";
    for (storage, challenges, listener) in [
        ("acme", "", ""),
        ("acme", HTTP01, LISTENER),
        // Another instance of the fleet answers.
        ("redis", HTTP01, ""),
    ] {
        Settings::from_toml(&with_acme(storage, challenges, listener)).expect(challenges);
    }
    let text = with_acme("acme", HTTP01, "");
    let error = refused(&text).to_string();
    let wanted = "line 8: [listen.tls.acme] challenges: http-01: no [[listen]] is in cleartext";
    assert!(error.starts_with(wanted), "{error}");
    assert_eq!(mistakes(&text), [error]);
    // It does not follow from a listener that is wrong.
    let text = with_acme("acme", HTTP01, &LISTENER.replace("127.0.0.1", "localhost"));
    let all = mistakes(&text);
    assert!(all.len() == 1 && all[0].contains("localhost"), "{all:#?}");
}

#[test]
fn a_missing_section_is_named() {
    let backends = "[pool]\n[[pool.backends]]\nid = \"a\"\nurl = \"http://a\"\n";
    for (text, wanted) in [
        (backends.to_owned(), "the section [[listen]] is missing"),
        (
            format!("listen = []\n{backends}"),
            "[[listen]]: 1 or more is needed",
        ),
        (
            "[[listen]]\naddress = \"1.1.1.1:1\"\n[pool]\n".into(),
            "line 3: [pool]: no [[pool.backends]]",
        ),
        (
            "[[listen]]\naddress = \"1.1.1.1:1\"\n".into(),
            "the section [pool] is missing",
        ),
    ] {
        let error = refused(&text).to_string();
        assert!(error.contains(wanted), "{wanted} was wanted: {error}");
    }
}

#[test]
fn secrets_are_not_shown() {
    const KEY: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
    let settings = Settings::from_toml(GOOD).unwrap();
    assert!(
        !format!("{settings:?}").contains(KEY),
        "not in debug prints"
    );
    for bad in [
        format!("\"{KEY}\""),
        format!("[\"{KEY}x\"]"),
        format!("[{KEY}]"),
    ] {
        let text = GOOD.replace(&format!("[\"{KEY}\"]"), &bad);
        let error = refused(&text).to_string();
        assert!(!error.contains(KEY), "nor in messages: {error}");
    }
}

#[test]
fn traffic_follows_health_as_the_settings_say() {
    let with = |pool: &str| {
        let text = format!(
            "[server]\nlocality = \"eu/1\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n{pool}\n\
             [[pool.backends]]\nid = \"far\"\nurl = \"http://a\"\nlocality = \"eu/2\"\n\
             [[pool.backends]]\nid = \"near\"\nurl = \"http://b\"\nlocality = \"eu/1\"\n"
        );
        Settings::from_toml(&text).unwrap()
    };
    for hash in [
        "\"path\"",
        "\"client\"",
        "{ header = \"X-User\" }",
        "{ cookie = \"user\" }",
    ] {
        let pool = format!("strategy = \"consistent-hash\"\nhash = {hash}");
        let strategy = with(&pool).strategy();
        assert_eq!(strategy.name(), "consistent-hash", "{hash}");
    }
    let settings =
        with("strategy = \"peak-ewma\"\npanic = 0.6\nslow_start = \"0s\"\noverprovisioning = 2.0");
    assert_eq!(settings.strategy().name(), "peak-ewma");
    let pool = settings.pool();
    let first = |pool: &Pool| {
        let snapshot = pool.snapshot();
        snapshot.groups()[0].backends()[0].id().to_owned()
    };
    assert_eq!(first(&pool), "near", "the order in the file is another");
    assert_eq!(pool.snapshot().shares(), [10_000, 0]);
}

#[test]
fn the_settings_of_the_readme_are_accepted() {
    let readme = include_str!("../../README.md");
    let text = readme.split("```toml\n").nth(1).unwrap();
    let text = text.split("```").next().unwrap();
    let text = text.replace("<64 hexadecimal digits>", &"5a".repeat(32));
    let settings = Settings::from_toml(&text).unwrap();
    assert!(settings.sticky.is_some() && settings.failover.is_some());
    assert!(readme.contains("cargo run --features full --example quickstart"));
    assert!(readme.lines().count() < 150, "a README is read in one go");
}
