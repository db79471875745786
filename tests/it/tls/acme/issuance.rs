//! Orders, by each kind of challenge.

use std::sync::Mutex;

use evenkeel::{
    BoxError,
    tls::acme::{DnsFuture, DnsProvider, DnsRecord, KeyType},
};

use super::*;

#[tokio::test]
async fn tls_alpn_01_for_several_names_while_a_placeholder_is_served() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let client = pebble.client().await;
    // The order is held up.
    let gate = pebble.front.state.gate.acquire_many(1_000).await.unwrap();
    let acme = site.acme(&folder, &pebble);
    let acme = acme.certificate(["a.test", "www.a.test"]).unwrap();
    let acme = acme.certificate(["b.test"]).unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    let error = site.visit(&client, "a.test").await.unwrap_err();
    assert!(
        error.to_string().contains("UnknownIssuer"),
        "a placeholder: {error}"
    );
    assert!(
        handle
            .statuses()
            .iter()
            .all(|status| status.directory.is_none())
    );
    drop(gate);
    issued(&handle).await;
    for name in ["a.test", "www.a.test", "b.test"] {
        site.visit(&client, name).await.unwrap();
    }
    assert_eq!(pebble.front.state.orders(), 2);
    let statuses = handle.statuses();
    assert_eq!(
        *statuses[0].names,
        ["a.test", "www.a.test"].map(Box::<str>::from)
    );
    let url = format!("https://{}/dir", pebble.front.address);
    assert_eq!(statuses[0].directory, Some(url));
    let (renewal, expiry) = (statuses[0].renewal.unwrap(), statuses[0].not_after.unwrap());
    assert!(renewal < expiry, "{statuses:?}");
    // One account for both.
    let requests = pebble.front.state.requests.lock().unwrap();
    assert_eq!(
        requests
            .iter()
            .filter(|path| path.contains("sign-me-up"))
            .count(),
        1
    );
}

#[tokio::test]
async fn http_01_beside_a_redirect() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let acme = acme.challenges([Challenge::Http01]).unwrap();
    let acme = acme.key_type(KeyType::P384).unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    site.visit(&pebble.client().await, "a.test").await.unwrap();
    // A token that is not known reaches the service behind; all else is redirected.
    let path = "/.well-known/acme-challenge/unknown";
    assert!(site.get(path).await.ends_with(path));
    assert!(site.get("/page").await.starts_with("HTTP/1.1 308"));
    // The answers of the order are gone.
    assert!(
        !folder
            .path()
            .join("values/acme=/challenges=/http-01=")
            .read_dir()
            .unwrap()
            .any(|_| true)
    );
}

/// The zone of the test's DNS.
struct Zone {
    dns: SocketAddr,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Zone {
    async fn run(&self, call: &str, record: &DnsRecord) -> Result<(), BoxError> {
        self.calls
            .lock()
            .unwrap()
            .push(format!("{call} {}", record.name));
        match call {
            "present" => pebble::set_txt(self.dns, &record.name, Some(&record.value)).await,
            // It clears all records of the name, which are of one order.
            "clean_up" => pebble::set_txt(self.dns, &record.name, None).await,
            _ => {}
        }
        Ok(())
    }
}

impl DnsProvider for Zone {
    fn present<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a> {
        Box::pin(self.run("present", record))
    }

    fn wait<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a> {
        Box::pin(self.run("wait", record))
    }

    fn clean_up<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a> {
        Box::pin(self.run("clean_up", record))
    }
}

#[tokio::test]
async fn dns_01_for_a_wildcard_and_its_domain() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start_elsewhere().await;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let acme = site
        .acme(&folder, &pebble)
        .certificate(["*.a.test", "a.test"])
        .unwrap();
    let error = acme.check().unwrap_err().to_string();
    assert!(error.contains("a wildcard needs DNS-01"), "{error}");
    let acme = acme
        .challenges([Challenge::Dns01])
        .unwrap()
        .dns_provider(Zone {
            dns: pebble.dns(),
            calls: calls.clone(),
        });
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    let client = pebble.client().await;
    site.visit(&client, "a.test").await.unwrap();
    site.visit(&client, "any.a.test").await.unwrap();
    let calls = calls.lock().unwrap().clone();
    let of = |call: &str| {
        [
            format!("{call} _acme-challenge.a.test"),
            format!("{call} _acme-challenge.a.test"),
        ]
    };
    assert_eq!(calls, [of("present"), of("wait"), of("clean_up")].concat());
    pebble.set_txt("_acme-challenge.a.test", None).await;
}

#[tokio::test]
async fn an_account_that_the_authority_binds_to_another_one() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let options = Options {
        external_account: Some(("kid-1", KEY)),
        ..Options::default()
    };
    let Some(pebble) = Pebble::start(options).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let mut without = acme.clone().start(&site.certificates).await.unwrap();
    let why = failure(&mut without).await;
    assert!(why.contains("xternal"), "{why}");
    drop(without);
    // Another binding is another account, but the authority is waited for: a clean store.
    let folder = tempfile::tempdir().unwrap();
    let bound = pebble.directory().external_account("kid-1", KEY).unwrap();
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let handle = acme
        .authorities([bound])
        .start(&site.certificates)
        .await
        .unwrap();
    issued(&handle).await;
}

#[tokio::test]
async fn half_of_all_nonces_are_refused() {
    let options = Options {
        rejected_nonces: 50,
        ..Options::default()
    };
    let Some(pebble) = Pebble::start(options).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let acme = site
        .acme(&folder, &pebble)
        .certificate(["a.test", "b.test"])
        .unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    // No failure was written down: the first attempt succeeded.
    assert!(!folder.path().join("values/acme=/failures=").exists());
}
