//! Two instances on one store.

use evenkeel::fleet::RedisStore;

use super::*;
use crate::support::redis::RedisServer;

#[tokio::test]
async fn one_orders_the_other_answers_and_both_serve() {
    let folder = tempfile::tempdir().unwrap();
    let files = |nth: u32| -> Arc<dyn Store> {
        Arc::new(FileStore::new(folder.path().join(nth.to_string())).unwrap())
    };
    one_orders_and_the_other_answers(files).await;
}

#[tokio::test]
async fn one_orders_the_other_answers_and_both_serve_by_a_real_redis() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let redis = |nth: u32| -> Arc<dyn Store> {
        let store = RedisStore::new(&server.url()).unwrap();
        Arc::new(store.prefix(&format!("fleet-{nth}")).unwrap())
    };
    one_orders_and_the_other_answers(redis).await;
}

/// `store` returns handles of one store for each number.
async fn one_orders_and_the_other_answers(store: impl Fn(u32) -> Arc<dyn Store>) {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    for (nth, challenge) in (0..).zip([Challenge::TlsAlpn01, Challenge::Http01]) {
        let before = pebble.front.state.orders();
        // The first has the lock, and its order is held up.
        let gate = pebble.front.state.gate.acquire_many(1_000).await.unwrap();
        let first = Site::start_elsewhere().await;
        let acme = first
            .acme_on(store(nth), &pebble)
            .challenges([challenge])
            .unwrap();
        let acme = acme.certificate(["a.test", "b.test"]).unwrap();
        let first_handle = acme.start(&first.certificates).await.unwrap();
        let ordered = async {
            while pebble.front.state.orders() == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ordered)
            .await
            .expect("an order");
        // The authority's checks reach the second.
        let second = Site::start(&pebble).await;
        let acme = second
            .acme_on(store(nth), &pebble)
            .challenges([challenge])
            .unwrap();
        let acme = acme.certificate(["a.test", "b.test"]).unwrap();
        let second_handle = acme.start(&second.certificates).await.unwrap();
        drop(gate);
        issued(&first_handle).await;
        issued(&second_handle).await;
        let client = pebble.client().await;
        assert_eq!(
            first.visit(&client, "a.test").await.unwrap(),
            second.visit(&client, "b.test").await.unwrap(),
            "one certificate"
        );
        assert_eq!(pebble.front.state.orders(), before + 1, "{challenge:?}");
        drop((first_handle, second_handle, first));
        // The ports are free for the next round.
        let mut second = second;
        second.serving.shutdown().await;
    }
}

#[tokio::test]
async fn of_many_instances_that_start_at_once_one_orders() {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut others = Vec::new();
    let site = Site::start(&pebble).await;
    for _ in 0..4 {
        let other = Site::start_elsewhere().await;
        let acme = other
            .acme(&folder, &pebble)
            .certificate(["a.test"])
            .unwrap();
        let handle = acme.start(&other.certificates).await.unwrap();
        others.push((other, handle));
    }
    // It only answers.
    let store: Arc<dyn Store> = Arc::new(FileStore::new(folder.path()).unwrap());
    let idle = Acme::new(store).certificate(["idle.test"]).unwrap();
    let idle = idle
        .terms_of_service_agreed(true)
        .answers(site.answers.clone());
    let down = acme::Authority::new(format!("https://{}/dir", crate::support::refused())).unwrap();
    let _idle = idle
        .authorities([down])
        .start(&site.certificates)
        .await
        .unwrap();
    let client = pebble.client().await;
    for (other, handle) in &others {
        issued(handle).await;
        other.visit(&client, "a.test").await.unwrap();
    }
    assert_eq!(pebble.front.state.orders(), 1);
    let requests = pebble.front.state.requests.lock().unwrap();
    let accounts = requests.iter().filter(|path| path.contains("sign-me-up"));
    assert_eq!(accounts.count(), 1);
}
