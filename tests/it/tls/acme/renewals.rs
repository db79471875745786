//! Renewals, and starts from the store.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;

#[tokio::test]
async fn renewals_under_load_lose_no_request() {
    let options = Options {
        lifetime: Some(12),
        ..Options::default()
    };
    let Some(pebble) = Pebble::start(options).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Arc::new(Site::start(&pebble).await);
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    let client = pebble.client().await;
    let ended = Arc::new(AtomicBool::new(false));
    let mut visitors = JoinSet::new();
    for _ in 0..4 {
        let (site, client, ended) = (site.clone(), client.clone(), ended.clone());
        visitors.spawn(async move {
            let mut seen = HashSet::new();
            let mut visits = 0;
            while !ended.load(Ordering::Relaxed) {
                seen.insert(site.visit(&client, "a.test").await.unwrap());
                visits += 1;
            }
            (seen, visits)
        });
    }
    let mut seen = HashSet::new();
    let three = async {
        while seen.len() < 3 {
            seen.insert(site.visit(&client, "a.test").await.unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, three)
        .await
        .expect("renewals");
    ended.store(true, Ordering::Relaxed);
    let (mut certificates, mut visits) = (HashSet::new(), 0);
    while let Some(visited) = visitors.join_next().await {
        let (seen, number) = visited.unwrap();
        certificates.extend(seen);
        visits += number;
    }
    assert!(certificates.len() >= 3, "{}", certificates.len());
    assert!(visits > 20, "{visits}");
    drop(handle);
}

#[tokio::test]
async fn a_start_from_the_store_needs_no_authority() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let client = pebble.client().await;
    let site = Site::start(&pebble).await;
    let acme = site
        .acme(&folder, &pebble)
        .certificate(["a.test", "b.test"])
        .unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    let first = site.visit(&client, "a.test").await.unwrap();
    drop((handle, site));
    // The authority is asked for nothing: all its answers would be failures.
    let before = pebble.front.state.orders();
    let site = Site::start_elsewhere().await;
    let acme = site
        .acme(&folder, &pebble)
        .certificate(["b.test", "A.test"])
        .unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    let second = site.visit(&client, "a.test").await.unwrap();
    assert_eq!(first, second, "it is in force when the start returns");
    issued(&handle).await;
    // Polls go on; what the store lost, it gets back.
    let values = folder.path().join("values/acme=/certificates=");
    std::fs::remove_dir_all(&values).unwrap();
    let returned = async {
        while !values.is_dir() || values.read_dir().unwrap().next().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, returned)
        .await
        .expect("it is written back");
    assert_eq!(pebble.front.state.orders(), before);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_holds_no_start_up() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let values = folder.path().join("values");
    let aside = folder.path().join("aside");
    std::fs::rename(&values, &aside).unwrap();
    std::fs::write(&values, "a file").unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    let client = pebble.client().await;
    let error = site.visit(&client, "a.test").await.unwrap_err();
    assert!(
        error.to_string().contains("UnknownIssuer"),
        "a placeholder: {error}"
    );
    assert_eq!(pebble.front.state.orders(), 0, "nothing could be kept");
    std::fs::remove_file(&values).unwrap();
    std::fs::rename(&aside, &values).unwrap();
    issued(&handle).await;
    site.visit(&client, "a.test").await.unwrap();
}

#[tokio::test]
async fn questions_about_renewals_are_no_burst() {
    let options = Options {
        suggests_renewal: true,
        ..Options::default()
    };
    let Some(pebble) = Pebble::start(options).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let state = &pebble.front.state;
    let gate = state.renewal_gate.acquire_many(1_000).await.unwrap();
    let mut acme = site.acme(&folder, &pebble);
    for nth in 0..8 {
        acme = acme.certificate([format!("n{nth}.test")]).unwrap();
    }
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    // Polls go on.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = || state.asked.lock().unwrap().len();
    assert_eq!(asked(), 4, "as many as may run at once");
    drop(gate);
    until("each is asked", || asked() == 8).await;
}

#[tokio::test]
async fn the_authority_suggests_to_renew_and_learns_what_was_replaced() {
    let options = Options {
        // Long enough that nothing else renews it, short enough for a short rest after an order.
        lifetime: Some(150),
        suggests_renewal: true,
        ..Options::default()
    };
    let Some(pebble) = Pebble::start(options).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    let client = pebble.client().await;
    let first = site.visit(&client, "a.test").await.unwrap();
    let renewed = async {
        while site.visit(&client, "a.test").await.unwrap() == first {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, renewed)
        .await
        .expect("a renewal");
    let state = &pebble.front.state;
    let (asked, replaced) = (
        state.asked.lock().unwrap().clone(),
        state.replaced.lock().unwrap().clone(),
    );
    assert_eq!(
        asked[0], replaced[0],
        "the identifier of the first certificate"
    );
    assert_eq!(asked[0], identifier(&first));
    // `Retry-After` said 600 s: each certificate was asked for once.
    let distinct: HashSet<_> = asked.iter().collect();
    assert_eq!(distinct.len(), asked.len(), "{asked:?}");
    drop(handle);
}

/// RFC 9773 §4.1.
fn identifier(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cert.der");
    std::fs::write(&file, certificate).unwrap();
    let shown = |options: &[&str]| {
        let mut openssl = std::process::Command::new("openssl");
        openssl
            .args(["x509", "-inform", "DER", "-noout", "-in"])
            .arg(&file);
        let output = openssl.args(options).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let digits: String = text
            .lines()
            .last()
            .unwrap()
            .rsplit('=')
            .next()
            .unwrap()
            .into();
        let digits: String = digits.chars().filter(char::is_ascii_hexdigit).collect();
        let bytes = (0..digits.len()).step_by(2);
        let mut bytes: Vec<u8> = bytes
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        if bytes[0] >= 0x80 && options == ["-serial"] {
            // A number of ASN.1 is negative otherwise.
            bytes.insert(0, 0);
        }
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    };
    format!(
        "{}.{}",
        shown(&["-ext", "authorityKeyIdentifier"]),
        shown(&["-serial"])
    )
}
