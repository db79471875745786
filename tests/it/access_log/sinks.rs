//! Sinks that wrap other sinks: an `Arc`, a tee, and sinks of one's own.

use std::future::IntoFuture;

use evenkeel::{
    LoadBalancer, Pool,
    access_log::{Closing, Opening},
    health::HealthLayer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::support::Origin;

/// Keeps what a sink that implements `record` alone sees of each request.
#[derive(Clone, Default)]
struct Requests(Arc<Mutex<Vec<String>>>);

impl Sink for Requests {
    fn record(&self, entry: &Entry<'_>) {
        let request = entry.request.expect("the fields are kept");
        self.0.lock().unwrap().push(format!(
            "{} {} {} from {} to {}",
            request.method,
            request.uri.path(),
            entry.status.unwrap(),
            entry.client.unwrap().ip(),
            entry.attempts[0].backend.id(),
        ));
    }
}

/// Writes lines without the client's address.
struct Anonymous(Lines);

impl Sink for Anonymous {
    fn record(&self, entry: &Entry<'_>) {
        let mut entry = entry.clone();
        (entry.client, entry.peer) = (None, None);
        self.0.record(&entry);
    }
}

/// Sends one request through `evenkeel::serve` and the canonical stack with this log.
async fn serve_one_request(layer: AccessLogLayer) {
    let origin = Origin::serve(|_| async { Response::new(Full::new(Bytes::from("hello"))) }).await;
    let pool = Pool::new([Backend::new("a", &origin.url()).unwrap()]).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(HealthLayer::new(pool).no_checks())
        .unwrap()
        .access_log(layer)
        .build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(evenkeel::serve(listener, balancer).into_future());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"GET /cart HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    serving.abort();
}

#[tokio::test]
async fn each_sink_of_a_tee_gets_the_line_in_its_own_form() {
    let (full, anonymous) = (Log::new(), Log::new());
    let requests = Requests::default();
    let sinks = Tee::new(
        full.sink.clone(),
        Tee::new(requests.clone(), Anonymous(anonymous.sink.clone())),
    );
    serve_one_request(AccessLogLayer::new(sinks).node("lb-1")).await;
    let seen = requests.0.lock().unwrap().clone();
    assert_eq!(seen, ["GET /cart 200 from 127.0.0.1 to a"]);
    let mut wanted = full.one();
    assert_eq!(wanted["path"], "/cart");
    // The opening that the first sink wrote does not bring the address back.
    let client = wanted.as_object_mut().unwrap().remove("client");
    assert_eq!(client, Some("127.0.0.1".into()));
    assert_eq!(anonymous.one(), wanted);
}

#[tokio::test]
async fn two_json_sinks_write_the_same_line() {
    let (first, second) = (Log::new(), Log::new());
    serve_one_request(AccessLogLayer::new(Tee::new(
        first.sink.clone(),
        second.sink.clone(),
    )))
    .await;
    assert_eq!(first.one(), second.one());
}

#[tokio::test]
async fn json_lines_behind_an_arc_keep_no_fields_of_the_request() {
    struct Forward<S>(Arc<S>);
    impl<S: Sink> Sink for Forward<S> {
        fn open(&self, opening: &mut Opening<'_>) {
            assert_eq!(opening.request().uri, "/cart");
            self.0.open(opening);
        }
        fn close(&self, closing: &Closing<'_>) {
            let entry = closing.entry();
            assert!(entry.request.is_none() && entry.client.is_none());
            assert_eq!((entry.status, entry.sent), (Some(200), 5));
            self.0.close(closing);
        }
        fn record(&self, entry: &Entry<'_>) {
            self.0.record(entry);
        }
    }
    let log = Log::new();
    let sink: Arc<dyn Sink> = Arc::new(Forward(Arc::new(log.sink.clone())));
    serve_one_request(AccessLogLayer::new(sink)).await;
    let line = log.one();
    assert_eq!(
        (&line["path"], &line["status"]),
        (&"/cart".into(), &200.into())
    );
}

#[tokio::test]
async fn a_sink_that_opened_nothing_still_closes_with_valid_json() {
    struct Unopened(Lines);
    impl Sink for Unopened {
        fn open(&self, _: &mut Opening<'_>) {}
        fn close(&self, closing: &Closing<'_>) {
            self.0.close(closing);
        }
        fn record(&self, entry: &Entry<'_>) {
            self.0.record(entry);
        }
    }
    let log = Log::new();
    serve_one_request(AccessLogLayer::new(Unopened(log.sink.clone()))).await;
    let line = log.one();
    assert_eq!(
        (&line["status"], &line["backend"]),
        (&200.into(), &"a".into())
    );
    assert!(line["time"].is_string() && line.get("path").is_none());
}
