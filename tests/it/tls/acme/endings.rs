//! Orders that end in the middle, that lose their locks, and that meet others.

use std::sync::Mutex;

use evenkeel::{
    BoxError,
    tls::acme::{DnsFuture, DnsProvider, DnsRecord},
};
use http::StatusCode;
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::{support::pebble::ByName, tls::expiry::Log};

/// A zone whose servers never have the record.
#[derive(Clone, Default)]
struct Stuck {
    calls: Arc<Mutex<Vec<String>>>,
    waits: Arc<Notify>,
}

impl Stuck {
    fn call<'a>(&'a self, call: &'a str, record: &'a DnsRecord) -> DnsFuture<'a> {
        Box::pin(async move {
            let line = format!("{call} {}", record.name);
            self.calls.lock().unwrap().push(line);
            Ok::<_, BoxError>(())
        })
    }
}

impl DnsProvider for Stuck {
    fn present<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a> {
        self.call("present", record)
    }

    fn wait<'a>(&'a self, _: &'a DnsRecord) -> DnsFuture<'a> {
        Box::pin(async {
            self.waits.notify_one();
            std::future::pending().await
        })
    }

    fn clean_up<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a> {
        self.call("clean_up", record)
    }
}

#[tokio::test]
async fn an_order_that_ends_in_the_middle_leaves_no_record_no_answer_and_no_lock_behind() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    for is_dropped in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start_elsewhere().await;
        let zone = Stuck::default();
        let acme = site.acme(&folder, &pebble);
        let acme = acme.certificate(["*.a.test", "b.test"]).unwrap();
        let acme = acme.dns_provider(zone.clone());
        let handle = acme.start(&site.certificates).await.unwrap();
        let waits = tokio::time::timeout(PATIENCE, zone.waits.notified());
        waits.await.expect("the record is published");
        let locks = folder.path().join("locks");
        let answers = folder.path().join("values/acme=/challenges=");
        assert_eq!(files_in(&locks).len(), 2, "the certificate and one name");
        assert_eq!(files_in(&answers).len(), 1);
        let removed = [
            "present _acme-challenge.a.test",
            "clean_up _acme-challenge.a.test",
        ];
        let is_clean = || {
            *zone.calls.lock().unwrap() == removed
                && files_in(&locks).is_empty()
                && files_in(&answers).is_empty()
        };
        if is_dropped {
            drop(handle);
            until("it is removed", is_clean).await;
        } else {
            let stopped = tokio::time::timeout(PATIENCE, handle.stop());
            stopped.await.expect("it stops");
            assert!(is_clean(), "{:?}", zone.calls);
        }
    }
}

#[tokio::test]
async fn an_order_that_has_lost_its_lock_writes_nothing() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let (log, _subscriber) = Log::start();
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let state = &pebble.front.state;
    let gate = state.gate.acquire_many(1_000).await.unwrap();
    *state.failure.lock().unwrap() = Some((StatusCode::SERVICE_UNAVAILABLE, Some("600")));
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    until("an order", || state.orders() == 1).await;
    // Another instance takes the lock, as when this process was stopped for longer than its lease.
    let locks = folder.path().join("locks");
    let certificates = locks.join("acme=/certificates=");
    let file = files_in(&certificates).remove(0);
    let lock = file.strip_prefix(&locks).unwrap().to_str().unwrap();
    let lock = lock.replace(['=', '@'], "");
    std::fs::remove_file(&file).unwrap();
    let other = FileStore::new(folder.path()).unwrap();
    let lease = Duration::from_secs(600);
    assert!(other.lock(&lock, "another instance", lease).await.unwrap());
    // What that one has written is newer.
    let failures = folder.path().join("values/acme=/failures=");
    assert!(!failures.exists());
    drop(gate);
    log.line(&["WARN", "the lock of an order is lost"]).await;
    assert!(!failures.exists(), "its failure is not counted");
    assert_eq!(handle.statuses()[0].failure, None);
    // It orders again when the lock is free.
    *state.failure.lock().unwrap() = None;
    other.unlock(&lock, "another instance").await.unwrap();
    issued(&handle).await;
}

#[tokio::test]
async fn two_certificates_that_share_a_name_do_not_break_each_others_checks() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let state = &pebble.front.state;
    let gate = state.check_gate.acquire_many(1_000).await.unwrap();
    let acme = site.acme(&folder, &pebble);
    let acme = acme.certificate(["a.test", "b.test"]).unwrap();
    let acme = acme.certificate(["c.test", "a.test"]).unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    until("a check", || state.requests(pebble::CHECK) > 0).await;
    // Time enough for the other to publish its answers, if it does not wait for the first.
    let both = async {
        while state.requests(pebble::CHECK) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), both).await;
    drop(gate);
    issued(&handle).await;
    assert!(
        !folder.path().join("values/acme=/failures=").exists(),
        "{:?}",
        handle.statuses()
    );
    assert_eq!(state.orders(), 2);
    let client = pebble.client().await;
    for name in ["a.test", "b.test", "c.test"] {
        site.visit(&client, name).await.unwrap();
    }
}

#[tokio::test]
async fn failures_that_an_operator_removes_are_waited_for_no_longer() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let state = &pebble.front.state;
    *state.failure.lock().unwrap() = Some((StatusCode::SERVICE_UNAVAILABLE, Some("6000")));
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let mut handle = acme.start(&site.certificates).await.unwrap();
    failure(&mut handle).await;
    let failures = folder.path().join("values/acme=/failures=");
    until("it is counted", || files_in(&failures).len() == 1).await;
    *state.failure.lock().unwrap() = None;
    std::fs::remove_dir_all(&failures).unwrap();
    issued(&handle).await;
    assert_eq!(state.orders(), 2);
}

#[tokio::test]
async fn what_the_authority_asks_of_one_request_does_not_hold_another_order_up() {
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
    let gate = Arc::new(Semaphore::new(0));
    let held = ByName {
        gate: Some(gate.clone()),
        failure: Some((StatusCode::SERVICE_UNAVAILABLE, None)),
    };
    state.by_name.lock().unwrap().insert("b.test", held);
    *state.renewal_failure.lock().unwrap() = Some((StatusCode::SERVICE_UNAVAILABLE, Some("3000")));
    let acme = site.acme(&folder, &pebble).certificate(["b.test"]).unwrap();
    let acme = acme.certificate(["a.test"]).unwrap();
    let mut handle = acme.start(&site.certificates).await.unwrap();
    // The question about the renewal of the first is refused while the order of the second waits.
    let suggestions = folder.path().join("values/acme=/suggestions=");
    until("a question", || suggestions.is_dir() && state.orders() == 2).await;
    gate.add_permits(1);
    let why = failure(&mut handle).await;
    assert!(why.contains("as the test says"), "{why}");
    let failures = folder.path().join("values/acme=/failures=");
    let written = std::fs::read_to_string(files_in(&failures).remove(0)).unwrap();
    let (_, json) = written.split_once('\n').unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let wait = json["not_before"].as_u64().unwrap() - json["failed"].as_u64().unwrap();
    assert!((10..60).contains(&wait), "{json}");
}

#[tokio::test]
async fn of_two_orders_that_miss_their_account_one_makes_the_next() {
    let Some(mut pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let gates = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
    for (name, gate) in ["a.test", "b.test"].into_iter().zip(&gates) {
        let held = ByName {
            gate: Some(gate.clone()),
            failure: None,
        };
        pebble
            .front
            .state
            .by_name
            .lock()
            .unwrap()
            .insert(name, held);
    }
    let mut acme = site.acme(&folder, &pebble);
    for name in ["a.test", "b.test"] {
        acme = acme.certificate([name]).unwrap();
    }
    let mut handle = acme.start(&site.certificates).await.unwrap();
    let state = pebble.front.state.clone();
    until("both wait", || state.orders() == 2).await;
    assert_eq!(state.requests("sign-me-up"), 1);
    pebble.restart().await;
    // One finds out, and has made another account when the second does.
    gates[0].add_permits(1);
    while handle.statuses()[0].directory.is_none() {
        let changed = tokio::time::timeout(2 * PATIENCE, handle.changed()).await;
        changed.expect("the first order");
    }
    gates[1].add_permits(1);
    issued(&handle).await;
    assert_eq!(state.requests("sign-me-up"), 2, "{:?}", handle.statuses());
}
