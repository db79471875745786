//! Stores in folders.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use evenkeel::store::{FileStore, Store};

use crate::support::store_contract;

#[tokio::test]
async fn a_folder_keeps_the_contract_of_stores() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(FileStore::new(folder.path()).unwrap());
    store_contract::check(open(), open()).await;
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    into.push(folder.to_owned());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else {
            into.push(path);
        }
    }
}

#[tokio::test]
async fn only_the_owner_can_read_what_is_in_the_folder() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b");
    let store = FileStore::new(&folder).unwrap();
    store.put("k/key", "secret".into(), None).await.unwrap();
    assert!(store.lock("k", "me", Duration::from_secs(9)).await.unwrap());
    let mut paths = Vec::new();
    files(&folder, &mut paths);
    assert!(paths.len() >= 7, "{paths:?}");
    for path in paths {
        let metadata = fs::metadata(&path).unwrap();
        let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(
            metadata.permissions().mode() & 0o777,
            wanted,
            "{}",
            path.display()
        );
    }
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (mode, is_accepted) in [(0o770, false), (0o702, false), (0o755, true)] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        let opened = FileStore::new(folder.path());
        assert_eq!(opened.is_ok(), is_accepted, "{mode:o}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = FileStore::new(&file).unwrap_err().to_string();
    assert!(
        error.starts_with("folder: ") && error.contains("/file: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_no_store_wrote_is_an_error_until_it_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::new(folder.path()).unwrap();
    store.put("k", "good".into(), None).await.unwrap();
    let file = folder.path().join("values/k@");
    for garbage in [
        &b""[..],
        b"good",
        b"evenkeel-store 9 -\ngood",
        &[0; 3 << 20],
    ] {
        fs::write(&file, garbage).unwrap();
        let error = store.get("k").await.unwrap_err();
        let error = error.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        let error = error.to_string();
        assert!(error.contains("not written by a store"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), garbage, "it is left as it is");
    }
    store.put("k", "better".into(), None).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), Some("better".into()));
    // A lock that cannot be read would otherwise be held for ever.
    let lease = Duration::from_secs(30);
    fs::write(folder.path().join("locks/l@"), "garbage").unwrap();
    assert!(store.lock("l", "a", lease).await.unwrap());
    assert!(!store.lock("l", "b", lease).await.unwrap());
}

#[tokio::test]
async fn a_lock_of_which_nothing_is_known_is_not_free() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::new(folder.path()).unwrap();
    let lock = folder.path().join("locks/l@");
    // It leads to itself: the file cannot be opened, as where the disk fails.
    symlink(&lock, &lock).unwrap();
    let lease = Duration::from_secs(30);
    let error = store.lock("l", "a", lease).await.unwrap_err();
    let error = error.downcast_ref::<std::io::Error>().unwrap();
    assert_ne!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    fs::remove_file(&lock).unwrap();
    assert!(store.lock("l", "a", lease).await.unwrap());
}

#[tokio::test]
async fn a_write_that_was_cut_off_leaves_the_value_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::new(folder.path()).unwrap();
    store.put("k", "old".into(), None).await.unwrap();
    let left = folder.path().join("temporary/value");
    fs::write(&left, "evenkeel-store 1 -\nne").unwrap();
    let again = FileStore::new(folder.path()).unwrap();
    assert_eq!(again.get("k").await.unwrap(), Some("old".into()));
    assert!(!left.exists(), "the next process removes it");
    // No space, here: no folder to write to.
    fs::remove_dir(folder.path().join("temporary")).unwrap();
    assert!(again.put("k", "new".into(), None).await.is_err());
    assert_eq!(again.get("k").await.unwrap(), Some("old".into()));
}

#[tokio::test]
async fn values_that_ended_are_removed_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::new(folder.path()).unwrap();
    let lifetime = Some(Duration::from_nanos(1));
    store.put("a/ended", "a".into(), lifetime).await.unwrap();
    store.put("a/stays", "b".into(), None).await.unwrap();
    while store.get("a/ended").await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let of = |name: &str| folder.path().join("values/a=").join(name);
    assert!(of("ended@").exists() && of("stays@").exists());
    FileStore::new(folder.path()).unwrap();
    assert!(!of("ended@").exists() && of("stays@").exists());
}

/// Another program that holds the folder's guard is another process; it dies, and the guard is free.
#[tokio::test]
async fn a_process_that_is_stopped_within_a_change_holds_others_up_and_no_longer_when_it_died() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::new(folder.path()).unwrap();
    store.put("k", "old".into(), None).await.unwrap();
    let mut holder = Command::new("flock")
        .arg(folder.path().join("guard"))
        .args(["sh", "-c", "echo held; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();
    let error = store.put("k", "new".into(), None).await.unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    assert_eq!(
        store.get("k").await.unwrap(),
        Some("old".into()),
        "reads go on"
    );
    drop(holder.stdin.take());
    holder.wait().unwrap();
    store.put("k", "new".into(), None).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), Some("new".into()));
}

#[tokio::test]
async fn a_link_in_place_of_a_file_is_replaced_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let store = FileStore::new(folder.path()).unwrap();
    symlink(&outside, folder.path().join("values/k@")).unwrap();
    store.put("k", "new".into(), None).await.unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    assert_eq!(store.get("k").await.unwrap(), Some("new".into()));
}
