//! One run of all checks.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    Dependency,
    verdict::{Finding, Verdict},
};

/// What a run found.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ended: Instant,
    pub(super) verdict: Verdict,
    pub(super) findings: Vec<Finding>,
}

/// Runs all checks side by side, each in a task of its own: one that blocks its thread or panics
/// takes no other along. Ends within the deadline.
pub(super) async fn run(dependencies: Arc<[Dependency]>, deadline: Duration) -> Outcome {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (nth, dependency) in dependencies.iter().enumerate() {
        let checking = check(dependency.clone(), began, deadline);
        running.spawn(async move { (nth, checking.await) });
    }
    let mut results: Vec<Option<(Duration, Option<String>)>> = vec![None; dependencies.len()];
    let all = async {
        while let Some(ended) = running.join_next().await {
            if let Ok((nth, error)) = ended {
                results[nth] = Some((began.elapsed(), error));
            }
        }
    };
    let late = timeout_at(began + deadline + GRACE, all).await.is_err();
    let findings: Vec<Finding> = dependencies
        .iter()
        .zip(results)
        .map(|(dependency, result)| {
            let (took, error) = result.unwrap_or_else(|| {
                let why = if late { "it blocks" } else { "it panicked" };
                (began.elapsed(), Some(why.into()))
            });
            Finding {
                name: dependency.name.clone(),
                soft: dependency.soft,
                took,
                error,
            }
        })
        .collect();
    Outcome {
        ended: Instant::now(),
        verdict: Verdict::of(&findings),
        findings,
    }
}

/// Returns what is wrong.
async fn check(dependency: Dependency, began: Instant, deadline: Duration) -> Option<String> {
    let patience = dependency.timeout.min(deadline);
    match timeout_at(began + patience, (dependency.check)()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} ms", patience.as_millis())),
    }
}

/// For a check's own time-out to be seen first.
const GRACE: Duration = Duration::from_millis(50);
