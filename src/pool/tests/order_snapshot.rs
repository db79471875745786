//! Orders that a successor takes over.

use super::*;
use crate::pool::{OrderSnapshot, OrderedMode, OrderedWeight};

#[tokio::test(start_paused = true)]
async fn orders_become_those_of_the_snapshot() {
    let before = pool(&["a", "b", "c"]);
    before.drain("a", Duration::from_secs(100)).unwrap();
    before.start_maintenance("b").unwrap();
    before.update_weight("c", 9).unwrap();
    before.update_weight("c", 8).unwrap();
    let taken = before.order_snapshot();
    let of = |id: &str| taken.backends.iter().find(|order| order.id == id).unwrap();
    assert_eq!(of("a").mode, OrderedMode::Draining { left_ms: 100_000 });
    assert_eq!(of("b").mode, OrderedMode::Maintenance);
    let weight = OrderedWeight {
        configured: 1,
        ordered: 8,
    };
    assert_eq!(
        of("c").weight,
        Some(weight),
        "the first weight is the configured one"
    );
    // A second on the way.
    let later = taken.clone().later(Duration::from_secs(1));
    let after = pool(&["a", "b", "c", "d"]);
    after.start_maintenance("d").unwrap();
    after.update_weight("d", 3).unwrap();
    assert_eq!(after.restore_orders(&later), 3);
    let now = Instant::now();
    let until = now + Duration::from_secs(99);
    assert_eq!(member(&after, "a").mode(), Mode::Draining { until });
    assert_eq!(member(&after, "b").mode(), Mode::Maintenance);
    assert_eq!(member(&after, "c").configured_weight(), 8);
    let d = member(&after, "d");
    assert_eq!(
        (d.mode(), d.configured_weight()),
        (Mode::Ready, 1),
        "undone"
    );
    // The same once more is no other drain; it can be passed on.
    let mut events = after.subscribe();
    after.restore_orders(&later);
    assert!(events.try_next().is_none(), "nothing changed");
    assert_eq!(after.order_snapshot(), later);
    assert_eq!(after.restore_orders(&OrderSnapshot::default()), 0);
    assert_eq!(after.order_snapshot(), OrderSnapshot::default());
}

#[test]
fn a_configured_weight_that_changed_precedes_an_ordered_one() {
    let before = pool(&["a"]);
    before.update_weight("a", 7).unwrap();
    let taken = before.order_snapshot();
    let after = pool(&["a"]);
    after.upsert(member(&after, "a").weight(2).unwrap());
    after.restore_orders(&taken);
    assert_eq!(member(&after, "a").configured_weight(), 2);
    // A reload brings the configured weight, and ends the order.
    before.upsert(member(&before, "a").weight(1).unwrap());
    assert_eq!(before.order_snapshot(), OrderSnapshot::default());
}

#[test]
fn a_later_snapshot_takes_down_and_never_up() {
    use HealthStatus::{Healthy, Unhealthy};
    let measure = |pool: &Pool, id: &str, health| {
        let member = member(pool, id);
        pool.measure(&member, Measurement::new(health, Reason::new("TEST", "")));
    };
    let before = pool(&["a", "b", "c"]);
    measure(&before, "a", Healthy);
    measure(&before, "b", Unhealthy);
    measure(&before, "c", Healthy);
    let after = pool(&["a", "b", "c"]);
    assert_eq!(after.restore_health(&before.health_snapshot()), 3);
    // A check of the successor passed at `c`.
    member(&after, "c").record_check(LastCheck {
        at: Instant::now(),
        passed: true,
        reason: Reason::new("L7OK", ""),
        took: Duration::ZERO,
        status: None,
    });
    measure(&before, "a", Unhealthy);
    measure(&before, "b", Healthy);
    measure(&before, "c", Unhealthy);
    assert_eq!(after.restore_failures(&before.health_snapshot()), 1);
    let health: Vec<_> = ["a", "b", "c"].map(|id| member(&after, id).health()).into();
    assert_eq!(health, [Unhealthy, Unhealthy, Healthy]);
}
