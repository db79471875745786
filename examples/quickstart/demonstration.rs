//! The demonstration: requests of its own, counted by second, and the health of the backends.

use std::{io, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError,
    connect::{ClientTls, Connector},
    context::Selected,
    pool::{Event, EventKind, Events},
    proxy::Proxy,
};
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use tokio::{
    task::JoinSet,
    time::{Instant, interval_at, sleep_until},
};
use tower::Service;

use crate::{
    backends::{Backends, NAMES},
    log::{Log, USER_AGENT},
};

pub(crate) struct Ports {
    pub(crate) https: u16,
    pub(crate) http: u16,
    pub(crate) operators: u16,
}

pub(crate) struct Demonstration {
    /// A proxy is also a client: this one sends requests to the server.
    client: Proxy,
    server: Backend,
    ports: Ports,
    log: Log,
    events: Events,
    answered: [usize; NAMES.len()],
    requests: usize,
    failures: Vec<String>,
}

impl Demonstration {
    pub(crate) fn new(
        ports: Ports,
        certificate: &str,
        log: Log,
        events: Events,
    ) -> Result<Self, BoxError> {
        let tls = ClientTls::roots_pem(certificate.as_bytes())?;
        Ok(Self {
            client: Proxy::new().connector(Connector::new().tls(tls)),
            server: Backend::new("server", &format!("https://127.0.0.1:{}", ports.https))?,
            ports,
            log,
            events,
            answered: [0; NAMES.len()],
            requests: 0,
            failures: Vec::new(),
        })
    }

    pub(crate) fn introduce(&self, token: &str) {
        let Ports {
            https,
            http,
            operators,
        } = self.ports;
        say(&format!(
            "evenkeel quickstart: three backends behind one address

  https://127.0.0.1:{https}/
  http://127.0.0.1:{http}/   redirects there

Try, in another terminal:

  curl -k  https://127.0.0.1:{https}/                   # in turn: a, b, c
  curl -k  https://127.0.0.1:{https}/ -c jar -b jar     # again: the same one, by its cookie
  curl -ki https://127.0.0.1:{https}/ --http1.1         # with the header fields
  curl -i  http://127.0.0.1:{http}/                    # 308, to https
  curl -s  http://127.0.0.1:{operators}/metrics             # for Prometheus
  curl -H 'authorization: Bearer {token}' -X POST \\
           http://127.0.0.1:{operators}/backends/c/drain    # no new sessions there

In a browser, http://127.0.0.1:{operators}/status shows backend {VICTIM} die and come back; its buttons
drain a backend with the token {token}.

Your requests are logged here, one JSON line each. Meanwhile the demonstration
sends {RATE} requests a second; backend {VICTIM} dies after {STOP} s and comes back after {RESTART} s.

A backend that came back gets a tenth of its share at first, and its whole share after 30 s (slow
start), so that its caches and connections are warm before the load is full.
",
            VICTIM = NAMES[VICTIM],
        ));
    }

    /// Runs the schedule, prints the result, and then never returns: the server goes on.
    pub(crate) async fn run(&mut self, mut backends: Backends) {
        if let Err(error) = self.run_schedule(&mut backends).await {
            self.failures.push(error.to_string());
        }
        let second = self.log.second_tries();
        match self.numbers().await {
            Ok(numbers) => say(&numbers),
            Err(error) => self.failures.push(error.to_string()),
        }
        say(&match self.failures.first() {
            None => format!(
                "\n{} requests, and none failed: {second} met the dead backend and were answered by\n\
                 another. The server goes on; Ctrl-C ends it.\n",
                self.requests
            ),
            Some(first) => format!(
                "\n{} of {} requests FAILED, the first with: {first}\n",
                self.failures.len(),
                self.requests
            ),
        });
        std::future::pending().await
    }

    /// Asks for the metrics, and returns those that tell what happened.
    async fn numbers(&mut self) -> Result<String, BoxError> {
        let url = format!("http://127.0.0.1:{}", self.ports.operators);
        let mut request = Request::get("/metrics").body(Empty::<Bytes>::new())?;
        let operators = Selected(Backend::new("operators", &url)?);
        request.extensions_mut().insert(operators);
        let response = self.client.call(request).await?;
        let text = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8(text.to_vec())?;
        let is_shown = |line: &&str| SHOWN.iter().any(|name| line.starts_with(name));
        let shown: Vec<_> = text.lines().filter(is_shown).collect();
        Ok(format!(
            "\nWhat the metrics say: which backend failed, and that retries hid it from clients.\n  {}",
            shown.join("\n  ")
        ))
    }

    pub(crate) fn failed(&self) -> usize {
        self.failures.len()
    }

    async fn run_schedule(&mut self, backends: &mut Backends) -> io::Result<()> {
        say("          answered by\n second     a    b    c   failed");
        let began = Instant::now();
        for second in 1..=END {
            match second - 1 {
                STOP => {
                    say(&format!("            backend {} is stopped", NAMES[VICTIM]));
                    backends.stop(VICTIM).await;
                }
                RESTART => {
                    say(&format!("            backend {} is started", NAMES[VICTIM]));
                    backends.restart(VICTIM).await?;
                }
                _ => {}
            }
            let before = self.failures.len();
            self.requests_until(began + Duration::from_secs(second))
                .await;
            let [a, b, c] = std::mem::take(&mut self.answered);
            let failed = self.failures.len() - before;
            say(&format!("{second:>7} {a:>5} {b:>4} {c:>4} {failed:>8}"));
        }
        Ok(())
    }

    /// Sends the requests of one second at a steady pace, and waits for their answers. If the
    /// machine is late, requests are sent faster: each second has all of its own.
    async fn requests_until(&mut self, end: Instant) {
        const SECOND: Duration = Duration::from_secs(1);
        let mut pace = interval_at(end - SECOND, SECOND / RATE);
        let mut left = RATE;
        let mut running = JoinSet::new();
        let mut over = std::pin::pin!(sleep_until(end));
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.next() => print_event(&event),
                Some(done) = running.join_next() => self.count(done.map_err(Into::into)),
                _ = pace.tick(), if left > 0 => {
                    left -= 1;
                    running.spawn(ask(self.client.clone(), self.server.clone()));
                }
                () = &mut over, if left == 0 => break,
            }
        }
        while let Some(done) = running.join_next().await {
            self.count(done.map_err(Into::into));
        }
    }

    fn count(&mut self, done: Result<Result<String, BoxError>, BoxError>) {
        self.requests += 1;
        match done.and_then(|answer| answer) {
            Ok(name) => match NAMES.iter().position(|known| *known == name) {
                Some(nth) => self.answered[nth] += 1,
                None => self.failures.push(format!("an answer by {name:?}")),
            },
            Err(error) => self.failures.push(error.to_string()),
        }
    }
}

/// Sends one request to the server; returns the name of the backend that answered.
async fn ask(mut client: Proxy, server: Backend) -> Result<String, BoxError> {
    let mut request = Request::get("/")
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())?;
    request.extensions_mut().insert(Selected(server));
    let response = client.call(request).await?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()).into());
    }
    let name = response.headers().get("x-backend");
    let name = name.map_or(Ok(""), |name| name.to_str())?.to_owned();
    response.into_body().collect().await?;
    Ok(name)
}

fn print_event(event: &Event) {
    if let EventKind::Health(change) = &event.kind {
        let (from, to) = (change.from.as_str(), change.to.as_str());
        let (id, why) = (event.backend.id(), &change.reason);
        say(&format!("            backend {id}: {from} -> {to}, {why}"));
    }
}

#[expect(clippy::print_stdout, reason = "the example prints to a terminal")]
fn say(text: &str) {
    println!("{text}");
}

/// The metrics that tell what happened.
const SHOWN: [&str; 3] = [
    "evenkeel_requests_total{",
    "evenkeel_backend_retries_total{",
    "evenkeel_backend_health_transitions_total{",
];
/// The backend that dies.
const VICTIM: usize = 1;
/// Requests a second.
const RATE: u32 = 50;
/// The seconds at which it dies and is started again, and the last one.
const STOP: u64 = 3;
const RESTART: u64 = 7;
const END: u64 = 12;
