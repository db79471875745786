//! A real rsyslog takes the lines over each of its sockets, reads their JSON, and passes all fields on.
//!
//! ```text
//! Lines ── /dev/log, UDP, TCP ──▶ rsyslogd: mmjsonparse ── TCP ──▶ this test
//! ```
//!
//! It needs Debian's package `rsyslog`; where `rsyslogd` is missing it says so and passes.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command},
};

use evenkeel::access_log::{Facility, Format, Lines, Syslog};

use super::*;

/// A running rsyslogd.
struct Rsyslog {
    _process: Process,
    folder: tempfile::TempDir,
    udp: u16,
    tcp: u16,
    /// What its template makes of each message.
    messages: BufReader<TcpStream>,
}

/// Ends the process when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Rsyslog {
    /// Starts rsyslogd; `None` if it is not installed.
    async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        // Released for rsyslogd, which has no way to be given sockets.
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let (udp_port, tcp_port) = (
            udp.local_addr().unwrap().port(),
            tcp.local_addr().unwrap().port(),
        );
        drop((udp, tcp));
        let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver_port = receiver.local_addr().unwrap().port();
        let file = folder.path().join("rsyslog.conf");
        let text = configuration(folder.path(), udp_port, tcp_port, receiver_port);
        fs::write(&file, text).unwrap();
        let mut command = Command::new("rsyslogd");
        command.arg("-n").arg("-f").arg(&file);
        command.arg("-i").arg(folder.path().join("pid"));
        let process = match command.spawn() {
            Ok(process) => Process(process),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => panic!("rsyslogd: {error}"),
        };
        // A line that goes around opens the way back; the sink waits until rsyslogd listens.
        let syslog = Syslog::tcp(format!("127.0.0.1:{tcp_port}")).cee(true);
        let first = Lines::new(Format::Json, syslog.app_name("shop").unwrap().into()).unwrap();
        let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
        let event = ConnectionEvent::new(conn, ConnectionEventKind::Io, "", Duration::ZERO);
        AccessLogLayer::new(first.clone()).connection_ended(&event);
        let accepted = tokio::time::timeout(LIMIT, receiver.accept()).await;
        let (messages, _) = accepted.expect("rsyslogd must start").unwrap();
        let messages = messages.into_std().unwrap();
        messages.set_nonblocking(false).unwrap();
        messages.set_read_timeout(Some(LIMIT)).unwrap();
        Some(Self {
            _process: process,
            folder,
            udp: udp_port,
            tcp: tcp_port,
            messages: BufReader::new(messages),
        })
    }

    /// Returns the next message that has this node.
    fn message_of(&mut self, node: &str) -> Value {
        loop {
            let mut message = String::new();
            let read = self.messages.read_line(&mut message).unwrap();
            assert!(read > 0, "rsyslogd has ended");
            let message: Value = serde_json::from_str(&message).expect(&message);
            if message["line"]["node"] == node {
                return message;
            }
        }
    }
}

/// A machine that compiles something else takes its time.
const LIMIT: Duration = Duration::from_secs(60);

fn configuration(folder: &Path, udp: u16, tcp: u16, receiver: u16) -> String {
    let folder = folder.display();
    format!(
        r#"
        global(workDirectory="{folder}" maxMessageSize="64k")
        module(load="imuxsock" SysSock.Use="off")
        module(load="imudp")
        module(load="imtcp")
        module(load="mmjsonparse")
        input(type="imuxsock" Socket="{folder}/log" CreatePath="on" UseSpecialParser="off" ParseHostname="on")
        input(type="imudp" Address="127.0.0.1" Port="{udp}")
        input(type="imtcp" Address="127.0.0.1" Port="{tcp}")
        template(name="all" type="list") {{
            constant(value="{{\"facility\":\"") property(name="syslogfacility-text")
            constant(value="\",\"severity\":\"") property(name="syslogseverity-text")
            constant(value="\",\"host\":\"") property(name="hostname")
            constant(value="\",\"app\":\"") property(name="app-name")
            constant(value="\",\"pid\":\"") property(name="procid")
            constant(value="\",\"id\":\"") property(name="msgid")
            constant(value="\",\"line\":") property(name="$!all-json")
            constant(value="}}\n")
        }}
        if $app-name == "bare" then {{
            action(type="mmjsonparse" cookie="")
        }} else if $app-name == "shop" then {{
            action(type="mmjsonparse")
        }}
        action(type="omfwd" Target="127.0.0.1" Port="{receiver}" Protocol="tcp" Template="all")
        "#
    )
}

/// Writes the line of a request with most fields.
async fn log_request(layer: AccessLogLayer) {
    let layer = layer
        .trust_request_id(true)
        .referer(true)
        .query(|_| "x=\"1\"".into());
    let service = layer.layer(service_fn(|mut request: Request<_>| async move {
        let exchange = Exchange::of(request.extensions_mut());
        let backend = |id: &str| Backend::new(id, "http://127.0.0.1:9001").unwrap();
        let first = exchange.begin_attempt(backend("a"));
        exchange.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
        exchange.begin_attempt(backend("b"));
        exchange.set_decision("round-robin", 2);
        drop::<Request<evenkeel::access_log::RequestBody<Empty<Bytes>>>>(request);
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("answer"))))
    }));
    let mut request = get("/p%20q?x=1");
    for (name, value) in [
        ("user-agent", "a \"b\"\\c @cee: {}"),
        ("referer", "https://shop.example/%%$!x"),
        ("x-request-id", "abc-1"),
    ] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    let conn = ConnInfo::new(
        Peer::Tcp("192.0.2.9:1234".parse().unwrap()),
        Peer::Tcp("[::1]:443".parse().unwrap()),
    );
    let mut tls = evenkeel::context::TlsInfo::default();
    (tls.version, tls.cipher) = ("TLSv1.3", "TLS_AES_128_GCM_SHA256");
    (tls.alpn, tls.sni) = (Some(Bytes::from_static(b"h2")), Some("shop.example".into()));
    conn.set_tls(tls);
    request.extensions_mut().insert(conn);
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
}

#[tokio::test]
async fn rsyslog_gets_every_field_over_each_of_its_sockets() {
    let Some(mut rsyslog) = Rsyslog::start().await else {
        println!("rsyslog_gets_every_field was NOT run: there is no rsyslogd");
        return;
    };
    let syslogs = [
        ("unix", Syslog::unix(rsyslog.folder.path().join("log"))),
        ("udp", Syslog::udp(format!("127.0.0.1:{}", rsyslog.udp))),
        ("tcp", Syslog::tcp(format!("127.0.0.1:{}", rsyslog.tcp))),
    ];
    for (transport, syslog) in syslogs {
        for cee in [true, false] {
            let node = format!("{transport}-{cee}");
            let syslog = syslog
                .clone()
                .facility(Facility::Local3)
                .hostname("lb-1")
                .unwrap()
                .app_name(if cee { "shop" } else { "bare" })
                .unwrap()
                .proc_id("4711")
                .unwrap()
                .cee(cee);
            let (log, sent) = (Log::new(), Lines::new(Format::Json, syslog.into()).unwrap());
            let tee = Tee::new(log.sink.clone(), sent.clone());
            log_request(AccessLogLayer::new(tee).node(&*node)).await;
            let message = rsyslog.message_of(&node);
            for (field, wanted) in [
                ("facility", "local3"),
                ("severity", "info"),
                ("host", "lb-1"),
                ("pid", "4711"),
                ("id", "access"),
            ] {
                assert_eq!(message[field], wanted, "{message}");
            }
            let line = log.one();
            assert!(line.as_object().unwrap().len() > 25, "{line}");
            assert_eq!(message["line"], line, "{node}");
            assert!(sent.flush());
            assert_eq!((sent.written(), sent.dropped()), (1, 0));
        }
    }
}
