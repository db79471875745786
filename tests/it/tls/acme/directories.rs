//! Configurations with different directories on one store, and what an earlier version left there.

use std::path::PathBuf;

use super::*;

/// The files of certificates.
fn certificates(folder: &TempDir) -> Vec<PathBuf> {
    files_in(&folder.path().join("values/acme=/certificates="))
}

fn url(pebble: &Pebble) -> String {
    format!("https://{}/dir", pebble.front.address)
}

/// Waits until a certificate of this directory is in force.
async fn issued_by(handle: &mut AcmeHandle, pebble: &Pebble) {
    while handle.statuses()[0].directory != Some(url(pebble)) {
        let changed = tokio::time::timeout(2 * PATIENCE, handle.changed()).await;
        changed.unwrap_or_else(|_| panic!("{:#?}", handle.statuses()));
    }
}

#[tokio::test]
async fn two_directories_share_a_store_and_each_keeps_its_certificate() {
    let (Some(one), Some(two)) = (
        Pebble::start(Options::default()).await,
        Pebble::start(Options::default()).await,
    ) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut first = Site::start(&one).await;
    let mut second = Site::start(&two).await;
    let start = async |site: &Site, pebble: &Pebble| {
        let acme = site.acme(&folder, pebble).certificate(["a.test"]).unwrap();
        let mut handle = acme.start(&site.certificates).await.unwrap();
        issued_by(&mut handle, pebble).await;
        let visited = site.visit(&pebble.client().await, "a.test").await;
        (handle, visited.unwrap())
    };
    let (first_handle, of_first) = start(&first, &one).await;
    let (second_handle, of_second) = start(&second, &two).await;
    assert_eq!(certificates(&folder).len(), 2);
    // Both have read the store since.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let visited = first.visit(&one.client().await, "a.test").await.unwrap();
    assert_eq!(visited, of_first);
    drop((first_handle, second_handle));
    first.serving.shutdown().await;
    second.serving.shutdown().await;

    // Each starts again, and the one with both as a list: nothing is ordered.
    for (pebble, certificate) in [(&one, &of_first), (&two, &of_second)] {
        let site = Site::start_elsewhere().await;
        assert_eq!(start(&site, pebble).await.1, *certificate);
    }
    let site = Site::start_elsewhere().await;
    let acme = site.acme(&folder, &one).certificate(["a.test"]).unwrap();
    let acme = acme.authorities([one.directory(), two.directory()]);
    let handle = acme.start(&site.certificates).await.unwrap();
    issued(&handle).await;
    let latest = site.visit(&two.client().await, "a.test").await.unwrap();
    assert_eq!(latest, of_second);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for pebble in [&one, &two] {
        assert_eq!(pebble.front.state.orders(), 1);
    }
}

#[tokio::test]
async fn the_certificate_of_another_directory_is_served_until_there_is_one() {
    let (Some(one), Some(two)) = (
        Pebble::start(Options::default()).await,
        Pebble::start(Options::default()).await,
    ) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&one).await;
    let acme = site.acme(&folder, &one).certificate(["a.test"]).unwrap();
    issued(&acme.start(&site.certificates).await.unwrap()).await;
    drop(site);
    let gate = two.front.state.gate.acquire_many(1_000).await.unwrap();
    let site = Site::start(&two).await;
    let acme = site.acme(&folder, &two).certificate(["a.test"]).unwrap();
    let mut handle = acme.start(&site.certificates).await.unwrap();
    assert_eq!(handle.statuses()[0].directory, Some(url(&one)));
    site.visit(&one.client().await, "a.test").await.unwrap();
    drop(gate);
    issued_by(&mut handle, &two).await;
    site.visit(&two.client().await, "a.test").await.unwrap();
}

#[tokio::test]
async fn the_key_of_an_earlier_version_is_read_and_nothing_is_ordered() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&pebble).await;
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    issued(&acme.start(&site.certificates).await.unwrap()).await;
    let client = pebble.client().await;
    let certificate = site.visit(&client, "a.test").await.unwrap();
    drop(site);
    // As an earlier version left it: without the directory in its key, and without a note of it.
    let new = certificates(&folder).remove(0);
    let old = new
        .parent()
        .unwrap()
        .with_file_name(new.file_name().unwrap());
    std::fs::rename(&new, &old).unwrap();
    std::fs::remove_dir_all(folder.path().join("values/acme=/issuers=")).unwrap();
    let site = Site::start_elsewhere().await;
    let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
    let handle = acme.start(&site.certificates).await.unwrap();
    let visited = site.visit(&client, "a.test").await.unwrap();
    assert_eq!(
        visited, certificate,
        "it is in force when the start returns"
    );
    // It moves to its key, and the old one stays for processes of that version.
    until("it moves", || new.exists()).await;
    assert!(old.exists());
    assert_eq!(pebble.front.state.orders(), 1);
    drop(handle);
}

#[tokio::test]
async fn a_stored_certificate_that_is_damaged_is_ordered_again() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let site = Site::start(&pebble).await;
    let client = pebble.client().await;
    for garbage in [&b"\0\0\0"[..], b"evenkeel-store 1 -\n{}"] {
        let folder = tempfile::tempdir().unwrap();
        let acme = site.acme(&folder, &pebble).certificate(["a.test"]).unwrap();
        issued(&acme.clone().start(&site.certificates).await.unwrap()).await;
        let first = site.visit(&client, "a.test").await.unwrap();
        let file = certificates(&folder).remove(0);
        std::fs::write(&file, garbage).unwrap();
        // Failures that cannot be read do not stop it either.
        let failures = file.display().to_string();
        let failures = PathBuf::from(failures.replace("/certificates=", "/failures="));
        std::fs::create_dir_all(failures.parent().unwrap()).unwrap();
        std::fs::write(&failures, garbage).unwrap();
        let other = Site::start_elsewhere().await;
        let before = pebble.front.state.orders();
        // The checks reach the first site, which has the same answers.
        let handle = acme.start(&other.certificates).await.unwrap();
        issued(&handle).await;
        let second = other.visit(&client, "a.test").await.unwrap();
        assert_ne!(first, second);
        assert_eq!(pebble.front.state.orders(), before + 1);
        assert_ne!(std::fs::read(&file).unwrap(), garbage);
    }
}
