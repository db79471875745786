//! Requests at a steady pace, whatever becomes of those before.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::BoxError;
use http::{Request, Response, header::HOST};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, interval, timeout},
};
use tower::{Service, ServiceExt};

/// What became of the requests that began in one part of the experiment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    pub(crate) slowest: Duration,
    pub(crate) first_failure: Option<String>,
}

#[derive(Clone)]
struct Parts(Arc<Mutex<Vec<Part>>>);

pub(crate) struct Load {
    parts: Parts,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Load {
    pub(crate) fn start<S, R>(stack: S, rate: u32) -> Self
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<R>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let parts = Parts(Arc::default());
        let (stop, mut stopped) = watch::channel(false);
        let book = parts.clone();
        let task = tokio::spawn(async move {
            let mut pace = interval(Duration::from_secs(1) / rate);
            let mut running = JoinSet::new();
            loop {
                tokio::select! {
                    _ = stopped.changed() => break,
                    _ = pace.tick() => {}
                }
                while running.try_join_next().is_some() {}
                if let Some(part) = book.begin() {
                    running.spawn(one(stack.clone(), book.clone(), part));
                }
            }
            while running.join_next().await.is_some() {}
        });
        Self {
            parts,
            stop,
            task: Mutex::new(Some(task)),
        }
    }

    /// Counts what begins from now on apart.
    pub(crate) fn next_part(&self) {
        self.parts.lock().push(Part::default());
    }

    pub(crate) fn parts(&self) -> Vec<Part> {
        self.parts.lock().clone()
    }

    /// Stops, and waits for the answers.
    pub(crate) async fn finish(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().map_or(None, |mut task| task.take());
        if let Some(task) = task {
            drop(task.await);
        }
    }
}

impl Parts {
    /// Counts a request; returns where its end belongs.
    fn begin(&self) -> Option<usize> {
        let mut parts = self.lock();
        parts.last_mut()?.requests += 1;
        Some(parts.len() - 1)
    }

    fn end(&self, part: usize, took: Duration, result: Result<(), BoxError>) {
        if let Some(part) = self.lock().get_mut(part) {
            part.slowest = part.slowest.max(took);
            if let Err(error) = result {
                part.failed += 1;
                part.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn one<S, R>(stack: S, parts: Parts, part: usize)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<R>, Error = Infallible>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let began = Instant::now();
    let result = timeout(LONGEST, ask(stack)).await;
    parts.end(
        part,
        began.elapsed(),
        result.unwrap_or_else(|e| Err(e.into())),
    );
}

async fn ask<S, R>(stack: S) -> Result<(), BoxError>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<R>, Error = Infallible>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let request = Request::get("/")
        .header(HOST, "experiment")
        .body(Empty::new())?;
    let response = stack.oneshot(request).await?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()).into());
    }
    response.into_body().collect().await.map_err(Into::into)?;
    Ok(())
}

/// A client's patience.
const LONGEST: Duration = Duration::from_secs(5);
