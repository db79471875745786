//! A process takes over from another, with its certificates.

use evenkeel::{BoxError, store::StoreFuture};

use super::*;

/// A store that fails.
#[derive(Debug)]
struct Down;

fn down<'a, T>() -> StoreFuture<'a, T> {
    Box::pin(async { Err(BoxError::from("the store is down")) })
}

impl Store for Down {
    fn get<'a>(&'a self, _: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        down()
    }

    fn put<'a>(&'a self, _: &'a str, _: Bytes, _: Option<Duration>) -> StoreFuture<'a, ()> {
        down()
    }

    fn remove<'a>(&'a self, _: &'a str) -> StoreFuture<'a, ()> {
        down()
    }

    fn lock<'a>(&'a self, _: &'a str, _: &'a str, _: Duration) -> StoreFuture<'a, bool> {
        down()
    }

    fn unlock<'a>(&'a self, _: &'a str, _: &'a str) -> StoreFuture<'a, ()> {
        down()
    }
}

#[tokio::test]
async fn a_successor_serves_what_its_predecessor_had_without_a_store() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let loaded = acme.load(&site.certificates).await.unwrap();
    let exporter = loaded.exporter();
    let without = exporter.export(1 << 20);
    assert_eq!(pebble.front.state.orders(), 0, "nothing is ordered yet");
    issued(&loaded.start()).await;
    let client = pebble.client().await;
    let certificate = site.visit(&client, "a.test").await.unwrap();
    let (exported, left_out) = (exporter.export(1 << 20), exporter.export(0));

    let next = Site::start_elsewhere().await;
    let acme = next.acme_on(Arc::new(Down), &pebble);
    let acme = acme.certificate(["a.test"]).unwrap();
    let handed = acme.clone().predecessor(Some(&exported));
    let handle = handed.start(&next.certificates).await.unwrap();
    assert_eq!(next.visit(&client, "a.test").await.unwrap(), certificate);
    let status = &handle.statuses()[0];
    assert!(
        status.directory.is_some() && status.store_failure.is_some(),
        "{status:?}"
    );
    drop(handle);

    // A process whose certificates are not known may serve better than a placeholder.
    for unknown in [None, Some(&left_out[..]), Some(b"of another version")] {
        let started = acme.clone().predecessor(unknown).load(&next.certificates);
        let error = started.await.unwrap_err().to_string();
        assert!(
            error.starts_with("store: a.test: the store is down"),
            "{error}"
        );
    }
    // Where it has a placeholder, or where there is no such process, this one serves.
    let next = Site::start_elsewhere().await;
    for acme in [acme.clone().predecessor(Some(&without)), acme] {
        let loaded = acme.load(&next.certificates).await.unwrap();
        let statuses = loaded.statuses();
        assert_eq!(statuses[0].directory, None);
        assert_eq!(
            statuses[0].store_failure.as_deref(),
            Some("the store is down")
        );
        let error = next.visit(&client, "a.test").await.unwrap_err();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    }
    let placeholder = &next.certificates.in_force()[0];
    assert!(placeholder.is_placeholder(), "{placeholder:?}");
    let lifetime = placeholder.not_after.duration_since(placeholder.not_before);
    assert_eq!(lifetime.unwrap(), Duration::from_secs(86_400));
}

#[tokio::test]
async fn a_restart_serves_its_copy_while_the_store_is_down_and_gives_it_back() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let [before, after, copies] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let kept: Arc<dyn Store> = Arc::new(FileStore::new(copies.path()).unwrap());
    let site = Site::start(&pebble).await;
    let acme = site.acme(&before, &pebble).certificate(["a.test"]).unwrap();
    let handle = acme.copies(kept.clone()).start(&site.certificates).await;
    let handle = handle.unwrap();
    issued(&handle).await;
    let client = pebble.client().await;
    let certificate = site.visit(&client, "a.test").await.unwrap();
    until("a copy is kept", || {
        files_in(&copies.path().join("values")).len() == 1
    })
    .await;
    drop(handle);
    let emptied: Arc<dyn Store> = Arc::new(FileStore::new(after.path()).unwrap());
    let down: Arc<dyn Store> = Arc::new(Down);
    let mut running = Vec::new();
    for store in [down, emptied] {
        let next = Site::start_elsewhere().await;
        let acme = next
            .acme_on(store, &pebble)
            .certificate(["a.test"])
            .unwrap();
        let handle = acme.copies(kept.clone()).start(&next.certificates).await;
        assert_eq!(next.visit(&client, "a.test").await.unwrap(), certificate);
        running.push((next, handle.unwrap()));
    }
    let certificates = after.path().join("values/acme=/certificates=");
    until("the store has it again", || {
        files_in(&certificates).len() == 1
    })
    .await;
    assert_eq!(pebble.front.state.orders(), 1);
}

#[tokio::test]
async fn a_store_that_has_lost_it_gets_the_certificate_of_the_predecessor() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let site = Site::start(&pebble).await;
    let acme = site.acme(&before, &pebble).certificate(["a.test"]).unwrap();
    let loaded = acme.load(&site.certificates).await.unwrap();
    let exporter = loaded.exporter();
    issued(&loaded.start()).await;
    let next = Site::start_elsewhere().await;
    let acme = next.acme(&after, &pebble).certificate(["a.test"]).unwrap();
    let acme = acme.predecessor(Some(&exporter.export(1 << 20)));
    let _handle = acme.start(&next.certificates).await.unwrap();
    let certificates = after.path().join("values/acme=/certificates=");
    until("it is written", || certificates.is_dir()).await;
    assert_eq!(pebble.front.state.orders(), 1);
}

#[tokio::test]
async fn a_name_that_is_added_takes_none_of_the_others_away() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let loaded = acme.load(&site.certificates).await.unwrap();
    let exporter = loaded.exporter();
    issued(&loaded.start()).await;
    let client = pebble.client().await;
    let first = site.visit(&client, "a.test").await.unwrap();
    site.serving.shutdown().await;

    let gate = pebble.front.state.gate.acquire_many(1_000).await.unwrap();
    let site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble);
    let acme = acme.certificate(["a.test", "www.a.test"]).unwrap();
    let acme = acme.predecessor(Some(&exporter.export(1 << 20)));
    let handle = acme.start(&site.certificates).await.unwrap();
    assert_eq!(site.visit(&client, "a.test").await.unwrap(), first);
    assert!(site.visit(&client, "www.a.test").await.is_err());
    assert_eq!(handle.statuses()[0].directory, None, "not issued yet");
    drop(gate);
    issued(&handle).await;
    let both = site.visit(&client, "www.a.test").await.unwrap();
    assert_eq!(site.visit(&client, "a.test").await.unwrap(), both);
    assert_eq!(site.certificates.in_force().len(), 1);
}
