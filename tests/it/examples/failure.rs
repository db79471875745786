//! Backend processes die, leave and lie under load, and no client notices.

use std::{net::SocketAddr, time::Duration};

use http::StatusCode;
use tokio::time::{Instant, sleep, timeout};

use super::{
    client::{get, get_bare},
    edge::Settings,
    load::{Done, Load, homes, none_failed},
    process::{Backend, PATIENCE, Process},
};

/// Edge before backends, as it is measured beside its peers: checks each second.
struct Stage {
    edge: Process,
    address: SocketAddr,
    admin: SocketAddr,
    backends: Vec<Backend>,
    _settings: Settings,
}

impl Stage {
    /// `places` has a name and a locality for each backend.
    async fn set(places: &[(&'static str, &str)], more: &str) -> Self {
        Self::with("least-requests", places, &[], more).await
    }

    /// Those that are `together` can be lost at one moment.
    async fn with(
        strategy: &str,
        places: &[(&'static str, &str)],
        together: &[&str],
        more: &str,
    ) -> Self {
        let mut backends: Vec<Backend> = Vec::new();
        let mut tables = String::new();
        for (name, place) in places {
            let backend = match together.iter().position(|one| one == name) {
                Some(nth) => {
                    let is_first = |b: &&Backend| nth > 0 && b.name == together[0];
                    Backend::start_beside(backends.iter().find(is_first), name).await
                }
                None => Backend::start(name).await,
            };
            tables += &format!("{}locality = {place:?}\n", backend.settings());
            backends.push(backend);
        }
        let settings = Settings::new(&format!(
            "[server]\nthreads = 1\nshutdown = {{ lame_duck = \"0s\" }}\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\nstrategy = {strategy:?}\n{tables}\
             [health]\ninterval = \"1s\"\ntimeout = \"900ms\"\n[failover]\nattempts = 3\n\
             [admin]\naddress = \"127.0.0.1:0\"\n{more}"
        ));
        let mut edge = Process::start("edge", &[&settings.file()]);
        let admin = edge.address("admin on http://").await;
        let address = edge.address("listening on http://").await;
        let stage = Self {
            edge,
            address,
            admin,
            backends,
            _settings: settings,
        };
        stage.until_usable(stage.backends.len()).await;
        stage
    }

    async fn until_usable(&self, count: usize) {
        let wanted = format!("\"usable\":{count},");
        let usable = async {
            while !get(self.admin, "/ready").await.body.contains(&wanted) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let usable = timeout(PATIENCE, usable).await;
        usable.unwrap_or_else(|_| panic!("{count} backends must be usable"));
    }

    async fn kill(&mut self, names: &[&str]) {
        for backend in &mut self.backends {
            if names.contains(&backend.name) {
                backend.process.kill().await;
            }
        }
    }

    /// Loses all that are together, the first of them named: at one moment.
    async fn lose(&mut self, together: &[&str]) {
        let first = self.backends.iter().find(|b| b.name == together[0]);
        first.unwrap().process.signal_all("-KILL");
        for backend in &mut self.backends {
            if together.contains(&backend.name) {
                let (status, _) = backend.process.ended().await;
                assert!(!status.success(), "{} must be killed", backend.name);
            }
        }
    }

    async fn restart(&mut self, nth: usize) {
        let Backend { name, address, .. } = self.backends[nth];
        self.backends[nth] = Backend::start_at(name, address).await;
    }

    async fn end(mut self) {
        self.edge.signal("-TERM");
        self.edge.must_succeed().await;
    }
}

const FOUR: [(&str, &str); 4] = [("a", "eu"), ("b", "eu"), ("c", "eu"), ("d", "eu")];
/// Two racks of one zone, another zone, another region.
const PLACES: [(&str, &str); 6] = [
    ("a", "eu/eu-1/r1"),
    ("b", "eu/eu-1/r1"),
    ("c", "eu/eu-1/r2"),
    ("d", "eu/eu-2/r1"),
    ("e", "us/us-1/r1"),
    ("f", "us/us-1/r1"),
];
const STICKY: &str = "[sticky]\nsecure = false\n\
     keys = [\"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\"]\n";

#[tokio::test]
async fn no_request_fails_when_one_of_four_backends_is_killed_and_started_again() {
    let mut stage = Stage::set(&FOUR, "").await;
    let load = Load::start(stage.address, RATE, 0);
    sleep(CALM).await;
    stage.kill(&["b"]).await;
    let killed = Instant::now();
    stage.until_usable(3).await;
    sleep(CALM).await;
    let restarted = Instant::now();
    stage.restart(1).await;
    stage.until_usable(4).await;
    sleep(CALM).await;
    let all = load.end().await;
    none_failed(&all);
    let within = |from: Instant, to: Instant| {
        let part: Vec<&Done> = all
            .iter()
            .filter(|d| from <= d.began && d.began < to)
            .collect();
        let by = |name: &str| {
            let own = part
                .iter()
                .filter(|d| d.result.as_deref().ok() == Some(name));
            own.count()
        };
        FOUR.map(|(name, _)| by(name))
    };
    let [a, b, c, d] = within(all[0].began, killed);
    assert!(
        a.min(b).min(c).min(d) > 0,
        "all four answer: {a} {b} {c} {d}"
    );
    assert_eq!(
        within(killed, restarted)[1],
        0,
        "what is dead answers nothing"
    );
    assert!(within(restarted, Instant::now())[1] > 0, "and is back");
    stage.end().await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_backends_fails_no_request() {
    // SIGTERM ends them at once; before SIGUSR2 does, their health says so for a while.
    for signal in ["-TERM", "-USR2"] {
        let mut stage = Stage::set(&FOUR, "").await;
        let load = Load::start(stage.address, RATE, 0);
        for nth in 0..FOUR.len() {
            stage.backends[nth].process.signal(signal);
            stage.backends[nth].process.must_succeed().await;
            stage.until_usable(3).await;
            stage.restart(nth).await;
            stage.until_usable(4).await;
        }
        let all = load.end().await;
        let names = none_failed(&all);
        assert_eq!(names.len(), 4, "all took part: {names:?}");
        stage.end().await;
    }
}

#[tokio::test]
async fn no_request_fails_when_a_rack_a_zone_or_a_region_is_lost_and_its_sessions_move_once() {
    for (place, lost) in [
        ("rack", &["a", "b"][..]),
        ("zone", &["a", "b", "c"]),
        ("region", &["a", "b", "c", "d"]),
    ] {
        let mut stage = Stage::with("least-requests", &PLACES, lost, STICKY).await;
        let load = Load::start(stage.address, RATE, 100);
        // Four of six are more than outliers may take out: until checks do, a third of the
        // requests need a retry, at a time when a budget has earned few.
        sleep(CALM).await;
        stage.lose(lost).await;
        stage.until_usable(PLACES.len() - lost.len()).await;
        sleep(CALM).await;
        let all = load.end().await;
        none_failed(&all);
        let mut moved = 0;
        for (session, homes) in homes(&all) {
            let (first, last) = (homes[0], homes[homes.len() - 1]);
            assert!(
                !lost.contains(&last),
                "{place}: {session} is left behind: {homes:?}"
            );
            let moves = homes.len() - 1;
            let reasons = usize::from(lost.contains(&first));
            assert_eq!(moves, reasons, "{place}: {session} moved: {homes:?}");
            moved += moves;
        }
        assert!(moved > 0, "{place}: some sessions were there");
        stage.end().await;
    }
}

#[tokio::test]
async fn a_backend_that_fails_fast_attracts_no_traffic() {
    for strategy in ["least-requests", "peak-ewma"] {
        let stage = Stage::with(strategy, &FOUR, &[], "").await;
        let load = Load::start(stage.address, RATE, 0);
        sleep(CALM).await;
        stage.backends[2].process.signal("-USR1");
        let broken = Instant::now();
        sleep(Duration::from_secs(6)).await;
        let all = load.end().await;
        let late: Vec<&Done> = all
            .iter()
            .filter(|done| done.began > broken + Duration::from_secs(2))
            .collect();
        let refused = late.iter().filter(|done| done.result.is_err()).count();
        assert!(
            refused * 100 < late.len(),
            "{strategy}: {refused} of {} went to what answers 503 at once",
            late.len()
        );
        stage.end().await;
    }
}

#[tokio::test]
async fn with_all_backends_down_clients_are_told_at_once_to_come_back_and_it_idles() {
    let mut stage = Stage::set(&FOUR, "").await;
    stage.kill(&["a", "b", "c", "d"]).await;
    stage.until_usable(0).await;
    let mut times = Vec::new();
    let mut in_time = 0;
    let until = Instant::now() + 2 * PATIENCE;
    // Other tests run beside this one, and take the processor from it now and then: that only
    // begins the row again. A refusal that waits for anything never makes a whole one.
    while in_time < ROW {
        let (answer, took) = get_bare(stage.address);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let after = answer.lines().find_map(|l| l.strip_prefix("retry-after: "));
        let after: u64 = after.unwrap().parse().unwrap();
        assert!((1..=60).contains(&after), "{after}");
        times.push(took);
        in_time = match took < AT_ONCE {
            true => in_time + 1,
            false => 0,
        };
        assert!(
            Instant::now() < until,
            "no {ROW} in a row took less than {AT_ONCE:?} for a connection and a refusal: {times:?}"
        );
    }
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!("503 after {median:?}, at most {most:?} of {}", times.len());
    let before = stage.edge.cpu_time();
    sleep(Duration::from_secs(3)).await;
    let used = stage.edge.cpu_time() - before;
    println!("{used:?} of CPU in 3 s");
    assert!(
        used < Duration::from_millis(300),
        "it checks, and no more: {used:?}"
    );

    stage.restart(0).await;
    let restarted = Instant::now();
    while get(stage.address, "/").await.status != StatusCode::OK {
        sleep(Duration::from_millis(10)).await;
    }
    println!("back after {:?}", restarted.elapsed());
    assert!(
        restarted.elapsed() < PATIENCE / 6,
        "two checks bring it back"
    );
    for nth in 1..FOUR.len() {
        stage.restart(nth).await;
    }
    stage.until_usable(4).await;
    stage.end().await;
}

/// Requests a second.
const RATE: u32 = 500;
/// How long a connection and a refusal may take.
const AT_ONCE: Duration = Duration::from_millis(5);
/// Enough that what comes slowly now and then by our own doing does not hide between.
const ROW: usize = 40;
/// Between one thing and the next.
const CALM: Duration = Duration::from_secs(1);
