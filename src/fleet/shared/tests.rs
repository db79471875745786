//! The orders of several instances that exchange through one store, without a store: the policy alone.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    builder::START_TIMEOUT,
    frame, link,
    order::{Now, Order, StampedOrder, Subject},
    order_book::OrderBook,
    redis_store, remote, secret_ring, sync,
};
use crate::{
    default_table,
    pool::{Backend, Locality, Mode, Pool},
};

fn pool() -> Pool {
    let zone = Locality::new("eu/1a").unwrap();
    let backend = |id| Backend::new(id, "http://127.0.0.1:1").unwrap();
    let backend = |id| backend(id).locality(zone.clone());
    Pool::new(["a", "b"].map(backend)).unwrap()
}

/// An instance with its pool, and the hash of the store that it exchanges with.
struct Instance {
    pool: Pool,
    book: OrderBook,
    /// How far its clock is ahead, in milliseconds.
    ahead: i64,
    /// What it forgot with the last look.
    outdated: Vec<(Subject, StampedOrder)>,
}

type Hash = BTreeMap<Vec<u8>, Vec<u8>>;

impl Instance {
    fn new(name: &str) -> Self {
        Self::started(name, T)
    }

    fn started(name: &str, wall: u64) -> Self {
        Self {
            pool: pool(),
            book: OrderBook::new(name, wall),
            ahead: 0,
            outdated: Vec::new(),
        }
    }

    fn now(&self, wall: u64) -> Now {
        Now {
            instant: Instant::now(),
            wall: wall.checked_add_signed(self.ahead).unwrap(),
        }
    }

    fn observe(&mut self, wall: u64) {
        let now = self.now(wall);
        self.book.observe(&self.pool, now);
        self.book.apply(&self.pool, now);
    }

    /// Looks into the store as the task does; returns the fields that it refuses.
    fn look(&mut self, hash: &mut Hash, wall: u64) -> Vec<String> {
        self.observe(wall);
        let now = self.now(wall);
        let stored = hash.clone().into_iter().collect();
        let merged = self.book.merge(stored, None, now);
        self.book.apply(&self.pool, now);
        self.outdated = self.book.take_outdated(now);
        for write in merged.to_write {
            let text = frame::encode(write.order.text().as_bytes());
            hash.insert(write.subject.field().into_bytes(), text);
            self.book.written(&write);
        }
        merged.refused.into_iter().map(|(field, _)| field).collect()
    }

    /// Looks, and removes from the store what says nothing any more; returns those fields.
    fn prune(&mut self, hash: &mut Hash, wall: u64) -> Vec<String> {
        self.look(hash, wall);
        let outdated = std::mem::take(&mut self.outdated);
        let fields = outdated.iter().filter_map(|(subject, order)| {
            let (field, text) = (subject.field(), frame::encode(order.text().as_bytes()));
            let found = hash
                .get(field.as_bytes())
                .is_some_and(|there| *there == text);
            found.then_some(field)
        });
        let fields: Vec<_> = fields.collect();
        for field in &fields {
            hash.remove(field.as_bytes());
        }
        fields
    }

    fn mode(&self, id: &str) -> &'static str {
        self.pool.snapshot().get(id).unwrap().mode().as_str()
    }

    fn weight(&self, id: &str) -> u32 {
        self.pool.snapshot().get(id).unwrap().configured_weight()
    }
}

const T: u64 = 1_800_000_000_000;
const DAY: u64 = 86_400_000;

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let compared = [
        ("prefix", format!("`{}`", redis_store::DEFAULT_PREFIX)),
        ("name of an instance", "eight".to_owned()),
        (
            "time for one call",
            format!("{} s", redis_store::DEFAULT_TIMEOUT.as_secs()),
        ),
        ("calls of the store", link::MOST_CALLS.to_string()),
        (
            "wait before the store",
            format!("{} s", link::LONGEST_WAIT.as_secs()),
        ),
        (
            "time between two looks",
            format!("{} ms", sync::POLL.as_millis()),
        ),
        (
            "wait for the store at start",
            format!("{} s", START_TIMEOUT.as_secs()),
        ),
        ("exchange of health", "off".to_owned()),
        ("a new secret", format!("{} s", secret_ring::LEAD.as_secs())),
        ("fields of the orders", remote::MOST_FIELDS.to_string()),
    ];
    default_table::compare(include_str!("../mod.rs"), &compared);
    let fleet = super::Fleet::new(super::RedisStore::new("redis://h").unwrap(), pool());
    assert!(!fleet.health_hints && fleet.instance.len() == 8);
}

#[test]
fn an_order_is_written_as_text_and_read_back() {
    let orders = [
        (Order::Drain { until: T }, "drain 1800000000000"),
        (Order::Maintenance, "maintenance"),
        (Order::Ready, "ready"),
        (Order::Weight(1_000), "weight 1000"),
        (Order::Evacuated, "evacuated"),
        (Order::Restored, "restored"),
    ];
    for (order, text) in orders {
        let stamped = StampedOrder::new(T, "lb-1", order);
        assert_eq!(stamped.text(), format!("00000001800000000000 lb-1 {text}"));
        let read = StampedOrder::parse(stamped.text().as_bytes()).unwrap();
        assert_eq!(
            (read.order(), read.time(), read.instance()),
            (order, T, "lb-1")
        );
    }
    for text in [
        "",
        "x",
        "1 lb-1 ready",
        "00000001800000000000 lb-1 dance",
        "00000001800000000000  ready",
        "00000001800000000000 lb-1 weight 1001",
        "00000001800000000000 lb-1 drain x",
        "99999999999999999999 lb-1 ready",
        "00000001800000000000 lb-1",
    ] {
        assert!(StampedOrder::parse(text.as_bytes()).is_none(), "{text}");
    }
    let zone = Subject::locality("eu/1a r 1/é").unwrap();
    for subject in [
        Subject::Mode("a:b".into()),
        Subject::Weight("a".into()),
        zone,
    ] {
        assert_eq!(Subject::parse(subject.field().as_bytes()), Some(subject));
    }
    let long = format!("mode:{}", "a".repeat(129));
    for field in [
        "",
        "mode",
        "mode:",
        "color:a",
        "mode:a b",
        &long,
        "locality:",
        "locality:a//b",
        "locality:a\n",
    ] {
        assert!(Subject::parse(field.as_bytes()).is_none(), "{field}");
    }
}

#[test]
fn a_deadline_is_the_same_moment_for_every_clock() {
    let instant = Instant::now();
    let given = Now { instant, wall: T };
    let until = instant + Duration::from_secs(100);
    let order = Order::of_mode(Mode::Draining { until }, given);
    assert_eq!(order, Order::Drain { until: T + 100_000 });
    let later = Now {
        instant: instant + Duration::from_secs(9),
        wall: T + 40_000,
    };
    let until = later.instant + Duration::from_secs(60);
    assert_eq!(order.mode(later), Some(Mode::Draining { until }));
    let past = Now {
        instant,
        wall: T + 200_000,
    };
    assert_eq!(order.mode(past), Some(Mode::Draining { until: instant }));
    let never = Order::Drain { until: u64::MAX };
    assert!(matches!(never.mode(given), Some(Mode::Draining { until }) if until > instant));
}

#[test]
fn an_order_holds_at_every_instance_and_the_later_one_wins() {
    let (mut a, mut b) = (Instance::new("lb-1"), Instance::new("lb-2"));
    let mut hash = Hash::new();
    a.look(&mut hash, T);
    b.look(&mut hash, T);
    assert!(hash.is_empty(), "no order is given by a start");
    drop(a.pool.drain("a", Duration::from_secs(60)).unwrap());
    a.pool.update_weight("b", 7).unwrap();
    a.look(&mut hash, T + 1);
    b.look(&mut hash, T + 2);
    assert_eq!(
        (b.mode("a"), b.mode("b"), b.weight("b"), b.weight("a")),
        ("draining", "ready", 7, 1)
    );
    let before = hash.clone();
    for wall in T + 3..T + 6 {
        a.look(&mut hash, wall);
        b.look(&mut hash, wall);
    }
    assert_eq!(hash, before, "what is followed is no order");
    // The clock of the second is an hour behind: it knew the drain, so its order is later.
    b.ahead = -3_600_000;
    b.pool.mark_ready("a").unwrap();
    b.look(&mut hash, T + 10);
    a.look(&mut hash, T + 10);
    assert_eq!((a.mode("a"), b.mode("a")), ("ready", "ready"));
    // Given at both before either saw the other's.
    b.ahead = 0;
    a.pool.start_maintenance("a").unwrap();
    drop(b.pool.drain("a", Duration::from_secs(60)).unwrap());
    a.observe(T + 20);
    b.observe(T + 21);
    a.look(&mut hash, T + 30);
    b.look(&mut hash, T + 30);
    a.look(&mut hash, T + 31);
    assert_eq!(
        (a.mode("a"), b.mode("a")),
        ("draining", "draining"),
        "the later one"
    );
}

#[test]
fn what_the_store_loses_is_written_back_and_what_it_missed_follows() {
    let (mut a, mut b) = (Instance::new("lb-1"), Instance::new("lb-2"));
    let mut hash = Hash::new();
    a.look(&mut hash, T);
    b.look(&mut hash, T);
    a.pool.start_maintenance("a").unwrap();
    a.look(&mut hash, T + 1);
    b.look(&mut hash, T + 1);
    let full = hash.clone();
    // It restarts empty, while the second instance orders more.
    hash.clear();
    b.pool.start_maintenance("b").unwrap();
    b.observe(T + 2);
    a.look(&mut hash, T + 3);
    assert_eq!(hash, full, "written back");
    assert_eq!(a.mode("b"), "ready");
    b.look(&mut hash, T + 4);
    a.look(&mut hash, T + 5);
    assert_eq!((a.mode("a"), a.mode("b")), ("maintenance", "maintenance"));
    // An instance that starts reads all of it.
    let mut c = Instance::new("lb-3");
    c.look(&mut hash, T + 6);
    assert_eq!((c.mode("a"), c.mode("b")), ("maintenance", "maintenance"));
}

#[test]
fn garbage_is_reported_once_and_replaced_by_a_new_order_alone() {
    let mut a = Instance::new("lb-1");
    let mut hash = Hash::new();
    a.look(&mut hash, T);
    a.pool.start_maintenance("a").unwrap();
    a.look(&mut hash, T + 1);
    let garbage = |hash: &mut Hash| {
        hash.insert(b"mode:a".to_vec(), b"\xff\x00garbage".to_vec());
        hash.insert(b"mode:b".to_vec(), frame::encode(b"later format"));
        hash.insert(vec![0, 255], b"x".to_vec());
    };
    garbage(&mut hash);
    let refused = a.look(&mut hash, T + 2);
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(a.look(&mut hash, T + 3).is_empty(), "once");
    assert_eq!(a.mode("a"), "maintenance", "nothing is lost");
    let mut expected = Hash::new();
    garbage(&mut expected);
    assert_eq!(hash, expected, "left as it is");
    a.pool.mark_ready("a").unwrap();
    a.look(&mut hash, T + 4);
    let mut b = Instance::new("lb-2");
    assert_eq!(b.look(&mut hash, T + 5).len(), 2);
    a.pool.start_maintenance("a").unwrap();
    a.look(&mut hash, T + 6);
    b.look(&mut hash, T + 7);
    assert_eq!(b.mode("a"), "maintenance");
}

#[test]
fn an_order_for_a_backend_that_is_not_there_waits_for_it() {
    let (mut a, mut b) = (Instance::new("lb-1"), Instance::new("lb-2"));
    let mut hash = Hash::new();
    b.pool.remove("a").unwrap();
    b.look(&mut hash, T);
    a.pool.start_maintenance("a").unwrap();
    a.pool.update_weight("a", 3).unwrap();
    a.look(&mut hash, T);
    b.look(&mut hash, T + 1);
    b.pool
        .upsert(Backend::new("a", "http://127.0.0.1:1").unwrap());
    // Even while the store cannot be read.
    b.observe(T + 2);
    assert_eq!((b.mode("a"), b.weight("a")), ("maintenance", 3));
    // It left and came back: another member, which the order is for as well.
    a.pool.remove("a").unwrap();
    a.look(&mut hash, T + 3);
    a.pool
        .upsert(Backend::new("a", "http://127.0.0.1:1").unwrap());
    a.look(&mut hash, T + 4);
    b.look(&mut hash, T + 5);
    assert_eq!((a.mode("a"), b.mode("a")), ("maintenance", "maintenance"));
}

#[test]
fn a_reload_changes_a_weight_only_if_its_settings_did() {
    let (mut a, mut b) = (Instance::new("lb-1"), Instance::new("lb-2"));
    let mut hash = Hash::new();
    a.look(&mut hash, T);
    b.look(&mut hash, T);
    let reload = |instance: &Instance, weight| {
        let backends = ["a", "b"].map(|id| Backend::new(id, "http://127.0.0.1:1").unwrap());
        let [first, second] = backends;
        let first = first.weight(weight).unwrap();
        instance.pool.replace([first, second]).unwrap();
    };
    a.pool.update_weight("a", 5).unwrap();
    a.look(&mut hash, T + 1);
    b.look(&mut hash, T + 2);
    for instance in [&mut a, &mut b] {
        reload(instance, 1);
        assert_eq!(instance.weight("a"), 1);
        instance.look(&mut hash, T + 3);
        assert_eq!(instance.weight("a"), 5, "the order goes on");
    }
    reload(&b, 9);
    b.look(&mut hash, T + 4);
    a.look(&mut hash, T + 5);
    assert_eq!((a.weight("a"), b.weight("a")), (9, 9));
    // A file that agrees with an order in force does not undo the next order when it is read again.
    a.pool.update_weight("a", 4).unwrap();
    a.look(&mut hash, T + 5);
    reload(&a, 4);
    a.look(&mut hash, T + 5);
    a.pool.update_weight("a", 0).unwrap();
    a.look(&mut hash, T + 5);
    reload(&a, 4);
    a.look(&mut hash, T + 5);
    b.look(&mut hash, T + 5);
    assert_eq!((a.weight("a"), b.weight("a")), (0, 0));
    // An order for the weight that is there already holds at the others.
    a.pool.update_weight("b", 1).unwrap();
    a.look(&mut hash, T + 6);
    assert!(hash.contains_key(&b"weight:b"[..]));
}

#[test]
fn an_order_that_is_given_meanwhile_is_not_overwritten() {
    let pool = pool();
    let seen = pool.snapshot().get("a").unwrap().clone();
    pool.start_maintenance("a").unwrap();
    let until = Instant::now();
    assert!(!pool.take_over_mode(&seen, Mode::Ready, Mode::Draining { until }));
    assert!(pool.take_over_mode(&seen, Mode::Maintenance, Mode::Ready));
    pool.update_weight("a", 2).unwrap();
    assert!(!pool.take_over_weight(&seen, 0, 1, 3));
    assert!(pool.take_over_weight(&seen, 1, 2, 3));
    let now = pool.snapshot().get("a").unwrap().clone();
    assert_eq!((now.configured_weight(), now.weight_orders()), (3, 1));
    // A reload changes a weight without such an order.
    let again = Backend::new("a", "http://127.0.0.1:1").unwrap();
    pool.upsert(again.weight(9).unwrap());
    assert!(!pool.take_over_weight(&seen, 1, 3, 4));
    assert_eq!(pool.snapshot().get("a").unwrap().configured_weight(), 9);
    assert!(pool.take_over_weight(&seen, 1, 9, 4));
    pool.remove("a").unwrap();
    pool.upsert(Backend::new("a", "http://127.0.0.1:1").unwrap());
    assert!(
        !pool.take_over_mode(&seen, Mode::Ready, Mode::Maintenance),
        "another member"
    );
    assert!(!pool.take_over_weight(&seen, 0, 1, 3));
}

#[test]
fn old_orders_that_say_nothing_are_forgotten() {
    let mut a = Instance::new("lb-1");
    let mut hash = Hash::new();
    a.look(&mut hash, T);
    a.pool.start_maintenance("a").unwrap();
    a.pool.start_maintenance("b").unwrap();
    a.look(&mut hash, T);
    a.pool.mark_ready("b").unwrap();
    a.look(&mut hash, T + 1);
    assert!(a.prune(&mut hash, T + 7 * DAY).is_empty());
    assert_eq!(a.prune(&mut hash, T + 8 * DAY), ["mode:b"]);
    // For long a member: the time begins when it leaves.
    a.pool.remove("a").unwrap();
    assert!(a.prune(&mut hash, T + 40 * DAY).is_empty());
    assert!(a.prune(&mut hash, T + 70 * DAY).is_empty());
    // An instance that starts does not know the members of before, and discovery may be late.
    let mut fresh = Instance::started("lb-2", T + 70 * DAY);
    fresh.pool.remove("a").unwrap();
    assert!(fresh.prune(&mut hash, T + 70 * DAY).is_empty());
    let a_is = |id| Backend::new(id, "http://127.0.0.1:1").unwrap();
    fresh.pool.upsert(a_is("a"));
    fresh.look(&mut hash, T + 71 * DAY);
    assert_eq!(fresh.mode("a"), "maintenance", "it came back in time");
    assert_eq!(a.prune(&mut hash, T + 71 * DAY), ["mode:a"]);
    assert!(hash.is_empty());
}

#[test]
fn a_removed_order_does_not_come_back_from_another_instance() {
    let (mut a, mut b) = (Instance::new("lb-1"), Instance::new("lb-2"));
    let mut hash = Hash::new();
    for instance in [&mut a, &mut b] {
        instance.look(&mut hash, T);
    }
    a.pool.start_maintenance("a").unwrap();
    a.look(&mut hash, T + 1);
    b.look(&mut hash, T + 1);
    for instance in [&mut a, &mut b] {
        instance.pool.remove("a").unwrap();
        instance.look(&mut hash, T + 2);
    }
    let late = T + 31 * DAY;
    assert_eq!(a.prune(&mut hash, late), ["mode:a"]);
    for wall in late..late + 3 {
        b.look(&mut hash, wall);
        a.look(&mut hash, wall);
        assert!(hash.is_empty(), "it came back");
    }
}

#[test]
fn an_old_ready_still_ends_the_drain_of_an_instance_that_was_cut_off() {
    let (mut a, mut b) = (Instance::new("lb-1"), Instance::new("lb-2"));
    let mut hash = Hash::new();
    a.look(&mut hash, T);
    b.look(&mut hash, T);
    a.pool.start_maintenance("a").unwrap();
    a.look(&mut hash, T + 1);
    b.look(&mut hash, T + 1);
    a.pool.mark_ready("a").unwrap();
    a.look(&mut hash, T + 2);
    b.look(&mut hash, T + 9 * DAY);
    assert_eq!(b.mode("a"), "ready");
    assert_eq!(b.prune(&mut hash, T + 9 * DAY), ["mode:a"]);
}

#[test]
fn an_evacuation_holds_at_every_instance() {
    let (mut a, mut b) = (Instance::new("lb-1"), Instance::new("lb-2"));
    let mut hash = Hash::new();
    a.look(&mut hash, T);
    b.look(&mut hash, T);
    let zone = |path| Locality::new(path).unwrap();
    a.pool.evacuate(&zone("eu/1a"));
    a.pool.evacuate(&zone("us"));
    a.look(&mut hash, T + 1);
    b.look(&mut hash, T + 2);
    assert_eq!(b.pool.evacuated(), [zone("eu/1a"), zone("us")]);
    assert_eq!(b.pool.snapshot().usable(), 0);
    b.pool.restore(&zone("eu/1a"));
    b.look(&mut hash, T + 3);
    a.look(&mut hash, T + 4);
    assert_eq!(a.pool.evacuated(), [zone("us")]);
    let before = hash.clone();
    for wall in T + 5..T + 8 {
        a.look(&mut hash, wall);
        b.look(&mut hash, wall);
    }
    assert_eq!(hash, before, "what is followed is no order");
    // What an instance is asked for where the store has too much.
    let own = a.book.own_subjects(&a.pool, 100);
    let own: Vec<_> = own.iter().map(Subject::field).collect();
    let wanted = [
        "locality:eu",
        "locality:eu/1a",
        "mode:a",
        "mode:b",
        "weight:a",
        "weight:b",
    ];
    assert_eq!(own, wanted);
    assert_eq!(a.prune(&mut hash, T + 8 * DAY), ["locality:eu/1a"]);
    assert_eq!(b.pool.evacuated(), [zone("us")]);
}

#[test]
fn an_order_of_another_kind_is_refused() {
    let mut a = Instance::new("lb-1");
    let mut hash = Hash::new();
    for (field, order) in [
        ("mode:a", Order::Weight(3)),
        ("weight:a", Order::Maintenance),
        ("locality:eu", Order::Ready),
    ] {
        let order = StampedOrder::new(T, "lb-2", order);
        hash.insert(field.into(), frame::encode(order.text().as_bytes()));
    }
    assert_eq!(a.look(&mut hash, T).len(), 3);
    assert_eq!((a.mode("a"), a.weight("a")), ("ready", 1));
}

#[test]
fn a_successor_takes_over_orders_with_their_times() {
    let mut old = Instance::new("lb-1");
    let mut hash = Hash::new();
    old.look(&mut hash, T);
    old.pool.start_maintenance("a").unwrap();
    old.pool.start_maintenance("b").unwrap();
    old.observe(T + 1);
    // Cut off from the store, it misses what another instance ordered since.
    let mut other = Instance::new("lb-2");
    other.look(&mut hash, T);
    other.pool.start_maintenance("a").unwrap();
    other.look(&mut hash, T + 2);
    other.pool.mark_ready("a").unwrap();
    other.look(&mut hash, T + 3);
    let mut new = Instance::started("lb-1", T + 10);
    new.observe(T + 10);
    new.book.import(old.book.export());
    new.observe(T + 11);
    assert_eq!(
        (new.mode("a"), new.mode("b")),
        ("maintenance", "maintenance")
    );
    new.look(&mut hash, T + 12);
    other.look(&mut hash, T + 13);
    for instance in [&new, &other] {
        assert_eq!(
            (instance.mode("a"), instance.mode("b")),
            ("ready", "maintenance"),
            "the later order of each"
        );
    }
}
