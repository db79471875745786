//! Clients that people use, each over a socket: HTTP/1.1 and HTTP/2, resumed sessions, certificates of
//! clients. A client that is not installed is named in the log of the test, which passes then.
#![cfg(all(
    feature = "server",
    feature = "http1",
    feature = "http2",
    feature = "access-log"
))]

mod chromium;
mod gnutls;
mod node;
mod openssl;
mod python;
mod scanners;

use std::{io, path::PathBuf, process::Stdio};

use evenkeel::{
    access_log::{AccessLogLayer, Lines, RequestBody},
    tls::{ClientAuth, ClientRoots, HostPolicy},
};
use http::{Request, header};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::*;
use crate::support::Written;

/// A server with a host for each thing that clients do. It answers every request with what it knows
/// of the session.
struct Site {
    port: u16,
    /// `ca.pem`, `own.pem` and `own-key.pem`: the authority, and a client's certificate.
    folder: TempDir,
    /// The certificate of the server.
    issued: Issued,
    /// The access log, as JSON.
    log: Written,
    serving: JoinHandle<()>,
}

impl Site {
    async fn start() -> Self {
        let authority = Authority::new();
        // As public authorities do; strict clients require it.
        let issue = |names: &[&str]| {
            authority.issue_of(names, |params| {
                params.use_authority_key_identifier_extension = true;
            })
        };
        let issued = issue(&HOSTS);
        let own = authority.issue_of(&["someone.test"], |params| {
            params.use_authority_key_identifier_extension = true;
            let name = &mut params.distinguished_name;
            *name = rcgen::DistinguishedName::new();
            name.push(rcgen::DnType::OrganizationName, "Example");
            name.push(rcgen::DnType::CommonName, "someone");
        });
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("ca.pem", &authority.pem()),
            ("own.pem", &own.chain),
            ("own-key.pem", &own.key),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let roots = || ClientRoots::pem(authority.pem());
        let required = ClientAuth::required(roots()).unwrap();
        let optional = ClientAuth::optional(roots()).unwrap();
        let old = HostPolicy::new().alpn(["http/1.1"]).unwrap();
        let config = config(&issued)
            .host("h1.test", old)
            .and_then(|c| c.host("required.test", HostPolicy::new().client_auth(required)))
            .and_then(|c| c.host("optional.test", HostPolicy::new().client_auth(optional)))
            .unwrap();
        let log = Written::default();
        let (port, serving) = serve_site(config, log.clone()).await;
        Self {
            port,
            folder,
            issued,
            log,
            serving,
        }
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    /// Waits for this many lines of the log, and takes them.
    async fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        let mut text = Vec::new();
        loop {
            text.extend(self.log.take());
            let lines = text
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            let lines: Vec<_> = lines.map(serde_json::from_slice).collect();
            if lines.len() >= count && text.ends_with(b"\n") {
                assert_eq!(lines.len(), count, "{lines:?}");
                return lines.into_iter().map(Result::unwrap).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asserts that the answers say these things, in this order.
    fn seen(&self, output: &str, wanted: &[&str]) {
        let answers: Vec<_> = output.lines().filter(|l| l.contains("alpn=")).collect();
        assert_eq!(answers.len(), wanted.len(), "{output}");
        for (answer, wanted) in answers.iter().zip(wanted) {
            assert!(answer.contains(wanted), "{wanted:?} in {output}");
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve_site(config: TlsConfig, log: Written) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = AccessLogLayer::new(Lines::writer(log).unwrap());
    let serve = evenkeel::serve(listener, log.layer(service_fn(answer)));
    let serve = serve.layer(TlsLayer::new(config));
    let serving = tokio::spawn(async move { serve.await.unwrap() });
    (port, serving)
}

async fn answer(
    request: Request<RequestBody<evenkeel::server::Body>>,
) -> Result<Response<Full<Bytes>>, BoxError> {
    let conn = ConnInfo::of(request.extensions()).unwrap();
    let described = describe(conn.tls().unwrap());
    let (version, path) = (request.version(), request.uri().path());
    let mut response = match path {
        "/page" => Response::new(Full::new(Bytes::from_static(chromium::PAGE))),
        _ => Response::new(Full::new(format!("{described} over {version:?}\n").into())),
    };
    let kind = if path == "/page" {
        "text/html"
    } else {
        "text/plain"
    };
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, kind.parse()?);
    if version < http::Version::HTTP_2 && path != "/keep" {
        // So that the next request needs a handshake.
        fields.insert(header::CONNECTION, "close".parse()?);
    }
    Ok(response)
}

/// Runs a client until it ends, and returns what it prints. `None` if it is not installed.
async fn run(program: &str, args: &[&str], input: &[u8]) -> Option<String> {
    run_command(Command::new(program).args(args), input).await
}

async fn run_command(command: &mut Command, input: &[u8]) -> Option<String> {
    let program = command.as_std().get_program().display().to_string();
    let mut child = spawn(command)?;
    let mut stdin = child.stdin.take().unwrap();
    // A client that has ended already takes nothing.
    let _ = stdin.write_all(input).await;
    // Some clients end with their input: it stays open until they end by themselves.
    let _open = (!input.is_empty()).then_some(stdin);
    let output = tokio::time::timeout(LONGEST, child.wait_with_output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("{program} must end"))
        .unwrap();
    let texts = [output.stdout, output.stderr];
    Some(
        texts
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .join("\n"),
    )
}

/// Starts a client whose input and output are pipes. `None` if it is not installed.
fn spawn(command: &mut Command) -> Option<Child> {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let program = command.as_std().get_program().display();
    match child {
        Ok(child) => Some(child),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            crate::support::not_run(&format!("{program} is not installed"));
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// A request of HTTP/1.1, for a client that sends bytes.
fn http1_request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").into_bytes()
}

/// A request of HTTP/2 and a GOAWAY, after which the server closes.
fn http2_request(host: &str) -> Vec<u8> {
    let length = u8::try_from(host.len()).unwrap();
    // Indexed fields of the static table: GET, https, /; then :authority (RFC 7541, appendix A).
    let fields = [&[0x82, 0x87, 0x84, 0x41, length][..], host.as_bytes()].concat();
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"\0\0\0\x04\0\0\0\0\0",
        &[0, 0, length + 5, 1, 5, 0, 0, 0, 1],
        &fields,
        b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ]
    .concat()
}

/// The names of the certificate. The first is served by the default policy.
const HOSTS: [&str; 4] = ["open.test", "h1.test", "required.test", "optional.test"];
/// A browser or a scanner on a machine that has a lot to do.
const LONGEST: Duration = Duration::from_secs(300);
