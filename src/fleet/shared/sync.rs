//! The task that exchanges orders, secrets and health with the store.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use redis::{Cmd, Value, cmd};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    RedisStore, frame,
    health_hints::{self, REFRESH},
    order::{Now, StampedOrder, Subject},
    order_book::{OrderBook, Write},
    secrets::SharedSecret,
    status::Status,
};
use crate::{
    error::BoxError,
    pool::{EventKind, Events, HealthSnapshot, Pool},
};

pub(super) struct SyncTask {
    store: RedisStore,
    pool: Pool,
    instance: String,
    book: OrderBook,
    secrets: Vec<SharedSecret>,
    events: Events,
    /// Measured health changed since the last look.
    health_changed: bool,
    status: Arc<Status>,
    /// Whether the log last said that the store fails; `None` before the first look.
    is_down: Option<bool>,
    /// Whether health is exchanged, and when the next report is due.
    next_report: Option<Instant>,
    report_fails: bool,
    next_secrets: Instant,
    next_pruning: Instant,
    /// What of the store was refused and reported, so that it is reported once.
    refused: HashSet<String>,
}

impl SyncTask {
    pub(super) fn new(
        store: RedisStore,
        pool: Pool,
        instance: String,
        secrets: Vec<SharedSecret>,
        status: Arc<Status>,
    ) -> Self {
        let now = Instant::now();
        Self {
            book: OrderBook::new(&instance),
            events: pool.subscribe(),
            health_changed: false,
            store,
            pool,
            instance,
            secrets,
            status,
            is_down: None,
            next_report: None,
            report_fails: false,
            next_secrets: now,
            next_pruning: now,
            refused: HashSet::new(),
        }
    }

    /// Reads what the fleet has, until all of it is there or the time is over.
    pub(super) async fn begin(&mut self, hints: bool, limit: Duration) {
        self.store.link().subscribe(self.channel()).await;
        let deadline = Instant::now() + limit;
        let ended = timeout_at(deadline, async {
            loop {
                self.next_secrets = Instant::now();
                let is_up = self.look().await;
                if is_up && self.secrets.iter().all(SharedSecret::is_given) {
                    return;
                }
                sleep(START_PAUSE).await;
            }
        });
        let is_complete = ended.await.is_ok();
        if !is_complete {
            let (server, instance) = (self.store.link().shown(), &*self.instance);
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
                () = self.store.link().changed() => {}
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
        self.status.is_up.store(!is_down, Relaxed);
        let before = self.is_down.replace(is_down);
        let (server, instance) = (self.store.link().shown(), &*self.instance);
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
        self.secrets.iter_mut().for_each(SharedSecret::give);
        !is_down
    }

    async fn exchange_orders(&mut self) -> Result<(), BoxError> {
        self.observe();
        let stored = self.read_hash("orders").await?;
        let merged = self.book.merge(stored);
        for (field, why) in merged.refused {
            self.warn_refused(&format!("orders {field}"), &why);
        }
        self.book.apply(&self.pool, Now::read());
        for write in merged.to_write {
            self.write(&write).await?;
            self.book.written(&write);
        }
        Ok(())
    }

    /// Looks at the pool for orders that were given here.
    fn observe(&mut self) {
        let backends = self.pool.snapshot().backends().to_vec();
        self.book.observe(&backends, Now::read());
        // Those that joined follow the orders that are known, even while the store fails.
        self.book.apply(&self.pool, Now::read());
    }

    /// Exchanges what is due beside the orders. What fails is tried again when it is due again.
    async fn exchange_rest(&mut self) {
        let now = Instant::now();
        if now >= self.next_secrets {
            self.next_secrets = now + SECRETS_POLL;
            for secret in &mut self.secrets {
                secret.exchange(&self.store).await;
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
        let health = self.pool.health_snapshot();
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
        let mut command = cmd("HSET");
        let key = self.store.own_key("health");
        command.arg(key).arg(&self.instance).arg(report);
        self.store.link().call(&command).await.map(drop)
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
        let stored = match timeout_at(deadline, self.read_hash("health")).await {
            Ok(Ok(stored)) => stored,
            Ok(Err(error)) => return self.warn_refused("health", &error.to_string()),
            Err(_) => return self.warn_refused("health", "it was not read in time"),
        };
        let reports = health_hints::read(stored, Now::read());
        for (instance, why) in reports.refused {
            self.warn_refused(&format!("health {instance}"), &why);
        }
        let instances = reports.fresh.len();
        let unhealthy = health_hints::unhealthy(reports.fresh);
        let backends = self.pool.restore_health(&unhealthy);
        if backends > 0 {
            tracing::info!(
                target: "evenkeel::fleet",
                backends, instances,
                "backends begin unhealthy, as the fleet found them, until their checks pass"
            );
        }
        for instance in reports.gone {
            let mut command = cmd("HDEL");
            command.arg(self.store.own_key("health")).arg(instance);
            // The next instance that starts tries again.
            let _ = timeout_at(deadline, self.store.link().call(&command)).await;
        }
    }

    async fn write(&mut self, write: &Write) -> Result<(), BoxError> {
        let mut command = self.script(WRITE, &write.subject, &write.order);
        command.arg(u8::from(write.is_new)).arg(self.channel());
        self.store.link().call(&command).await.map(drop)
    }

    async fn prune(&mut self) -> Result<(), BoxError> {
        for (subject, order) in self.book.outdated(Now::read()) {
            let command = self.script(REMOVE, &subject, &order);
            self.store.link().call(&command).await?;
            self.book.forget(&subject, &order);
        }
        Ok(())
    }

    fn script(&self, script: &str, subject: &Subject, order: &StampedOrder) -> Cmd {
        let mut command = cmd("EVAL");
        command
            .arg(script)
            .arg(1)
            .arg(self.store.own_key("orders"))
            .arg(subject.field())
            .arg(frame::encode(order.text().as_bytes()));
        command
    }

    /// Reads a hash, if it has no more fields than instances write.
    async fn read_hash(&self, name: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>, BoxError> {
        let mut command = cmd("EVAL");
        command
            .arg(READ)
            .arg(1)
            .arg(self.store.own_key(name))
            .arg(MOST_FIELDS);
        let Value::Array(parts) = self.store.link().call(&command).await? else {
            return Err(format!("{name}: over {MOST_FIELDS} fields, or another answer").into());
        };
        let mut parts = parts.into_iter().filter_map(|part| match part {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        let mut fields = Vec::new();
        while let (Some(field), Some(value)) = (parts.next(), parts.next()) {
            fields.push((field, value));
        }
        Ok(fields)
    }

    fn channel(&self) -> String {
        self.store.own_key("changed")
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
        EventKind::Added | EventKind::Mode { .. } | EventKind::Updated => true,
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

/// Writes an order unless the store has it or a later one, and notifies the other instances. A value that
/// cannot be read is replaced by a new order alone. The frame's head has five bytes.
const WRITE: &str = "\
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
  local readable = string.byte(old, 1) == 1 and old:sub(6, 26):match('^%d+ $')
  if readable and old:sub(6) >= ARGV[2]:sub(6) then return 0 end
  if not readable and ARGV[3] == '0' then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.pcall('PUBLISH', ARGV[4], ARGV[1])
return 1";

/// Removes an order, unless another one replaced it.
const REMOVE: &str = "\
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])";

/// Reads a hash that is not too large: another program may have filled it.
const READ: &str = "\
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then return 0 end
return redis.call('HGETALL', KEYS[1])";

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
/// Two orders each for ten thousand backends: 2 MB.
pub(super) const MOST_FIELDS: usize = 20_000;
