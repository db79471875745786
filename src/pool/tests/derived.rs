//! Tables that are derived from each snapshot: made, shared, found by name and let go of.

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
fn tables_whose_names_are_gone_are_let_go_of() {
    let pool = pool(&["a", "b"]);
    let stays = pool.derive(|all| all.len());
    let stays_too = pool.derive_groups(|group| group.backends().len());
    let count = |pool: &Pool| pool.snapshot().count_tables();
    assert_eq!(count(&pool), (1, 1));
    for round in 0..1_000 {
        let names = (
            pool.derive(move |_| round),
            pool.derive_once(|all| all.len() as u32),
            pool.derive_groups(move |_| round),
            pool.derive_groups_once(|group| group.backends().len() as u32),
        );
        pool.upsert(backend("c").weight(1 + round % 2).unwrap());
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.derived(&names.0), Some(&round));
        assert_eq!(snapshot.derived(&names.1), Some(&3));
        assert_eq!(snapshot.derived_group(&names.2, 0), Some(&round));
        assert_eq!(snapshot.derived_group(&names.3, 0), Some(&3));
        assert_eq!(snapshot.count_tables(), (3, 3), "in round {round}");
    }
    pool.remove("c").unwrap();
    assert_eq!(count(&pool), (1, 1));
    assert_eq!(pool.snapshot().derived(&stays), Some(&2));
    assert_eq!(pool.snapshot().derived_group(&stays_too, 0), Some(&2));
}

#[test]
fn a_name_finds_no_table_that_has_its_place_now() {
    let pool = pool(&["a"]);
    let old = pool.derive(|_| 1);
    let kept = old.clone();
    drop(old);
    let before = pool.derive(|_| 2);
    assert_ne!(kept.key.slot, before.key.slot, "a clone keeps it");
    let place = kept.key.slot;
    drop(kept);
    let new = pool.derive(|_| 3);
    assert_eq!(new.key.slot, place, "the place is used again");
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
fn a_table_that_many_ask_for_is_made_once() {
    let pool = pool(&["a", "b"]);
    let all = pool.derive_once(|all| all.len());
    let group = pool.derive_groups_once(|group| group.backends().len());
    let other = pool.derive_groups_once(|group| group.weights().to_vec());
    let before = pool.snapshot().generation();
    let again = pool.derive_once(|all| all.len());
    let group_again = pool.derive_groups_once(|group| group.backends().len());
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.generation(), before, "nothing was made anew");
    assert_eq!([all.key.slot, again.key.slot], [0, 0]);
    assert_eq!(
        [group.key.slot, group_again.key.slot, other.key.slot],
        [0, 0, 1]
    );
    assert_eq!(snapshot.derived(&again), Some(&2));
    assert_eq!(snapshot.derived_group(&group_again, 0), Some(&2));
    assert_eq!(snapshot.derived_group(&other, 0), Some(&vec![1_000; 2]));
}
