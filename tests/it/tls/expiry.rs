//! The end of certificates: gauges, events and readiness, from a certificate that expires to its renewal.

use std::{
    io,
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use evenkeel::{
    Backend, Pool,
    connect::ClientTls,
    context::CertificateInfo,
    endpoints::{Endpoints, Readiness},
    metrics::MetricsService,
    settings::Settings,
    stats::{CertificateRegistry, Expiry, Stats},
    tls::{CertificateFuture, CertificateSource, ExpiryWatcher, OnDemand},
};
use http::Request;
use tokio::sync::Notify;

use super::*;
use crate::support::pki::connect;

const GAUGE: &str = "evenkeel_tls_certificate_expiry_timestamp_seconds";

/// Issues a certificate that ends at this time.
fn ending(authority: &Authority, names: &[&str], at: SystemTime) -> Issued {
    authority.issue_of(names, |params| {
        let since = at.duration_since(UNIX_EPOCH).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since;
    })
}

fn pem(issued: &Issued) -> Certificate {
    Certificate::pem(issued.chain.clone(), issued.key.clone())
}

fn days(days: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(days * 86_400)
}

/// The lines of the gauge.
fn gauges(metrics: &MetricsService) -> Vec<String> {
    let text = metrics.text();
    let lines = text.lines().filter(|line| line.starts_with(GAUGE));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_gauge_comes_and_goes_with_its_certificate() {
    let authority = Authority::new();
    let stats = Stats::new(Pool::new([]).unwrap());
    let metrics = MetricsService::new(stats.clone());
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    let put = |issued: &Issued| {
        std::fs::write(&chain, &issued.chain).unwrap();
        std::fs::write(&key, &issued.key).unwrap();
    };
    put(&ending(&authority, &["a.test"], days(20)));
    let certificates = Certificates::new([Certificate::files(&chain, &key)]).unwrap();
    certificates.show_in(&stats.certificates(), "127.0.0.1:443");
    let first = gauges(&metrics);
    assert_eq!(first.len(), 1, "{first:?}");
    let (labels, value) = first[0].rsplit_once(' ').unwrap();
    let wanted = "{listener=\"127.0.0.1:443\",name=\"a.test\",key=\"ECDSA\",serial=\"";
    assert!(labels.contains(wanted), "{labels}");
    let left = value.parse::<f64>().unwrap() - since_1970();
    assert!((19.9..20.1).contains(&(left / 86_400.0)), "{left}");

    // A reload replaces its series, and an insertion adds one, as automatic certificates do.
    put(&ending(&authority, &["a.test"], days(90)));
    assert!(certificates.reload().unwrap());
    let second = gauges(&metrics);
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(second, first, "another serial number");
    certificates
        .insert("b", pem(&ending(&authority, &["b.test"], days(10))))
        .unwrap();
    let both = gauges(&metrics);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(
        both[0].contains("name=\"b.test\""),
        "the first to expire: {both:?}"
    );
    assert!(certificates.remove("b"));
    assert_eq!(gauges(&metrics), second);

    // The one that backends see, as long as a client of them has it.
    let own = ending(&authority, &["me.test"], days(5));
    let client = ClientTls::new()
        .client_certificate(own.chain.as_bytes(), own.key.as_bytes())
        .unwrap();
    let shown = client.certificate().unwrap();
    stats
        .certificates()
        .add(CertificateRegistry::BACKENDS, shown);
    let with_backends = gauges(&metrics);
    assert!(with_backends[0].contains("{listener=\"backends\",name=\"me.test\""));
    drop(client);
    assert_eq!(gauges(&metrics), second);
    drop(certificates);
    assert!(gauges(&metrics).is_empty());
}

fn since_1970() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// Finds a certificate for each name.
struct Every(Authority);

impl CertificateSource for Every {
    fn certificate(&self, server_name: &str) -> CertificateFuture {
        let issued = self.0.issue(&[server_name]);
        CertificateFuture::new(async move { Ok(Some(pem(&issued))) })
    }
}

#[tokio::test]
async fn certificates_on_demand_share_one_series_however_many_names_clients_ask_for() {
    let source = Every(Authority::new());
    let client = source.0.client();
    let certificates = Certificates::empty();
    certificates.on_demand(OnDemand::new(source));
    let stats = Stats::new(Pool::new([]).unwrap());
    certificates.show_in(&stats.certificates(), "l");
    let server = Server::start(TlsLayer::new(TlsConfig::new(certificates.clone()))).await;
    let metrics = MetricsService::new(stats);
    for number in 0..5 {
        let name = format!("n{number}.test");
        let connected = connect(server.address, client.clone(), &name).await;
        connected.unwrap();
    }
    let text = metrics.text();
    assert!(
        text.contains("evenkeel_tls_certificates{listener=\"l\"} 5\n"),
        "{text}"
    );
    let gauges = gauges(&metrics);
    assert_eq!(gauges.len(), 1, "{gauges:?}");
    assert!(
        gauges[0].contains("name=\"on demand\",key=\"\",serial=\"\""),
        "{gauges:?}"
    );
}

/// The lines of tracing, and a signal for each.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<String>>, Arc<Notify>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap()
            .push_str(&String::from_utf8_lossy(bytes));
        self.1.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(super) fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Waits for a line with all of these.
    pub(super) async fn line(&self, parts: &[&str]) -> String {
        let found = async {
            loop {
                let text = self.0.lock().unwrap().clone();
                let found = text
                    .lines()
                    .find(|line| parts.iter().all(|p| line.contains(p)));
                if let Some(line) = found {
                    return line.to_owned();
                }
                self.1.notified().await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("{parts:?}: {}", self.0.lock().unwrap()))
    }

    pub(super) fn count(&self, part: &str) -> usize {
        self.0.lock().unwrap().matches(part).count()
    }
}

async fn ready(readiness: &Readiness) -> u16 {
    let request = Request::get("/ready").body(()).unwrap();
    let response = Endpoints::new(readiness.clone()).oneshot(request).await;
    response.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_certificate_is_logged_until_it_is_renewed_and_readiness_follows_if_asked_to() {
    let (log, _guard) = Log::start();
    let authority = Authority::new();
    let certificates = Certificates::empty();
    let insert = |id: &str, at| {
        let issued = ending(&authority, &[&format!("{id}.test")], at);
        certificates.insert(id, pem(&issued)).unwrap();
    };
    insert("warn", days(20));
    insert("far", days(60));
    let registry = CertificateRegistry::new();
    certificates.show_in(&registry, "l");
    let pool = Pool::new([Backend::new("a", "http://127.0.0.1:1").unwrap()]).unwrap();
    let (usual, strict) = (
        Readiness::new(pool.clone()),
        Readiness::new(pool).certificates(registry.clone()),
    );
    assert_eq!((ready(&usual).await, ready(&strict).await), (200, 200));
    let soon = SystemTime::now() + Duration::from_secs(8);
    insert("soon", soon);
    insert("renewed", soon);

    let _watcher = ExpiryWatcher::start(&registry, Duration::from_millis(20));
    let line = log
        .line(&["WARN", "name=\"warn.test\"", "listener=l"])
        .await;
    assert!(
        line.contains("days_left=19") && line.contains("issuer=\"CN="),
        "{line}"
    );
    for name in ["soon.test", "renewed.test"] {
        log.line(&["ERROR", "expires very soon", name]).await;
    }
    insert("renewed", days(90));
    log.line(&["ERROR", "has expired", "soon.test"]).await;
    assert_eq!((ready(&usual).await, ready(&strict).await), (200, 503));
    assert_eq!(strict.check().reasons, ["a certificate has expired"]);
    assert_eq!(log.count("warn.test"), 1, "once a day, not once a reading");
    assert_eq!(log.count("far.test"), 0);
    assert_eq!(log.count("soon.test"), 2, "once for each threshold");
    // A reading later, the old one of the same end has expired as well, if it still counted.
    insert("next", days(1));
    log.line(&["ERROR", "next.test"]).await;
    assert_eq!(
        log.count("renewed.test"),
        1,
        "the renewed one is not logged"
    );
    insert("soon", days(90));
    assert_eq!(ready(&strict).await, 200, "a renewal ends the alarm");
}

#[tokio::test]
async fn many_certificates_are_named_over_several_readings_at_their_level() {
    let (log, _guard) = Log::start();
    let authority = Authority::new();
    let certificates = Certificates::empty();
    for n in 0..130 {
        let issued = ending(&authority, &["many.test"], days(20));
        certificates.insert(&n.to_string(), pem(&issued)).unwrap();
    }
    let registry = CertificateRegistry::new();
    certificates.show_in(&registry, "l");
    let watcher = ExpiryWatcher::start(&registry, Duration::from_millis(20));
    let line = log.line(&["more certificates expire soon"]).await;
    assert!(
        line.contains("WARN") && line.contains("left_out=30"),
        "{line}"
    );
    while log.count("name=\"many.test\"") < 130 {
        tokio::time::timeout(PATIENCE, log.1.notified())
            .await
            .unwrap();
    }
    assert_eq!(log.count("left_out"), 1);
    assert_eq!(log.count("ERROR"), 0, "all are warnings");
    drop(watcher);
}

#[tokio::test]
async fn the_thresholds_of_the_registry_decide() {
    let (log, _guard) = Log::start();
    let authority = Authority::new();
    let certificate = pem(&ending(&authority, &["a.test"], days(50)));
    let certificates = Certificates::new([certificate]).unwrap();
    let day = Duration::from_secs(86_400);
    let registry = CertificateRegistry::new()
        .warn_before(60 * day)
        .error_before(51 * day);
    certificates.show_in(&registry, "l");
    let _watcher = ExpiryWatcher::start(&registry, ExpiryWatcher::INTERVAL);
    log.line(&["ERROR", "expires very soon", "a.test"]).await;
}

#[tokio::test]
async fn thresholds_readiness_and_the_own_certificate_come_from_settings() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let issued = ending(&authority, &["a.test"], days(15));
    std::fs::write(path("c.pem"), &issued.chain).unwrap();
    std::fs::write(path("k.pem"), &issued.key).unwrap();
    let text = |server: &str| {
        format!(
            "[server]\n{server}\n[[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n\
             [[pool.backends]]\nid = \"a\"\nurl = \"https://127.0.0.1:1\"\n\
             [proxy.tls]\nclient_certificate = {{ chain = {:?}, key = {:?} }}\n",
            path("c.pem"),
            path("k.pem"),
        )
    };
    let expired = certificate_info(&authority);
    let expiry = "certificate_expiry = { warn = \"10d\", error = \"1d\", unready = true }";
    for (server, wanted, status) in [("", Expiry::Warn, 200), (expiry, Expiry::Far, 503)] {
        let settings = Settings::from_toml(&text(server)).unwrap();
        let registry = settings.certificate_registry();
        let own = settings.client_certificate().unwrap();
        assert_eq!(own.name(), "a.test");
        assert_eq!(registry.expiry(own, SystemTime::now()), wanted, "{server}");
        registry.add(CertificateRegistry::BACKENDS, own);
        let readiness = settings.readiness(&settings.pool(), &registry);
        assert_eq!(ready(&readiness).await, 200, "{server}");
        registry.add("l", &expired);
        assert_eq!(ready(&readiness).await, status, "{server}");
        assert_eq!(registry.read().len(), 2);
    }
}

/// A certificate that has expired.
fn certificate_info(authority: &Authority) -> Arc<CertificateInfo> {
    let past = ending(
        authority,
        &["past.test"],
        UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    );
    let certificates = Certificates::new([pem(&past).any_validity(true)]).unwrap();
    certificates.in_force()[0].clone()
}
