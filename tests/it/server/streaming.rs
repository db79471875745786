//! Bodies in both directions at once, and clients that are slower than the application.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll},
};

use http_body::{Body as HttpBody, Frame};

use super::*;

const CHUNK: usize = 16 * 1024;

/// Always ready until `left` is used up; counts what was taken of it.
struct Plenty {
    left: usize,
    taken: Arc<AtomicUsize>,
}

impl HttpBody for Plenty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(CHUNK, Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; CHUNK])))))
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_body_back() {
    const CHUNKS: usize = 4_096;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let app = service_fn(move |_: Request<Body>| {
        let taken = counted.clone();
        async move {
            Ok::<_, Infallible>(Response::new(Plenty {
                left: CHUNKS,
                taken,
            }))
        }
    });
    let (listener, address) = listener().await;
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ahead = taken.load(Relaxed);
    // What the two sockets hold, and the codec's own buffer.
    assert!(
        ahead < CHUNKS * CHUNK / 2,
        "{ahead} bytes were taken for a client that read none"
    );
    let got = rest(&mut client).await;
    assert_eq!(
        got.matches('x').count(),
        CHUNKS * CHUNK,
        "all of it arrives"
    );
}

#[tokio::test]
async fn a_response_does_not_wait_for_the_rest_of_the_next_request() {
    let (listener, address) = listener().await;
    tokio::spawn(evenkeel::serve(listener, hello()).into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    let one_and_a_half = [GET, &GET[..10]].concat();
    let answered = exchange(&mut client, &one_and_a_half, b"hello");
    tokio::time::timeout(Duration::from_secs(3), answered)
        .await
        .expect("the first request is whole");
    exchange(&mut client, &GET[10..], b"hello").await;
}

#[tokio::test]
async fn an_early_response_reaches_a_client_that_is_still_sending() {
    let app = service_fn(|request: Request<Body>| async move {
        // Kept unread: the client has sent more than the codec has passed on.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(request);
        });
        Ok::<_, Infallible>(Response::new(App::from("early")))
    });
    let (listener, address) = listener().await;
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n".to_vec();
    request.extend_from_slice(&[b'y'; 20_000]);
    let answered = exchange(&mut client, &request, b"early");
    tokio::time::timeout(Duration::from_secs(3), answered)
        .await
        .expect("an early response is not held back");
}

#[tokio::test]
async fn an_upload_outlives_its_early_response() {
    let (done, whole) = tokio::sync::mpsc::unbounded_channel();
    let app = service_fn(move |request: Request<Body>| {
        let done = done.clone();
        async move {
            tokio::spawn(async move {
                let body = request.into_body().collect().await;
                let _ = done.send(body.map(|b| b.to_bytes().len()));
            });
            Ok::<_, Infallible>(Response::new(App::from("early")))
        }
    });
    let (listener, address) = listener().await;
    let serve = evenkeel::serve(listener, app)
        .http(|http| http.head_timeout(HEAD)?.idle_timeout(HEAD))
        .unwrap();
    tokio::spawn(serve.into_future());
    let mut whole = whole;
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6000\r\n\r\n";
    exchange(&mut client, head, b"early").await;
    for _ in 0..6 {
        tokio::time::sleep(HEAD / 2).await;
        client.write_all(&[b'x'; 1_000]).await.unwrap();
    }
    let got = tokio::time::timeout(Duration::from_secs(5), whole.recv()).await;
    let got = got.expect("the upload ends").unwrap();
    assert_eq!(got.expect("no deadline of heads cuts an upload"), 6_000);
    // And the connection goes on.
    exchange(&mut client, head, b"early").await;
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let app = service_fn(|request: Request<Body>| async move {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let (listener, address) = listener().await;
    let serve = evenkeel::serve(listener, app)
        .http(|http| http.head_timeout(HEAD)?.idle_timeout(HEAD))
        .unwrap();
    tokio::spawn(serve.into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write_all(head).await.unwrap();
    for _ in 0..3 {
        exchange(&mut client, b"4\r\nping\r\n", b"4\r\nping\r\n").await;
        tokio::time::sleep(HEAD).await;
    }
    exchange(&mut client, b"0\r\n\r\n", b"0\r\n\r\n").await;
}
