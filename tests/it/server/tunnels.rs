//! Upgraded connections: theirs are no heads, and they count as connections until they close.

use super::*;

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

fn echo()
-> impl Service<Request<Body>, Response = Response<App>, Error = Infallible, Future: Send> + Clone + Send
{
    service_fn(|mut request: Request<Body>| async move {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut buf = [0; 1_024];
            while let Ok(n @ 1..) = io.read(&mut buf).await {
                if io.write_all(&buf[..n]).await.is_err() {
                    break;
                }
            }
            let _ = io.shutdown().await;
        });
        let response = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        Ok(response.body(App::default()).unwrap())
    })
}

struct Tunnels {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

async fn tunnels(drain_timeout: Duration) -> Tunnels {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = evenkeel::serve(listener, echo())
        .http(|http| http.head_timeout(HEAD)?.idle_timeout(HEAD))
        .unwrap()
        .max_connections(1)
        .unwrap()
        .drain_timeout(drain_timeout)
        .shutdown(async {
            let _ = stopped.await;
        });
    let task = tokio::spawn(serve.into_future());
    Tunnels {
        address,
        stop,
        task,
    }
}

async fn open(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    let got = exchange(&mut client, UPGRADE, b"\r\n\r\n").await;
    assert!(got.starts_with(b"HTTP/1.1 101 "));
    client
}

#[tokio::test]
async fn no_deadline_of_requests_ends_a_tunnel() {
    let server = tunnels(Duration::from_secs(10)).await;
    let mut client = open(server.address).await;
    for said in [&b"one"[..], b"two", b"three"] {
        let got = exchange(&mut client, said, said).await;
        assert_eq!(got, said, "nothing but the tunnel's own bytes");
        tokio::time::sleep(2 * HEAD).await;
    }
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "", "and none at its end");
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_until_it_closes() {
    let server = tunnels(Duration::from_secs(10)).await;
    let first = open(server.address).await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(UPGRADE).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), second.read_u8()).await;
    assert!(early.is_err(), "the second must wait");
    drop(first);
    let got = tokio::time::timeout(Duration::from_secs(10), second.read_u8()).await;
    assert_eq!(got.expect("its turn").unwrap(), b'H');
}

#[tokio::test]
async fn a_drain_waits_for_tunnels() {
    let server = tunnels(Duration::from_secs(30)).await;
    let mut client = open(server.address).await;
    server.stop.send(()).unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        exchange(&mut client, b"still here", b"still here").await;
    }
    assert!(!server.task.is_finished(), "a tunnel keeps the server");
    drop(client);
    tokio::time::timeout(Duration::from_secs(10), server.task)
        .await
        .expect("nothing is left")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_tunnel_is_cut_at_the_drain_s_deadline() {
    let server = tunnels(Duration::from_millis(200)).await;
    let mut client = open(server.address).await;
    server.stop.send(()).unwrap();
    assert_eq!(rest(&mut client).await, "");
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_websocket_of_axum_s() {
    use axum::extract::ws::WebSocketUpgrade;
    let app = axum::Router::new().route(
        "/",
        axum::routing::any(|ws: WebSocketUpgrade| async {
            ws.on_upgrade(|mut socket| async move {
                while let Some(Ok(message)) = socket.recv().await {
                    if socket.send(message).await.is_err() {
                        break;
                    }
                }
            })
        }),
    );
    let (listener, address) = listener().await;
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let stream = TcpStream::connect(address).await.unwrap();
    let request = Request::get(format!("ws://{address}/"))
        .header("host", "a")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(http_body_util::Empty::<Bytes>::new())
        .unwrap();
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(conn.with_upgrades());
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    // A masked text frame, and its echo.
    io.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
    let mut echo = [0; 4];
    io.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"\x81\x02hi");
}
