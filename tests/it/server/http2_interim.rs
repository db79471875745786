//! What goes out on a stream of HTTP/2 before the final response: 100 (Continue), 102, 103.

use std::{future::poll_fn, pin::pin, task::Poll};

use evenkeel::context::Interim;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::{http2_streams::both, *};

async fn client<S, F>(app: S) -> SendRequest<Bytes>
where
    S: FnMut(Request<Body>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<App>, Infallible>> + Send + 'static,
{
    let (listener, address) = listener().await;
    tokio::spawn(evenkeel::serve(listener, service_fn(app)).into_future());
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, conn) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(conn);
    sender.ready().await.unwrap()
}

fn post(expect: &'static str) -> Request<()> {
    let request = Request::post("http://a/").header("expect", expect);
    request.body(()).unwrap()
}

/// Waits for the next interim response; `None` where the final one is next.
async fn interim(response: &mut ResponseFuture) -> Option<Response<()>> {
    poll_fn(|cx| response.poll_informational(cx))
        .await
        .map(Result::unwrap)
}

/// Returns the statuses that come, the final one last.
async fn statuses(mut response: ResponseFuture) -> Vec<u16> {
    let mut came = Vec::new();
    while let Some(interim) = interim(&mut response).await {
        came.push(interim.status().as_u16());
    }
    came.push(response.await.unwrap().status().as_u16());
    came
}

fn ok(body: impl Into<Bytes>) -> Result<Response<App>, Infallible> {
    Ok(Response::new(App::from(body.into())))
}

#[test]
fn interim_responses_come_before_the_final_one() {
    both(async || {
        let go_on = Arc::new(Notify::new());
        let waits = go_on.clone();
        let mut sender = client(move |request: Request<Body>| {
            let waits = waits.clone();
            async move {
                let note = Interim::of(request.extensions()).expect("every request has it");
                let mut fields = HeaderMap::new();
                for (name, value) in [
                    ("link", " </a.css>; rel=preload\t"),
                    ("connection", "x-hop"),
                    ("x-hop", "1"),
                    ("content-length", "7"),
                ] {
                    fields.insert(name, HeaderValue::from_static(value));
                }
                assert!(note.send(StatusCode::EARLY_HINTS, fields));
                waits.notified().await;
                let note = note.clone();
                // Another task wakes the stream.
                let sent = tokio::spawn(async move {
                    let sent = note.send(StatusCode::PROCESSING, HeaderMap::new());
                    (sent, note)
                });
                let (sent, note) = sent.await.unwrap();
                assert!(sent);
                // Sent in the poll that gives the final response.
                assert!(note.send(StatusCode::PROCESSING, HeaderMap::new()));
                ok("done")
            }
        })
        .await;
        for _ in 0..3 {
            let get = Request::get("http://a/").body(()).unwrap();
            let (mut response, _) = sender.send_request(get, true).unwrap();
            let hints = interim(&mut response)
                .await
                .expect("before the service goes on");
            assert_eq!(hints.status(), 103);
            let names: Vec<_> = hints.headers().keys().map(|name| name.as_str()).collect();
            assert_eq!(names, ["link"]);
            assert_eq!(hints.headers()["link"], "</a.css>; rel=preload");
            go_on.notify_one();
            assert_eq!(statuses(response).await, [102, 102, 200]);
        }
    });
}

#[test]
fn a_body_that_is_asked_for_is_asked_for_once() {
    both(async || {
        let mut sender = client(|request: Request<Body>| async {
            // By a task of its own, which the stream does not run.
            let collected = tokio::spawn(request.into_body().collect());
            ok(collected.await.unwrap().unwrap().to_bytes())
        })
        .await;
        for expect in ["100-continue", "100-Continue"] {
            let (mut response, mut upload) = sender.send_request(post(expect), false).unwrap();
            let interim_response = interim(&mut response)
                .await
                .expect("a strict client waits for it");
            assert_eq!(interim_response.status(), 100);
            upload.send_data("one".into(), false).unwrap();
            tokio::task::yield_now().await;
            upload.send_data("two".into(), true).unwrap();
            assert!(interim(&mut response).await.is_none(), "once");
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "onetwo");
        }
    });
}

#[test]
fn without_need_nothing_is_asked_for() {
    both(async || {
        let (arrived, data_sent) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (has_arrived, waits) = (arrived.clone(), data_sent.clone());
        let mut sender = client(move |request: Request<Body>| {
            let (has_arrived, waits) = (has_arrived.clone(), waits.clone());
            async move {
                match request.uri().path() {
                    "/refuses" => {
                        let mut response = Response::new(App::default());
                        *response.status_mut() = StatusCode::EXPECTATION_FAILED;
                        return Ok(response);
                    }
                    "/late" => {
                        has_arrived.notify_one();
                        waits.notified().await;
                    }
                    _ => {}
                }
                ok(request.into_body().collect().await.unwrap().to_bytes())
            }
        })
        .await;

        let mut refused = post("100-continue");
        *refused.uri_mut() = "http://a/refuses".parse().unwrap();
        let (response, _upload) = sender.send_request(refused, false).unwrap();
        assert_eq!(statuses(response).await, [417], "the body is not read");

        let (response, _) = sender.send_request(post("100-continue"), true).unwrap();
        assert_eq!(statuses(response).await, [200], "there is no body");

        let (response, mut upload) = sender.send_request(post("something-else"), false).unwrap();
        tokio::task::yield_now().await;
        upload.send_data("here".into(), true).unwrap();
        assert_eq!(statuses(response).await, [200], "another expectation");

        let mut late = post("100-continue");
        *late.uri_mut() = "http://a/late".parse().unwrap();
        let (response, mut upload) = sender.send_request(late, false).unwrap();
        arrived.notified().await;
        upload.send_data("here".into(), true).unwrap();
        // The server has read the data once it has answered another request behind it.
        let get = Request::get("http://a/").body(()).unwrap();
        let (next, _) = sender.send_request(get, true).unwrap();
        assert_eq!(statuses(next).await, [200]);
        data_sent.notify_one();
        assert_eq!(
            statuses(response).await,
            [200],
            "the body came before it was asked for"
        );
    });
}

#[test]
fn a_note_of_an_earlier_request_sends_nothing() {
    both(async || {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let kept = notes.clone();
        let mut sender = client(move |request: Request<Body>| {
            kept.lock()
                .unwrap()
                .extend(request.extensions().get::<Interim>().cloned());
            async { ok("done") }
        })
        .await;
        for _ in 0..4 {
            let get = Request::get("http://a/").body(()).unwrap();
            let mut response = pin!(sender.send_request(get, true).unwrap().0);
            let early = interim(&mut response).await;
            assert!(
                early.is_none(),
                "a note of an earlier request sends nothing"
            );
            assert_eq!(response.await.unwrap().status(), 200);
            for note in &*notes.lock().unwrap() {
                assert!(
                    !note.send(StatusCode::PROCESSING, HeaderMap::new()),
                    "it is over"
                );
            }
        }
        let once = poll_fn(|cx| Poll::Ready(sender.poll_ready(cx).is_ready())).await;
        assert!(once, "the connection goes on");
    });
}
