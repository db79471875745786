//! HAProxy and nginx as senders, and HAProxy as a backend.
//!
//! ```text
//! client ── 127.0.0.9 ──▶ haproxy or nginx ── PROXY protocol ──▶ evenkeel
//! ```
//!
//! They need Debian's packages `haproxy`, `nginx-light` and `libnginx-mod-stream`. Where one is missing, its
//! test says so and passes.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use tokio::net::TcpSocket;

use super::*;

/// A running sender; it ends when dropped.
pub(super) struct Sender {
    process: Child,
    pub(super) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Sender {
    fn drop(&mut self) {
        // A signal that nginx passes on to its worker.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.process.wait();
    }
}

impl Sender {
    /// Starts HAProxy in TCP mode; `None` if it is not installed. It inherits its listening socket, so
    /// that a connection waits in the socket until HAProxy runs.
    fn haproxy(ip: IpAddr, bind: &str, server: SocketAddr, options: &str) -> Option<Self> {
        let (listener, address, folder) = prepare(ip);
        let bind = bind.replace("FOLDER", folder.path().to_str().unwrap());
        let text = format!(
            "defaults\n mode tcp\n timeout connect 30s\n timeout client 60s\n timeout server 60s\n\
             frontend in\n bind fd@0 {bind}\n unique-id-format request-1\n default_backend out\n\
             backend out\n server s {server} {options}\n"
        );
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        start(command, listener, address, folder)
    }

    /// Starts HAProxy as a backend that expects the header, and answers with what it reads there.
    pub(super) fn haproxy_backend() -> Option<Self> {
        let (listener, address, folder) = prepare([127, 0, 0, 1].into());
        let seen = "%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_authority]";
        let text = format!(
            "defaults\n mode http\n timeout client 60s\n timeout server 60s\n timeout connect 30s\n\
             frontend in\n bind fd@0 accept-proxy\n \
             http-request return status 200 content-type text/plain lf-string \"{seen}\"\n"
        );
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        start(command, listener, address, folder)
    }

    /// Starts nginx with its stream module; `None` if it is not installed.
    fn nginx(server: SocketAddr) -> Option<Self> {
        let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
        if !std::path::Path::new(module).exists() {
            return None;
        }
        let (listener, address, folder) = prepare([127, 0, 0, 1].into());
        let path = folder.path().display();
        let text = format!(
            "load_module {module};\ndaemon off;\npid {path}/pid;\nerror_log {path}/log;\n\
             events {{}}\nstream {{ server {{ listen {address}; proxy_pass {server}; proxy_protocol on; }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("nginx");
        // The number of the socket that it inherits.
        command.env("NGINX", "0;").arg("-p").arg(folder.path());
        command.arg("-e").arg(folder.path().join("log"));
        command.arg("-c").arg(&file);
        start(command, listener, address, folder)
    }

    async fn connect(&self, from: &str) -> TcpStream {
        let from: IpAddr = from.parse().unwrap();
        let socket = match from {
            IpAddr::V4(_) => TcpSocket::new_v4().unwrap(),
            IpAddr::V6(_) => TcpSocket::new_v6().unwrap(),
        };
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Sends a request from this address through the sender. Returns what the server saw, and wants it to
    /// begin with the client's address and the one that it connected to.
    async fn relay(&self, from: &str) -> String {
        let mut stream = self.connect(from).await;
        let own = stream.local_addr().unwrap();
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await;
        let seen = body(&answer).strip_prefix(&format!("{own} {} ", self.address));
        seen.unwrap_or_else(|| panic!("{own}: {answer}")).to_owned()
    }
}

fn prepare(ip: IpAddr) -> (std::net::TcpListener, SocketAddr, tempfile::TempDir) {
    let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address, tempfile::tempdir().unwrap())
}

fn start(
    mut command: Command,
    listener: std::net::TcpListener,
    address: SocketAddr,
    folder: tempfile::TempDir,
) -> Option<Sender> {
    let socket = Stdio::from(OwnedFd::from(listener));
    let process = match command.stdin(socket).spawn() {
        Ok(process) => process,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{command:?}: {error}"),
    };
    Some(Sender {
        process,
        address,
        _folder: folder,
    })
}

pub(super) fn not_run(name: &str) {
    crate::support::not_run(&format!("{name} is not installed"));
}

#[tokio::test]
async fn haproxy_sends_both_versions() {
    let localhost: IpAddr = [127, 0, 0, 1].into();
    let server = Server::start(layer(), None).await;
    for (option, seen) in [("send-proxy", "v1"), ("send-proxy-v2", "v2")] {
        let Some(sender) = Sender::haproxy(localhost, "", server.address, option) else {
            return not_run("haproxy");
        };
        assert_eq!(sender.relay("127.0.0.9").await, seen);
        assert_eq!(sender.relay("127.0.0.10").await, seen);
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            not_run("IPv6");
            continue;
        }
        let ipv6 = Ipv6Addr::LOCALHOST.into();
        let sender = Sender::haproxy(ipv6, "", server.address, option).unwrap();
        assert_eq!(sender.relay("::1").await, seen);
    }
}

#[tokio::test]
async fn haproxy_sends_the_facts_of_its_tls_session() {
    let authority = pki::Authority::new();
    let issued = authority.issue(&["localhost"]);
    let server = Server::start(layer(), None).await;
    let options =
        "send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,authority,unique-id,crc32c";
    let pem = tempfile::NamedTempFile::new().unwrap();
    fs::write(pem.path(), format!("{}{}", issued.chain, issued.key)).unwrap();
    let bind = format!("ssl crt {} alpn http/1.1", pem.path().display());
    let sender = Sender::haproxy([127, 0, 0, 1].into(), &bind, server.address, options);
    let Some(sender) = sender else {
        return not_run("haproxy");
    };
    let stream = sender.connect("127.0.0.9").await;
    let own = stream.local_addr().unwrap();
    let client = authority.client_of(&[&rustls::version::TLS13]);
    let mut stream = pki::handshake(stream, client, "localhost").await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    let seen = body(&answer);
    for part in [
        &format!("{own} {} v2", sender.address),
        " authority=localhost",
        " alpn=http/1.1",
        " id=request-1",
        " tls=TLSv1.3",
        " cipher=TLS_",
        " verified=false",
    ] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
}

#[tokio::test]
async fn a_check_of_haproxy_is_local() {
    // The check has to pass before HAProxy uses the server.
    let options = "send-proxy-v2 check check-send-proxy inter 100ms\n option httpchk";
    let mut server = Server::start(layer(), None).await;
    let sender = Sender::haproxy([127, 0, 0, 1].into(), "", server.address, options);
    let Some(sender) = sender else {
        return not_run("haproxy");
    };
    let seen = tokio::time::timeout(LIMIT, server.requests.recv()).await;
    let seen = seen.expect("a check must come").unwrap();
    assert!(seen.starts_with("OPTIONS 127.0.0.1:"), "{seen}");
    assert!(seen.contains(" v2 local= via "), "{seen}");
    assert_eq!(sender.relay("127.0.0.9").await, "v2");
}

#[tokio::test]
async fn nginx_sends_version_1() {
    let server = Server::start(layer(), None).await;
    let Some(sender) = Sender::nginx(server.address) else {
        return not_run("nginx with its stream module");
    };
    assert_eq!(sender.relay("127.0.0.9").await, "v1");
    assert_eq!(sender.relay("127.0.0.10").await, "v1");
}
