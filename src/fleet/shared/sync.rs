//! The task that exchanges orders, secrets and health with the store.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    RedisStore,
    health_hints::{self, REFRESH},
    order::{Now, StampedOrder, Subject},
    remote::{HEALTH, Hash, MOST_FIELDS, ORDERS, Remote},
    secrets::SharedSecret,
    status::Part,
};
use crate::{
    error::BoxError,
    pool::{EventKind, Events, HealthSnapshot},
};

pub(super) struct SyncTask {
    remote: Remote,
    instance: String,
    part: Arc<Part>,
    events: Events,
    /// Measured health changed since the last look.
    health_changed: bool,
    /// Whether the log last said that the store fails; `None` before the first look.
    is_down: Option<bool>,
    /// The log last said that the store has more orders than are read.
    is_full: bool,
    /// Whether health is exchanged, and when the next report is due.
    next_report: Option<Instant>,
    report_fails: bool,
    next_secrets: Instant,
    next_pruning: Instant,
    /// Orders that were forgotten, and that the store still has.
    outdated: Vec<(Subject, StampedOrder)>,
    /// What of the store was refused and reported, so that it is reported once.
    refused: HashSet<String>,
}

impl SyncTask {
    pub(super) fn new(store: RedisStore, instance: String, part: Arc<Part>) -> Self {
        let now = Instant::now();
        Self {
            events: part.pool.subscribe(),
            remote: Remote { store },
            instance,
            part,
            health_changed: false,
            is_down: None,
            is_full: false,
            next_report: None,
            report_fails: false,
            next_secrets: now,
            next_pruning: now,
            outdated: Vec::new(),
            refused: HashSet::new(),
        }
    }

    /// Reads what the fleet has, until all of it is there or the time is over.
    pub(super) async fn begin(&mut self, hints: bool, limit: Duration) {
        let link = self.remote.store.link();
        link.subscribe(self.remote.channel()).await;
        let deadline = Instant::now() + limit;
        let ended = timeout_at(deadline, async {
            loop {
                self.next_secrets = Instant::now();
                let is_up = self.look().await;
                if is_up && self.part.secrets.iter().all(SharedSecret::is_given) {
                    return;
                }
                sleep(START_PAUSE).await;
            }
        });
        let is_complete = ended.await.is_ok();
        if !is_complete {
            let (server, instance) = (self.remote.store.link().shown(), &*self.instance);
            tracing::warn!(
                target: "evenkeel::fleet",
                server, instance, waited = ?limit,
                "the instance starts without what the fleet shares: its orders follow when the \
                 store answers"
            );
        }
        if hints {
            self.next_report = Some(Instant::now());
            if is_complete {
                self.take_hints(deadline).await;
            }
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let next = Instant::now() + POLL.mul_f64(1.0 - JITTER * fastrand::f64());
            tokio::select! {
                () = ordered(&mut self.events, &mut self.health_changed) => {}
                () = self.remote.store.link().changed() => {}
                () = sleep_until(next) => {}
            }
            // Changes that come together are looked at together.
            sleep(PAUSE).await;
            self.look().await;
        }
    }

    /// Exchanges everything that is due. Returns false if the store failed.
    async fn look(&mut self) -> bool {
        let failed = self.exchange_orders().await.err();
        let is_down = failed.is_some();
        self.part.is_up.store(!is_down, Relaxed);
        let before = self.is_down.replace(is_down);
        let (server, instance) = (self.remote.store.link().shown(), &*self.instance);
        match (before, failed) {
            (None | Some(false), Some(error)) => tracing::warn!(
                target: "evenkeel::fleet",
                server, instance, %error,
                "the store of the fleet fails: serving goes on from what is known"
            ),
            (None | Some(true), None) => tracing::info!(
                target: "evenkeel::fleet",
                server, instance, "the store of the fleet answers"
            ),
            (Some(false), None) | (Some(true), Some(_)) => {}
        }
        if !is_down {
            self.exchange_rest().await;
        }
        // Also while the store fails: secrets become current as time passes.
        self.part.secrets.iter().for_each(SharedSecret::give);
        !is_down
    }

    async fn exchange_orders(&mut self) -> Result<(), BoxError> {
        self.part.observe();
        let (stored, asked) = match self.remote.read(ORDERS).await? {
            Hash::Whole(fields) => {
                self.is_full = false;
                (fields, None)
            }
            Hash::TooLarge(fields) => {
                self.warn_full(fields);
                let asked = self.part.book().own_subjects(&self.part.pool, MOST_FIELDS);
                (self.remote.read_orders(&asked).await?, Some(asked))
            }
        };
        let merged = self.part.book().merge(stored, asked.as_ref(), Now::read());
        for (field, why) in merged.refused {
            self.warn_refused(&format!("{ORDERS} {field}"), &why);
        }
        self.part.apply();
        self.outdated = self.part.book().take_outdated(Now::read());
        for write in merged.to_write {
            self.remote.write(&write).await?;
            self.part.book().written(&write);
        }
        Ok(())
    }

    /// Logs once that the store has more orders than are read.
    fn warn_full(&mut self, fields: i64) {
        if !std::mem::replace(&mut self.is_full, true) {
            tracing::warn!(
                target: "evenkeel::fleet",
                server = self.remote.store.link().shown(), instance = &*self.instance, fields,
                most = MOST_FIELDS,
                "the store of the fleet has more orders than are read: those for the backends of \
                 this instance go on; remove the others from the hash of orders"
            );
        }
    }

    /// Exchanges what is due beside the orders. What fails is tried again when it is due again.
    async fn exchange_rest(&mut self) {
        let now = Instant::now();
        if now >= self.next_secrets {
            self.next_secrets = now + SECRETS_POLL;
            for secret in &self.part.secrets {
                secret.exchange(&self.remote.store).await;
            }
        }
        if std::mem::take(&mut self.health_changed) {
            self.next_report = self.next_report.map(|at| at.min(now + REPORT_PAUSE));
        }
        if self.next_report.is_some_and(|at| now >= at) {
            self.report_health(now).await;
        }
        if now >= self.next_pruning {
            self.next_pruning = now + PRUNING;
            // An order that stays is tried again later, and does no harm meanwhile.
            let _ = self.prune().await;
        }
    }

    async fn report_health(&mut self, now: Instant) {
        let health = self.part.pool.health_snapshot();
        // Before the first checks have ended, the next look tries again.
        if health.backends.is_empty() {
            return;
        }
        self.next_report = Some(now + Duration::from_millis(REFRESH));
        match self.write_health(health).await {
            Ok(()) => self.report_fails = false,
            Err(error) => self.warn_report(&error),
        }
    }

    async fn write_health(&self, health: HealthSnapshot) -> Result<(), BoxError> {
        let report = health_hints::encode(health, Now::read())?;
        self.remote.write_health(&self.instance, report).await
    }

    fn warn_report(&mut self, error: &BoxError) {
        if !std::mem::replace(&mut self.report_fails, true) {
            tracing::warn!(
                target: "evenkeel::fleet",
                instance = &*self.instance, %error,
                "the health that this instance measured is not shared"
            );
        }
    }

    /// Lets the backends that the others found unhealthy begin unhealthy.
    async fn take_hints(&mut self, deadline: Instant) {
        let stored = match timeout_at(deadline, self.remote.read(HEALTH)).await {
            Ok(Ok(Hash::Whole(stored))) => stored,
            Ok(Ok(Hash::TooLarge(fields))) => {
                let why = format!("{fields} instances; {MOST_FIELDS} are read");
                return self.warn_refused(HEALTH, &why);
            }
            Ok(Err(error)) => return self.warn_refused(HEALTH, &error.to_string()),
            Err(_) => return self.warn_refused(HEALTH, "it was not read in time"),
        };
        let reports = health_hints::read(stored, Now::read());
        for (instance, why) in reports.refused {
            self.warn_refused(&format!("{HEALTH} {instance}"), &why);
        }
        let instances = reports.fresh.len();
        let unhealthy = health_hints::unhealthy(reports.fresh);
        let backends = self.part.pool.restore_health(&unhealthy);
        if backends > 0 {
            tracing::info!(
                target: "evenkeel::fleet",
                backends, instances,
                "backends begin unhealthy, as the fleet found them, until their checks pass"
            );
        }
        for instance in reports.gone {
            // The next instance that starts tries again.
            let _ = timeout_at(deadline, self.remote.remove_health(instance)).await;
        }
    }

    /// Removes the orders from the store that say nothing any more.
    async fn prune(&mut self) -> Result<(), BoxError> {
        for (subject, order) in std::mem::take(&mut self.outdated) {
            self.remote.remove(&subject, &order).await?;
        }
        Ok(())
    }

    /// Logs once that something in the store cannot be read.
    fn warn_refused(&mut self, what: &str, why: &str) {
        if self.refused.len() >= MOST_FIELDS || !self.refused.insert(format!("{what}: {why}")) {
            return;
        }
        tracing::warn!(
            target: "evenkeel::fleet",
            instance = &*self.instance, what, why,
            "a value in the store of the fleet is refused, and left as it is"
        );
    }
}

/// Waits for an event that may be an order, or that may make one applicable. Notes changes of health.
async fn ordered(events: &mut Events, health_changed: &mut bool) {
    let mut concerns = |kind: &EventKind| match kind {
        EventKind::Added
        | EventKind::Evacuated(_)
        | EventKind::Mode { .. }
        | EventKind::Updated => true,
        EventKind::Health(_) => {
            *health_changed = true;
            false
        }
        _ => false,
    };
    loop {
        match events.next().await {
            Some(event) if concerns(&event.kind) => break,
            Some(_) => {}
            // The pool lives as long as this task.
            None => std::future::pending().await,
        }
    }
    while let Some(event) = events.try_next() {
        concerns(&event.kind);
    }
}

/// Without a subscription, an order holds at all instances within this time.
pub(super) const POLL: Duration = Duration::from_millis(500);
/// Instances that started together look at different times.
const JITTER: f64 = 0.2;
/// An order is late by as much, and a flood of messages costs no more than a hundred looks a second.
const PAUSE: Duration = Duration::from_millis(10);
const START_PAUSE: Duration = Duration::from_millis(100);
/// Several times before a new secret is used.
const SECRETS_POLL: Duration = Duration::from_secs(5);
/// A change of health is reported this soon: of many backends together.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
const PRUNING: Duration = Duration::from_secs(3_600);
