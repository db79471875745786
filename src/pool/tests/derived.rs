//! Derived tables: built, shared, found by key, and dropped.

use super::*;

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
