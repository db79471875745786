//! One run of all dependency checks.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    Dependency,
    overall::{DependencyResult, Overall},
};

/// The results of one run.
#[derive(Debug)]
pub(super) struct RunReport {
    pub(super) ended: Instant,
    pub(super) overall: Overall,
    pub(super) results: Vec<DependencyResult>,
}

/// Runs all checks side by side, each in a task of its own, so that a check which blocks its thread
/// or panics does not affect the others. Returns within `deadline` and [`GRACE`].
pub(super) async fn run(dependencies: Arc<[Dependency]>, deadline: Duration) -> RunReport {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (nth, dependency) in dependencies.iter().enumerate() {
        let checking = check(dependency.clone(), began, deadline);
        running.spawn(async move { (nth, checking.await) });
    }
    let mut ended: Vec<Option<(Duration, Option<String>)>> = vec![None; dependencies.len()];
    let all = async {
        while let Some(joined) = running.join_next().await {
            if let Ok((nth, error)) = joined {
                ended[nth] = Some((began.elapsed(), error));
            }
        }
    };
    let late = timeout_at(began + deadline + GRACE, all).await.is_err();
    let results: Vec<DependencyResult> = dependencies
        .iter()
        .zip(ended)
        .map(|(dependency, result)| {
            let (took, error) = result.unwrap_or_else(|| {
                let why = if late { "it blocks" } else { "it panicked" };
                (began.elapsed(), Some(why.into()))
            });
            DependencyResult {
                name: dependency.name.clone(),
                soft_share: dependency.soft_share,
                took,
                error,
            }
        })
        .collect();
    RunReport {
        ended: Instant::now(),
        overall: Overall::of(&results),
        results,
    }
}

/// Runs one check; returns the text of its error if it failed.
async fn check(dependency: Dependency, began: Instant, deadline: Duration) -> Option<String> {
    let time_limit = dependency.timeout.min(deadline);
    match timeout_at(began + time_limit, (dependency.check)()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} ms", time_limit.as_millis())),
    }
}

/// Time after the deadline for checks to report their own time-out.
const GRACE: Duration = Duration::from_millis(50);
