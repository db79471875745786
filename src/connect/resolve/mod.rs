//! Resolution of the names of backends: look-ups that connections share, and last good addresses that
//! stay in use.
//!
//! ```text
//!   connections that dial ─┐                     ┌─ a task, 30 s at most ─▶ resolver
//!   reaper: refresh (5 s) ─┴▶ Name::look_up ─────┤
//!                              one at a time     └─▶ record ─▶ Answers: what is dialled, what is gone
//!                              for each name
//! ```
//!
//! | resolver | addresses known before | none known |
//! |---|---|---|
//! | answers | the new ones | the new ones |
//! | slow | those, after 100 ms; the answer serves the next connection | waits until the deadline |
//! | fails (SERVFAIL, unreachable) | those, without a limit | `Local` |
//! | denies the name (NXDOMAIN) | those for 60 s, then `Connect` | `Connect` |
//!
//! A look-up is a task of its own: it serves all connections that wait, and the future of the first
//! one may be dropped. `done` is a watch channel that is never written: its close, by the drop of
//! the sender, wakes all, also when the runtime ends.
//!
//! The state belongs to the backend (an attachment), not to the resolver: a backend that is removed
//! takes its names along.

mod answers;

use std::{
    fmt,
    future::Future,
    io,
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

pub(super) use self::answers::HOLD_TIME;
use self::answers::{Answers, Entry};
#[cfg(test)]
pub(super) use self::answers::{MAX_MISSES, MISS_INTERVAL};
use crate::{
    error::{BoxError, Error, ErrorKind},
    local_fault::LocalFault,
    pool::{Attachment, AttachmentKey, Backend},
};

/// A resolver of your own, in place of the operating system's.
///
/// ```
/// use evenkeel::connect::{Resolve, ResolveError, ResolveFuture};
///
/// #[derive(Debug)]
/// struct Fixed;
///
/// impl Resolve for Fixed {
///     fn resolve<'a>(&'a self, host: &'a str) -> ResolveFuture<'a> {
///         Box::pin(async move {
///             match host {
///                 "app.internal" => Ok(vec![([10, 0, 0, 7], 0).into()]),
///                 _ => Err(ResolveError::NotFound),
///             }
///         })
///     }
/// }
/// ```
pub trait Resolve: fmt::Debug + Send + Sync {
    /// Returns the addresses of `host`, the preferred one first. Their ports are ignored.
    ///
    /// Called on a task of its own, by one look-up of a name at a time. The future is dropped after 30 s.
    fn resolve<'a>(&'a self, host: &'a str) -> ResolveFuture<'a>;
}

/// The future of one look-up.
pub type ResolveFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, ResolveError>> + Send + 'a>>;

/// Why a look-up returned no address.
#[derive(Debug)]
#[non_exhaustive]
pub enum ResolveError {
    /// The look-up failed: the resolver is unreachable, or answered SERVFAIL. The last good addresses of
    /// the name stay in use.
    Failed(BoxError),
    /// The name does not exist, or has no address (NXDOMAIN, NODATA). Its last good addresses stay in use
    /// for 60 s.
    NotFound,
}

/// The address of a connection that was found by name.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedAddress {
    entry: Arc<Entry>,
    name: Weak<Name>,
}

impl ResolvedAddress {
    /// Returns true once the name no longer has the address: the connection is retired.
    pub(crate) fn is_gone(&self) -> bool {
        self.entry.is_gone()
    }

    /// Looks the name up in the background, at most every 5 s. A caller that keeps connections and opens
    /// none calls it, so that [`is_gone`](Self::is_gone) stays current.
    pub(crate) fn refresh(&self) {
        if let Some(name) = self.name.upgrade() {
            name.refresh();
        }
    }
}

/// The addresses of a name, from one look-up.
pub(super) struct Addresses {
    entries: Vec<Arc<Entry>>,
    name: Weak<Name>,
}

impl Addresses {
    pub(super) fn at(&self, port: u16) -> impl Iterator<Item = SocketAddr> {
        self.entries.iter().map(move |entry| {
            let mut address = entry.address;
            address.set_port(port);
            address
        })
    }

    /// Returns the address that a connection was made to.
    pub(super) fn resolved(&self, peer: SocketAddr) -> Option<ResolvedAddress> {
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| entry.address.ip() == peer.ip())?;
        Some(ResolvedAddress {
            entry: entry.clone(),
            name: self.name.clone(),
        })
    }
}

/// Returns the addresses of a backend's name, by the deadline. If some are known, it waits for the
/// resolver no longer than [`RESOLVER_WAIT`].
///
/// # Errors
///
/// `Local` if the resolver does not answer by the deadline, `Connect` if the name is denied and no
/// address is left.
pub(super) async fn addresses(
    backend: &Backend,
    host: &str,
    resolver: &Arc<dyn Resolve>,
    deadline: Instant,
) -> Result<Addresses, Error> {
    let names = backend.attachment(&NAMES, Names::default);
    let name = names.get(host, resolver);
    let entries = match timeout_at(deadline, name.entries(deadline)).await {
        Ok(found) => found?,
        Err(_) => {
            let why = format_args!("{host}: no answer in time");
            return Err(LocalFault::Resolver.error(&why));
        }
    };
    Ok(Addresses {
        entries,
        name: Arc::downgrade(&name),
    })
}

/// The names of one backend: its own, and those that checks connect to.
#[derive(Default)]
struct Names(Mutex<Vec<Arc<Name>>>);

impl Names {
    /// Compares the resolver by identity: two connectors may look the same name up in different
    /// ways.
    fn get(&self, host: &str, resolver: &Arc<dyn Resolve>) -> Arc<Name> {
        let mut names = lock(&self.0);
        let is_it =
            |name: &&Arc<Name>| *name.host == *host && Arc::ptr_eq(&name.resolver, resolver);
        if let Some(name) = names.iter().find(is_it) {
            return name.clone();
        }
        if names.len() >= MAX_NAMES {
            names.remove(0);
        }
        let name = Arc::new(Name {
            host: host.into(),
            resolver: resolver.clone(),
            state: Mutex::default(),
        });
        names.push(name.clone());
        name
    }
}

impl Attachment for Names {}

#[derive(Debug)]
struct Name {
    host: Box<str>,
    resolver: Arc<dyn Resolve>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answers: Answers,
    look_up: Option<LookUp>,
    /// The beginning and the reason of the last look-up that failed.
    failed: Option<(Instant, Failure)>,
}

/// A look-up. It runs until the sender of `done` is dropped.
#[derive(Clone, Debug)]
struct LookUp {
    began: Instant,
    done: watch::Receiver<()>,
}

/// Kept as text and kind, since many connections get the same failure and an `Error` cannot be
/// cloned.
#[derive(Clone, Debug)]
enum Failure {
    Local(LocalFault, Arc<str>),
    NotFound,
}

impl Name {
    /// The wait for the resolver is shorter if addresses are known: up to a quarter of the time
    /// that is left, so that dialling keeps the rest.
    async fn entries(self: &Arc<Self>, deadline: Instant) -> Result<Vec<Arc<Entry>>, Error> {
        // Twice, as the runtime that runs the look-up may end first.
        for _ in 0..2 {
            let LookUp { began, mut done } = self.look_up();
            if self.has_addresses() {
                // A slow look-up goes on in the background, and the next connection gets its result.
                let left = deadline.saturating_duration_since(Instant::now());
                let until = began + RESOLVER_WAIT.min(left / 4);
                drop(timeout_at(until, done.changed()).await);
            } else {
                drop(done.changed().await);
            }
            let state = lock(&self.state);
            if !state.answers.current().is_empty() {
                return Ok(state.answers.current().to_vec());
            }
            let failed = state.failed.clone();
            drop(state);
            // Only a failure of this look-up or a later one: an earlier one may be over.
            if let Some((_, failure)) = failed.filter(|(since, _)| *since >= began) {
                return Err(self.error(&failure));
            }
        }
        let why = format_args!("{}: the look-up was given up", self.host);
        Err(LocalFault::Resolver.error(&why))
    }

    /// Returns the look-up that runs, or begins one.
    ///
    /// Spawns on the runtime of the caller. Never waits; holds the lock for a few loads.
    fn look_up(self: &Arc<Self>) -> LookUp {
        let mut state = lock(&self.state);
        let running = state.look_up.as_ref();
        if let Some(running) = running.filter(|it| it.done.has_changed().is_ok()) {
            return running.clone();
        }
        let (end_of_lookup, done) = watch::channel(());
        let began = Instant::now();
        let look_up = LookUp { began, done };
        state.look_up = Some(look_up.clone());
        let name = self.clone();
        tokio::spawn(async move {
            let resolved = timeout(LOOKUP_TIMEOUT, name.resolver.resolve(&name.host)).await;
            let result =
                resolved.unwrap_or_else(|_| Err(ResolveError::Failed("no answer in 30 s".into())));
            // Before the sender is dropped: a connection that it wakes finds the result.
            name.record(began, result);
            drop(end_of_lookup);
        });
        look_up
    }

    fn refresh(self: &Arc<Self>) {
        let last = lock(&self.state).look_up.as_ref().map(|last| last.began);
        if last.is_none_or(|last| last.elapsed() >= REFRESH_INTERVAL) {
            self.look_up();
        }
    }

    fn has_addresses(&self) -> bool {
        !lock(&self.state).answers.current().is_empty()
    }

    fn record(&self, began: Instant, result: Result<Vec<SocketAddr>, ResolveError>) {
        let now = Instant::now();
        let host = &*self.host;
        let failure = match result {
            Ok(addresses) if !addresses.is_empty() => {
                let portless = |mut address: SocketAddr| {
                    address.set_port(0);
                    address
                };
                let addresses: Vec<_> = addresses.into_iter().map(portless).collect();
                lock(&self.state).answers.found(&addresses, now);
                return;
            }
            Ok(_) | Err(ResolveError::NotFound) => match missing_descriptor() {
                // A resolver that cannot open its own files may deny the name.
                Some(fault) => Failure::Local(fault, "the look-up".into()),
                None => Failure::NotFound,
            },
            Err(ResolveError::Failed(why)) => {
                let io = why.downcast_ref::<io::Error>().and_then(LocalFault::of);
                let fault = io.unwrap_or(LocalFault::Resolver);
                Failure::Local(fault, why.to_string().into())
            }
        };
        let mut state = lock(&self.state);
        let is_news = matches!(failure, Failure::NotFound) && state.answers.missing(now);
        state.failed = Some((began, failure.clone()));
        // Logging may be slow, and connections wait for the lock.
        drop(state);
        match failure {
            Failure::NotFound if is_news => tracing::warn!(
                target: "evenkeel::connect",
                host, hold = ?HOLD_TIME,
                "the resolver denies the name: its last addresses stay in use for the hold time"
            ),
            Failure::NotFound => {}
            Failure::Local(fault, why) => fault.report(&format_args!("{host}: {why}")),
        }
    }

    fn error(&self, failure: &Failure) -> Error {
        match failure {
            Failure::Local(fault, why) => fault.error(&format_args!("{}: {why}", self.host)),
            Failure::NotFound => Error::new(ErrorKind::Connect)
                .with_source(format!("the name {} has no address", self.host)),
        }
    }
}

/// The operating system's resolver. It runs on tokio's blocking threads.
#[derive(Debug)]
struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> ResolveFuture<'a> {
        Box::pin(async move {
            match tokio::net::lookup_host((host, 0)).await {
                Ok(addresses) => Ok(addresses.collect()),
                Err(error) if is_denial(&error) => Err(ResolveError::NotFound),
                Err(error) => Err(ResolveError::Failed(error.into())),
            }
        })
    }
}

/// One for the process, so that connectors with the default share the look-ups of a backend.
pub(super) fn system() -> Arc<dyn Resolve> {
    static SYSTEM: LazyLock<Arc<dyn Resolve>> = LazyLock::new(|| Arc::new(SystemResolver));
    SYSTEM.clone()
}

/// Returns true if an error of getaddrinfo denies the name (EAI_NONAME, EAI_NODATA). std passes on only
/// the text of the C library. It is in English, as the process sets no locale.
fn is_denial(error: &io::Error) -> bool {
    let text = error.to_string();
    DENIALS.iter().any(|denial| text.contains(denial))
}

/// Opens a socket and closes it: the C library reports EMFILE of its own files as an unknown name.
fn missing_descriptor() -> Option<LocalFault> {
    let socket = UdpSocket::bind("127.0.0.1:0");
    socket.err().as_ref().and_then(LocalFault::of)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static NAMES: LazyLock<AttachmentKey<Names>> = LazyLock::new(AttachmentKey::new);

/// Texts of glibc, musl, the BSDs and macOS. The texts for EAI_AGAIN and EAI_FAIL contain none of them.
const DENIALS: [&str; 4] = [
    "not known",
    "does not resolve",
    "No address associated",
    "no usable address",
];
/// A resolver nearby answers sooner. The rest of the connect time-out is left for dialling.
pub(super) const RESOLVER_WAIT: Duration = Duration::from_millis(100);
/// The C library gives up sooner, unless it has many servers to ask.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval of look-ups on behalf of connections that exist.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// A backend has one name, and its checks may have others.
const MAX_NAMES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with this address.
    #[derive(Debug)]
    struct Fixed(Mutex<[u8; 4]>);

    impl Resolve for Fixed {
        fn resolve<'a>(&'a self, _: &'a str) -> ResolveFuture<'a> {
            Box::pin(async { Ok(vec![(*lock(&self.0), 0).into()]) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stays_learns_that_its_name_moved() {
        let fixed = Arc::new(Fixed(Mutex::new([10, 0, 0, 1])));
        let resolver: Arc<dyn Resolve> = fixed.clone();
        let backend = Backend::new("a", "http://app.test:80").unwrap();
        let deadline = || Instant::now() + Duration::from_secs(2);
        let found = addresses(&backend, "app.test", &resolver, deadline()).await;
        let found = found.unwrap();
        let resolved = found.resolved(([10, 0, 0, 1], 80).into()).unwrap();
        *lock(&fixed.0) = [10, 0, 0, 2];
        let mut seconds = 0;
        while !resolved.is_gone() {
            resolved.refresh();
            tokio::time::sleep(Duration::from_secs(1)).await;
            seconds += 1;
            assert!(seconds <= 60, "it must be found out");
        }
        assert!(seconds > 20, "one answer is not enough: {seconds} s");
    }

    #[test]
    fn only_a_denial_denies() {
        for (text, denied) in [
            ("Name or service not known", true),
            ("No address associated with hostname", true),
            ("nodename nor servname provided, or not known", true),
            ("Name does not resolve", true),
            ("Name has no usable address", true),
            ("Temporary failure in name resolution", false),
            ("Non-recoverable failure in name resolution", false),
            ("Try again", false),
            ("SystemResolver error", false),
        ] {
            let error = format!("failed to lookup address information: {text}");
            assert_eq!(is_denial(&io::Error::other(error)), denied, "{text}");
        }
    }
}
