//! `RedisStore` as a `Store`.

use std::sync::Arc;

use evenkeel::store::{MAX_VALUE, Store};
use redis::cmd;

use super::*;
use crate::support::store_contract;

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn it_keeps_the_contract_of_stores() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    store_contract::check(Arc::new(store(&server)), Arc::new(store(&server))).await;
}

#[tokio::test]
async fn values_are_written_whole_read_back_and_removed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, other) = (store(&server), store(&server));
    assert_eq!(one.get("a/b").await.unwrap(), None);
    let long = vec![7; MAX_VALUE];
    for value in [&b""[..], b"\0\r\n$-1\r\n", &long] {
        one.put("a/b", value.to_vec().into(), None).await.unwrap();
        assert_eq!(other.get("a/b").await.unwrap().unwrap(), value);
    }
    let refused = one.put("a/b", vec![0; MAX_VALUE + 1].into(), None).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("1048576 are accepted")
    );
    assert_eq!(other.get("a/b").await.unwrap().unwrap(), long, "as before");
    for key in ["", "A", "a/../b", "a b"] {
        assert!(one.get(key).await.is_err(), "{key}");
        assert!(
            one.put(key, b"x".as_slice().into(), None).await.is_err(),
            "{key}"
        );
        assert!(one.remove(key).await.is_err() && one.lock(key, "h", LEASE).await.is_err());
    }
    one.remove("a/b").await.unwrap();
    one.remove("a/b").await.unwrap();
    assert_eq!(other.get("a/b").await.unwrap(), None);
    let short = Some(Duration::from_millis(50));
    one.put("a/b", b"x".as_slice().into(), short).await.unwrap();
    assert!(server.run::<i64>(cmd("PTTL").arg("shop:value:a/b")) <= 50);
    let is_gone = || async { other.get("a/b").await.unwrap().is_none() };
    until(is_gone, "the lifetime ends").await;
    // Another prefix is another fleet.
    one.put("a/b", b"x".as_slice().into(), None).await.unwrap();
    let apart = RedisStore::new(&server.url()).unwrap();
    assert_eq!(apart.get("a/b").await.unwrap(), None);
}

#[tokio::test]
async fn a_lock_has_one_holder_until_its_lease_ends() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, other) = (store(&server), store(&server));
    one.put("job", b"a value".as_slice().into(), None)
        .await
        .unwrap();
    assert!(one.lock("job", "one", LEASE).await.unwrap());
    assert!(!other.lock("job", "other", LEASE).await.unwrap());
    other.unlock("job", "other").await.unwrap();
    assert!(
        !other.lock("job", "other", LEASE).await.unwrap(),
        "it was not its holder"
    );
    // The holder extends its lease, and shortens it.
    assert!(one.lock("job", "one", 2 * LEASE).await.unwrap());
    assert!(server.run::<i64>(cmd("PTTL").arg("shop:lock:job")) > 60_000);
    assert!(
        one.lock("job", "one", Duration::from_millis(50))
            .await
            .unwrap()
    );
    let is_free = || async { other.lock("job", "other", LEASE).await.unwrap() };
    until(is_free, "the lease ends").await;
    one.unlock("job", "one").await.unwrap();
    assert!(
        !one.lock("job", "one", LEASE).await.unwrap(),
        "another took it"
    );
    other.unlock("job", "other").await.unwrap();
    assert!(one.lock("job", "one", LEASE).await.unwrap());
    assert_eq!(one.get("job").await.unwrap().unwrap(), &b"a value"[..]);
    // Of many that try at once, one succeeds.
    let tries = (0..20).map(|n| {
        let store = other.clone();
        tokio::spawn(async move { store.lock("race", &n.to_string(), LEASE).await.unwrap() })
    });
    let mut holders = 0;
    for taken in tries.collect::<Vec<_>>() {
        holders += usize::from(taken.await.unwrap());
    }
    assert_eq!(holders, 1);
}

#[tokio::test]
async fn garbage_is_refused_and_left_as_it_is() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let garbage: [&[u8]; 4] = [b"", b"garbage", b"\x02\0\0\0\x01x", b"\x01\0\0\0\x09x"];
    for bytes in garbage {
        server.run::<()>(cmd("SET").arg("shop:value:k").arg(bytes));
        let error = store.get("k").await.unwrap_err();
        let kind = error.downcast_ref().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::InvalidData));
        let error = error.to_string();
        assert!(
            error.starts_with("the value of k: ") && !error.contains("garbage"),
            "{error}"
        );
        assert_eq!(server.run::<Vec<u8>>(cmd("GET").arg("shop:value:k")), bytes);
    }
    server.run::<()>(cmd("DEL").arg("shop:value:k"));
    server.run::<()>(cmd("LPUSH").arg("shop:value:k").arg("x"));
    server.run::<()>(cmd("LPUSH").arg("shop:lock:k").arg("x"));
    assert!(store.get("k").await.is_err() && store.lock("k", "h", LEASE).await.is_err());
    assert_eq!(
        server.run::<String>(cmd("TYPE").arg("shop:value:k")),
        "list"
    );
    // The connection is still good, and a write replaces what was there.
    store.put("k", b"x".as_slice().into(), None).await.unwrap();
    assert_eq!(store.get("k").await.unwrap().unwrap(), &b"x"[..]);
}

#[tokio::test]
async fn a_server_that_hangs_costs_a_call_its_deadline_and_later_calls_nothing() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server).timeout(Duration::from_millis(300)).unwrap();
    store.put("k", b"x".as_slice().into(), None).await.unwrap();
    server.hang();
    let began = Instant::now();
    // Many at once: some wait until their deadline, and the rest is refused at once.
    let calls = (0..200).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.get("k").await.unwrap_err().to_string() })
    });
    let mut refused = 0;
    for call in calls.collect::<Vec<_>>() {
        let error = call.await.unwrap();
        refused += usize::from(error.contains("64 commands wait already"));
    }
    assert_eq!(refused, 200 - 64);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    // Then each waits for an attempt of its own, or for none during the back-off.
    for _ in 0..5 {
        let error = store.get("k").await.unwrap_err().to_string();
        assert!(error.contains("no connection"), "{error}");
    }
    server.go_on();
    let answers = || async { store.get("k").await.is_ok() };
    until(answers, "it connects again by itself").await;
}

#[tokio::test]
async fn a_restart_and_a_wrong_password_are_errors_without_the_password() {
    let password = "correct-horse-battery";
    let Some(mut server) = RedisServer::start_with(&[], password) else {
        return;
    };
    let good = store(&server);
    good.put("k", b"x".as_slice().into(), None).await.unwrap();
    for login in [
        "",
        "?pass=wrong-horse",
        "?user=unknown-user&pass=correct-horse-battery",
    ] {
        let url = format!("unix://{}{login}", server.socket());
        let error = RedisStore::new(&url).unwrap().get("k").await.unwrap_err();
        let error = error.to_string();
        assert!(!error.contains("horse"), "{error}");
        assert!(
            error.contains("AUTH")
                || error.contains("uthentication")
                || error.contains("WRONGPASS"),
            "{error}"
        );
    }
    server.run::<()>(cmd("ACL").arg(&[
        "SETUSER", "lb", "on", ">p%w/d", "~shop:*", "&shop:*", "+@all",
    ]));
    let url = format!("unix://{}?user=lb&pass=p%25w%2fd&db=3", server.socket());
    let user = RedisStore::new(&url).unwrap().prefix("shop").unwrap();
    user.put("k", b"y".as_slice().into(), None).await.unwrap();
    assert_eq!(
        good.get("k").await.unwrap().unwrap(),
        &b"x"[..],
        "another database"
    );
    let error = RedisStore::new(&url).unwrap().get("k").await.unwrap_err();
    assert!(
        error.to_string().contains("NOPERM") || error.to_string().contains("permission"),
        "{error}"
    );
    server.kill();
    assert!(good.get("k").await.is_err());
    server.restart();
    let answers = || async { good.get("k").await.is_ok() };
    until(answers, "it connects again by itself").await;
    assert_eq!(good.get("k").await.unwrap(), None, "it restarted empty");
    let shown = format!("{good:?}");
    assert!(
        !shown.contains("horse") && shown.contains("redis.sock"),
        "{shown}"
    );
}

#[tokio::test]
async fn tls_verifies_the_server_and_shows_a_certificate() {
    use evenkeel::connect::ClientTls;

    use crate::support::pki::Authority;

    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let issued = authority.issue(&["localhost"]);
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("cert.pem"), &issued.chain).unwrap();
    std::fs::write(path("key.pem"), &issued.key).unwrap();
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    // Released for redis-server, which takes no sockets from its parent.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (cert, key, ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
    let arguments = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
    ];
    let Some(_server) = RedisServer::start_with(&arguments, "") else {
        return;
    };
    let url = format!("rediss://localhost:{port}");
    let roots = ClientTls::roots_pem(authority.pem().as_bytes()).unwrap();
    let own = roots
        .clone()
        .client_certificate(issued.chain.as_bytes(), issued.key.as_bytes());
    let trusted = RedisStore::new(&url).unwrap().tls(own.unwrap());
    trusted
        .put("k", b"x".as_slice().into(), None)
        .await
        .unwrap();
    assert_eq!(trusted.get("k").await.unwrap().unwrap(), &b"x"[..]);
    for refused in [ClientTls::new(), roots] {
        assert!(
            RedisStore::new(&url)
                .unwrap()
                .tls(refused)
                .get("k")
                .await
                .is_err()
        );
    }
    let cleartext = RedisStore::new(&format!("redis://localhost:{port}")).unwrap();
    assert!(cleartext.get("k").await.is_err());
}
