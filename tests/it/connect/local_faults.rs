//! Lacks of this process (descriptors, ports): no backend is charged.

use std::{
    convert::Infallible,
    fs::File,
    io::{Read, Write},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind, LoadBalancer, Pool,
    connect::Connector,
    context::Exchange,
    health::{
        CheckFuture, CheckReport, Checks, HealthCheck, HealthLayer, HttpCheck, Outliers, Target,
    },
    pool::{Circuit, HealthStatus},
    proxy::Proxy,
    respond::RespondLayer,
};
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tower::{ServiceExt, service_fn};

use crate::support::{Origin, Written};

/// The limit holds for a whole process: so this test runs another in one of its own, whose backends
/// are here.
#[tokio::test]
async fn a_lack_of_descriptors_takes_no_backend_out() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let child = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "connect::local_faults::without_descriptors"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, format!("{} {}", a.url(), b.url()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(180), child).await.unwrap();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Opens files until the process is at its limit.
fn fill(files: &mut Vec<File>) {
    let full = loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(full.raw_os_error(), Some(24), "EMFILE");
}

#[tokio::test]
#[ignore = "a_lack_of_descriptors_takes_no_backend_out runs it in a process of its own"]
async fn without_descriptors() {
    let urls = std::env::var(VARIABLE).expect("run by the test that has the backends");
    let lines = Written::default();
    let written = lines.clone();
    tracing_subscriber::fmt()
        .with_writer(move || written.clone())
        .init();
    let backends = urls.split(' ').zip(["a", "b"]);
    let pool = Pool::new(backends.map(|(url, id)| Backend::new(id, url).unwrap())).unwrap();
    let (reports, mut reported) = mpsc::unbounded_channel();
    let checks = Checks::new()
        .interval(Duration::from_secs(1))
        .timeout(Duration::from_millis(900))
        .fall(1)
        .with_check(Heard(HttpCheck::new(), reports));
    let outliers = Outliers::new().consecutive(1);
    let balancer = LoadBalancer::builder(pool.clone())
        .health(
            HealthLayer::new(pool.clone())
                .checks(checks)
                .unwrap()
                .outliers(outliers)
                .unwrap(),
        )
        .unwrap()
        .proxy(Proxy::new().max_idle(0))
        .respond(RespondLayer::new())
        .build();
    let visit = || async {
        let mut request = Request::get("/")
            .header("host", "t")
            .body(Empty::<Bytes>::new());
        let exchange = Exchange::of(request.as_mut().unwrap().extensions_mut());
        let response = balancer.clone().oneshot(request.unwrap()).await.unwrap();
        let after = response.headers().get("retry-after").cloned();
        (response.status(), exchange.failure(), after)
    };
    assert_eq!(visit().await.0, StatusCode::OK);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hello = service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let server = tokio::spawn(async move { evenkeel::serve(listener, hello).await });

    let mut files = Vec::new();
    fill(&mut files);
    // A client that connects, and cannot be accepted.
    drop(files.pop());
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
        .unwrap();
    while reported.try_recv().is_ok() {}
    // A connection that was open before may yet serve a check, and leaves its descriptor.
    let mut local = 0;
    while local < 4 {
        local = match next(&mut reported).await.is_local() {
            true => local + 1,
            false => 0,
        };
        fill(&mut files);
    }
    for _ in 0..3 {
        let report = next(&mut reported).await;
        assert!(report.is_local() && !report.is_pass(), "{report:?}");
        assert_eq!(report.reason().code, "SOCKERR");
    }
    for _ in 0..20 {
        let (status, failure, after) = visit().await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(failure, Some(ErrorKind::Local));
        assert_eq!(after.unwrap(), "1");
    }
    let well = || {
        let snapshot = pool.snapshot();
        let is_well = |b: &Backend| {
            b.circuit() == Circuit::Closed && b.active_health() == HealthStatus::Healthy
        };
        snapshot.usable() == 2 && snapshot.backends().iter().all(is_well)
    };
    assert!(well(), "nothing is charged to the backends");

    drop(files);
    assert_eq!(visit().await.0, StatusCode::OK, "at once");
    let answered = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        client.read_to_string(&mut text).map(|_| text)
    });
    let answered = answered.await.unwrap().unwrap();
    assert!(answered.ends_with("hello"), "{answered}");
    timeout(PATIENCE, async {
        while !next(&mut reported).await.is_pass() {}
    })
    .await
    .unwrap();
    assert!(well());
    server.abort();
    let text = String::from_utf8(lines.take()).unwrap();
    let errors: Vec<_> = text.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(errors[0].contains("RLIMIT_NOFILE"), "{}", errors[0]);
}

async fn next(reports: &mut mpsc::UnboundedReceiver<CheckReport>) -> CheckReport {
    timeout(PATIENCE, reports.recv()).await.unwrap().unwrap()
}

/// Tells what a check reports.
#[derive(Debug)]
struct Heard(HttpCheck, mpsc::UnboundedSender<CheckReport>);

impl HealthCheck for Heard {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        Box::pin(async move {
            let report = self.0.check(target).await;
            let _ = self.1.send(report.clone());
            report
        })
    }
}

const VARIABLE: &str = "EVENKEEL_TEST_BACKENDS";
const PATIENCE: Duration = Duration::from_secs(20);

/// In a network namespace with four local ports, which is where it can be tried.
#[tokio::test]
async fn out_of_ports_differs_from_unreachable() {
    let mut namespace = tokio::process::Command::new("unshare");
    namespace.args(["-rn", "sh", "-c", NAMESPACE]);
    let may = tokio::process::Command::new("unshare")
        .args(["-rn", "true"])
        .output()
        .await;
    if !may.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no right to make a network namespace");
        return;
    }
    let child = namespace
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "connect::local_faults::with_four_ports"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, "inside")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(60), child)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
#[ignore = "out_of_ports_differs_from_unreachable runs it in a namespace of its own"]
async fn with_four_ports() {
    std::env::var(VARIABLE).expect("run by the test that makes the namespace");
    let listener = TcpListener::bind("127.0.0.1:5000").await.unwrap();
    let connector = Connector::new();
    let backend = |url: &str| Backend::new("a", url).unwrap();
    let full = backend("http://127.0.0.1:5000");
    let mut open = Vec::new();
    let error = loop {
        match connector.connect(&full).await {
            Ok(connected) => open.push(connected),
            Err(error) => break error,
        }
    };
    assert_eq!((open.len(), error.kind()), (4, ErrorKind::Local), "{error}");
    assert!(error.to_string().contains("ip_local_port_range"), "{error}");
    // The ports are free for other addresses; IPv6 is off here, for good.
    for other in ["http://127.0.0.1:5001", "http://[::1]:5000"] {
        let error = connector.connect(&backend(other)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{other}: {error}");
    }
    drop(listener);
}

const NAMESPACE: &str = "ip link set lo up || exit 1
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
echo '40000 40003' > /proc/sys/net/ipv4/ip_local_port_range || exit 1
exec \"$0\" \"$@\"";
