//! GOAWAY for HTTP/2 clients: streams begun before it complete, streams begun after it are ignored.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

/// GET / of `a`, from the static table.
fn get(stream: u8) -> Vec<u8> {
    const HEADERS: u8 = 1;
    // The end of the stream and of the head.
    let mut frame = vec![0, 0, 6, HEADERS, 0x5, 0, 0, 0, stream];
    frame.extend([0x82, 0x84, 0x86, 0x41, 0x01, b'a']);
    frame
}

/// The next frame but for those of flow control and settings: kind, flags, stream and payload.
async fn next(client: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let read = async {
        loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let stream = u32::from_be_bytes(stream);
            let mut payload = vec![0; length as usize];
            client.read_exact(&mut payload).await.ok()?;
            const SETTINGS: u8 = 4;
            const WINDOW_UPDATE: u8 = 8;
            if kind != SETTINGS && kind != WINDOW_UPDATE {
                return Some((kind, flags, stream, payload));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the server must go on")
}

#[tokio::test]
async fn a_graceful_end_answers_what_came_before_the_last_goodbye_and_nothing_after() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let release = Arc::new(Notify::new());
    let begun = Arc::new(AtomicUsize::new(0));
    let (held, counted) = (release.clone(), begun.clone());
    let app = service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, SeqCst);
        let held = held.clone();
        async move {
            held.notified().await;
            Ok::<_, Infallible>(Response::new(App::from("late")))
        }
    });
    let serve = evenkeel::serve(listener, app).shutdown(async {
        let _ = stopped.await;
    });
    let task = tokio::spawn(serve.into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    client.write_all(&get(1)).await.unwrap();
    until(|| begun.load(SeqCst) == 1).await;
    stop.send(()).unwrap();
    // A warning that names no stream, so that what is on its way is still taken …
    let (kind, _, _, payload) = next(&mut client).await.unwrap();
    assert_eq!(
        (kind, &payload[..4]),
        (GOAWAY, &[0x7f, 0xff, 0xff, 0xff][..])
    );
    client.write_all(&get(3)).await.unwrap();
    until(|| begun.load(SeqCst) == 2).await;
    // … then, once the client has heard that, the last one.
    let (kind, _, _, payload) = next(&mut client).await.unwrap();
    assert_eq!(kind, PING);
    let mut pong = vec![0, 0, 8, PING, 0x1, 0, 0, 0, 0];
    pong.extend(&payload);
    client.write_all(&pong).await.unwrap();
    let (kind, _, _, payload) = next(&mut client).await.unwrap();
    assert_eq!((kind, &payload[..4]), (GOAWAY, &[0, 0, 0, 3][..]));
    assert_eq!(payload[4..8], [0; 4], "no error");
    client.write_all(&get(5)).await.unwrap();
    assert!(!task.is_finished(), "two streams are under way");
    release.notify_waiters();
    let mut ended = Vec::new();
    while let Some((kind, flags, stream, payload)) = next(&mut client).await {
        match kind {
            HEADERS => assert_eq!(payload[0], 0x88, "200"),
            DATA => {
                assert_eq!(payload, b"late");
                assert_eq!(flags & 1, 1);
                ended.push(stream);
            }
            // It may say that it does not take it.
            3 | GOAWAY => assert!(stream == 5 || stream == 0, "{kind}: {payload:?}"),
            PING => {}
            other => panic!("{other}"),
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 3], "what began ends, and nothing else does");
    assert_eq!(begun.load(SeqCst), 2, "what came after was not begun");
    tokio::time::timeout(Duration::from_secs(20), task)
        .await
        .expect("nothing is left")
        .unwrap()
        .unwrap();
}

async fn until(is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it must come");
}
