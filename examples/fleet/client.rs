//! The clients: a process in a namespace of its own, with a constant rate of requests.
//!
//! Half of the requests open a connection, half use a pool of them. The process takes commands from
//! its standard input: `mark` names the present moment, `settle` waits for the requests in flight,
//! `end` ends the load and lists the requests.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::BoxError;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{process::Process, world::World};

/// What became of one request. The times are microseconds since the load began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// Which of the virtual addresses it went to.
    pub(crate) target: usize,
    pub(crate) pooled: bool,
    /// The backend that answered, or why there was no answer with 200.
    pub(crate) result: Result<String, String>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, text) = match &self.result {
            Ok(backend) => ("ok", backend),
            Err(why) => ("failed", why),
        };
        let Self {
            began,
            ended,
            target,
            pooled,
            ..
        } = self;
        write!(f, "{began} {ended} {target} {pooled} {kind} {text}")
    }
}

impl FromStr for Record {
    type Err = BoxError;

    fn from_str(line: &str) -> Result<Self, BoxError> {
        let parts: Vec<&str> = line.splitn(6, ' ').collect();
        let [began, ended, target, pooled, kind, text] = parts[..] else {
            return Err(format!("the load wrote {line:?}").into());
        };
        Ok(Self {
            began: began.parse()?,
            ended: ended.parse()?,
            target: target.parse()?,
            pooled: pooled.parse()?,
            result: match kind {
                "ok" => Ok(text.to_owned()),
                _ => Err(text.to_owned()),
            },
        })
    }
}

/// The load, seen from the experiment.
pub(crate) struct Load {
    process: Process,
}

impl Load {
    pub(crate) async fn start(world: &World, vips: &[&str]) -> Result<Self, BoxError> {
        let own = std::env::current_exe()?;
        let mut command = world.command("client", &own.display().to_string());
        command.arg(BE_CLIENT).args(vips);
        let mut process = Process::start("the load", command)?;
        process.line("began").await?;
        Ok(Self { process })
    }

    /// Returns the present moment on the clock of the load.
    pub(crate) async fn mark(&mut self) -> Result<u64, BoxError> {
        self.process.tell("mark").await?;
        let line = self.process.line("marked ").await?;
        Ok(line.trim_start_matches("marked ").parse()?)
    }

    /// Waits until every request that has begun by now has ended.
    pub(crate) async fn settle(&mut self) -> Result<(), BoxError> {
        self.process.tell("settle").await?;
        self.process.line("settled").await?;
        Ok(())
    }

    /// Ends it, waits for the answers, and returns all requests in the order of their beginnings.
    pub(crate) async fn end(mut self) -> Result<Vec<Record>, BoxError> {
        self.process.tell("end").await?;
        self.process.line("requests").await?;
        let mut records = Vec::new();
        while let Some(line) = self.process.next_line().await {
            if line == "done" {
                records.sort_by_key(|record: &Record| record.began);
                return Ok(records);
            }
            records.push(line.parse()?);
        }
        Err("the load ended early".into())
    }
}

/// The numbers of the requests that have not ended.
type InFlight = Arc<Mutex<BTreeSet<usize>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Pooled = Client<HttpConnector, Empty<Bytes>>;

/// Runs as the load, until its standard input ends.
#[expect(clippy::print_stdout, reason = "the experiment reads it")]
pub(crate) async fn serve(vips: &[String]) -> Result<(), BoxError> {
    let began = Instant::now();
    let now = move || u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let pooled: Pooled = Client::builder(TokioExecutor::new()).build_http();
    let fresh: Pooled = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build_http();
    let urls = vips.iter().map(|vip| format!("http://{vip}/").parse());
    let urls: Vec<Uri> = urls.collect::<Result<_, _>>()?;
    let mut commands = BufReader::new(stdin()).lines();
    let mut pace = interval(Duration::from_secs(1) / RATE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut running, mut number) = (JoinSet::new(), 0);
    let in_flight = InFlight::default();
    // The first request that `settle` does not wait for.
    let mut settles = None;
    println!("began");
    loop {
        tokio::select! {
            command = commands.next_line() => match command?.as_deref() {
                Some("mark") => println!("marked {}", now()),
                Some("settle") => settles = Some(number + 1),
                Some("end") => break,
                Some(other) => return Err(format!("unknown command {other}").into()),
                None => return Ok(()),
            },
            _ = pace.tick() => {
                if settles.is_some_and(|next| lock(&in_flight).range(..next).next().is_none()) {
                    settles = None;
                    println!("settled");
                }
                number += 1;
                lock(&in_flight).insert(number);
                // Each address gets both kinds.
                let (own, in_flight) = (number, in_flight.clone());
                let (is_pooled, target) = (number % 2 == 0, number / 2 % urls.len());
                let client = if is_pooled { pooled.clone() } else { fresh.clone() };
                let url = urls[target].clone();
                running.spawn(async move {
                    let began = now();
                    let result = ask(client, url).await.map_err(|error| one_line(&*error));
                    lock(&in_flight).remove(&own);
                    Record { began, ended: now(), target, pooled: is_pooled, result }
                });
            }
        }
    }
    let records = running.join_all().await;
    println!("requests {}", records.len());
    for record in records {
        println!("{record}");
    }
    println!("done");
    Ok(())
}

async fn ask(client: Pooled, url: Uri) -> Result<String, BoxError> {
    let request = Request::get(url).body(Empty::new())?;
    let answer = async {
        let (head, body) = client.request(request).await?.into_parts();
        body.collect().await?;
        Ok::<_, BoxError>(head)
    };
    let head = timeout(PATIENCE, answer).await??;
    if head.status != 200 {
        return Err(format!("status {}", head.status).into());
    }
    let backend = head.headers.get("x-backend").ok_or("no x-backend field")?;
    Ok(backend.to_str()?.to_owned())
}

/// Returns an error and its causes.
fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// The argument with which the experiment starts this program as the load.
pub(crate) const BE_CLIENT: &str = "--be-client";
/// Requests a second.
pub(crate) const RATE: u32 = 500;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
