//! Which attempts are paid for, and what an empty budget ends.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_empty_budget_ends_retries_for_all_services_of_a_layer() {
    let layer = FailoverLayer::new().budget(Budget::new(0.0, 0.1).unwrap());
    let (calls, _) = run(&layer, Method::GET, full(), &[CLOSED, CLOSED]).await;
    assert_eq!(calls, 2, "one retry was saved up");
    let (calls, end) = run(&layer, Method::GET, full(), &[CLOSED, CLOSED]).await;
    assert_eq!(calls, 1, "and it is used up");
    assert!(
        end.unwrap_err().take_unsent().is_some(),
        "an error that stands must give back what it had"
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    let (calls, _) = run(&layer, Method::GET, full(), &[CLOSED, CLOSED]).await;
    assert_eq!(calls, 2, "time earns the next");
}

#[tokio::test(start_paused = true)]
async fn only_attempts_that_may_have_reached_a_backend_are_paid_for() {
    const LATE: Ending = Ending {
        kind: ErrorKind::ConnectTimeout,
        ..REFUSED
    };
    const NO_TLS: Ending = Ending {
        kind: ErrorKind::ConnectTls,
        ..REFUSED
    };
    // An idle connection broke under the request, and a new one was refused.
    const REDIALLED: Ending = Ending {
        sent: true,
        ..REFUSED
    };
    const SAVED: usize = 5;
    // How the attempts end, how many are made, what is paid of it, and how many are made where
    // there is nothing to pay from.
    let table: &[(&[Ending], usize, usize, usize)] = &[
        (&[REFUSED, REFUSED, REFUSED], 3, 0, 3),
        (&[CLOSED, CLOSED, CLOSED], 3, 2, 1),
        (&[REFUSED, CLOSED, CLOSED], 3, 1, 2),
        (&[REFUSED, REFUSED, CLOSED], 3, 0, 3),
        // What was paid for the second is for the third, or comes back.
        (&[CLOSED, REFUSED, CLOSED], 3, 1, 1),
        (&[CLOSED, REFUSED, REFUSED], 3, 0, 1),
        (&[CLOSED, NONE_LEFT], 2, 0, 1),
        (&[REFUSED, NONE_LEFT], 2, 0, 2),
        (&[NONE_LEFT], 1, 0, 1),
        (&[LATE, REFUSED, REFUSED], 3, 0, 1),
        (&[LATE, LATE, LATE], 3, 2, 1),
        (&[NO_TLS, NO_TLS, NO_TLS], 3, 2, 1),
        (&[REDIALLED, REDIALLED, REDIALLED], 3, 2, 1),
    ];
    for (ends, made, paid, free) in table {
        let what: Vec<_> = ends.iter().map(|end| (end.kind, end.sent)).collect();
        let budget = Budget::new(0.0, SAVED as f64 / 10.0).unwrap();
        let layer = FailoverLayer::new().max_attempts(3).unwrap();
        let rich = layer.clone().budget(budget.clone());
        let (calls, _) = run(&rich, Method::GET, full(), ends).await;
        assert_eq!(calls, *made, "{what:?}");
        let now = tokio::time::Instant::now();
        let left = (0..SAVED).take_while(|_| budget.withdraw(now)).count();
        assert_eq!(SAVED - left, *paid, "{what:?}: of the budget");

        let poor = layer.budget(Budget::new(0.0, 0.0).unwrap());
        let (calls, end) = run(&poor, Method::GET, full(), ends).await;
        assert_eq!(calls, *free, "{what:?}: with an empty budget");
        assert!(end.unwrap_err().kind() != ErrorKind::Service);
    }
}
