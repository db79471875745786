//! One life, from the first step to the last lease.

use std::{
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_layer::Layer;

use super::{
    client::{Client, Stack, lock},
    either_balance::EitherBalance,
    oracle::{Counts, Invariant, Violation, id_of},
    schedule::{Behaviour, Check, FIRST_PORT, PORTS, Plan, Schedule, Spec, Step, Traffic, Upload},
    setup::{self, backend, checks, millis},
    trace::{Trace, What},
    world::{Backends, ClientRequest, World},
};
use crate::{
    balance::{BalanceLayer, StackBalance},
    context::Exchange,
    failover::FailoverLayer,
    health::{HealthLayer, Prober},
    mutation,
    pool::{Mode, Pool},
};

/// What became of a life.
pub(super) struct Life {
    pub(super) seed: u64,
    pub(super) violations: Vec<Violation>,
    pub(super) counts: Counts,
    pub(super) trace: Trace,
}

/// Lives one schedule through, on a runtime and a clock of its own.
pub(super) fn live(schedule: &Schedule) -> Life {
    // Whatever the code draws, it draws from here.
    fastrand::seed(schedule.seed);
    let mut operator = None;
    let mut world = None;
    let mut from = Some(0);
    while let Some(next) = from {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        from = runtime.block_on(async {
            let world = match &mut world {
                Some(world) => world,
                None => world.insert(World::new(schedule.settings.clone()).await),
            };
            world.go_on().await;
            let operator = operator.get_or_insert_with(|| Operator::new(schedule, world.clone()));
            operator.run(schedule, next).await
        });
    }
    let world = world.unwrap();
    // The oracle does not check what the pool forgets at the end.
    mutation::listen(None);
    drop(operator);
    let mut oracle = world.oracle();
    Life {
        seed: schedule.seed,
        violations: std::mem::take(&mut oracle.violations),
        counts: std::mem::take(&mut oracle.counts),
        trace: std::mem::take(&mut oracle.trace),
    }
}

/// The operator: it gives the orders and starts the clients.
struct Operator {
    world: Arc<World>,
    pool: Pool,
    members: Vec<Spec>,
    health: HealthLayer,
    balance: BalanceLayer,
    failover: FailoverLayer,
    prober: Option<Prober>,
    stack: Option<Arc<Mutex<Stack>>>,
    clients: JoinSet<()>,
    asked: Vec<Arc<ClientRequest>>,
    began: Instant,
}

impl Operator {
    fn new(schedule: &Schedule, world: Arc<World>) -> Self {
        let settings = &schedule.settings;
        let pool = Pool::new(schedule.members.iter().map(backend)).unwrap();
        let balance = setup::balance(&pool, settings);
        let health = setup::health(&pool, &world);
        let (observer, published) = (world.clone(), pool.clone());
        mutation::listen(Some(Rc::new(move || {
            observer.oracle().published(observer.at(), &published);
        })));
        let mut operator = Self {
            world,
            pool,
            members: schedule.members.clone(),
            health,
            balance,
            failover: setup::failover(settings),
            prober: None,
            stack: None,
            clients: JoinSet::new(),
            asked: Vec::new(),
            began: Instant::now(),
        };
        operator.booked();
        operator.start();
        operator
    }

    /// Takes the steps from this one on; returns where another runtime goes on.
    async fn run(&mut self, schedule: &Schedule, from: usize) -> Option<usize> {
        self.start();
        for (number, (at, step)) in schedule.steps.iter().enumerate().skip(from) {
            sleep_until(self.began + millis(*at)).await;
            let now = self.world.at();
            {
                let mut oracle = self.world.oracle();
                oracle.look(now);
                oracle.trace.push(now, What::Step(number));
                if !oracle.violations.is_empty() {
                    break;
                }
            }
            if matches!(step, Step::NewRuntime) {
                self.lose_runtime();
                return Some(number + 1);
            }
            if matches!(step, Step::RestartChecks) && !schedule.settings.prober_apart {
                // What its clients hold of the layer goes before the next begins.
                self.go_away();
                self.clients.shutdown().await;
            }
            self.step(number, step);
        }
        self.end(schedule).await;
        self.world.oracle().trace.muted = true;
        None
    }

    /// Expects the end of all that runs here.
    fn lose_runtime(&mut self) {
        self.hang_up();
        self.stack = None;
        // A prober of its own belongs to its runtime; a layer's checks begin again by themselves.
        let left = self.prober.take().is_some();
        self.world.leave();
        let at = self.world.at();
        let mut oracle = self.world.oracle();
        match left {
            true => oracle.checks_left(at),
            false => oracle.checks_ended(),
        }
        oracle.counts.add("runtimes lost");
        oracle.trace.muted = true;
    }

    /// All clients go away.
    fn hang_up(&mut self) {
        self.go_away();
        self.clients = JoinSet::new();
    }

    /// Says so ahead of the drops, which it explains.
    fn go_away(&self) {
        for asked in &self.asked {
            asked.gone.store(true, Relaxed);
        }
    }

    fn step(&mut self, number: usize, step: &Step) {
        match step {
            Step::Behave(port, behaviour) => self.world.behave(*port, *behaviour),
            Step::Request(plan) => self.request(number, *plan),
            Step::Upsert(spec) => self.upsert(*spec),
            Step::ThereAndBack(spec, port) => {
                if self
                    .members
                    .iter()
                    .any(|m| m.id == spec.id && m.port != *port)
                {
                    self.upsert(Spec {
                        port: *port,
                        ..*spec
                    });
                    self.upsert(*spec);
                }
            }
            Step::Remove(id) => {
                self.members.retain(|m| m.id != *id);
                self.change(|pool| _ = pool.remove(id_of(*id)));
            }
            Step::ReAdd(spec) => {
                self.members.retain(|m| m.id != spec.id);
                self.change(|pool| _ = pool.remove(id_of(spec.id)));
                self.upsert(*spec);
            }
            Step::Replace(specs) => {
                self.members.clone_from(specs);
                let all: Vec<_> = specs.iter().map(backend).collect();
                self.change(|pool| pool.replace(all).unwrap());
            }
            Step::Drain(id, deadline) => {
                let deadline = millis(*deadline);
                let until = Instant::now() + deadline;
                self.order(*id, Mode::Draining { until }, |pool, id| {
                    pool.drain(id, deadline).is_ok()
                });
            }
            Step::Maintenance(id) => {
                self.order(*id, Mode::Maintenance, |pool, id| {
                    pool.start_maintenance(id).is_ok()
                });
            }
            Step::Ready(id) => self.order(*id, Mode::Ready, |pool, id| pool.mark_ready(id).is_ok()),
            Step::StopChecks => self.stop(),
            Step::StartChecks => self.start(),
            Step::RestartChecks => {
                self.stop();
                self.start();
            }
            // The end of this runtime is its caller's.
            Step::NewRuntime => {}
        }
    }

    fn upsert(&mut self, spec: Spec) {
        match self.members.iter_mut().find(|m| m.id == spec.id) {
            Some(member) => *member = spec,
            None => self.members.push(spec),
        }
        let new = backend(&spec);
        self.change(|pool| pool.upsert(new));
    }

    fn change(&self, change: impl FnOnce(&Pool)) {
        self.world.oracle().ordering = true;
        change(&self.pool);
        self.booked();
    }

    fn booked(&self) {
        let at = self.world.at();
        let mut oracle = self.world.oracle();
        oracle.membership(at, &self.pool, &self.members);
        oracle.ordering = false;
    }

    fn order(&self, id: u8, mode: Mode, order: impl FnOnce(&Pool, &str) -> bool) {
        self.world.oracle().ordering = true;
        let done = order(&self.pool, id_of(id));
        let at = self.world.at();
        let mut oracle = self.world.oracle();
        if done {
            oracle.ordered(at, id, mode);
        }
        oracle.ordering = false;
    }

    /// Starts what does not run: the stack, and the checks.
    fn start(&mut self) {
        let apart = self.world.settings.prober_apart;
        if apart && self.prober.is_none() {
            self.prober = Some(Prober::start(&self.pool, checks(&self.world)).unwrap());
            self.world.oracle().checks_began(self.world.at());
        }
        if self.stack.is_none() {
            let health = self.health.layer(Backends(self.world.clone()));
            let balance = self.balance.layer(health);
            let middle = match self.world.settings.direct {
                true => EitherBalance::StackBalance(StackBalance::new(balance)),
                false => EitherBalance::Standalone(balance),
            };
            self.stack = Some(Arc::new(Mutex::new(self.failover.layer(middle))));
            if !apart {
                self.world.oracle().checks_began(self.world.at());
            }
        }
    }

    /// Stops the checks; with the layer's go the layer, its services and their clients.
    fn stop(&mut self) {
        if self.world.settings.prober_apart {
            self.world.oracle().checks_left(self.world.at());
            self.prober = None;
            return;
        }
        self.world.oracle().checks_left(self.world.at());
        self.hang_up();
        self.stack = None;
        self.health = setup::health(&self.pool, &self.world);
        self.world.oracle().traffic_forgotten();
    }

    fn request(&mut self, number: usize, plan: Plan) {
        let Some(stack) = &self.stack else {
            return;
        };
        let stack = match self.world.settings.one_service {
            true => stack.clone(),
            false => Arc::new(Mutex::new(lock(stack).clone())),
        };
        let asked = Arc::new(ClientRequest {
            number,
            plan,
            gone: AtomicBool::new(false),
            seen: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            loads: AtomicU32::new(0),
        });
        self.asked.push(asked.clone());
        let exchange = Exchange::new();
        if let Some(id) = plan.sticky {
            let snapshot = self.pool.snapshot();
            if let Some(backend) = snapshot.get(id_of(id)) {
                exchange.set_affinity(backend.clone());
            }
        }
        let client = Client {
            world: self.world.clone(),
            asked,
            exchange,
            over: false,
        };
        self.clients.spawn(client.run(stack));
    }

    /// Lets all end, makes all well, and sees what comes back.
    async fn end(&mut self, schedule: &Schedule) {
        let clients = std::mem::take(&mut self.clients);
        let all = timeout(LONGEST, async move {
            let mut clients = clients;
            while let Some(ended) = clients.join_next().await {
                // One that was aborted with its layer has nothing more to say; a panic has.
                if let Err(error) = ended
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        let lost = all.await.is_err();
        // Those that were aborted with their layer go, too.
        sleep(millis(1)).await;
        let at = self.world.at();
        {
            let mut oracle = self.world.oracle();
            oracle.look(at);
            if lost {
                oracle.violate(at, Invariant::Requests, "a request never ends".into());
            }
            let held: Vec<_> = oracle
                .backends()
                .filter(|b| b.in_flight() > 0)
                .map(|b| format!("{} leases of {} are held", b.in_flight(), b.id()))
                .collect();
            for what in held {
                oracle.violate(at, Invariant::Leases, what);
            }
            if !oracle.violations.is_empty() {
                return;
            }
        }
        if schedule.heals {
            self.heal().await;
        }
    }

    async fn heal(&mut self) {
        let well = Behaviour {
            check: Check::Pass(5),
            traffic: Traffic::Ok(5),
        };
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            self.world.behave(port, well);
        }
        self.start();
        for spec in self.members.clone() {
            self.step(0, &Step::Ready(spec.id));
        }
        if self.members.iter().all(|m| m.weight == 0) {
            self.upsert(Spec {
                id: 0,
                port: FIRST_PORT,
                weight: 1,
                tier: 0,
                cap: None,
            });
        }
        let wanted = self.members.iter().filter(|m| m.weight > 0).count();
        let until = Instant::now() + RECOVERY;
        while self.pool.snapshot().usable() < wanted {
            if Instant::now() > until {
                let what = format!("{:?} is not back", self.pool);
                let at = self.world.at();
                self.world.oracle().violate(at, Invariant::Recovery, what);
                return;
            }
            sleep(Duration::from_millis(250)).await;
        }
        self.world.oracle().counts.add("recoveries");
        let plan = Plan {
            post: false,
            upload: Upload::None,
            timeout: None,
            frames: 1,
            pace: 1,
            sticky: None,
        };
        self.request(LAST, plan);
        let answered = self.clients.join_next().await;
        assert!(answered.is_some_and(|ended| ended.is_ok()));
        let over = What::Over {
            request: LAST,
            how: "whole",
        };
        let well = self.world.oracle().trace.holds(over);
        if !well {
            let at = self.world.at();
            let what = "all are back, and a request fails".into();
            self.world.oracle().violate(at, Invariant::Recovery, what);
        }
    }
}

/// More than a request can take: three tries, and the longest wait before each.
const LONGEST: Duration = Duration::from_secs(120);
/// More than the longest hold-down and the longest ejection here.
const RECOVERY: Duration = Duration::from_secs(180);
/// The number of the request that is made when all is well again.
const LAST: usize = 1_000_000;
