//! The end of connections: nothing that a client sent in time is lost.

use std::io::{Read, Write};

use super::*;

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_without_a_word() {
    let server = run().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(rest(&mut client).await, "", "no head began");
    assert!(
        server.seen.0.lock().unwrap().is_empty(),
        "a connection without a byte is no event"
    );
}

/// On one thread, so that nothing has turned to these connections when the signal comes.
#[tokio::test]
async fn a_graceful_end_answers_what_waits_in_the_queue() {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = evenkeel::serve(listener, hello()).shutdown(async {
        let _ = stopped.await;
    });
    let task = tokio::spawn(serve.into_future());
    tokio::task::yield_now().await;
    // Blocking calls: the kernel takes the connections, the runtime has not seen them.
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(GET).unwrap();
            client
        })
        .collect();
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    for mut client in clients {
        let mut got = String::new();
        client.read_to_string(&mut got).expect("not reset");
        assert!(
            got.ends_with("hello"),
            "accepted by the kernel, lost: {got:?}"
        );
    }
}

#[tokio::test]
async fn a_graceful_end_answers_those_over_the_cap() {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = evenkeel::serve(listener, hello())
        .max_connections(1)
        .unwrap()
        .shutdown(async {
            let _ = stopped.await;
        });
    let task = tokio::spawn(serve.into_future());
    let mut first = TcpStream::connect(address).await.unwrap();
    exchange(&mut first, GET, b"hello").await;
    let mut waiting = Vec::new();
    for _ in 0..16 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(GET).await.unwrap();
        waiting.push(client);
    }
    stop.send(()).unwrap();
    for mut client in waiting {
        let got = rest(&mut client).await;
        assert!(got.ends_with("hello"), "{got:?}");
        assert!(got.contains("connection: close"), "{got:?}");
    }
    assert_eq!(rest(&mut first).await, "");
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_under_way_when_the_drain_begins_is_answered() {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = evenkeel::serve(listener, hello()).shutdown(async {
        let _ = stopped.await;
    });
    let task = tokio::spawn(serve.into_future());
    let (mut fresh, mut used) = (
        TcpStream::connect(address).await.unwrap(),
        TcpStream::connect(address).await.unwrap(),
    );
    exchange(&mut used, GET, b"hello").await;
    for client in [&mut fresh, &mut used] {
        client.write_all(&GET[..9]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for client in [&mut fresh, &mut used] {
        client.write_all(&GET[9..]).await.unwrap();
        let got = rest(client).await;
        assert!(
            got.starts_with("HTTP/1.1 200 "),
            "its head had begun: {got:?}"
        );
    }
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_first_request_on_its_way_is_waited_for() {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = evenkeel::serve(listener, hello()).shutdown(async {
        let _ = stopped.await;
    });
    let task = tokio::spawn(serve.into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.write_all(GET).await.unwrap();
    let got = rest(&mut client).await;
    assert!(
        got.ends_with("hello"),
        "a new connection has a reason: {got:?}"
    );
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_unused_connection_does_not_hold_up_the_end() {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = evenkeel::serve(listener, hello()).shutdown(async {
        let _ = stopped.await;
    });
    let task = tokio::spawn(serve.into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    stop.send(()).unwrap();
    assert_eq!(rest(&mut client).await, "");
    tokio::time::timeout(Duration::from_secs(3), task)
        .await
        .expect("long before the drain's deadline")
        .unwrap()
        .unwrap();
}

#[test]
fn a_worker_that_panics_is_reported() {
    let workers = Workers::spawn(2.try_into().unwrap(), |number| async move {
        assert_ne!(number, 1, "worker one is broken");
        Ok(())
    })
    .unwrap();
    let error = workers.join().expect_err("a panic is an error").to_string();
    assert!(error.contains("worker one is broken"), "{error}");
}
