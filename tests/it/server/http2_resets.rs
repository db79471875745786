//! Streams that are opened and reset, one after the other.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use h2::{Reason, client::SendRequest};

use super::{http2_streams::both, *};

/// Calls of a service that never answers `/`.
#[derive(Clone, Default)]
struct Calls {
    begun: Arc<AtomicU32>,
    arrived: Arc<Notify>,
}

async fn open(calls: &Calls) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (listener, address) = listener().await;
    let calls = calls.clone();
    let app = service_fn(move |request: Request<Body>| {
        let calls = calls.clone();
        async move {
            if request.uri().path() == "/" {
                calls.begun.fetch_add(1, SeqCst);
                calls.arrived.notify_one();
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(App::from("answered")))
        }
    });
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let io = TcpStream::connect(address).await.unwrap();
    io.set_nodelay(true).unwrap();
    let (sender, conn) = h2::client::handshake(io).await.unwrap();
    (sender, tokio::spawn(conn))
}

/// Opens a stream, and resets it once its request is being answered. Returns the error of a
/// connection that is over.
async fn cancel(sender: &mut SendRequest<Bytes>, calls: &Calls) -> Result<(), h2::Error> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let request = Request::get("http://a/").body(()).unwrap();
    let (response, mut stream) = sender.send_request(request, true)?;
    tokio::select! {
        () = calls.arrived.notified() => {}
        // Never answered: this is the end of the connection.
        ended = response => return ended.map(drop),
    }
    stream.send_reset(Reason::CANCEL);
    Ok(())
}

#[test]
fn a_client_that_resets_streams_without_end_gets_enhance_your_calm() {
    both(async || {
        // The server closes behind its GOAWAY: a client that still writes may find that first.
        for _ in 0..10 {
            let calls = Calls::default();
            let (mut sender, conn) = open(&calls).await;
            let mut last = Ok(());
            for _ in 0..2_000 {
                last = cancel(&mut sender, &calls).await;
                if last.is_err() {
                    break;
                }
            }
            assert!(last.is_err(), "resets are bounded");
            let error = conn.await.unwrap().expect_err("a GOAWAY");
            let begun = calls.begun.load(SeqCst);
            // 10 more are forgiven each second.
            assert!((500..1_000).contains(&begun), "{begun} requests were begun");
            if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                return;
            }
            assert!(error.is_io(), "{error}");
        }
        panic!("no GOAWAY came on ten connections");
    });
}

#[test]
fn resets_among_as_many_answers_are_a_clients_right() {
    both(async || {
        let calls = Calls::default();
        let (mut sender, _conn) = open(&calls).await;
        for nth in 0..800 {
            cancel(&mut sender, &calls)
                .await
                .unwrap_or_else(|error| panic!("reset {nth}: {error}"));
            let request = Request::get("http://a/answered").body(()).unwrap();
            std::future::poll_fn(|cx| sender.poll_ready(cx))
                .await
                .unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
        }
    });
}

/// Streams that are open when another is reset must not count as answered: they are reset next.
#[test]
fn resets_of_streams_that_were_open_at_the_reset_before_are_bounded() {
    both(async || {
        let calls = Calls::default();
        let (mut sender, conn) = open(&calls).await;
        let rounds = async {
            for _ in 0..40 {
                let mut streams = Vec::new();
                for _ in 0..100 {
                    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
                    let request = Request::get("http://a/").body(()).unwrap();
                    streams.push(sender.send_request(request, true)?);
                }
                let (_, first) = &mut streams[0];
                first.send_reset(Reason::CANCEL);
                // Once this one is answered, the server has seen the first reset.
                let answered = Request::get("http://a/answered").body(()).unwrap();
                std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
                let (response, _) = sender.send_request(answered, true)?;
                response.await?;
                for (_, stream) in &mut streams[1..] {
                    stream.send_reset(Reason::CANCEL);
                }
            }
            Ok::<_, h2::Error>(())
        };
        assert!(rounds.await.is_err(), "4,000 resets pass");
        assert!(
            conn.await.unwrap().is_err(),
            "a GOAWAY, or the close behind it"
        );
    });
}
