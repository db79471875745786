//! Ten thousand certificates: how long a start takes, how much memory they hold, and what a change of
//! one does to the handshakes beside it.
//!
//! ```sh
//! cargo bench --features full --bench certificates             # two minutes once built
//! cargo bench --features full --bench certificates -- --test   # a hundred certificates, one round
//! ```
//!
//! Clients begin a handshake every few milliseconds, whatever became of those before, each with another
//! server name. The rounds without a change and those with changes take turns.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use evenkeel::{
    BoxError,
    context::{Conn, ConnInfo, Peer},
    tls::{Certificate, Certificates, TlsConfig, TlsLayer, TlsStream},
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs, pki_types::ServerName,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, interval},
};
use tokio_rustls::TlsConnector;
use tower::{Layer, ServiceExt, service_fn};

type Result<T> = std::result::Result<T, BoxError>;

fn main() -> Result<()> {
    let is_test = env::args().any(|arg| arg == "--test");
    let (count, rounds, time) = match is_test {
        true => (100, 1, Duration::from_millis(500)),
        false => (10_000, ROUNDS, ROUND),
    };
    let folder = tempfile::tempdir()?;
    let authority = authority()?;
    for n in 0..count {
        write(folder.path(), n, &authority)?;
    }

    let mut certificates = Certificates::empty();
    let mut least = Duration::MAX;
    for _ in 0..rounds {
        let began = Instant::now();
        certificates = Certificates::new((0..count).map(|n| files(folder.path(), n)))?;
        least = least.min(began.elapsed());
    }
    say(&format!(
        "start         {count} certificates{:9.0} ms",
        ms(least)
    ));
    // One after the other: only the allocations of this thread are counted.
    let (some, store) = (count / 10, Certificates::empty());
    let mut inserted = Ok(());
    let memory = allocation_counter::measure(|| {
        let mut each = 0..some;
        inserted = each.try_for_each(|n| store.insert(&n.to_string(), files(folder.path(), n)));
    });
    inserted?;
    let each = memory.bytes_current / some as i64;
    say(&format!(
        "memory        a certificate        {each:9} bytes"
    ));
    drop(store);

    let began = Instant::now();
    certificates.reload()?;
    say(&format!(
        "reload        nothing changed      {:9.0} ms",
        ms(began.elapsed())
    ));
    let list = || (0..count).map(|n| files(folder.path(), n));
    let began = Instant::now();
    certificates.replace(list())?;
    say(&format!(
        "replace       nothing changed      {:9.0} ms",
        ms(began.elapsed())
    ));
    let bench = Bench {
        count,
        time,
        authority,
        certificates,
        folder: folder.path().into(),
    };
    bench.insert()?;
    bench.handshakes(rounds)
}

struct Bench {
    count: usize,
    time: Duration,
    authority: CertifiedIssuer<'static, KeyPair>,
    certificates: Certificates,
    folder: PathBuf,
}

impl Bench {
    /// The time of a change of one certificate from memory, parsing included.
    fn insert(&self) -> Result<()> {
        let (chain, key) = issue("inserted.test", &self.authority)?;
        let certificate = Certificate::pem(chain, key);
        let mut least = Duration::MAX;
        for n in 0..100 {
            let began = Instant::now();
            self.certificates
                .insert(&n.to_string(), certificate.clone())?;
            least = least.min(began.elapsed());
        }
        for n in 0..100 {
            self.certificates.remove(&n.to_string());
        }
        say(&format!(
            "insert        one                  {:9.3} ms",
            ms(least)
        ));
        Ok(())
    }

    /// Handshakes in rounds that take turns: without a change, while one file after the other changes
    /// and all are read again without a pause, and while one certificate is replaced every millisecond.
    fn handshakes(&self, rounds: usize) -> Result<()> {
        let modes: [(&str, Change); 3] = [
            ("no change", |_, _| Ok(0)),
            ("reload of one", Self::reload),
            ("insert of one", Self::insert_again),
        ];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let address = runtime.block_on(serve(self.certificates.clone()))?;
        let client = client(&self.authority)?;
        let mut all = modes.map(|_| Vec::new());
        for _ in 0..rounds {
            for ((_, change), seen) in modes.iter().zip(&mut all) {
                seen.push(self.round(&runtime, address, &client, *change)?);
            }
        }
        let middle = |seen: &[Round], of: fn(&Round) -> f64| {
            let mut figures: Vec<_> = seen.iter().map(of).collect();
            figures.sort_unstable_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        let without = middle(&all[0], |round| round.p99);
        for ((name, _), seen) in modes.iter().zip(&all) {
            let p99 = middle(seen, |round| round.p99);
            say(&format!(
                "handshakes    {name:16}p50 {:7.2} ms  p99 {p99:7.2} ms  {:5.2} of the first; \
                 {:.0} handshakes, {:.0} changes a round",
                middle(seen, |round| round.p50),
                p99 / without,
                middle(seen, |round| round.handshakes as f64),
                middle(seen, |round| round.changes as f64),
            ));
        }
        Ok(())
    }

    fn round(
        &self,
        runtime: &Runtime,
        address: SocketAddr,
        client: &Arc<ClientConfig>,
        change: Change,
    ) -> Result<Round> {
        let ended = AtomicBool::new(false);
        let (changes, mut took) = std::thread::scope(|scope| {
            let changing = scope.spawn(|| change(self, &ended));
            let took = runtime.block_on(load(address, client, self.count, self.time));
            ended.store(true, Relaxed);
            let changes = changing
                .join()
                .unwrap_or_else(|_| Err("a change panicked".into()))?;
            took.map(|took| (changes, took))
        })?;
        took.sort_unstable();
        let at = |share: f64| ms(took[(took.len() as f64 * share) as usize]);
        Ok(Round {
            p50: at(0.5),
            p99: at(0.99),
            handshakes: took.len(),
            changes,
        })
    }

    fn reload(&self, ended: &AtomicBool) -> Result<usize> {
        let mut changes = 0;
        while !ended.load(Relaxed) {
            write(&self.folder, changes % self.count, &self.authority)?;
            if !self.certificates.reload()? {
                return Err("the change was not seen".into());
            }
            changes += 1;
        }
        Ok(changes)
    }

    fn insert_again(&self, ended: &AtomicBool) -> Result<usize> {
        let (chain, key) = issue("inserted.test", &self.authority)?;
        let certificate = Certificate::pem(chain, key);
        let mut changes = 0;
        while !ended.load(Relaxed) {
            self.certificates.insert("one", certificate.clone())?;
            changes += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(changes)
    }
}

/// Changes certificates until the round has ended; returns how often.
type Change = fn(&Bench, &AtomicBool) -> Result<usize>;

struct Round {
    p50: f64,
    p99: f64,
    handshakes: usize,
    changes: usize,
}

async fn serve(certificates: Certificates) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let tls = TlsLayer::new(TlsConfig::new(certificates));
    let service = tls.layer(service_fn(
        |mut conn: Conn<TlsStream<TcpStream>>| async move {
            conn.io.write_all(b"!").await?;
            conn.io.shutdown().await
        },
    ));
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let info = ConnInfo::new(Peer::Tcp(peer), Peer::Tcp(address));
            tokio::spawn(service.clone().oneshot(Conn::new(stream, info)));
        }
    });
    Ok(address)
}

/// Begins a handshake at each tick, and returns how long each took to the first byte.
async fn load(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    count: usize,
    time: Duration,
) -> Result<Vec<Duration>> {
    let mut running = JoinSet::new();
    let mut ticks = interval(EVERY);
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < time {
        ticks.tick().await;
        // Another shard of the table, and another page of memory, each time.
        number = (number + 7_919) % count;
        let connector = TlsConnector::from(client.clone());
        running.spawn(async move {
            let began = Instant::now();
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from(format!("h{number}.test"))?;
            let mut stream = connector.connect(name, stream).await?;
            stream.read_u8().await?;
            Result::Ok(began.elapsed())
        });
    }
    let mut took = Vec::new();
    while let Some(ended) = running.join_next().await {
        took.push(ended??);
    }
    Ok(took)
}

fn client(authority: &CertifiedIssuer<'static, KeyPair>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.as_ref().der().clone())?;
    let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    Ok(Arc::new(client))
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new([])?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "an authority for a bench");
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// The chain and the key of a certificate of ECDSA with P-256.
fn issue(name: &str, authority: &CertifiedIssuer<'static, KeyPair>) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new([name.to_owned()])?;
    let issued = params.signed_by(&key, authority)?;
    Ok((
        issued.pem() + &authority.as_ref().pem(),
        key.serialize_pem(),
    ))
}

fn write(folder: &Path, n: usize, authority: &CertifiedIssuer<'static, KeyPair>) -> Result<()> {
    let (chain, key) = issue(&format!("h{n}.test"), authority)?;
    fs::write(folder.join(format!("{n}.pem")), chain)?;
    fs::write(folder.join(format!("{n}-key.pem")), key)?;
    Ok(())
}

fn files(folder: &Path, n: usize) -> Certificate {
    let path = |name: String| folder.join(name);
    Certificate::files(path(format!("{n}.pem")), path(format!("{n}-key.pem")))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[expect(clippy::print_stdout, reason = "a bench talks to people")]
fn say(text: &str) {
    println!("{text}");
}

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(5);
/// 200 handshakes a second: the clients' half included, less than one core.
const EVERY: Duration = Duration::from_millis(5);
