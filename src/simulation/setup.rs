//! The layers of a simulated life, made of the settings of its schedule.

use std::{sync::Arc, time::Duration};

use super::{
    oracle::id_of,
    schedule::{Settings, Spec},
    world::{ScriptedCheck, World},
};
use crate::{
    balance::{BalanceLayer, LeastRequests, PowerOfTwo, Random, RoundRobin, Strategy},
    failover::{Budget, FailoverLayer, Hedge},
    health::{Checks, HealthLayer, Outliers},
    pool::{Backend, Pool},
};

pub(super) fn backend(spec: &Spec) -> Backend {
    let url = format!("http://127.0.0.1:{}", spec.port);
    let backend = Backend::new(id_of(spec.id), &url)
        .unwrap()
        .weight(spec.weight)
        .unwrap()
        .tier(spec.tier);
    match spec.cap {
        Some(cap) => backend.max_in_flight(cap).unwrap(),
        None => backend,
    }
}

pub(super) fn checks(world: &Arc<World>) -> Checks {
    let settings = &world.settings;
    Checks::new()
        .with_check(ScriptedCheck(world.clone()))
        .interval(millis(settings.interval))
        .changing_interval(millis(settings.changing))
        .timeout(millis(settings.timeout))
        .rise(settings.rise)
        .fall(settings.fall)
        .jitter(settings.jitter)
}

pub(super) fn health(pool: &Pool, world: &Arc<World>) -> HealthLayer {
    let settings = &world.settings;
    let first = millis(settings.ejection);
    let outliers = Outliers::new()
        .consecutive(settings.consecutive)
        .no_failure_rate()
        .ejection(first, first * 4)
        .max_share(settings.max_share);
    let layer = HealthLayer::new(pool.clone()).outliers(outliers).unwrap();
    match settings.prober_apart {
        true => layer.no_checks(),
        false => layer.checks(checks(world)).unwrap(),
    }
}

pub(super) fn balance(pool: &Pool, settings: &Settings) -> BalanceLayer {
    let strategy: Box<dyn Strategy> = match settings.strategy {
        0 => Box::new(RoundRobin::new()),
        1 => Box::new(LeastRequests::new()),
        2 => Box::new(PowerOfTwo::new()),
        _ => Box::new(Random::new()),
    };
    BalanceLayer::new(pool.clone())
        .strategy(strategy)
        .queue_size(settings.queue_size)
        .queue_timeout(millis(settings.queue_timeout))
}

pub(super) fn failover(settings: &Settings) -> FailoverLayer {
    let (share, second) = settings.budget;
    let budget = Budget::new(share as f64 / 1e3, second as f64 / 1e3).unwrap();
    let failover = FailoverLayer::new()
        .max_attempts(settings.attempts)
        .unwrap()
        .budget(budget);
    match settings.hedge {
        Some(after) => failover.hedge(Hedge::new().after(millis(after)).unwrap()),
        None => failover,
    }
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
