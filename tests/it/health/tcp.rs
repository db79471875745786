//! What a TCP check sends and expects.

use super::*;

#[tokio::test]
async fn what_is_said_over_a_connection_is_judged() {
    // What comes back once a byte came, whether the connection is closed then, what is wanted,
    // and the report.
    for (says, closes, wanted, code) in [
        ("+PONG\r\n", false, "+PONG", "L7OK"),
        ("-LOADING\r\n", false, "+PONG", "L7RSP"),
        ("+PO", true, "+PONG", "L7RSP"),
        ("", true, "+PONG", "L7RSP"),
        ("", false, "+PONG", "L7TOUT"),
        ("+PO", false, "+PONG", "L7TOUT"),
    ] {
        let address = canned(says.into(), closes).await;
        let asks = TcpCheck::new().send("PING\r\n").expect(wanted);
        let soon = match code {
            "L7TOUT" => Duration::from_millis(100),
            _ => LONG,
        };
        let target = Target::new(backend("a", address), Instant::now() + soon);
        let report = asks.check(&target).await;
        assert_eq!(report.reason().code, code, "{says:?}: {report:?}");
        assert_eq!(report.is_pass(), code == "L7OK");
    }
    let long = format!("{}ready", "x".repeat(4_091));
    for (says, code) in [
        ("220 mx ready\r\n", "L7OK"),
        (&long, "L7OK"),
        (&"x".repeat(5_000), "L7RSP"),
    ] {
        let address = canned(says.as_bytes().to_vec(), false).await;
        let asks = TcpCheck::new().send("HELO\r\n").expect_contains("ready");
        let report = check(&asks, backend("a", address)).await;
        assert_eq!(report.reason().code, code, "{report:?}");
    }
}

#[tokio::test]
async fn what_is_sent_arrives_as_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut came = Vec::new();
        stream.read_to_end(&mut came).await.unwrap();
        came
    });
    let report = check(&TcpCheck::new().send("QUIT\r\n"), backend("a", address)).await;
    assert_eq!(report.reason().code, "L7OK", "sent is all that it wants");
    assert_eq!(served.await.unwrap(), b"QUIT\r\n");
}
