//! The operator's page, as the example shows it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    client::get,
    process::{PATIENCE, Process},
};

#[tokio::test]
async fn admin_shows_its_pool_and_ends_with_a_page_open() {
    let mut served = Process::start("admin", &[]);
    let requests = served.address("requests: http://").await;
    let page = served.address("page:     http://").await;
    assert!(get(requests, "/").await.body.starts_with("hello from "));
    let shown = get(page, "/status").await.body;
    assert!(shown.contains("data-id=\"c\""), "{shown}");
    assert_eq!(get(page, "/live").await.status, 200);
    assert!(get(page, "/metrics").await.body.contains("evenkeel_"));
    let mut viewer = TcpStream::connect(page).await.unwrap();
    let head = b"GET /status/events HTTP/1.1\r\nHost: lb\r\n\r\n";
    viewer.write_all(head).await.unwrap();
    let mut updates = Vec::new();
    while !updates.windows(13).any(|part| part == b"event: status") {
        let read = viewer.read_buf(&mut updates);
        assert!(timeout(PATIENCE, read).await.unwrap().unwrap() > 0);
    }
    served.signal("-TERM");
    served.must_succeed().await;
    let rest = viewer.read_to_end(&mut updates);
    timeout(PATIENCE, rest).await.unwrap().unwrap();
    assert!(updates.ends_with(b"0\r\n\r\n"), "the stream ends whole");
}
