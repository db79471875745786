//! Chromium without a window.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

/// It makes requests before it has loaded, and shows the answers.
pub(super) const PAGE: &[u8] = b"<!doctype html><link rel=icon href=data:,><pre></pre><script>
for (let n = 0; n < 5; n += 1) {
  const request = new XMLHttpRequest();
  request.open('GET', '/close?' + n, false);
  request.send();
  document.querySelector('pre').textContent += request.responseText;
}
</script>";

#[tokio::test]
async fn chromium_speaks_both_versions_of_http_and_resumes() {
    let site = Site::start().await;
    let Some(seen) = dump(&site, "https://h1.test", "/page").await else {
        return;
    };
    // The first ones may be over connections that it opened ahead, without a ticket.
    let any = "alpn=http/1.1 sni=h1.test";
    let resumed = "alpn=http/1.1 sni=h1.test resumed=true";
    site.seen(&seen, &[any, any, any, any, resumed]);
    assert_eq!(seen.matches("over HTTP/1.1").count(), 5, "{seen}");

    // One connection has them all.
    let Some(seen) = dump(&site, "https://open.test", "/page").await else {
        return;
    };
    site.seen(&seen, &["X25519MLKEM768 alpn=h2 sni=open.test"; 5]);
    assert_eq!(seen.matches("over HTTP/2.0").count(), 5, "{seen}");

    // It is asked for a certificate, and has none.
    let Some(seen) = dump(&site, "https://optional.test", "/page").await else {
        return;
    };
    site.seen(
        &seen,
        &["sni=optional.test resumed=false certificates=0"; 5],
    );
}

#[tokio::test]
async fn chromium_shows_its_certificate_where_one_is_required() {
    let site = Site::start().await;
    let origin = "https://required.test";
    let Some(_policy) = Policy::select_certificates_for(origin, site.port) else {
        return;
    };
    let home = site.path("home");
    let database = format!("{home}/.pki/nssdb");
    std::fs::create_dir_all(&database).unwrap();
    let database = format!("sql:{database}");
    let (own, key, both) = (
        site.path("own.pem"),
        site.path("own-key.pem"),
        site.path("own.p12"),
    );
    let export = [
        "pkcs12", "-export", "-in", &own, "-inkey", &key, "-out", &both,
    ];
    for (program, args) in [
        ("certutil", &["-N", "--empty-password", "-d", &database][..]),
        ("openssl", &[&export[..], &["-passout", "pass:x"]].concat()),
        (
            "pk12util",
            &["-i", &both, "-d", &database, "-W", "x", "-K", ""],
        ),
    ] {
        let Some(said) = run(program, args, b"").await else {
            return;
        };
        eprintln!("{program}: {said}");
    }
    // Without the certificate there is no page.
    let Some(seen) = dump(&site, origin, "/page").await else {
        return;
    };
    site.seen(&seen, &[]);
    let Some(seen) = dump_at(&site, &home, origin, "/page").await else {
        return;
    };
    let wanted = "certificates=1 client=CN=someone,O=Example DNS:someone.test";
    site.seen(&seen, &[wanted; 5]);
    // The page, and the requests that it makes.
    let lines = tokio::time::timeout(PATIENCE, site.lines(6)).await;
    for line in lines.expect("a line for each request") {
        assert_eq!(line["tls_client_subject"], "CN=someone,O=Example", "{line}");
        assert_eq!(line["outcome"], "ok", "{line}");
    }
}

/// A policy of Chromium on this machine, which is removed when it is dropped. It concerns one origin.
struct Policy(PathBuf);

impl Policy {
    /// Lets Chromium choose a certificate for this origin without a question. `None` if policies cannot
    /// be written here, which the log of the test says.
    fn select_certificates_for(origin: &str, port: u16) -> Option<Self> {
        let folder = std::path::Path::new("/etc/chromium/policies/managed");
        let path = folder.join(format!("evenkeel-{}.json", std::process::id()));
        let rule = serde_json::json!({ "pattern": format!("{origin}:{port}"), "filter": {} });
        let policy = serde_json::json!({ "AutoSelectCertificateForUrls": [rule.to_string()] });
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, policy.to_string()));
        match written {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                eprintln!("NOT RUN: {}: {error}", path.display());
                None
            }
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Returns the page as it is after it has loaded, in a browser without certificates.
async fn dump(site: &Site, origin: &str, path: &str) -> Option<String> {
    dump_at(site, &site.path("empty"), origin, path).await
}

/// As [`dump`], with the certificates in this home directory.
async fn dump_at(site: &Site, home: &str, origin: &str, path: &str) -> Option<String> {
    let leaf = site.issued.certificate();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let key = STANDARD.encode(digest(&SHA256, leaf.public_key().raw));
    let args = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP *.test 127.0.0.1",
        "--dump-dom",
        // The authority is not installed, and the key is known.
        &format!("--ignore-certificate-errors-spki-list={key}"),
        &format!("--user-data-dir={home}/profile"),
        &format!("{origin}:{}{path}", site.port),
    ];
    std::fs::create_dir_all(home).unwrap();
    let mut chromium = Command::new("chromium");
    run_command(chromium.args(args).env("HOME", home), b"").await
}
