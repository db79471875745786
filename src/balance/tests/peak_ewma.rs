//! Peak EWMA prefers fast backends, and a fast failure is no fast answer.

use super::*;
use crate::balance::Ended;

#[test]
fn a_backend_that_fails_fast_attracts_no_traffic() {
    use std::time::Duration;
    for count in [3, 4, 50] {
        let pool = pool(&vec![1; count]);
        let mut strategy = PeakEwma::new();
        strategy.attach(&pool);
        assert!(strategy.wants_ends());
        let request = Request::new(());
        let mut failed = 0;
        for _ in 0..4_000 {
            let lease = strategy
                .pick(&pool.snapshot(), &Pick::new(&request))
                .unwrap();
            let (took, status) = match lease.backend().id() {
                "b0" => (1, 503),
                _ => (5, 200),
            };
            failed += usize::from(status == 503);
            let how = Ended::Answered(status.try_into().unwrap());
            strategy.ended(lease.backend(), Duration::from_millis(took), how);
        }
        assert!(
            failed < 10,
            "{failed} of 4,000 went to the one that fails, of {count}"
        );
    }
}

#[test]
fn fast_backends_are_preferred_and_half_a_pool_of_failing_ones_is_avoided() {
    use std::time::Duration;
    let pool = pool(&[1; 8]);
    let request = Request::new(());
    let run = |answer: fn(u32) -> (u64, u16)| {
        let mut strategy = PeakEwma::new();
        strategy.attach(&pool);
        let mut counts = [0; 8];
        for _ in 0..8_000 {
            let lease = strategy
                .pick(&pool.snapshot(), &Pick::new(&request))
                .unwrap();
            let number: u32 = lease.backend().id()[1..].parse().unwrap();
            counts[number as usize] += 1;
            let (took, status) = answer(number);
            let how = Ended::Answered(status.try_into().unwrap());
            strategy.ended(lease.backend(), Duration::from_millis(took), how);
        }
        counts
    };
    let slow = run(|n| if n < 4 { (50, 200) } else { (5, 200) });
    let to_slow: i32 = slow[..4].iter().sum();
    assert!(
        to_slow < 2_400,
        "two slow ones are drawn now and then: {slow:?}"
    );
    let failing = run(|n| if n < 4 { (1, 502) } else { (5, 200) });
    let to_failing: i32 = failing[..4].iter().sum();
    assert!(to_failing < 120, "{failing:?}");
}
