//! Shutdown under load: clients that send one request after the other lose none.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::task::JoinSet;

use super::*;

/// A server that is about to end, and how many requests it began.
struct Leaving {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
    begun: Arc<AtomicUsize>,
}

/// Answers after a moment.
async fn start(lame_duck: Duration, drain: Duration) -> Leaving {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let app = service_fn(move |request: Request<Body>| {
        counted.fetch_add(1, SeqCst);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            tokio::task::yield_now().await;
            let mut response = Response::new(App::from(body));
            let headers = response.headers_mut();
            headers.insert("connection", "x-hop".parse().unwrap());
            headers.insert("x-hop", "1".parse().unwrap());
            Ok::<_, Infallible>(response)
        }
    });
    let serve = evenkeel::serve(listener, app)
        .lame_duck(lame_duck)
        .drain_timeout(drain)
        .shutdown(async {
            let _ = stopped.await;
        });
    Leaving {
        address,
        stop,
        task: tokio::spawn(serve.into_future()),
        begun,
    }
}

impl Leaving {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nping";
const PATIENCE: Duration = Duration::from_secs(20);
const NONE: Duration = Duration::ZERO;

/// Sends a request and returns the fields of the response.
async fn ask(client: &mut TcpStream) -> HashMap<String, Vec<String>> {
    let got = exchange(client, POST, b"\r\n\r\nping").await;
    let text = String::from_utf8(got).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let mut fields = HashMap::<_, Vec<_>>::new();
    for line in text.lines().skip(1) {
        if let Some((name, value)) = line.split_once(": ") {
            fields
                .entry(name.to_owned())
                .or_default()
                .push(value.to_owned());
        }
    }
    fields
}

fn closes(fields: &HashMap<String, Vec<String>>) -> bool {
    fields["connection"].iter().any(|value| value == "close")
}

#[tokio::test]
async fn an_idle_connection_gets_one_response_more() {
    let server = start(NONE, PATIENCE).await;
    let (mut one, mut other, mut silent) = (
        server.connect().await,
        server.connect().await,
        server.connect().await,
    );
    for client in [&mut one, &mut other, &mut silent] {
        assert!(!closes(&ask(client).await));
    }
    let Leaving {
        address,
        stop,
        task,
        ..
    } = server;
    stop.send(()).unwrap();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let fields = ask(&mut one).await;
    assert_eq!(fields["connection"], ["x-hop", "close"], "{fields:?}");
    assert_eq!(rest(&mut one).await, "");
    // In the middle of a head when the grace ends.
    other.write_all(&POST[..9]).await.unwrap();
    assert_eq!(rest(&mut silent).await, "", "it had its time");
    let got = exchange(&mut other, &POST[9..], b"ping").await;
    assert!(
        String::from_utf8(got)
            .unwrap()
            .contains("connection: close")
    );
    tokio::time::timeout(PATIENCE, task)
        .await
        .expect("nothing is left")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_lame_duck_says_close_and_goes_on_accepting() {
    // The grace is 100 ms, so that it is over long before the lame duck.
    let server = start(Duration::from_secs(1), Duration::from_millis(200)).await;
    let (mut used, mut quiet) = (server.connect().await, server.connect().await);
    for client in [&mut used, &mut quiet] {
        assert!(!closes(&ask(client).await));
    }
    let mut unused = server.connect().await;
    let Leaving {
        address,
        stop,
        task,
        ..
    } = server;
    let began = tokio::time::Instant::now();
    stop.send(()).unwrap();
    // Until it has heard.
    let mut closing = false;
    while !closing {
        let mut fresh = TcpStream::connect(address).await.unwrap();
        closing = closes(&ask(&mut fresh).await);
    }
    assert!(closes(&ask(&mut used).await));
    assert_eq!(rest(&mut used).await, "");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(closes(&ask(&mut unused).await), "its first request");
    assert!(TcpStream::connect(address).await.is_ok(), "it listens");
    assert_eq!(rest(&mut quiet).await, "");
    assert!(began.elapsed() >= Duration::from_secs(1), "not before");
    tokio::time::timeout(PATIENCE, task)
        .await
        .expect("nothing is left")
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_of_a_busy_client_is_lost_over_http1() {
    for lame_duck in [NONE, Duration::from_millis(300)] {
        for _ in 0..4 {
            let server = start(lame_duck, PATIENCE).await;
            let mut busy = JoinSet::new();
            for _ in 0..16 {
                let mut client = server.connect().await;
                busy.spawn(async move {
                    while !closes(&ask(&mut client).await) {}
                    assert_eq!(rest(&mut client).await, "");
                });
            }
            while server.begun.load(SeqCst) < 200 {
                tokio::task::yield_now().await;
            }
            let Leaving { stop, task, .. } = server;
            stop.send(()).unwrap();
            while let Some(ended) = busy.join_next().await {
                ended.expect("each request is answered");
            }
            task.await.unwrap().unwrap();
        }
    }
}

#[cfg(feature = "http2")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_of_a_busy_client_is_lost_over_http2() {
    for lame_duck in [NONE, Duration::from_millis(300)] {
        for _ in 0..4 {
            let server = start(lame_duck, PATIENCE).await;
            let answered = Arc::new(AtomicUsize::new(0));
            let mut busy = JoinSet::new();
            for _ in 0..8 {
                let (client, conn) = h2::client::handshake(server.connect().await).await.unwrap();
                tokio::spawn(conn);
                let answered = answered.clone();
                busy.spawn(async move {
                    // Until a GOAWAY: a client must not begin a stream behind it.
                    while let Ok(mut ready) = client.clone().ready().await {
                        let request = Request::post("http://a/").body(()).unwrap();
                        let Ok((response, mut body)) = ready.send_request(request, false) else {
                            return;
                        };
                        let sent = body.send_data("ping".into(), true);
                        match (sent, response.await) {
                            (_, Ok(_)) => _ = answered.fetch_add(1, SeqCst),
                            // It never left, as the GOAWAY was faster.
                            (_, Err(error)) => {
                                assert!(error.is_go_away() && error.is_remote(), "{error}");
                                return;
                            }
                        }
                    }
                });
            }
            while server.begun.load(SeqCst) < 200 {
                tokio::task::yield_now().await;
            }
            let Leaving {
                stop, task, begun, ..
            } = server;
            stop.send(()).unwrap();
            while let Some(ended) = busy.join_next().await {
                ended.unwrap();
            }
            task.await.unwrap().unwrap();
            let (begun, answered) = (begun.load(SeqCst), answered.load(SeqCst));
            assert_eq!(begun, answered, "what was begun is answered");
        }
    }
}

/// A client that connects again after each GOAWAY would otherwise never get an answer.
#[cfg(feature = "http2")]
#[tokio::test]
async fn http2_in_a_lame_duck_answers_the_first_request_of_a_new_connection() {
    let server = start(Duration::from_secs(2), PATIENCE).await;
    let connect = async |address| {
        let io = TcpStream::connect(address).await.unwrap();
        let (client, conn) = h2::client::handshake(io).await.unwrap();
        (client, tokio::spawn(conn))
    };
    let ask = async |client: &h2::client::SendRequest<Bytes>| {
        let mut ready = client.clone().ready().await?;
        let request = Request::get("http://a/").body(()).unwrap();
        let (response, _) = ready.send_request(request, true)?;
        response.await.map(drop)
    };
    let (used, conn) = connect(server.address).await;
    ask(&used).await.unwrap();
    let Leaving {
        address,
        stop,
        task,
        ..
    } = server;
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(1), conn)
        .await
        .expect("the client gets GOAWAY at the start of the lame duck")
        .unwrap()
        .unwrap();
    for _ in 0..3 {
        let (fresh, conn) = connect(address).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        ask(&fresh).await.expect("its first request is answered");
        conn.await.unwrap().unwrap();
        assert!(ask(&fresh).await.is_err(), "and no other");
    }
    task.await.unwrap().unwrap();
}
