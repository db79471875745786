//! Two `edge` behind a virtual address that a real keepalived moves, in network namespaces.
//!
//! The example `fleet` makes the network and plays the scenario; here its figures are judged. What is
//! counted is judged strictly. Times have the slowest answer of the quiet time before on top, several
//! times, since other tests run beside this one. Without root, namespaces or keepalived the example
//! says so, and the test passes.

use std::{io::Write, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{process::Command, sync::Mutex, time::timeout};

use crate::examples::process::binary;

/// A phase of a scenario, as the example reports it.
struct Phase(Value);

impl Phase {
    fn number(&self, name: &str) -> u64 {
        let number = self.0[name].as_u64();
        number.unwrap_or_else(|| panic!("no number {name} in {:#}", self.0))
    }

    /// Nothing was lost, nothing failed, and no address moved.
    fn goes_unnoticed(&self) {
        self.loses_nothing();
        assert_eq!(self.number("moves"), 0, "no address may move: {:#}", self.0);
    }

    fn loses_nothing(&self) {
        for name in ["lost", "failed"] {
            assert_eq!(self.number(name), 0, "no request may fail: {:#}", self.0);
        }
        self.carries_load();
    }

    /// At most the requests in flight at the moment of the fault were lost, and none after it.
    fn loses_what_is_in_flight(&self) {
        assert!(self.number("lost") <= self.number("in_flight"));
        assert_eq!(self.number("failed"), 0, "new requests wait: {:#}", self.0);
        self.carries_load();
    }

    fn moves_once_within(&self, limit: Duration) {
        assert_eq!(self.number("moves"), 1, "one takeover: {:#}", self.0);
        let calm = Duration::from_millis(self.number("calm_ms"));
        for name in ["takeover_ms", "again_ms"] {
            let measured = Duration::from_millis(self.number(name));
            assert!(
                measured <= limit + 3 * calm,
                "{name}: {limit:?} is the limit, {calm:?} took the slowest answer before: {:#}",
                self.0
            );
        }
    }

    fn carries_load(&self) {
        assert!(self.number("requests") > 500, "there is load: {:#}", self.0);
    }
}

/// Plays a scenario; returns its phases, or `None` where it cannot be played.
async fn play<const N: usize>(scenario: &str) -> Option<[Phase; N]> {
    // One world at a time: each has ten processes and 500 requests a second.
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let child = Command::new(binary("fleet"))
        .args(["--json", "--only", scenario])
        // The binaries are built already.
        .env_remove("CARGO")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = timeout(LONGEST, child.wait_with_output()).await;
    let output = output.expect("the scenario must end").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let mut lines: Vec<Value> = lines.collect();
    if let Some(missing) = lines.first().and_then(|line| line["not_run"].as_str()) {
        // Past the capture of the test's output.
        let _ = writeln!(
            std::io::stderr(),
            "fleet::vip::{scenario} was NOT run: {missing}"
        );
        return None;
    }
    // 1 means that a figure is not as expected on a quiet machine: judged below.
    assert!(
        output.status.code().is_some_and(|code| code <= 1) && lines.len() == N,
        "{scenario}: {}: {text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let phases = lines.drain(..).map(Phase).collect::<Vec<_>>();
    phases.try_into().ok()
}

#[tokio::test]
async fn a_killed_balancer_loses_only_what_is_in_flight_and_comes_back_without_a_flap() {
    if let Some([killed, back]) = play("balancer-crash").await {
        killed.loses_what_is_in_flight();
        killed.moves_once_within(Duration::from_millis(1_500));
        back.goes_unnoticed();
    }
}

#[tokio::test]
async fn a_balancer_that_hangs_is_replaced_by_the_deadline_of_ready() {
    if let Some([hangs, wakes]) = play("balancer-hang").await {
        hangs.moves_once_within(Duration::from_secs(3));
        // Connections that the kernel of the suspended one accepted.
        assert!(hangs.number("failed") <= 1_500, "{:#}", hangs.0);
        wakes.goes_unnoticed();
    }
}

#[tokio::test]
async fn a_lame_duck_gives_the_address_away_and_fails_no_request() {
    if let Some([stops, back]) = play("lame-duck").await {
        stops.loses_nothing();
        assert_eq!(stops.number("moves"), 1, "{:#}", stops.0);
        back.goes_unnoticed();
    }
}

#[tokio::test]
async fn a_balancer_that_is_cut_off_is_replaced_and_gives_way_when_it_is_connected_again() {
    if let Some([cut_off, connected]) = play("balancer-cut-off").await {
        cut_off.moves_once_within(Duration::from_secs(2));
        assert!(cut_off.number("failed") <= 100, "{:#}", cut_off.0);
        connected.goes_unnoticed();
    }
}

#[tokio::test]
async fn both_balancers_are_upgraded_in_turn_and_no_request_fails() {
    if let Some(phases) = play::<4>("upgrade").await {
        for (nth, phase) in phases.iter().enumerate() {
            phase.loses_nothing();
            let moves = u64::from(nth % 2 == 0);
            assert_eq!(phase.number("moves"), moves, "{:#}", phase.0);
        }
    }
}

#[tokio::test]
async fn both_edges_hand_over_in_turn_and_no_request_fails() {
    if let Some(phases) = play::<2>("handover").await {
        phases.iter().for_each(Phase::goes_unnoticed);
    }
}

/// That both agree again is judged by the scenario, which fails otherwise.
#[tokio::test]
async fn no_request_fails_while_redis_is_lost_and_both_agree_when_it_is_back() {
    if let Some(phases) = play::<2>("redis-lost").await {
        phases.iter().for_each(Phase::goes_unnoticed);
    }
}

#[tokio::test]
async fn two_active_balancers_stand_in_for_each_other() {
    if let Some([killed, home]) = play("active-active").await {
        killed.loses_what_is_in_flight();
        killed.moves_once_within(Duration::from_millis(1_500));
        assert_eq!(home.number("moves"), 1, "{:#}", home.0);
    }
}

#[tokio::test]
async fn a_rack_that_loses_power_fails_no_request() {
    if let Some([dark, back]) = play("rack-power").await {
        dark.loses_nothing();
        back.goes_unnoticed();
    }
}

/// A scenario takes half a minute; a busy machine may take several times as long.
const LONGEST: Duration = Duration::from_secs(300);
