//! Authorities that fail, and names that do not lead here.

use http::StatusCode;

use super::*;
use crate::support::refused;

#[tokio::test]
async fn an_authority_that_fails_is_asked_again_and_the_next_one_at_once() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let down = acme::Authority::new(format!("https://{}/dir", refused())).unwrap();
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    // Alone, it is waited for; the placeholder is served.
    let mut alone = acme
        .clone()
        .authorities([down.clone()])
        .start(&site.certificates)
        .await
        .unwrap();
    let why = failure(&mut alone).await;
    assert!(why.contains("127.0.0.1"), "{why}");
    drop(alone);
    let begun = std::time::SystemTime::now();
    let handle = acme
        .authorities([down, pebble.directory()])
        .start(&site.certificates)
        .await
        .unwrap();
    issued(&handle).await;
    site.visit(&pebble.client().await, "a.test").await.unwrap();
    assert!(begun.elapsed().unwrap() < PATIENCE, "no wait for the first");
    let statuses = handle.statuses();
    assert_eq!(statuses[0].failure, None, "{statuses:?}");
}

#[tokio::test]
async fn limits_and_faults_of_the_authority_are_waited_for_as_it_says() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    for (status, retry_after) in [
        (StatusCode::TOO_MANY_REQUESTS, "11"),
        (StatusCode::SERVICE_UNAVAILABLE, "12"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Site::start(&pebble).await;
        let state = &pebble.front.state;
        *state.failure.lock().unwrap() = Some((status, Some(retry_after)));
        let before = state.orders();
        let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
        let mut handle = acme.clone().start(&site.certificates).await.unwrap();
        let why = failure(&mut handle).await;
        assert!(why.contains("as the test says"), "{why}");
        // A restart does not ask sooner, where a limit is used up.
        drop(handle);
        *state.failure.lock().unwrap() = None;
        let handle = acme.start(&site.certificates).await.unwrap();
        issued(&handle).await;
        let orders = state.orders.lock().unwrap()[before..].to_vec();
        assert_eq!(orders.len(), 2, "{orders:?}");
        let waited = orders[1] - orders[0];
        // The time in the store has whole seconds.
        let asked: u64 = retry_after.parse().unwrap();
        assert!(waited >= Duration::from_secs(asked - 1), "{waited:?}");
        drop(handle);
        site.serving.shutdown().await;
    }
}

#[tokio::test]
async fn a_name_that_does_not_lead_here_is_tried_as_seldom_as_the_limits_ask() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start_elsewhere().await;
    let acme = site
        .acme(&folder, &pebble)
        .certificate(["a.test", "b.test"])
        .unwrap();
    let mut handle = acme.clone().start(&site.certificates).await.unwrap();
    let why = failure(&mut handle).await;
    assert!(
        why.contains("a.test: ") || why.contains("b.test: "),
        "{why}"
    );
    drop(handle);
    // Another process knows of it. Ten polls later, it has not ordered.
    let handle = acme.start(&site.certificates).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pebble.front.state.orders(), 1);
    assert_eq!(handle.statuses()[0].directory, None);
    // Its answers are gone, here and in the store.
    let answers = folder.path().join("values/acme=/challenges=/tls-alpn-01=");
    assert!(answers.read_dir().unwrap().next().is_none());
}

#[tokio::test]
async fn an_authority_that_has_lost_its_accounts_gets_another() {
    let Some(mut pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble);
    let handle = acme.clone().certificate(["a.test"]).unwrap();
    issued(&handle.start(&site.certificates).await.unwrap()).await;
    pebble.restart().await;
    let acme = acme.certificate(["b.test"]).unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    site.visit(&pebble.client().await, "b.test").await.unwrap();
}
