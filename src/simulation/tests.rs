use std::{collections::BTreeMap, env, thread};

use super::{
    oracle::{Counts, Invariant},
    run::{Life, live},
    schedule::Schedule,
    trace::What,
};
use crate::mutation::{self, Mutation};

/// Lives through the schedules of these seeds; stops when as many broke something as are looked
/// for.
fn lives(seeds: impl Iterator<Item = u64>, looked_for: usize) -> (Counts, Vec<Life>) {
    let mut counts = Counts::default();
    let mut broken = Vec::new();
    for seed in seeds {
        let life = live(&Schedule::draw(seed));
        for (what, often) in &life.counts.0 {
            *counts.0.entry(what).or_default() += often;
        }
        if !life.violations.is_empty() {
            broken.push(life);
        }
        if broken.len() == looked_for {
            break;
        }
    }
    (counts, broken)
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a number")),
    )
}

/// Says what a life broke, and how the same is seen again.
fn tell(life: &Life, again: &str) -> String {
    let found: Vec<_> = life
        .violations
        .iter()
        .map(|v| format!("{:>7} ms  {:?}: {}", v.at, v.invariant, v.what))
        .collect();
    format!(
        "seed {} breaks an invariant:\n{}\n\nthe last of its trace:\n{}\nto see it again: \
         EVENKEEL_SEED={} cargo test --features full --lib simulation::tests::{again} -- --nocapture",
        life.seed,
        found.join("\n"),
        life.trace.tail(60),
        life.seed
    )
}

/// Lives through one schedule, and prints what happens.
fn see_again(schedule: &Schedule, again: &str) {
    let life = live(schedule);
    println!("{:#?}", schedule.settings);
    println!("{:?}", schedule.members);
    for line in life.trace.lines() {
        match line.what {
            What::Step(number) => println!("{:>7} ms  {:?}", line.at, schedule.steps[number].1),
            _ => println!("{line}"),
        }
    }
    assert!(life.violations.is_empty(), "{}", tell(&life, again));
}

#[test]
fn every_schedule_upholds_every_invariant() {
    if let Some(seed) = number("EVENKEEL_SEED") {
        return see_again(&Schedule::draw(seed), EVERY);
    }
    let schedules = number("EVENKEEL_SCHEDULES").unwrap_or(SCHEDULES);
    let threads: Vec<_> = (0..THREADS)
        .map(|first| {
            thread::spawn(move || lives((first..schedules).step_by(THREADS as usize), SHOWN))
        })
        .collect();
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    let mut failed: Vec<Life> = Vec::new();
    for thread in threads {
        let (counted, broken) = thread.join().expect("no schedule panics");
        for (what, often) in counted.0 {
            *counts.entry(what).or_default() += often;
        }
        failed.extend(broken);
    }
    failed.sort_by_key(|life| life.seed);
    if let Some((life, others)) = failed.split_first() {
        let others: Vec<_> = others
            .iter()
            .map(|life| format!("seed {}: {:?}", life.seed, life.violations[0]))
            .collect();
        panic!("{}\nalso:\n{}", tell(life, EVERY), others.join("\n"));
    }
    println!("{schedules} schedules: {counts:#?}");
    for what in GOES_THERE {
        let often = counts.get(what).copied().unwrap_or(0);
        assert!(
            often >= schedules / 20,
            "{what}: {often} times in {schedules} schedules proves nothing"
        );
    }
}

#[test]
fn a_runtime_that_ends_takes_no_invariant_along() {
    if let Some(seed) = number("EVENKEEL_SEED") {
        return see_again(&Schedule::draw(seed).across_runtimes(), ACROSS);
    }
    let mut lost = 0;
    for seed in 0..RUNTIMES {
        let life = live(&Schedule::draw(seed).across_runtimes());
        lost += life.counts.0.get("runtimes lost").copied().unwrap_or(0);
        assert!(
            life.violations.is_empty(),
            "across runtimes, {}",
            tell(&life, ACROSS)
        );
    }
    assert!(lost > RUNTIMES / 10, "{lost} runtimes ended");
}

#[test]
fn one_seed_is_one_life() {
    for seed in 0..60 {
        let once = live(&Schedule::draw(seed)).trace;
        // On a thread of its own, so that no earlier run has an influence.
        let twice = thread::spawn(move || live(&Schedule::draw(seed)).trace);
        let twice = twice.join().expect("no schedule panics");
        assert!(once.lines().len() > 50, "seed {seed} is no life");
        if let Some(i) =
            (0..once.lines().len()).find(|i| once.lines().get(*i) != twice.lines().get(*i))
        {
            panic!(
                "seed {seed} goes apart at line {i}: {:?}, {:?}",
                once.lines().get(i),
                twice.lines().get(i)
            );
        }
        assert_eq!(once.digest(), twice.digest());
    }
}

/// The simulation with this fault fails within `FAULTY` schedules, and for the right reason.
fn catches(fault: Mutation, invariant: Invariant) {
    mutation::set(Some(fault));
    let (_, mut broken) = lives(0..FAULTY, 1);
    mutation::set(None);
    let life = broken
        .pop()
        .unwrap_or_else(|| panic!("{fault:?} goes unnoticed"));
    assert_eq!(
        life.violations[0].invariant,
        invariant,
        "{fault:?} is taken for something else: {}",
        tell(&life, EVERY)
    );
    let (_, broken) = lives(life.seed..=life.seed, 1);
    assert!(broken.is_empty(), "without the fault, the same seed holds");
}

#[test]
fn that_a_reconfiguration_revives_is_caught() {
    catches(Mutation::ReconfigurationRevives, Invariant::A);
}

#[test]
fn that_a_reconfiguration_readmits_is_caught() {
    catches(Mutation::ReconfigurationReadmits, Invariant::A);
}

#[test]
fn that_failures_add_up_across_passes_is_caught() {
    catches(Mutation::FailuresAddUp, Invariant::B);
}

#[test]
fn that_a_cancelled_check_counts_is_caught() {
    catches(Mutation::CancelledCheckCounts, Invariant::C);
}

#[test]
fn that_checks_take_turns_is_caught() {
    catches(Mutation::ChecksTakeTurns, Invariant::D);
}

#[test]
fn that_a_hang_up_counts_is_caught() {
    catches(Mutation::HangUpCounts, Invariant::E);
}

#[test]
fn that_the_last_one_is_ejected_is_caught() {
    catches(Mutation::LastIsEjected, Invariant::F);
}

#[test]
fn that_retries_are_free_is_caught() {
    catches(Mutation::RetriesAreFree, Invariant::Budget);
}

/// How the tests that live through schedules are called, and found.
const EVERY: &str = "every";
const ACROSS: &str = "a_runtime";
/// Ten thousand take some two minutes without optimisation: `.ci/run` has that timeout.
const SCHEDULES: u64 = 500;
/// As many as cores on a small machine.
const THREADS: u64 = 2;
/// Enough to see whether one fault has several faces.
const SHOWN: usize = 8;
/// Some twenty of them lose a runtime.
const RUNTIMES: u64 = 100;
/// A fault that needs more is not looked for hard enough.
const FAULTY: u64 = 500;
/// Where the schedules must get to, once in twenty at the least.
const GOES_THERE: [&str; 13] = [
    "checks cancelled",
    "came up",
    "went down",
    "became unknown",
    "ejections",
    "readmissions",
    "hang-ups before an answer",
    "requests tried again",
    "retries that cost",
    "client_body",
    "connect_timeout",
    "response_head_timeout",
    "recoveries",
];
