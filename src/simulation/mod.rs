//! Simulation: many short lives of a pool, each drawn from a seed, under the whole stack and a
//! paused clock.
//!
//! A [`schedule`] says when backends die, hang, flap, slow down and lie, when an operator adds,
//! removes, moves, drains and restores them, when checks stop and start, which requests
//! clients send, and when they hang up. The real pool, checks, pick and retries [`run`] through
//! it; backends and clients are the [`world`]'s. An [`oracle`] sees every check's result and
//! every attempt's end where they happen, keeps its own records, and reports broken invariants.
//!
//! One seed is one life: the same steps at the same moments, with the same draws of chance.
//!
//! ```text
//! cargo test --features full --lib simulation                         # 500 schedules
//! EVENKEEL_SCHEDULES=10000 cargo test --features full --lib simulation::tests::every
//! EVENKEEL_SEED=4711 cargo test --features full --lib simulation::tests::every -- --nocapture
//! ```

mod client;
mod either_balance;
mod oracle;
mod run;
mod schedule;
mod setup;
mod tests;
mod trace;
mod world;
