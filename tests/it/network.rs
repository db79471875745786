//! Networks that lose, reset, swallow and end, in namespaces of their own.
//!
//! ```text
//! client (the scenario)  ── 198.18.1.0/24 ──  edge (a role)  ── 198.18.2.0/24 ──  backends (a role)
//! ```
//!
//! Each test makes three namespaces, runs its scenario in the first (this binary once more, as a
//! test that is ignored otherwise), and removes them. Faults are nftables rules. It needs root
//! and the tools `ip` and `nft`; where they are missing it says so and passes.

mod roles;
mod scenarios;
mod world;

use world::World;

/// Runs the scenario of this name in a world of its own.
fn play(scenario: &str) {
    match World::make() {
        Ok(world) => world.play(scenario),
        Err(missing) => world::say(&format!("network::{scenario} was NOT run: {missing}")),
    }
}

#[test]
fn an_address_that_swallows_everything_costs_no_request() {
    play("black_hole");
}

#[test]
fn a_host_that_vanishes_ends_what_it_had_in_time() {
    play("vanished_host");
}

#[test]
fn resets_amid_the_body_are_the_backends() {
    play("resets");
}

#[test]
fn a_client_that_vanishes_ends_an_answer_that_trickles() {
    play("vanished_client");
}

#[test]
fn a_backend_that_vanishes_ends_an_upload_that_trickles() {
    play("vanished_amid_upload");
}

#[test]
fn a_lossy_network_to_the_backends_leaks_nothing() {
    play("lossy_backends");
}

#[test]
fn a_lossy_network_to_the_clients_charges_no_backend() {
    play("lossy_clients");
}
