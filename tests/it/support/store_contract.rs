//! The contract of stores: whatever implements `Store` passes it.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evenkeel::store::{MAX_KEY, MAX_VALUE, Store};
use tokio::time::{sleep, timeout};

/// Checks the contract. `one` and `other` are two instances' handles of one store, which is empty.
pub(crate) async fn check(one: Arc<dyn Store>, other: Arc<dyn Store>) {
    values(&*one, &*other).await;
    keys(&*one, &*other).await;
    sizes(&*one, &*other).await;
    lifetimes(&*one, &*other).await;
    whole_values(&one, &other).await;
    locks(&*one, &*other).await;
    leases(&*one, &*other).await;
    contention(&one, &other).await;
}

async fn values(one: &dyn Store, other: &dyn Store) {
    assert_eq!(one.get("values/a").await.unwrap(), None);
    one.remove("values/a").await.unwrap();
    for value in [&b"first"[..], b"", b"\0\n\xff", b"-", b"last"] {
        let value = Bytes::from_static(value);
        one.put("values/a", value.clone(), None).await.unwrap();
        for store in [one, other] {
            assert_eq!(store.get("values/a").await.unwrap(), Some(value.clone()));
        }
    }
    other.remove("values/a").await.unwrap();
    for store in [one, other] {
        assert_eq!(store.get("values/a").await.unwrap(), None);
    }
}

async fn keys(one: &dyn Store, other: &dyn Store) {
    let long = "k".repeat(MAX_KEY);
    let deep = ["d"; MAX_KEY / 2].join("/");
    // One key may begin as another does, and end where it goes on.
    let accepted = [
        "k", "k/a", "k/a/b", "k.a", "k-a", "k_a", "k/0", &long, &deep,
    ];
    for key in accepted {
        let value = Bytes::copy_from_slice(key.as_bytes());
        one.put(key, value, None).await.unwrap();
    }
    one.remove("k/a").await.unwrap();
    for key in accepted {
        let wanted = (key != "k/a").then(|| Bytes::copy_from_slice(key.as_bytes()));
        assert_eq!(other.get(key).await.unwrap(), wanted, "{key}");
        one.remove(key).await.unwrap();
    }
    let too_long = "k".repeat(MAX_KEY + 1);
    for key in [
        "", "/k", "k/", "../k", "k/../k", "K", "k\n", "k*", &too_long,
    ] {
        assert!(one.get(key).await.is_err(), "{key}");
        assert!(one.put(key, Bytes::new(), None).await.is_err(), "{key}");
        assert!(one.remove(key).await.is_err(), "{key}");
        assert!(one.lock(key, "h", LONG).await.is_err(), "{key}");
        assert!(one.unlock(key, "h").await.is_err(), "{key}");
    }
}

async fn sizes(one: &dyn Store, other: &dyn Store) {
    let largest = Bytes::from(vec![7; MAX_VALUE]);
    one.put("size", largest.clone(), None).await.unwrap();
    let larger = Bytes::from(vec![8; MAX_VALUE + 1]);
    assert!(one.put("size", larger, None).await.is_err());
    let kept = other.get("size").await.unwrap();
    assert!(kept == Some(largest), "the refused value changes nothing");
    one.remove("size").await.unwrap();
}

/// Waits until `key` has no value; fails if it ended before `lifetime` was over since `begun`.
async fn ends(store: &dyn Store, key: &str, begun: SystemTime, lifetime: Duration) {
    let gone = async {
        while store.get(key).await.unwrap().is_some() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, gone).await.expect("the value must end");
    let lived = begun.elapsed().unwrap();
    assert!(lived >= lifetime, "{lived:?} of {lifetime:?}");
}

async fn lifetimes(one: &dyn Store, other: &dyn Store) {
    let lifetime = Duration::from_millis(300);
    let begun = SystemTime::now();
    one.put("short", "a".into(), Some(lifetime)).await.unwrap();
    one.put("long", "b".into(), Some(LONG)).await.unwrap();
    // The last write says how long, whichever came before.
    one.put("extended", "c".into(), Some(lifetime))
        .await
        .unwrap();
    one.put("extended", "d".into(), None).await.unwrap();
    one.put("shortened", "e".into(), None).await.unwrap();
    one.put("shortened", "f".into(), Some(lifetime))
        .await
        .unwrap();
    ends(other, "short", begun, lifetime).await;
    ends(other, "shortened", begun, lifetime).await;
    assert_eq!(one.get("short").await.unwrap(), None);
    assert_eq!(other.get("long").await.unwrap(), Some("b".into()));
    assert_eq!(other.get("extended").await.unwrap(), Some("d".into()));
    // A key whose value ended takes another.
    one.put("short", "g".into(), None).await.unwrap();
    assert_eq!(other.get("short").await.unwrap(), Some("g".into()));
    for key in ["short", "long", "extended", "shortened"] {
        one.remove(key).await.unwrap();
    }
}

/// Readers beside two writers see the value of one of them, and never a part or a gap.
async fn whole_values(one: &Arc<dyn Store>, other: &Arc<dyn Store>) {
    let value = |n: u8| Bytes::from(vec![n; 100_000]);
    one.put("whole", value(0), None).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for (store, n) in [(one.clone(), 1), (other.clone(), 2)] {
        writers.spawn(async move {
            for _ in 0..20 {
                store.put("whole", value(n), None).await.unwrap();
            }
        });
    }
    while !writers.is_empty() {
        for store in [one, other] {
            let read = store.get("whole").await.unwrap().expect("no gap");
            assert_eq!(read.len(), 100_000);
            assert!(read.iter().all(|b| *b == read[0]), "no mixture");
        }
        while let Some(ended) = writers.try_join_next() {
            ended.unwrap();
        }
    }
    one.remove("whole").await.unwrap();
}

async fn locks(one: &dyn Store, other: &dyn Store) {
    one.put("l", "value".into(), None).await.unwrap();
    assert!(one.lock("l", "a", LONG).await.unwrap());
    assert!(
        one.lock("l", "a", LONG).await.unwrap(),
        "the holder extends"
    );
    assert!(
        other.lock("l", "a", LONG).await.unwrap(),
        "so it does there"
    );
    for store in [one, other] {
        assert!(!store.lock("l", "b", LONG).await.unwrap());
    }
    assert!(other.lock("l/b", "b", LONG).await.unwrap(), "another lock");
    other.unlock("l", "b").await.unwrap();
    assert!(!other.lock("l", "b", LONG).await.unwrap(), "it was not b's");
    one.unlock("l", "a").await.unwrap();
    one.unlock("l", "a").await.unwrap();
    assert!(other.lock("l", "b", LONG).await.unwrap());
    other.unlock("l", "b").await.unwrap();
    other.unlock("l/b", "b").await.unwrap();
    // Locks and values do not know one another.
    assert_eq!(one.get("l").await.unwrap(), Some("value".into()));
    assert!(one.lock("l", "a", LONG).await.unwrap());
    one.remove("l").await.unwrap();
    assert!(!other.lock("l", "b", LONG).await.unwrap());
    one.unlock("l", "a").await.unwrap();
}

async fn leases(one: &dyn Store, other: &dyn Store) {
    let lease = Duration::from_millis(400);
    let begun = SystemTime::now();
    assert!(one.lock("lease", "a", lease).await.unwrap());
    let extended = begun.elapsed().unwrap();
    assert!(one.lock("lease", "a", lease).await.unwrap());
    let taken = async {
        while !other.lock("lease", "b", LONG).await.unwrap() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, taken).await.expect("the lease must end");
    let held = begun.elapsed().unwrap();
    assert!(held >= extended + lease, "{held:?}: the extension counts");
    // The holder from before has lost it, and releases nothing.
    assert!(!one.lock("lease", "a", LONG).await.unwrap());
    one.unlock("lease", "a").await.unwrap();
    assert!(!one.lock("lease", "a", LONG).await.unwrap());
    other.unlock("lease", "b").await.unwrap();
}

/// Of many that ask at once, one gets the lock, also where a lease has just ended.
async fn contention(one: &Arc<dyn Store>, other: &Arc<dyn Store>) {
    let lease = Duration::from_millis(1);
    assert!(one.lock("contended", "before", lease).await.unwrap());
    sleep(Duration::from_millis(5)).await;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = if n % 2 == 0 { one } else { other }.clone();
        asking.spawn(async move {
            let holder = format!("holder {n}");
            let is_locked = store.lock("contended", &holder, LONG).await.unwrap();
            is_locked.then_some(holder)
        });
    }
    let holders: HashSet<_> = asking.join_all().await.into_iter().flatten().collect();
    assert_eq!(holders.len(), 1, "{holders:?}");
    for holder in &holders {
        one.unlock("contended", holder).await.unwrap();
    }
}

/// Longer than any of the checks takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);
