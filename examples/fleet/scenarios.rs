//! The scenarios: what fails, how it comes back, and what must hold.

use std::time::Duration;

use evenkeel::BoxError;

use crate::{
    balancer::{HOME_DELAY, Joined, Mode},
    client::RATE,
    fleet::{Expected, Fleet},
    world::VIPS,
};

/// An experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    NodeHangs,
    RackPower,
    Region,
    BalancerCrash,
    BalancerHang,
    BalancerCutOff,
    BalancerPower,
    LameDuck,
    Upgrade,
    Handover,
    RedisLost,
    ActiveActive,
}

/// Every scenario, its name on the command line, and its description.
pub(crate) const ALL: [(Scenario, &str, &str); 12] = [
    (
        Scenario::NodeHangs,
        "node-hangs",
        "a backend is suspended (SIGSTOP)",
    ),
    (
        Scenario::RackPower,
        "rack-power",
        "a rack loses power: two of six backends go silent at one moment",
    ),
    (
        Scenario::Region,
        "region",
        "a region goes: four of six backends go silent at one moment",
    ),
    (
        Scenario::BalancerCrash,
        "balancer-crash",
        "the active edge is killed (SIGKILL), and comes back",
    ),
    (
        Scenario::BalancerHang,
        "balancer-hang",
        "the active edge is suspended (SIGSTOP), and wakes up",
    ),
    (
        Scenario::BalancerCutOff,
        "balancer-cut-off",
        "the active balancer's network forwards nothing more",
    ),
    (
        Scenario::BalancerPower,
        "balancer-power",
        "the active balancer loses power, and comes back",
    ),
    (
        Scenario::LameDuck,
        "lame-duck",
        "the active edge is stopped (SIGTERM), and started again",
    ),
    (
        Scenario::Upgrade,
        "upgrade",
        "both balancers are stopped and started, one after the other",
    ),
    (
        Scenario::Handover,
        "handover",
        "both edges are replaced in turn by new ones, which take their sockets over",
    ),
    (
        Scenario::RedisLost,
        "redis-lost",
        "the Redis server of the fleet is killed, and comes back empty",
    ),
    (
        Scenario::ActiveActive,
        "active-active",
        "one of two active edges is killed, and its address comes home",
    ),
];

impl Scenario {
    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::ActiveActive => Mode::ActiveActive,
            _ => Mode::ActivePassive,
        }
    }

    pub(crate) fn joined(self) -> Joined {
        match self {
            Self::RedisLost => Joined::Redis,
            _ => Joined::No,
        }
    }

    /// Returns a program that this experiment alone needs, and its package.
    pub(crate) fn needs(self) -> Option<(&'static str, &'static str)> {
        (self.joined() == Joined::Redis).then_some(("redis-server", "redis-server"))
    }

    pub(crate) async fn play(self, fleet: &mut Fleet) -> Result<(), BoxError> {
        match self {
            Self::NodeHangs => node_hangs(fleet).await,
            Self::RackPower => racks(fleet, &["rack-1"], RACK).await,
            Self::Region => racks(fleet, &["rack-1", "rack-2"], REGION).await,
            Self::BalancerCrash => balancer_crash(fleet).await,
            Self::BalancerHang => balancer_hang(fleet).await,
            Self::BalancerCutOff => balancer_cut_off(fleet).await,
            Self::BalancerPower => balancer_power(fleet).await,
            Self::LameDuck => lame_duck(fleet).await,
            Self::Upgrade => upgrade(fleet).await,
            Self::Handover => handover(fleet).await,
            Self::RedisLost => redis_lost(fleet).await,
            Self::ActiveActive => active_active(fleet).await,
        }
    }
}

async fn node_hangs(fleet: &mut Fleet) -> Result<(), BoxError> {
    fleet.phase("backend c hangs", HANGING_NODE).await?;
    fleet.backends[2].signal("STOP").await?;
    fleet.struck().await?;
    fleet.hold(AFTERWARDS).await;
    fleet.phase("it wakes up", UNNOTICED).await?;
    fleet.backends[2].signal("CONT").await?;
    fleet.struck().await?;
    fleet.hold(AFTERWARDS).await;
    Ok(())
}

async fn racks(fleet: &mut Fleet, racks: &[&str], expected: Expected) -> Result<(), BoxError> {
    fleet
        .phase(&format!("{} lose power", racks.join(" and ")), expected)
        .await?;
    fleet.world.power_off(racks).await?;
    fleet.struck().await?;
    fleet.hold(2 * AFTERWARDS).await;
    fleet.phase("they are back", UNNOTICED).await?;
    fleet.world.power_on(racks).await?;
    fleet.struck().await?;
    fleet.hold(AFTERWARDS).await;
    Ok(())
}

async fn balancer_crash(fleet: &mut Fleet) -> Result<(), BoxError> {
    let began = fleet.phase("edge at lb-1 is killed", CRASH).await?;
    fleet.balancers[0].edge.kill().await?;
    fleet.struck().await?;
    fleet.balancers[1].until_takeover(began).await?;
    fleet.hold(AFTERWARDS).await;
    comes_back(fleet, "edge at lb-1 is back").await
}

/// Starts the edge at lb-1 again, which must change nothing for clients.
async fn comes_back(fleet: &mut Fleet, what: &str) -> Result<(), BoxError> {
    fleet.phase(what, UNNOTICED).await?;
    let Fleet {
        balancers, world, ..
    } = fleet;
    balancers[0].restart_edge(world).await?;
    fleet.struck().await?;
    fleet.until_ready(0).await?;
    Ok(())
}

async fn balancer_hang(fleet: &mut Fleet) -> Result<(), BoxError> {
    let began = fleet.phase("edge at lb-1 hangs", HANG).await?;
    fleet.balancers[0].edge.signal("STOP").await?;
    fleet.struck().await?;
    fleet.balancers[1].until_takeover(began).await?;
    fleet.hold(AFTERWARDS).await;
    fleet.phase("it wakes up", UNNOTICED).await?;
    fleet.balancers[0].edge.signal("CONT").await?;
    fleet.struck().await?;
    fleet.until_ready(0).await
}

async fn balancer_cut_off(fleet: &mut Fleet) -> Result<(), BoxError> {
    let began = fleet.phase("lb-1 is cut off", CUT_OFF).await?;
    fleet.world.cut_off("lb-1").await?;
    fleet.struck().await?;
    fleet.balancers[1].until_takeover(began).await?;
    fleet.hold(2 * AFTERWARDS).await;
    fleet.phase("it is connected again", UNNOTICED).await?;
    fleet.world.reconnect("lb-1").await?;
    fleet.struck().await?;
    fleet.until_ready(0).await
}

async fn balancer_power(fleet: &mut Fleet) -> Result<(), BoxError> {
    let began = fleet.phase("lb-1 loses power", CUT_OFF).await?;
    fleet.world.power_off(&["lb-1"]).await?;
    fleet.struck().await?;
    fleet.balancers[0].edge.kill().await?;
    fleet.balancers[0].keepalived.end().await?;
    fleet.balancers[1].until_takeover(began).await?;
    fleet.hold(2 * AFTERWARDS).await;
    fleet.phase("lb-1 is back", UNNOTICED).await?;
    fleet.world.power_on(&["lb-1"]).await?;
    let Fleet {
        balancers, world, ..
    } = fleet;
    balancers[0].restart_edge(world).await?;
    balancers[0].restart_keepalived()?;
    fleet.struck().await?;
    fleet.until_ready(0).await
}

async fn lame_duck(fleet: &mut Fleet) -> Result<(), BoxError> {
    stops(fleet, 0).await?;
    fleet.hold(AFTERWARDS).await;
    comes_back(fleet, "edge at lb-1 is back").await
}

/// Stops the edge of the active balancer. The other one takes over before it ends.
async fn stops(fleet: &mut Fleet, nth: usize) -> Result<(), BoxError> {
    let host = ["lb-1", "lb-2"][nth];
    let began = fleet
        .phase(&format!("edge at {host} stops"), PLANNED)
        .await?;
    fleet.balancers[nth].edge.signal("TERM").await?;
    fleet.struck().await?;
    fleet.balancers[1 - nth].until_takeover(began).await?;
    // Without it a request is lost now and then only, which a single experiment does not see.
    let other = ["lb-2", "lb-1"][nth];
    if !fleet.world.has_element(other, "given", VIPS[0]).await? {
        return Err(format!("check-edge at {other} sends nothing on to {host}").into());
    }
    match fleet.balancers[nth].edge.ended().await? {
        status if status.success() => Ok(()),
        status => Err(format!("edge at {host} ended with {status}").into()),
    }
}

async fn upgrade(fleet: &mut Fleet) -> Result<(), BoxError> {
    for (nth, host) in ["lb-1", "lb-2"].into_iter().enumerate() {
        stops(fleet, nth).await?;
        fleet
            .phase(&format!("a new edge starts at {host}"), UNNOTICED)
            .await?;
        let Fleet {
            balancers, world, ..
        } = fleet;
        balancers[nth].restart_edge(world).await?;
        fleet.struck().await?;
        fleet.until_ready(nth).await?;
    }
    Ok(())
}

/// No address moves: each host goes on serving.
async fn handover(fleet: &mut Fleet) -> Result<(), BoxError> {
    for (nth, host) in ["lb-1", "lb-2"].into_iter().enumerate() {
        fleet
            .phase(&format!("a new edge takes over at {host}"), UNNOTICED)
            .await?;
        let Fleet {
            balancers, world, ..
        } = fleet;
        balancers[nth].upgrade_edge(world).await?;
        fleet.struck().await?;
        fleet.until_ready(nth).await?;
    }
    Ok(())
}

/// Serving goes on, and so does what is known. When Redis is back, both agree again, and it has what it
/// had before.
async fn redis_lost(fleet: &mut Fleet) -> Result<(), BoxError> {
    fleet
        .phase("Redis is killed, with an order in force", UNNOTICED)
        .await?;
    fleet.order(0, "a/drain").await?;
    fleet.until_mode("a", "draining").await?;
    fleet.store()?.kill().await?;
    fleet.struck().await?;
    fleet.balancers[0]
        .edge
        .line("the store of the fleet fails")
        .await?;
    fleet.order(1, "b/maintenance").await?;
    fleet.hold(AFTERWARDS).await;
    fleet.phase("it is back, empty", UNNOTICED).await?;
    fleet.restart_store().await?;
    fleet.struck().await?;
    fleet.until_mode("b", "maintenance").await?;
    fleet.until_mode("a", "draining").await?;
    fleet.until_stored(2).await?;
    fleet.order(1, "a/ready").await?;
    fleet.until_mode("a", "ready").await?;
    fleet.hold(AFTERWARDS).await;
    Ok(())
}

async fn active_active(fleet: &mut Fleet) -> Result<(), BoxError> {
    let began = fleet.phase("edge at lb-1 is killed", CRASH).await?;
    fleet.balancers[0].edge.kill().await?;
    fleet.struck().await?;
    fleet.balancers[1].until_takeover(began).await?;
    fleet.hold(AFTERWARDS).await;
    let began = fleet
        .phase("it is back, and its address comes home", HOME)
        .await?;
    let Fleet {
        balancers, world, ..
    } = fleet;
    balancers[0].restart_edge(world).await?;
    fleet.struck().await?;
    fleet.balancers[0].until_takeover(began).await?;
    fleet.hold(HOME_DELAY).await;
    Ok(())
}

/// Nothing fails, nothing is slow, and no address moves.
const UNNOTICED: Expected = Expected {
    may_lose: false,
    failed: 0,
    again: Duration::from_millis(500),
    slowest: Duration::from_millis(1_500),
    moves: 0,
};
/// Hedges and retries hide one backend of six.
const HANGING_NODE: Expected = Expected {
    slowest: Duration::from_millis(2_500),
    ..UNNOTICED
};
/// A third of the attempts wait until a hedge or a check helps.
const RACK: Expected = Expected {
    slowest: Duration::from_millis(4_000),
    ..UNNOTICED
};
/// Two thirds of the attempts wait, which is more than the budget of hedges covers, until two checks
/// failed: 1.6 s after the fault at most.
const REGION: Expected = Expected {
    may_lose: true,
    failed: RATE as usize * 16 / 10,
    slowest: Duration::from_millis(4_900),
    ..UNNOTICED
};
/// The requests in flight are lost. New connections wait for the other balancer; some send their SYN
/// a second time, after 1 s.
const CRASH: Expected = Expected {
    may_lose: true,
    again: Duration::from_millis(1_500),
    slowest: Duration::from_millis(3_500),
    moves: 1,
    ..UNNOTICED
};
/// Connections that the suspended edge's kernel accepted are lost: those of 2 s at most.
const HANG: Expected = Expected {
    failed: RATE as usize * 3,
    again: Duration::from_millis(3_000),
    ..CRASH
};
/// Three adverts are missed, 1.1 s. Connections from before that a client uses meanwhile are lost.
const CUT_OFF: Expected = Expected {
    failed: 50,
    again: Duration::from_millis(2_000),
    slowest: Duration::from_millis(4_000),
    ..CRASH
};
/// The address moves, and no request is lost.
const PLANNED: Expected = Expected {
    moves: 1,
    ..UNNOTICED
};
/// A move home cuts off the connections that are open.
const HOME: Expected = Expected {
    may_lose: true,
    failed: 20,
    slowest: Duration::from_millis(3_500),
    moves: 1,
    ..UNNOTICED
};
/// For what follows a fault.
const AFTERWARDS: Duration = Duration::from_secs(3);
