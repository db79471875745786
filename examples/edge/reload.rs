//! Reload on SIGHUP: it replaces settings while requests go on.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use evenkeel::{
    BoxError, LoadBalancer, Pool,
    access_log::AccessLogLayer,
    context::CertificateInfo,
    fleet::{FleetHandle, handover::Start},
    metrics::MetricsLayer,
    settings::{AdminToken, ListenSettings, LogOutputs, ProxyTlsSettings, Sections, Settings},
    stats::CertificateRegistry,
    tls::{Certificate, Certificates, TicketSecret},
};

use crate::{app::App, fleet, operators, state_file, upgrade};

/// The running parts, and the settings that they were made of.
pub(crate) struct Running {
    /// Keys that need a restart keep the values of the start, so that each reload is compared with
    /// what runs.
    pub(crate) sections: Sections,
    pub(crate) pool: Pool,
    pub(crate) log: Option<(LogOutputs, AccessLogLayer)>,
    pub(crate) metrics: Option<MetricsLayer>,
    /// One for each worker.
    pub(crate) apps: Vec<App>,
    /// One for each listener.
    pub(crate) certificates: Vec<Option<Certificates>>,
    /// All certificates in force: those of the listeners, and the one that backends see.
    pub(crate) registry: CertificateRegistry,
    /// The certificate that backends see, as the registry shows it.
    client_certificate: Option<Arc<CertificateInfo>>,
    pub(crate) state_file: Option<PathBuf>,
    pub(crate) fleet: Option<Arc<FleetHandle>>,
    admin_token: Option<AdminToken>,
}

impl Running {
    pub(crate) async fn new(
        settings: &Settings,
        certificates: Vec<Option<Certificates>>,
        tickets: Option<&TicketSecret>,
        threads: NonZeroUsize,
        start: &mut Start,
    ) -> Result<Self, BoxError> {
        let pool = settings.pool();
        let log = settings.access_log()?;
        let state_file = state_file(settings).map(Path::to_owned);
        // Before the layers are made, because checks begin then. Without checks, nothing would correct
        // a backend that was unhealthy.
        if settings.health.is_some() {
            start.restore_health(upgrade::POOL, &pool);
        }
        if let (Some(path), None) = (&state_file, start.predecessor()) {
            state_file::restore(path, &pool);
        }
        let fleet = fleet::join(settings, &pool, tickets).await?;
        fleet::take_over(fleet.as_ref(), start, &pool);
        let registry = settings.certificate_registry();
        let client_certificate = show_client_certificate(settings, &registry);
        let metrics = operators::metrics_layer(settings, &pool, &registry);
        fleet::add_gauge(fleet.as_ref(), metrics.as_ref());
        let recorders = (log.as_ref().map(|(_, layer)| layer), metrics.as_ref());
        let apps = balancers(settings, &pool, recorders, threads.get())?;
        Ok(Self {
            apps: apps.into_iter().map(App::new).collect(),
            sections: (**settings).clone(),
            pool,
            log,
            metrics,
            certificates,
            registry,
            client_certificate,
            state_file,
            fleet,
            admin_token: settings.admin_token()?,
        })
    }

    /// Reads the file again, and logs what changed. If there is a mistake, logs it and changes
    /// nothing.
    pub(crate) fn reload(&mut self, path: &str) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!("{path}: {error}; the last good settings stay");
                return;
            }
        };
        // The running process has these files open; only the next start would fail.
        let (later, mistakes): (Vec<_>, Vec<_>) = Settings::mistakes(&text)
            .into_iter()
            .partition(|mistake| OPEN_FILES.contains(&mistake.location()));
        for mistake in &mistakes {
            tracing::error!("{path}: {mistake}; the last good settings stay");
        }
        if !mistakes.is_empty() {
            return;
        }
        for mistake in &later {
            tracing::warn!("{path}: {mistake}; a restart would fail");
        }
        let reloaded = Settings::from_toml(&text).map_err(BoxError::from);
        if let Err(error) = reloaded.and_then(|new| self.take_over(&new)) {
            tracing::error!("{path}: {error}; the last good settings stay");
        }
    }

    fn take_over(&mut self, new: &Settings) -> Result<(), BoxError> {
        let restarts = self.needs_restart(new);
        let sections = self.as_it_will_run((**new).clone());
        let changed = changed(&sections, &self.sections);
        // The pool keeps the tables of strategies and sessions; new layers are made only if their
        // sections changed.
        let log_layer = self.log.as_ref().map(|(_, layer)| layer);
        let recorders = (log_layer, self.metrics.as_ref());
        let balancers = match same_layers(&sections, &self.sections) {
            true => Vec::new(),
            false => balancers(new, &self.pool, recorders, self.apps.len())?,
        };
        for (listen, certificates) in sections.listen.iter().zip(&self.certificates) {
            if let (Some(tls), Some(certificates)) = (&listen.tls, certificates) {
                let files = tls.certificates.iter();
                let files = files.map(|c| Certificate::files(&c.chain, &c.key));
                match files.len() {
                    // Beside automatic certificates, there may be none from files.
                    0 if tls.acme.is_some() => certificates.clear_list(),
                    // The section is there now, which needs a restart.
                    0 => {}
                    _ => certificates.replace(files)?,
                }
            }
        }
        self.pool.replace(new.backends())?;
        self.pool.update_routing(new.routing());
        if !balancers.is_empty() {
            self.client_certificate = show_client_certificate(new, &self.registry);
        }
        for (app, balancer) in self.apps.iter().zip(balancers) {
            app.replace(balancer);
        }
        self.sections = sections;
        match changed.is_empty() {
            true => tracing::info!("settings read again: what runs is as they say"),
            false => tracing::info!("settings read again: {} changed", changed.join(", ")),
        }
        for section in restarts {
            tracing::warn!("{section} changed: that needs a restart");
        }
        Ok(())
    }

    /// Returns the sections whose changes need a restart.
    fn needs_restart(&self, new: &Settings) -> Vec<String> {
        let runs = &self.sections;
        let sections = [
            (
                "[server] threads",
                new.server.threads == runs.server.threads,
            ),
            (
                "[server] shutdown",
                new.server.shutdown == runs.server.shutdown,
            ),
            (
                "[server] certificate_expiry",
                new.server.certificate_expiry == runs.server.certificate_expiry,
            ),
            ("[access_log]", new.access_log == runs.access_log),
            ("[admin]", new.admin == runs.admin),
            ("[fleet]", new.fleet == runs.fleet),
            (
                // Its path may be the same. A file that cannot be read was a mistake already.
                "[admin] token_file",
                new.admin_token()
                    .is_ok_and(|token| token == self.admin_token),
            ),
            (
                "[health] state_file",
                state_file(new) == self.state_file.as_deref(),
            ),
        ];
        let sections = sections.into_iter().filter(|(_, same)| !same);
        let mut found: Vec<_> = sections.map(|(name, _)| name.to_owned()).collect();
        let mut left: Vec<_> = new.listen.iter().collect();
        for listen in &runs.listen {
            match left
                .iter()
                .position(|other| other.address == listen.address)
            {
                Some(at) if fixed(left[at]) == fixed(listen) => drop(left.remove(at)),
                Some(at) => {
                    left.remove(at);
                    found.push(format!("[[listen]] {}", listen.address));
                }
                None => found.push(format!("[[listen]] {} (removed)", listen.address)),
            }
        }
        found.extend(
            left.iter()
                .map(|new| format!("[[listen]] {} (new)", new.address)),
        );
        found
    }

    /// Replaces values that need a restart by the running ones.
    fn as_it_will_run(&self, mut new: Sections) -> Sections {
        let runs = &self.sections;
        let mut given = std::mem::replace(&mut new.listen, runs.listen.clone());
        for listen in &mut new.listen {
            let at = given.iter().position(|new| new.address == listen.address);
            let tls = at.and_then(|at| given.remove(at).tls);
            if let (Some(tls), Some(given)) = (&mut listen.tls, tls) {
                tls.certificates = given.certificates;
            }
        }
        new.server.threads = runs.server.threads;
        new.server.shutdown = runs.server.shutdown.clone();
        new.server.certificate_expiry = runs.server.certificate_expiry.clone();
        new.access_log = runs.access_log.clone();
        new.admin = runs.admin.clone();
        new.fleet = runs.fleet.clone();
        if let Some(health) = &mut new.health {
            health.state_file = self.state_file.clone();
        }
        new
    }
}

/// Returns the sections that differ.
fn changed(new: &Sections, old: &Sections) -> Vec<&'static str> {
    let routes = |sections: &Sections| {
        let pool = &sections.pool;
        (pool.panic, pool.slow_start, pool.overprovisioning)
    };
    let same = [
        ("[server] locality", new.server == old.server),
        ("[listen.tls] certificates", new.listen == old.listen),
        (
            "[pool]",
            new.pool.chooses_like(&old.pool) && routes(new) == routes(old),
        ),
        ("[[pool.backends]]", new.pool.backends == old.pool.backends),
        ("[health]", new.health == old.health),
        ("[sticky]", new.sticky == old.sticky),
        ("[proxy]", new.proxy == old.proxy),
        ("[failover]", new.failover == old.failover),
        ("[trace]", new.trace == old.trace),
    ];
    let changed = same.iter().filter(|(_, same)| !same);
    changed.map(|(name, _)| *name).collect()
}

/// Returns the part of a listener that a reload cannot change: all but its certificates.
fn fixed(listen: &ListenSettings) -> ListenSettings {
    let mut listen = listen.clone();
    if let Some(tls) = &mut listen.tls {
        tls.certificates.clear();
    }
    listen
}

/// Returns the path of the state file.
fn state_file(sections: &Sections) -> Option<&Path> {
    sections.health.as_ref()?.state_file.as_deref()
}

/// Shows the certificate that backends see. It leaves the registry with the returned handle.
fn show_client_certificate(
    settings: &Settings,
    registry: &CertificateRegistry,
) -> Option<Arc<CertificateInfo>> {
    let certificate = CertificateInfo::clone(settings.client_certificate()?);
    let shown = Arc::new(certificate);
    registry.add(CertificateRegistry::BACKENDS, &shown);
    Some(shown)
}

/// Makes a load balancer for each worker. Checks and sessions are shared. Idle connections, the
/// counters of the strategy and the retry budget belong to one worker, so that workers share no
/// cache line on the request path.
fn balancers(
    settings: &Settings,
    pool: &Pool,
    (log, metrics): (Option<&AccessLogLayer>, Option<&MetricsLayer>),
    workers: usize,
) -> Result<Vec<LoadBalancer>, BoxError> {
    let health = settings.health_layer(pool);
    let sticky = settings.sticky_layer(pool);
    // The log is that of the start, and `[proxy] trusted` decides whose request ids are believed.
    let log = log.map(|log| {
        let trusted = settings.proxy.trusted.clone();
        log.clone()
            .trust_request_id_from(move |peer| trusted.contains(peer))
    });
    (0..workers)
        .map(|_| {
            let mut builder = settings.load_balancer(pool).health(health.clone())?;
            if let Some(sticky) = &sticky {
                builder = builder.sticky(sticky.clone())?;
            }
            if let Some(metrics) = metrics {
                builder = builder.metrics(metrics.clone())?;
            }
            if let Some(log) = &log {
                builder = builder.access_log(log.clone());
            }
            Ok(builder.build())
        })
        .collect()
}

fn same_layers(new: &Sections, old: &Sections) -> bool {
    new.pool.chooses_like(&old.pool)
        && new.health == old.health
        && new.sticky == old.sticky
        && new.proxy == old.proxy
        && !names_files(&new.proxy.tls)
        && new.failover == old.failover
        && new.trace == old.trace
}

/// Returns true if the settings name files, which may have changed where the settings did not.
fn names_files(tls: &ProxyTlsSettings) -> bool {
    let is_file = |ca: &PathBuf| !["mozilla", "platform"].map(Path::new).contains(&&**ca);
    tls.client_certificate.is_some() || tls.ca.as_ref().is_some_and(is_file)
}

/// Files that are opened at the start only.
const OPEN_FILES: [&str; 11] = [
    "[access_log] file",
    "[access_log] outputs",
    "[[access_log.outputs]] file",
    "[admin] token_file",
    "[fleet] redis_ca",
    "[fleet] redis_file",
    "[health] state_file",
    "[listen.tls.acme] ca",
    "[listen.tls.acme] eab",
    "[listen.tls] acme",
    "[listen.tls] ticket_secret_files",
];
