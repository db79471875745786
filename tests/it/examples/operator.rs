//! What an operator reads: arguments, mistakes, reloads, and what happens to backends.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{
    client::get,
    edge::{ONE_LISTENER, Settings},
    process::{Backend, PATIENCE, Process, address_in},
};
use crate::support::refused;

const BACKEND: &str = "[[pool.backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";

#[tokio::test]
async fn arguments_are_read_in_any_order_and_what_is_no_argument_is_named() {
    let settings = Settings::new(&format!("{ONE_LISTENER}{BACKEND}"));
    let file = &*settings.file();
    for example in ["edge", "axum"] {
        let version = format!("{example} {}", env!("CARGO_PKG_VERSION"));
        for (args, code, part) in [
            (&["--help"][..], 0, "usage: "),
            (&["-h"], 0, "--check"),
            (&[file, "--help"], 0, "RUST_LOG"),
            (&["--version"], 0, &*version),
            (&["-V"], 0, &*version),
            (&["--check", file], 0, "edge.toml: fine"),
            (&[file, "--check"], 0, "edge.toml: fine"),
            (&["--check", "--", file], 0, "edge.toml: fine"),
            (&["--chekc", file], 2, "unknown option --chekc; usage: "),
            (&[file, file], 2, "a second file: "),
            (&["--check"], 2, "--check needs a file; usage: "),
            (&["--", "--help"], 2, "--help: No such file"),
        ] {
            let mut process = Process::start(example, args);
            let (status, lines) = process.ended().await;
            assert_eq!(status.code(), Some(code), "{example} {args:?}: {lines:?}");
            assert!(
                lines.iter().any(|line| line.contains(part)),
                "{example} {args:?}: {part:?} in {lines:?}"
            );
            let is_short = lines.len() == 1 || part == "usage: " || !part.contains(['.', ';', ':']);
            assert!(is_short, "{example} {args:?}: {lines:?}");
        }
    }
    let mut edge = Process::start("edge", &[]);
    let (status, lines) = edge.ended().await;
    assert_eq!((status.code(), lines.len()), (Some(2), 1), "{lines:?}");
}

#[tokio::test]
async fn every_mistake_is_said_in_one_run() {
    let settings = Settings::new(&format!(
        "[server]\nthread = 1\n[[listen]]\naddress = \"here\"\n[pool]\n{BACKEND}\
         [health]\nfall = 0\n[access_log]\nfile = \"/nowhere/access.jsonl\"\n"
    ));
    let file = settings.file();
    for (example, args) in [
        ("edge", &["--check", &*file][..]),
        ("edge", &[&file]),
        ("axum", &[&file]),
    ] {
        let mut process = Process::start(example, args);
        let (status, lines) = process.ended().await;
        assert_eq!(status.code(), Some(2), "{lines:?}");
        let wanted = [
            "line 2: [server]: unknown key `thread`",
            "line 4: [[listen]] address: \"here\"",
            "line 10: [health] fall: 0",
            "line 12: [access_log] file: \"/nowhere/access.jsonl\": No such file",
        ];
        assert_eq!(lines.len(), wanted.len(), "a line each: {lines:#?}");
        for (line, wanted) in lines.iter().zip(wanted) {
            assert!(line.contains(wanted), "{wanted}: {line}");
        }
    }
}

#[tokio::test]
async fn a_reload_is_compared_with_what_runs() {
    let before = format!("{ONE_LISTENER}{BACKEND}");
    let settings = Settings::new(&before);
    let mut edge = Process::start("edge", &[&settings.file()]);
    edge.address("listening on http://").await;
    let moved = before.replace(
        "[pool]\n",
        "[[listen]]\naddress = \"127.0.0.1:1\"\n[pool]\n",
    );
    let other = before.replace("[pool]\n", "half_close = true\n[pool]\n");
    let heavier = format!("{before}weight = 3\n[proxy]\nidle_timeout = \"9s\"\n");
    let same = "settings read again: what runs is as they say";
    for (text, says, warns) in [
        (&before, same, None),
        (&moved, same, Some("[[listen]] 127.0.0.1:1 (new)")),
        (&moved, same, Some("[[listen]] 127.0.0.1:1 (new)")),
        (&before, same, None),
        (&other, same, Some("[[listen]] 127.0.0.1:0 changed")),
        (&before, same, None),
        (
            &heavier,
            "settings read again: [[pool.backends]], [proxy] changed",
            None,
        ),
        (&heavier, same, None),
    ] {
        settings.write(text);
        edge.signal("-HUP");
        edge.line(says).await;
        if let Some(warns) = warns {
            let warned = edge.line("needs a restart").await;
            assert!(warned.contains(warns), "{warned}");
        }
    }
    settings.write(
        &heavier
            .replace("weight = 3", "weight = 3000")
            .replace("9s", "9"),
    );
    edge.signal("-HUP");
    for part in [
        "[[pool.backends]] weight: 3000",
        "[proxy] idle_timeout: \"9\"",
    ] {
        let line = edge.line("the last good settings stay").await;
        assert!(line.contains(part), "{line}");
    }
    edge.signal("-TERM");
    let (_, lines) = edge.ended().await;
    let warned = lines
        .iter()
        .filter(|line| line.contains("a restart"))
        .count();
    assert_eq!(warned, 3, "once for each reload that differs: {lines:#?}");
    let changed = lines
        .iter()
        .filter(|line| line.contains("the backend changed"));
    assert_eq!(changed.count(), 1, "{lines:#?}");
}

#[tokio::test]
async fn certificates_stay_with_their_listener_in_a_reload() {
    let authority = crate::support::pki::Authority::new();
    let settings = Settings::new("");
    for name in ["one", "two"] {
        let issued = authority.issue(&["localhost", name]);
        std::fs::write(settings.path(&format!("{name}.pem")), issued.chain).unwrap();
        std::fs::write(settings.path(&format!("{name}.key")), issued.key).unwrap();
    }
    let listener = |address: &str, name: &str| {
        let (chain, key) = (
            settings.path(&format!("{name}.pem")),
            settings.path(&format!("{name}.key")),
        );
        format!(
            "[[listen]]\naddress = \"{address}\"\n[listen.tls]\n\
             certificates = [{{ chain = {chain:?}, key = {key:?} }}]\n"
        )
    };
    let (first, second) = (free(), free());
    let (one, two) = (listener(&first, "one"), listener(&second, "two"));
    let rest = format!("[server]\nthreads = 1\n[pool]\n{BACKEND}");
    settings.write(&format!("{one}{two}{rest}"));
    let mut edge = Process::start("edge", &[&settings.file()]);
    edge.line("listening on https://").await;
    edge.line("listening on https://").await;
    let names = async |address: &str| {
        let address: std::net::SocketAddr = address.parse().unwrap();
        let stream = crate::support::pki::connect(address, authority.client(), "localhost").await;
        let chain = stream.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec();
        ["one", "two"].map(|name| chain.windows(3).any(|part| part == name.as_bytes()))
    };
    for order in [format!("{two}{one}{rest}"), format!("{two}{rest}")] {
        settings.write(&order);
        edge.signal("-HUP");
        edge.line("settings read again").await;
        assert_eq!(names(&first).await, [true, false]);
        assert_eq!(names(&second).await, [false, true]);
    }
    edge.line(&format!(
        "[[listen]] {first} (removed) changed: that needs a restart"
    ))
    .await;
}

/// An address that was free a moment ago.
fn free() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn an_outage_is_one_error_and_a_shutdown_none() {
    let (mut a, b) = (Backend::start("a").await, Backend::start("b").await);
    let with = |backends: &str| {
        format!(
            "[server]\nthreads = 1\nshutdown = {{ lame_duck = \"0s\" }}\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n{backends}\
             [health]\ninterval = \"300ms\"\nchanging_interval = \"100ms\"\ntimeout = \"200ms\"\n"
        )
    };
    let settings = Settings::new(&with(&format!("{}{}", a.settings(), b.settings())));
    let mut edge = Process::start("edge", &[&settings.file()]);
    let (scheme, up) = ("listening on http://", "the backend is up");
    let [listening, ups @ ..] = edge.all([scheme, up, up]).await;
    let http = address_in(&listening, scheme);
    for up in ups {
        assert!(up.contains("GET /health answered 200"), "{up}");
    }
    settings.write(&with(&a.settings()));
    edge.signal("-HUP");
    edge.line("the backend left").await;
    a.process.kill().await;
    edge.line("the backend is down").await;
    let error = edge
        .line("no backend is usable: new requests are answered with 503")
        .await;
    assert!(error.contains("ERROR"), "{error}");
    a = Backend::start_at("a", a.address).await;
    edge.line("a backend is usable again").await;
    let served = async {
        while get(http, "/").await.status != 200 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, served).await.unwrap();
    edge.signal("-TERM");
    let (status, lines) = edge.ended().await;
    assert!(status.success());
    let errors = lines.iter().filter(|line| line.contains("ERROR")).count();
    assert_eq!(errors, 1, "{lines:#?}");
    let at_the_end = lines
        .iter()
        .skip_while(|line| !line.contains("shutting down"));
    assert_eq!(
        at_the_end.count(),
        1,
        "nothing becomes of the backends: {lines:#?}"
    );
    let plain = lines.iter().all(|line| !line.contains('\u{1b}'));
    assert!(plain, "no colours where no terminal is: {lines:#?}");
    drop(a);
}

#[tokio::test]
async fn a_check_says_what_it_asked_for_and_what_came() {
    let a = Backend::start("a").await;
    for (path, dead, part) in [
        ("/slow?ms=9&token=5150", false, "GET /slow answered 200"),
        (
            "/slow?ms=60000",
            false,
            "GET /slow: no whole response in time",
        ),
        ("/health", true, "refused"),
    ] {
        let backend = match dead {
            true => format!(
                "[[pool.backends]]\nid = \"b\"\nurl = \"http://{}\"\n",
                refused()
            ),
            false => a.settings(),
        };
        let settings = Settings::new(&format!(
            "{ONE_LISTENER}{backend}[health]\npath = {path:?}\ninterval = \"1s\"\ntimeout = \"200ms\"\n"
        ));
        for example in ["edge", "axum"] {
            let mut process = Process::start(example, &[&settings.file()]);
            // In whichever order.
            let (mut listening, mut said) = (false, String::new());
            while !listening || said.is_empty() {
                let line = process.line("").await;
                listening |= line.contains("listening on ");
                if line.contains("the backend is ") {
                    said = line;
                }
            }
            assert!(said.contains(part) && !said.contains("5150"), "{said}");
            process.signal("-TERM");
            let (_, lines) = process.ended().await;
            assert!(
                lines.iter().all(|line| !line.contains("unknown:")),
                "{lines:#?}"
            );
        }
    }
}
