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

/// Returns the page as it is after it has loaded.
async fn dump(site: &Site, origin: &str, path: &str) -> Option<String> {
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
        &format!("--user-data-dir={}", site.path("profile")),
        &format!("{origin}:{}{path}", site.port),
    ];
    run("chromium", &args, b"").await
}
