//! What SIGHUP changes while requests go on.

use std::{num::NonZeroUsize, path::Path};

use evenkeel::{
    BoxError, LoadBalancer, Pool,
    access_log::AccessLogLayer,
    settings::{Listen, Settings},
    tls::{Certificate, Certificates},
};

use crate::{Loaded, app::App, known};

/// What runs, and the settings that it was made from.
pub(crate) struct Running {
    pub(crate) settings: Settings,
    pub(crate) pool: Pool,
    pub(crate) log: Option<AccessLogLayer>,
    /// One a worker.
    pub(crate) apps: Vec<App>,
    /// One a listener.
    pub(crate) certificates: Vec<Option<Certificates>>,
}

impl Running {
    pub(crate) fn new(
        settings: Settings,
        certificates: Vec<Option<Certificates>>,
        log: Option<AccessLogLayer>,
        threads: NonZeroUsize,
    ) -> Result<Self, BoxError> {
        let pool = settings.pool()?;
        // Before checks begin, which is when the layers are made.
        if let Some(path) = state_file(&settings) {
            known::restore(path, &pool);
        }
        let apps = balancers(&settings, &pool, log.as_ref(), threads.get())?;
        Ok(Self {
            apps: apps.into_iter().map(App::new).collect(),
            settings,
            pool,
            log,
            certificates,
        })
    }

    /// Reads the file again; when it is wrong, nothing changes.
    pub(crate) fn reload(&mut self, path: &str) -> Result<(), BoxError> {
        let new = Loaded::read(path)?.settings;
        let backends = new.backends()?;
        // Tables of strategies and sessions stay with the pool: there are new ones only where
        // their sections say something new.
        let balancers = match same_layers(&new, &self.settings) {
            true => Vec::new(),
            false => balancers(&new, &self.pool, self.log.as_ref(), self.apps.len())?,
        };
        for (listen, certificates) in new.listen.iter().zip(&self.certificates) {
            if let (Some(tls), Some(certificates)) = (&listen.tls, certificates) {
                let files = tls.certificates.iter();
                certificates.replace(files.map(|c| Certificate::files(&c.chain, &c.key)))?;
            }
        }
        self.pool.replace(backends)?;
        self.pool.routing(new.routing()?);
        for (app, balancer) in self.apps.iter().zip(balancers) {
            app.replace(balancer);
        }
        if !same_process(&new, &self.settings) {
            tracing::warn!(
                "[server], [[listen]], [access_log] and [admin] change with a restart only"
            );
        }
        self.settings = new;
        Ok(())
    }
}

/// Where what is known of backends is kept.
pub(crate) fn state_file(settings: &Settings) -> Option<&Path> {
    settings.health.as_ref()?.state_file.as_deref()
}

/// Makes a load balancer for each worker. Checks and sessions are shared; idle connections, the
/// pick's counters and the retry budget are each worker's own, so that no cache line is.
fn balancers(
    settings: &Settings,
    pool: &Pool,
    log: Option<&AccessLogLayer>,
    workers: usize,
) -> Result<Vec<LoadBalancer>, BoxError> {
    let health = settings.health_layer(pool)?;
    let sticky = settings.sticky_layer(pool)?;
    (0..workers)
        .map(|_| {
            let mut builder = settings.load_balancer(pool)?.health(health.clone())?;
            if let Some(sticky) = &sticky {
                builder = builder.sticky(sticky.clone())?;
            }
            if let Some(log) = log {
                builder = builder.access_log(log.clone());
            }
            Ok(builder.build())
        })
        .collect()
}

fn same_layers(new: &Settings, old: &Settings) -> bool {
    new.pool.chooses_like(&old.pool)
        && new.health == old.health
        && new.sticky == old.sticky
        && new.proxy == old.proxy
        && new.failover == old.failover
}

fn same_process(new: &Settings, old: &Settings) -> bool {
    // Certificates may change, and who of the listeners has any may not.
    let fixed = |listen: &Listen| {
        let tls = listen.tls.as_ref();
        let tls = tls.map(|tls| (tls.min_version.clone(), tls.alpn.clone(), tls.hsts.clone()));
        let paths = (listen.ready.clone(), listen.live.clone());
        let http1 = (
            listen.half_close,
            listen.allow_empty_host,
            listen.allow_raw_target,
        );
        (listen.address.clone(), paths, http1, tls)
    };
    new.server == old.server
        && new
            .listen
            .iter()
            .map(fixed)
            .eq(old.listen.iter().map(fixed))
        && new.access_log == old.access_log
        && new.admin == old.admin
}
