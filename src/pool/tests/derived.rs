//! Derived tables: built, shared, found by key, and dropped.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{journal::logged, *};

#[test]
fn derived_tables_follow_the_snapshot() {
    let pool = pool(&["a", "b"]);
    let ids = pool.derive(|all| all.len());
    let group = pool.derive_groups(|g| g.backends().len());
    assert_eq!(pool.snapshot().derived(&ids), Some(&2));
    pool.start_maintenance("a").unwrap();
    assert_eq!(pool.snapshot().derived(&ids), Some(&2));
    assert_eq!(pool.snapshot().derived_group(&group, 0), Some(&1));
    assert_eq!(pool.snapshot().derived_group(&group, 1), None);
    pool.upsert(backend("c").tier(1));
    assert_eq!(pool.snapshot().derived(&ids), Some(&3));
    assert_eq!(pool.snapshot().derived_group(&group, 1), Some(&1));
}

#[test]
fn tables_whose_keys_are_gone_are_dropped() {
    let pool = pool(&["a", "b"]);
    let stays = pool.derive(|all| all.len());
    let stays_too = pool.derive_groups(|group| group.backends().len());
    let count = |pool: &Pool| pool.snapshot().count_tables();
    assert_eq!(count(&pool), (1, 1));
    for round in 0..1_000 {
        let keys = (
            pool.derive(move |_| round),
            pool.derive_once(|all| all.len() as u32),
            pool.derive_groups(move |_| round),
            pool.derive_groups_once(|group| group.backends().len() as u32),
        );
        pool.upsert(backend("c").weight(1 + round % 2).unwrap());
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.derived(&keys.0), Some(&round));
        assert_eq!(snapshot.derived(&keys.1), Some(&3));
        assert_eq!(snapshot.derived_group(&keys.2, 0), Some(&round));
        assert_eq!(snapshot.derived_group(&keys.3, 0), Some(&3));
        assert_eq!(snapshot.count_tables(), (3, 3), "in round {round}");
    }
    pool.remove("c").unwrap();
    assert_eq!(count(&pool), (1, 1));
    assert_eq!(pool.snapshot().derived(&stays), Some(&2));
    assert_eq!(pool.snapshot().derived_group(&stays_too, 0), Some(&2));
}

#[test]
fn a_key_does_not_find_another_table_in_its_slot() {
    let pool = pool(&["a"]);
    let old = pool.derive(|_| 1);
    let kept = old.clone();
    drop(old);
    let before = pool.derive(|_| 2);
    assert_ne!(kept.key.slot, before.key.slot, "a clone keeps the slot");
    let slot = kept.key.slot;
    drop(kept);
    let new = pool.derive(|_| 3);
    assert_eq!(new.key.slot, slot, "the slot is used again");
    let other = self::pool(&["a"]);
    let first = other.derive(|_| 4);
    let second = other.derive(|_| 5);
    assert_eq!(pool.snapshot().derived(&new), Some(&3));
    assert_eq!(other.snapshot().derived(&first), Some(&4));
    assert_eq!(other.snapshot().derived(&second), Some(&5));
    assert_eq!(
        other.snapshot().derived(&new),
        None,
        "its number is another"
    );
}

#[test]
fn a_table_that_several_callers_share_is_built_once() {
    let pool = pool(&["a", "b"]);
    let all = pool.derive_once(|all| all.len());
    let group = pool.derive_groups_once(|group| group.backends().len());
    let other = pool.derive_groups_once(|group| group.weights().to_vec());
    let before = pool.snapshot().generation();
    let again = pool.derive_once(|all| all.len());
    let group_again = pool.derive_groups_once(|group| group.backends().len());
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.generation(), before, "no table was built again");
    assert_eq!([all.key.slot, again.key.slot], [0, 0]);
    assert_eq!(
        [group.key.slot, group_again.key.slot, other.key.slot],
        [0, 0, 1]
    );
    assert_eq!(snapshot.derived(&again), Some(&2));
    assert_eq!(snapshot.derived_group(&group_again, 0), Some(&2));
    assert_eq!(snapshot.derived_group(&other, 0), Some(&vec![1_000; 2]));
}

/// Runs a change of the pool that panics in a table of the user's.
fn assert_panics(panics: &AtomicBool, change: impl FnOnce()) {
    panics.store(true, Relaxed);
    let ended = catch_unwind(AssertUnwindSafe(change));
    panics.store(false, Relaxed);
    assert!(ended.is_err(), "the table must have been built");
}

#[test]
fn a_panic_in_a_table_gives_no_member_the_state_of_another() {
    let pool = pool(&["a", "b", "c"]);
    let panics = Arc::new(AtomicBool::new(false));
    let asked = panics.clone();
    let _table = pool.derive(move |_| assert!(!asked.load(Relaxed), "a fault of the user's"));
    assert_panics(&panics, || drop(pool.remove("a")));
    pool.start_maintenance("b").unwrap();
    let is_usable = |id| member(&pool, id).is_usable();
    assert!(!is_usable("b"), "it is in maintenance");
    assert!(is_usable("c"), "nothing keeps it out");
    assert!(usable(&pool).contains(&"c".to_owned()));
    pool.mark_ready("b").unwrap();
    pool.upsert(backend("d"));
    assert_eq!(usable(&pool), ["b", "c", "d"], "the removal counts");
    assert!(["b", "c", "d"].into_iter().all(is_usable));
}

#[test]
fn a_panic_in_a_table_hides_no_beginning_of_panic_mode() {
    let pool = pool(&["a", "b"]);
    let routing = Routing::new().panic(PanicRouting::UseAll { below: 0.6 });
    pool.update_routing(routing.clone().unwrap());
    let panics = Arc::new(AtomicBool::new(false));
    let asked = panics.clone();
    let _table =
        pool.derive_groups(move |_| assert!(!asked.load(Relaxed), "a fault of the user's"));
    let begins = |lines: &[String]| lines.iter().any(|line| line.contains("panic mode begins"));
    let fails = || drop(pool.measure(&member(&pool, "a"), down()));
    let lines = logged(|| assert_panics(&panics, fails));
    assert!(!pool.snapshot().in_panic_mode());
    assert!(!begins(&lines), "{lines:?}");
    let lines = logged(|| pool.update_routing(routing.unwrap()));
    assert!(pool.snapshot().in_panic_mode());
    assert!(begins(&lines), "{lines:?}");
}
