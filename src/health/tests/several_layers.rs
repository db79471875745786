//! Several layers and probers on one pool.

use std::io;

use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::pool::Circuit;

/// Lines of the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn count(&self, words: &str) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(words)).count()
    }

    /// Records what this thread logs, until the result is dropped.
    fn listen(&self) -> Listening {
        // While a process has one subscriber, `tracing` asks that of the thread which reaches a log
        // statement first whether it is of interest, and caches the answer for all threads. A test
        // without a subscriber on another thread would switch the statement off. With a second
        // subscriber, `tracing` asks both.
        let second = Dispatch::new(NoSubscriber::new());
        let subscriber = tracing_subscriber::fmt().with_ansi(false);
        let subscriber = subscriber.with_writer(self.clone()).finish();
        Listening {
            _default: tracing::subscriber::set_default(subscriber),
            _second: second,
        }
    }
}

struct Listening {
    _default: DefaultGuard,
    _second: Dispatch,
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn layer(pool: &Pool, script: &Script) -> HealthLayer {
    let checks = checks(script).jitter(0.0);
    HealthLayer::new(pool.clone()).checks(checks).unwrap()
}

/// Returns how many checks of "a" begin within a minute.
async fn a_minute(script: &Script) -> usize {
    let before = script.begun("a").len();
    sleep(60 * SECOND).await;
    script.begun("a").len() - before
}

#[tokio::test(start_paused = true)]
async fn two_layers_make_one_check_and_log_it_once() {
    let (log, (pool, script)) = (Log::default(), (pool(&["a", "b"]), Script::default()));
    let _listening = log.listen();
    let first = layer(&pool, &script).layer(());
    let mut events = pool.subscribe();
    let second = layer(&pool, &script).layer(());
    sleep(10 * SECOND).await;
    assert_eq!(a_minute(&script).await, 12, "one check in 5 s");
    assert_eq!(log.count("is up"), 2, "one line for each backend");
    script.say("a", Answer::Fail);
    wait_for(&mut events, State::Unhealthy).await;
    sleep(60 * SECOND).await;
    assert_eq!(log.count("is down"), 1);
    assert!(events.try_next().is_none(), "one event");
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn the_newest_checks_and_the_others_go_on_when_it_is_gone() {
    let (pool, old, new) = (pool(&["a"]), Script::default(), Script::default());
    let first = layer(&pool, &old).layer(());
    sleep(10 * SECOND).await;
    assert!(a_minute(&old).await > 0);
    old.say("a", Answer::Hang);
    while old.running() == 0 {
        sleep(SECOND / 10).await;
    }
    let mut events = pool.subscribe();
    let prober = Prober::start(&pool, checks(&new).fall(1)).unwrap();
    sleep(10 * SECOND).await;
    assert_eq!(old.running(), 0, "a check under way ends");
    assert!(events.try_next().is_none(), "and is no failure");
    assert_eq!(a_minute(&old).await, 0);
    assert!(a_minute(&new).await > 0);
    new.say("a", Answer::Fail);
    wait_for(&mut events, State::Unhealthy).await;
    old.say("a", Answer::Pass);
    drop(prober);
    let up = wait_for(&mut events, State::Healthy).await;
    assert_eq!(
        up.streak, 2,
        "what the other measured stands until it is disproved (invariant A)"
    );
    assert!(a_minute(&old).await > 0);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn default_checks_do_not_replace_those_that_were_given() {
    let (pool, script) = (pool(&["a"]), Script::default());
    let given = layer(&pool, &script).layer(());
    // Its check would fail: nothing listens there.
    let default = HealthLayer::new(pool.clone()).layer(());
    sleep(10 * SECOND).await;
    assert_eq!(a_minute(&script).await, 12);
    assert_eq!(pool.snapshot().usable(), 1);
    drop((given, default));
}

#[tokio::test(start_paused = true)]
async fn a_prober_and_a_layer_without_checks_do_not_compete() {
    let (pool, script) = (pool(&["a"]), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    let judge = HealthLayer::new(pool.clone()).no_checks().layer(());
    assert!(a_minute(&script).await > 0);
    drop(judge);
}

#[tokio::test(start_paused = true)]
async fn a_trial_counts_whichever_layer_it_goes_through() {
    for passes in [true, false] {
        let pool = pool(&["a", "b"]);
        let status = Arc::new(Mutex::new(503));
        let answering = status.clone();
        let inner = service_fn(move |_: Request<()>| {
            let status = *answering.lock().unwrap();
            async move {
                let response = Response::builder().status(status);
                Ok::<_, crate::BoxError>(response.body(()).unwrap())
            }
        });
        let judge = || {
            HealthLayer::new(pool.clone())
                .no_checks()
                .outliers(Outliers::new().jitter(0.0))
                .unwrap()
                .layer(inner.clone())
        };
        let layers = [judge(), judge()];
        let a = || pool.snapshot().get("a").unwrap().clone();
        let send = async |nth: usize| {
            let mut request = Request::new(());
            request
                .extensions_mut()
                .insert(crate::context::Selected(a()));
            let _ = layers[nth].clone().oneshot(request).await;
        };
        for _ in 0..5 {
            send(0).await;
        }
        assert_eq!(a().circuit(), Circuit::Open);
        sleep(31 * SECOND).await;
        assert_eq!(a().circuit(), Circuit::HalfOpen);
        if passes {
            *status.lock().unwrap() = 200;
        }
        // One of these is not the one whose task began the trial.
        send(1).await;
        let wanted = match passes {
            true => Circuit::Closed,
            false => Circuit::Open,
        };
        assert_eq!(a().circuit(), wanted);
        if passes {
            continue;
        }
        sleep(61 * SECOND).await;
        *status.lock().unwrap() = 200;
        send(0).await;
        assert_eq!(a().circuit(), Circuit::Closed);
    }
}
