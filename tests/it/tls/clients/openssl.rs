//! `openssl s_client`, and curl over OpenSSL.

use super::*;

#[tokio::test]
async fn openssl_speaks_both_versions_of_http_and_resumes() {
    let site = Site::start().await;
    for (version, alpn, request) in [
        ("-tls1_2", "http/1.1", http1_request("open.test")),
        ("-tls1_3", "http/1.1", http1_request("open.test")),
        ("-tls1_2", "h2", http2_request("open.test")),
        ("-tls1_3", "h2", http2_request("open.test")),
    ] {
        let session = site.path("session");
        for (option, resumed) in [("-sess_out", "resumed=false"), ("-sess_in", "resumed=true")] {
            let args = [version, "-alpn", alpn, option, &session];
            let seen = s_client(&site, "open.test", &args, &request).await;
            let wanted = format!("alpn={alpn} sni=open.test {resumed}");
            assert!(seen.contains(&wanted), "{version} {option}: {seen}");
        }
    }
}

/// In TLS 1.3, `-reconnect` closes before the tickets come, whatever the server is.
#[tokio::test]
async fn openssl_reconnects_with_the_session() {
    let site = Site::start().await;
    let args = ["-tls1_2", "-reconnect"];
    let seen = s_client(&site, "open.test", &args, b"").await;
    let reused = seen.matches("Reused, TLSv1.2").count();
    assert_eq!(reused, 5, "{seen}");
}

#[tokio::test]
async fn openssl_shows_its_certificate_where_it_is_asked() {
    let site = Site::start().await;
    let (own, key) = (site.path("own.pem"), site.path("own-key.pem"));
    let with = ["-cert", &*own, "-key", &*key];
    for version in ["-tls1_2", "-tls1_3"] {
        for (host, args, wanted) in [
            ("required.test", &with[..], Some(OWN)),
            ("optional.test", &with, Some(OWN)),
            ("optional.test", &[], Some("certificates=0 client=-")),
            ("open.test", &with, Some("certificates=0 client=-")),
            ("required.test", &[], None),
        ] {
            let args = [&[version], args].concat();
            let seen = s_client(&site, host, &args, &http1_request(host)).await;
            match wanted {
                Some(wanted) => assert!(seen.contains(wanted), "{version} {host}: {seen}"),
                None => assert!(
                    !seen.contains("alpn=") && seen.contains("alert"),
                    "{version} {host}: {seen}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn curl_resumes_and_shows_its_certificate() {
    let site = Site::start().await;
    // With TLS 1.2, Debian's curl asks for no ticket (SSL_OP_NO_TICKET).
    for (version, most, resumed) in [
        ("TLSv1.2", "1.2", ["resumed=false"; 3]),
        (
            "TLSv1.3",
            "1.3",
            ["resumed=false", "resumed=true", "resumed=true"],
        ),
    ] {
        let args = ["--http1.1", "--tls-max", most];
        let seen = curl(&site, "open.test", &args, &["/"; 3]).await;
        site.seen(&seen, &resumed);
        assert_eq!(seen.matches(version).count(), 3, "{seen}");
    }
    let (own, key) = (site.path("own.pem"), site.path("own-key.pem"));
    let with = ["--cert", &*own, "--key", &*key];
    for http in ["--http1.1", "--http2"] {
        for (host, args, wanted) in [
            ("required.test", &with[..], OWN),
            ("optional.test", &with, OWN),
            ("optional.test", &[], "certificates=0 client=-"),
        ] {
            let args = [&[http], args].concat();
            let seen = curl(&site, host, &args, &["/"]).await;
            site.seen(&seen, &[wanted]);
            let over = format!("over HTTP/{}", http.trim_start_matches("--http"));
            assert!(seen.contains(over.trim_end_matches(".0")), "{seen}");
        }
        let refused = curl(&site, "required.test", &[http], &["/"]).await;
        assert!(
            refused.contains("curl: (") && !refused.contains("alpn="),
            "{refused}"
        );
    }
}

async fn s_client(site: &Site, host: &str, args: &[&str], request: &[u8]) -> String {
    let (address, ca) = (format!("127.0.0.1:{}", site.port), site.path("ca.pem"));
    let mut all = vec!["s_client", "-connect", &address, "-servername", host];
    all.extend([
        "-verify_return_error",
        "-verify_hostname",
        host,
        "-CAfile",
        &ca,
    ]);
    if !request.is_empty() {
        all.extend(["-quiet", "-ign_eof"]);
    }
    all.extend(args);
    let seen = run("openssl", &all, request).await;
    seen.expect("the tests need openssl")
}

async fn curl(site: &Site, host: &str, args: &[&str], paths: &[&str]) -> String {
    let (port, ca) = (site.port, site.path("ca.pem"));
    let resolve = format!("{host}:{port}:127.0.0.1");
    let urls = paths
        .iter()
        .map(|path| format!("https://{host}:{port}{path}"));
    let urls: Vec<_> = urls.collect();
    let mut all = vec!["-sS", "--cacert", &ca, "--resolve", &resolve];
    all.extend(args);
    all.extend(urls.iter().map(String::as_str));
    run("curl", &all, b"").await.expect("the tests need curl")
}

/// What the server says of the client's certificate. Some clients send its issuer, too.
pub(super) const OWN: &str = " client=CN=someone,O=Example DNS:someone.test ";
