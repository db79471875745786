//! The whole stack in one run, with nothing to prepare: three backends, a certificate, sticky
//! sessions, health checks, failover, an access log, metrics and a status page. One backend dies and
//! comes back while requests go on; none of them fails. The backend that came back gets little traffic at first: its
//! share grows from a tenth to the whole within 30 s (`pool::Routing::slow_start`).
//!
//! ```sh
//! cargo run --features full --example quickstart
//! curl -k https://127.0.0.1:8443/                          # in turn: a, b, c
//! curl -k -c jar -b jar https://127.0.0.1:8443/            # again and again: the same
//! curl -s http://127.0.0.1:9900/metrics                    # /status is the page, for a browser
//! ```

mod backends;
mod demonstration;
mod log;
mod operators;

use std::{fs::File, io, io::Read, net::Ipv4Addr, process::ExitCode, time::Duration};

use evenkeel::{
    BoxError, LoadBalancer, Pool,
    access_log::AccessLogLayer,
    failover::FailoverLayer,
    health::{Checks, HealthLayer},
    metrics::MetricsLayer,
    stats::Stats,
    sticky::{Keys, StickyLayer},
    tls::{Certificate, Certificates, HttpsRedirectLayer, TlsConfig, TlsLayer},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tower::Layer;

use crate::{
    backends::Backends,
    demonstration::{Demonstration, Ports},
    log::Log,
    operators::Operators,
};

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let backends = Backends::start().await?;
    let pool = Pool::new(backends.list()?)?;

    // The layers between a client and the backends, one line each.
    let log = Log::new()?;
    let access_log = AccessLogLayer::new(log.clone()).node("quickstart");
    let stats = Stats::new(pool.clone());
    let metrics = MetricsLayer::new(stats.clone());
    let balancer = LoadBalancer::builder(pool.clone())
        .metrics(metrics.clone())?
        .access_log(access_log.clone())
        .sticky(StickyLayer::new(pool.clone(), Keys::new(random_key()?)))?
        .failover(FailoverLayer::new())
        .health(HealthLayer::new(pool.clone()).checks(every_second())?)?
        .build();

    // Three listeners: https, http that redirects there, and one for operators.
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let own = rcgen::generate_simple_self_signed(names)?;
    let certificate = Certificate::pem(own.cert.pem(), own.signing_key.serialize_pem());
    let tls = TlsLayer::new(TlsConfig::new(Certificates::new([certificate])?));
    let (https, http) = (listen(8443).await?, listen(8080).await?);
    let https_port = https.local_addr()?.port();
    let http_port = http.local_addr()?.port();
    let redirect = HttpsRedirectLayer::new().port(https_port);
    let (stop, stopped) = watch::channel(());
    let secure = evenkeel::serve(https, balancer.clone())
        .events((metrics, access_log))
        .shutdown(stop_signal(stopped.clone()))
        .drain_timeout(DRAIN)
        .layer(tls);
    let plain = evenkeel::serve(http, redirect.layer(balancer))
        .shutdown(stop_signal(stopped))
        .drain_timeout(DRAIN);
    let operators = Operators::start(&pool, stats).await?;
    let served = async { tokio::try_join!(secure, plain) };

    let ports = Ports {
        https: https_port,
        http: http_port,
        operators: operators.port,
    };
    let mut demonstration = Demonstration::new(ports, &own.cert.pem(), log, pool.subscribe())?;
    // Before anything is printed: a reader of it may send a signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    demonstration.introduce(&operators.token);
    let demonstrated = async {
        tokio::select! {
            () = demonstration.run(backends) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // The checks end with the process: no event says so.
        pool.close();
        operators.page.close();
        stop.send_replace(());
        demonstration.failed()
    };
    let (served, failed) = tokio::join!(served, demonstrated);
    served?;
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn every_second() -> Checks {
    Checks::new()
        .interval(Duration::from_secs(1))
        .timeout(Duration::from_millis(500))
}

/// Binds the port, or a free one where it is taken.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
    }
}

/// Makes a key. In production it comes from a secret store and is the same on every instance.
fn random_key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

async fn stop_signal(mut stopped: watch::Receiver<()>) {
    drop(stopped.changed().await);
}

/// Enough for requests in flight to end.
const DRAIN: Duration = Duration::from_millis(500);
