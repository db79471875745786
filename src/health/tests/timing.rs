//! When checks run: how soon a death is noticed, and how they are spread.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_death_is_noticed_within_the_bound() {
    // Interval, changing interval, time-out, fall, jitter.
    let table = [
        (5.0, 1.0, 2.0, 2, 0.1),
        (5.0, 1.0, 0.5, 3, 0.1),
        (1.0, 1.0, 0.9, 2, 0.1),
        (1.0, 0.2, 0.1, 5, 0.5),
        (10.0, 1.0, 2.0, 1, 0.0),
    ];
    for (interval, changing, timeout, fall, jitter) in table {
        for answer in [Answer::Fail, Answer::Hang] {
            for offset in 0..5 {
                let seconds = Duration::from_secs_f64;
                let (pool, script) = (pool(&["a"]), Script::default());
                let checks = checks(&script)
                    .interval(seconds(interval))
                    .changing_interval(seconds(changing))
                    .timeout(seconds(timeout))
                    .fall(fall)
                    .jitter(jitter);
                let mut events = pool.subscribe();
                let _prober = Prober::start(&pool, checks).unwrap();
                wait_for(&mut events, State::Healthy).await;
                sleep(seconds(20.0 + interval * f64::from(offset) / 5.0)).await;
                script.say("a", answer);
                let died = Instant::now();
                wait_for(&mut events, State::Unhealthy).await;
                let stretch = 1.0 + jitter;
                let bound = interval * stretch
                    + f64::from(fall - 1) * f64::max(changing * stretch, timeout)
                    + timeout;
                let took = died.elapsed().as_secs_f64();
                // The clock of tests ticks in milliseconds.
                let slack = 0.001 * f64::from(2 * fall + 1);
                assert!(
                    took <= bound + slack,
                    "{answer:?} of interval {interval}, changing {changing}, time-out {timeout}, \
                     fall {fall}: noticed after {took} s, promised within {bound} s"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_backend_delays_no_other() {
    let names: Vec<_> = (0..40).map(|i| format!("b{i}")).collect();
    let ids: Vec<_> = names.iter().map(String::as_str).collect();
    let (pool, script) = (pool(&ids), Script::default());
    for id in &ids[..20] {
        script.say(id, Answer::Hang);
    }
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(60 * SECOND).await;
    let slack = Duration::from_millis(2);
    for id in &ids[20..] {
        let begun = script.begun(id);
        assert!(
            begun.len() >= 11,
            "{id} was checked {} times in 60 s",
            begun.len()
        );
        for pair in begun.windows(2) {
            let pause = pair[1] - pair[0];
            assert!(
                pause <= INTERVAL.mul_f64(1.1) + slack,
                "{id} waited for {pause:?}"
            );
        }
    }
    assert_eq!(pool.snapshot().usable(), 20, "those that answer are up");
}

#[tokio::test(start_paused = true)]
async fn checks_do_not_stay_in_step() {
    let names: Vec<_> = (0..50).map(|i| format!("b{i}")).collect();
    let ids: Vec<_> = names.iter().map(String::as_str).collect();
    let (pool, script) = (pool(&ids), Script::default());
    let began = Instant::now();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(30 * SECOND).await;
    let mut in_a_second = HashMap::new();
    for begun in ids.iter().map(|id| script.begun(id)) {
        assert_eq!(begun[0], began, "the first check comes at once");
        for when in &begun[1..] {
            *in_a_second.entry((*when - began).as_secs()).or_insert(0) += 1;
        }
    }
    let most = in_a_second.values().max().unwrap();
    assert!(
        *most < 30,
        "{most} of 50 checks within one second of a 5 s interval"
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_checks_run_at_once_than_may() {
    let names: Vec<_> = (0..30).map(|i| format!("b{i}")).collect();
    let ids: Vec<_> = names.iter().map(String::as_str).collect();
    let (pool, script) = (pool(&ids), Script::default());
    ids.iter().for_each(|id| script.say(id, Answer::Hang));
    let _prober = Prober::start(&pool, checks(&script).concurrency(10)).unwrap();
    for _ in 0..100 {
        sleep(Duration::from_millis(100)).await;
        assert!(script.running() <= 10, "{} run at once", script.running());
    }
    for id in ids {
        assert!(!script.begun(id).is_empty(), "{id} must have its turn");
    }
}
