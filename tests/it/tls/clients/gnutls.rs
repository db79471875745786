//! `gnutls-cli`.

use tokio::io::{AsyncBufReadExt, BufReader};

use super::{openssl::OWN, *};

#[tokio::test]
async fn gnutls_speaks_both_versions_of_http_and_resumes() {
    let site = Site::start().await;
    for (version, alpn, request) in [
        ("1.2", "http/1.1", http1_request("open.test")),
        ("1.2", "h2", http2_request("open.test")),
        ("1.3", "h2", http2_request("open.test")),
    ] {
        let priority = format!("--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}");
        let alpn_option = format!("--alpn={alpn}");
        let mut args = vec![&*priority, &alpn_option];
        // It closes before the tickets of TLS 1.3 come, since it makes no request.
        let resumes = version == "1.2";
        if resumes {
            args.push("--resume");
        }
        let Some(seen) = client(&site, "open.test", &args, &request).await else {
            return;
        };
        let said = seen.contains("*** This is a resumed session");
        assert_eq!(said, resumes, "{version}: {seen}");
        let wanted = format!("alpn={alpn} sni=open.test resumed={resumes}");
        site.seen(&seen, &[&wanted]);
    }
}

/// The tickets come with the first answer, so it has to make a request first.
#[tokio::test]
async fn gnutls_resumes_in_tls_13_after_a_request() {
    let site = Site::start().await;
    let mut command = Command::new("gnutls-cli");
    command.args(["--inline-commands", "--alpn=http/1.1"]);
    command.arg("--priority=NORMAL:-VERS-ALL:+VERS-TLS1.3");
    command.args(options(&site, "open.test"));
    command.arg("127.0.0.1");
    let Some(mut child) = spawn(&mut command) else {
        return;
    };
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let conversation = async {
        let mut seen = Vec::new();
        let requests = [
            &b"GET /keep HTTP/1.1\r\nhost: open.test\r\n\r\n"[..],
            b"^resume^\n",
        ];
        for (input, until) in requests.into_iter().zip(["alpn=", "Resume Handshake"]) {
            stdin.write_all(input).await.unwrap();
            while let Some(line) = lines.next_line().await.unwrap() {
                seen.push(line);
                if seen.last().is_some_and(|line| line.contains(until)) {
                    break;
                }
            }
        }
        stdin.write_all(&http1_request("open.test")).await.unwrap();
        while let Some(line) = lines.next_line().await.unwrap() {
            seen.push(line);
        }
        seen.join("\n")
    };
    let seen = tokio::time::timeout(LONGEST, conversation).await.unwrap();
    site.seen(&seen, &["resumed=false", "resumed=true"]);
}

#[tokio::test]
async fn gnutls_shows_its_certificate_where_it_is_asked() {
    let site = Site::start().await;
    let own = format!("--x509certfile={}", site.path("own.pem"));
    let key = format!("--x509keyfile={}", site.path("own-key.pem"));
    let with = [&*own, &*key];
    for version in ["1.2", "1.3"] {
        let priority = format!("--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}");
        for (host, args, wanted) in [
            ("required.test", &with[..], Some(OWN)),
            ("optional.test", &with, Some(OWN)),
            ("optional.test", &[], Some("certificates=0 client=-")),
            ("required.test", &[], None),
        ] {
            let args = [&[&*priority], args].concat();
            let Some(seen) = client(&site, host, &args, &http1_request(host)).await else {
                return;
            };
            match wanted {
                Some(wanted) => site.seen(&seen, &[wanted]),
                None => site.seen(&seen, &[]),
            }
        }
    }
}

async fn client(site: &Site, host: &str, args: &[&str], request: &[u8]) -> Option<String> {
    let options = options(site, host);
    let mut all: Vec<_> = options.iter().map(String::as_str).collect();
    all.extend(args);
    all.push("127.0.0.1");
    run("gnutls-cli", &all, request).await
}

fn options(site: &Site, host: &str) -> [String; 4] {
    [
        format!("--x509cafile={}", site.path("ca.pem")),
        format!("--port={}", site.port),
        format!("--sni-hostname={host}"),
        format!("--verify-hostname={host}"),
    ]
}
