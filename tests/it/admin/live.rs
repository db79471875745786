//! The live updates.

use std::time::Duration;

use evenkeel::{Backend, Pool, admin::Admin, stats::Stats};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::oneshot,
    time::{Instant, interval, timeout},
};

use super::{LIMIT, Served, certificates, get, open, pool, request};

/// The updates that come over one connection.
struct Updates {
    body: Incoming,
    text: String,
    /// How often certificates came, and how many there were at last.
    certificates: (usize, Value),
}

impl Updates {
    async fn of(served: &Served) -> Self {
        let response = open(served.address, request("GET", "/status/events", &[], "")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            text: String::new(),
            certificates: (0, Value::Null),
        }
    }

    /// Returns the next state; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let update = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
                let is_certificates = event.starts_with("event: certificates\n");
                self.text = rest.to_owned();
                if is_certificates {
                    self.certificates.0 += 1;
                    self.certificates.1 = update.unwrap()["certificates_total"].clone();
                    continue;
                }
                match update {
                    Some(update) => return Some(update),
                    None => continue,
                }
            }
            let frame = timeout(LIMIT, self.body.frame()).await.unwrap()?;
            let data = frame.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    async fn until(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let update = self.next().await.expect("the stream goes on");
            if is_wanted(&update) {
                return update;
            }
        }
    }
}

#[tokio::test]
async fn a_change_comes_at_once_and_rates_each_second() {
    let pool = pool(&["a", "b"]);
    let served = Served::start(Admin::new(pool.clone())).await;
    let mut updates = Updates::of(&served).await;
    let first = updates.next().await.unwrap();
    assert_eq!(first["pool"]["usable"], 2);
    let changed = Instant::now();
    pool.start_maintenance("a").unwrap();
    let update = updates
        .until(|u| u["backends"][0]["state"] == "maintenance")
        .await;
    let took = changed.elapsed();
    // 100 ms, and what a busy machine adds; without the change it would be a second.
    assert!(took < Duration::from_millis(900), "{took:?}");
    assert_eq!(update["pool"]["usable"], 1);
    assert_eq!(update["changes"][0]["to"], "maintenance");
    let (one, two) = (updates.next().await.unwrap(), updates.next().await.unwrap());
    assert_ne!(one["time"], two["time"]);
    pool.upsert(Backend::new("c", "http://c").unwrap());
    updates
        .until(|u| u["backends"].as_array().unwrap().len() == 3)
        .await;
}

#[tokio::test]
async fn certificates_come_at_the_beginning_and_when_one_changes() {
    let pool = pool(&["a"]);
    let stats = Stats::new(pool.clone());
    let certificates = certificates(&[("a.test", 60), ("b.test", 60)]);
    certificates.show_in(&stats.certificates(), "127.0.0.1:443");
    let served = Served::start(Admin::new(pool).stats(stats).unwrap()).await;
    let mut updates = Updates::of(&served).await;
    for _ in 0..3 {
        let update = updates.next().await.unwrap();
        assert!(update.get("certificates").is_none(), "{update}");
        assert_eq!(updates.certificates, (1, 2.into()));
    }
    assert!(certificates.remove("b.test"));
    while updates.certificates.0 == 1 {
        updates.next().await.unwrap();
    }
    assert_eq!(updates.certificates, (2, 1.into()));
    updates.next().await.unwrap();
    assert_eq!(updates.certificates, (2, 1.into()));
}

/// Waits for the number of viewers: the server sees a closed connection when it writes.
async fn viewers(admin: &Admin, wanted: usize) {
    let waiting = async {
        let mut again = interval(Duration::from_millis(10));
        while admin.viewers() != wanted {
            again.tick().await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap();
}

#[tokio::test]
async fn viewers_are_bounded_and_a_place_comes_back() {
    let admin = Admin::new(pool(&["a"])).max_viewers(2).unwrap();
    let served = Served::start(admin.clone()).await;
    let (mut one, two) = (Updates::of(&served).await, Updates::of(&served).await);
    let full = get(served.address, "/status/events").await;
    assert_eq!(full.status, 503, "{full:?}");
    assert_eq!(full.json()["error"], "too_many_viewers");
    assert!(!full.header("retry-after").is_empty());
    assert!(one.next().await.is_some(), "the others go on");
    drop(two);
    viewers(&admin, 1).await;
    let mut three = Updates::of(&served).await;
    assert!(three.next().await.is_some());
    drop((one, three));
    viewers(&admin, 0).await;
    let mut four = Updates::of(&served).await;
    assert!(four.next().await.is_some(), "the updates begin again");
}

#[tokio::test]
async fn a_viewer_that_does_not_read_stalls_no_other() {
    let backends = (0..400).map(|i| Backend::new(format!("b-{i}"), "http://b").unwrap());
    let pool = Pool::new(backends).unwrap();
    let admin = Admin::new(pool.clone());
    let served = Served::start(admin.clone()).await;
    // A receive buffer of a few KiB, and updates of about 300.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stalled = socket.connect(served.address).await.unwrap();
    stalled.writable().await.unwrap();
    let head = b"GET /status/events HTTP/1.1\r\nhost: lb\r\n\r\n";
    assert_eq!(stalled.try_write(head).unwrap(), head.len());
    viewers(&admin, 1).await;
    let mut updates = Updates::of(&served).await;
    for weight in 2..10 {
        pool.update_weight("b-0", weight).unwrap();
        let update = updates
            .until(|u| u["backends"][0]["weight"] == weight)
            .await;
        assert_eq!(update["pool"]["backends"], 400);
    }
    assert_eq!(admin.viewers(), 2, "it is still there");
}

#[tokio::test]
async fn close_ends_the_streams_so_that_a_shutdown_does_not_wait_for_them() {
    let pool = pool(&["a"]);
    let admin = Admin::new(pool);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = evenkeel::serve(listener, admin.clone()).shutdown(async {
        let _ = stopped.await;
    });
    let served = Served {
        address,
        task: tokio::spawn(async move { serving.await }),
    };
    let mut updates = Updates::of(&served).await;
    updates.next().await.unwrap();
    let began = Instant::now();
    admin.close();
    while updates.next().await.is_some() {}
    let refused = get(address, "/status/events").await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]),
        (503, &"closed".into())
    );
    assert_eq!(
        get(address, "/status.json").await.status,
        200,
        "the rest works on"
    );
    stop.send(()).unwrap();
    let mut served = served;
    timeout(LIMIT, &mut served.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    // The drain time-out, which open streams would take, is 30 s.
    assert!(began.elapsed() < Duration::from_secs(15));
}
