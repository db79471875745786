//! The live updates: one ticker for all viewers, and the stream of each.
//!
//! ```text
//! viewer ─ GET /status/events ─▶ watch(): count + 1, starts the ticker if there is none
//! ticker ─ each second, or 100 ms after a change ─▶ latest (a watch channel) ─▶ each viewer's stream
//! stream ends or is dropped ─▶ count − 1 ─▶ the ticker sees 0 at its next round and ends
//! close() ─▶ `End` to all; no stream from then on
//! ```
//!
//! One text is made for all viewers and shared as `Bytes`; that of the certificates goes only to viewers
//! that do not have it yet. A watch channel and not a broadcast: a
//! viewer that is slow gets the latest state, and there is no queue that could grow. The count is
//! under a lock together with the ticker, so that no viewer can come between the ticker's look at the
//! count and its end.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::watch, task::JoinHandle, time::sleep};

use crate::pool::Pool;

/// What all viewers share.
pub(super) struct Live {
    /// The latest update. A viewer that reads slowly misses those in between and holds up nothing.
    latest: watch::Sender<Update>,
    viewers: Mutex<Viewers>,
}

#[derive(Default)]
struct Viewers {
    count: usize,
    closed: bool,
    ticker: Option<JoinHandle<()>>,
}

enum Update {
    /// No update was made yet.
    None,
    Texts {
        status: Bytes,
        certificates: Bytes,
    },
    /// The streams end.
    End,
}

/// Why a viewer gets no stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoStream {
    Closed,
    /// So many viewers watch already as are accepted.
    Full,
}

/// What makes an update.
pub(super) trait Report: Send + Sync + 'static {
    fn live(&self) -> &Live;
    fn pool(&self) -> &Pool;
    /// Returns the present state.
    fn parts(&self) -> Parts;
}

/// The parts of an update, each as one line of JSON.
pub(super) struct Parts {
    pub(super) status: String,
    pub(super) certificates: String,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            latest: watch::Sender::new(Update::None),
            viewers: Mutex::default(),
        }
    }

    /// Ends all streams, and accepts no viewer from now on.
    ///
    /// The order matters: once `closed` is set, the ticker sends no update, so that `End` stays the
    /// last.
    pub(super) fn close(&self) {
        self.viewers().closed = true;
        self.latest.send_replace(Update::End);
    }

    pub(super) fn viewer_count(&self) -> usize {
        self.viewers().count
    }

    fn viewers(&self) -> MutexGuard<'_, Viewers> {
        self.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a viewer; starts the ticker if it is the first one.
pub(super) fn watch<R: Report>(
    report: &Arc<R>,
    max_viewers: usize,
) -> Result<EventStream, NoStream> {
    let live = report.live();
    let mut viewers = live.viewers();
    if viewers.closed {
        return Err(NoStream::Closed);
    }
    // Under the lock with the count, so that two requests cannot take the last place.
    if viewers.count >= max_viewers {
        return Err(NoStream::Full);
    }
    // The updates need a runtime of tokio.
    let Ok(runtime) = Handle::try_current() else {
        return Err(NoStream::Closed);
    };
    // From here on every way out gives the place back: by the drop of `Viewer`, also where the server
    // drops the response without polling its body.
    viewers.count += 1;
    let mut receiver = live.latest.subscribe();
    // A ticker ends with its runtime, too.
    if viewers.ticker.as_ref().is_none_or(JoinHandle::is_finished) {
        viewers.ticker = Some(runtime.spawn(tick(report.clone())));
    } else {
        // The viewer need not wait for the next update.
        receiver.mark_changed();
    }
    drop(viewers);
    let released = report.clone();
    Ok(EventStream {
        ready: Some(Bytes::from_static(PREFACE)),
        certificates: Bytes::new(),
        next: wait(receiver),
        _viewer: Viewer(Box::new(move || released.live().viewers().count -= 1)),
    })
}

/// Makes an update each second and soon after each change of the pool, while there is a viewer.
async fn tick<R: Report>(report: Arc<R>) {
    // Before the first report, so that no change falls between the two.
    let mut events = report.pool().subscribe();
    loop {
        // Outside the lock: the report of a large pool takes milliseconds.
        let Parts {
            status,
            certificates,
        } = report.parts();
        let event = |name, data| Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
        let update = Update::Texts {
            status: event("status", status),
            certificates: event("certificates", certificates),
        };
        {
            let mut viewers = report.live().viewers();
            if viewers.closed || viewers.count == 0 {
                viewers.ticker = None;
                return;
            }
            // Under the lock, so that no update follows the end.
            report.live().latest.send_replace(update);
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            Some(_) = events.next() => {
                // Changes come in groups, and a hundred updates a second help no viewer.
                sleep(AFTER_A_CHANGE).await;
                // What came during the pause is in the next report.
                while events.try_next().is_some() {}
            }
        }
    }
}

/// The updates for one viewer, as server-sent events (HTML Standard §9.2).
pub(super) struct EventStream {
    /// What is sent before the next update.
    ready: Option<Bytes>,
    /// The certificates that the viewer has.
    certificates: Bytes,
    next: Pin<Box<dyn Future<Output = watch::Receiver<Update>> + Send + Sync>>,
    _viewer: Viewer,
}

impl EventStream {
    /// Returns the next event; `None` at the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(ready) = self.ready.take() {
            return Poll::Ready(Some(ready));
        }
        loop {
            let mut receiver = ready!(self.next.as_mut().poll(cx));
            let update = match &*receiver.borrow_and_update() {
                Update::Texts {
                    status,
                    certificates,
                } => Some(Some((status.clone(), certificates.clone()))),
                Update::None => None,
                Update::End => Some(None),
            };
            // The future ended with the receiver, which the next one takes over.
            self.next = wait(receiver);
            match update {
                Some(Some((status, certificates))) if certificates != self.certificates => {
                    self.ready = Some(status);
                    self.certificates = certificates.clone();
                    return Poll::Ready(Some(certificates));
                }
                Some(update) => return Poll::Ready(update.map(|(status, _)| status)),
                None => {}
            }
        }
    }
}

// A box an update and viewer, once a second.
fn wait(
    mut receiver: watch::Receiver<Update>,
) -> Pin<Box<dyn Future<Output = watch::Receiver<Update>> + Send + Sync>> {
    Box::pin(async move {
        // The sender lives as long as the viewer.
        let _ = receiver.changed().await;
        receiver
    })
}

/// Gives the place of a viewer back when the stream ends or is dropped.
struct Viewer(Box<dyn Fn() + Send + Sync>);

impl Drop for Viewer {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("viewers", &self.viewer_count())
            .finish_non_exhaustive()
    }
}

/// Rates are read by people.
const INTERVAL: Duration = Duration::from_secs(1);
/// Below what a person takes for "at once".
pub(super) const AFTER_A_CHANGE: Duration = Duration::from_millis(100);
/// The client connects again 2 s after a lost connection. The comment is the first byte, so that
/// proxies on the way pass the head.
const PREFACE: &[u8] = b": evenkeel\nretry: 2000\n\n";

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;
    use crate::pool::Backend;

    /// Counts how often a report is made.
    struct Counted {
        live: Live,
        pool: Pool,
        reports: AtomicUsize,
        certificates: AtomicUsize,
    }

    impl Counted {
        fn new() -> Arc<Self> {
            let backend = Backend::new("a", "http://a").unwrap();
            Arc::new(Self {
                live: Live::new(),
                pool: Pool::new([backend]).unwrap(),
                reports: AtomicUsize::new(0),
                certificates: AtomicUsize::new(0),
            })
        }

        fn reports(&self) -> usize {
            self.reports.load(Relaxed)
        }
    }

    impl Report for Counted {
        fn live(&self) -> &Live {
            &self.live
        }

        fn pool(&self) -> &Pool {
            &self.pool
        }

        fn parts(&self) -> Parts {
            let number = self.reports.fetch_add(1, Relaxed);
            Parts {
                status: format!("{number}"),
                certificates: format!("{}", self.certificates.load(Relaxed)),
            }
        }
    }

    /// Returns the next event but those of certificates.
    async fn next(events: &mut EventStream) -> Option<String> {
        loop {
            let event = next_of_all(events).await?;
            if !event.starts_with("event: certificates\n") {
                return Some(event);
            }
        }
    }

    async fn next_of_all(events: &mut EventStream) -> Option<String> {
        let text = poll_fn(|cx| events.poll_next(cx)).await?;
        Some(String::from_utf8(text.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn certificates_are_sent_once_to_each_viewer_until_they_change() {
        let report = Counted::new();
        let certificates = |number| format!("event: certificates\ndata: {number}\n\n");
        let is_status = |event: Option<String>| event.unwrap().starts_with("event: status\n");
        let (mut one, mut slow) = (watch(&report, 3).unwrap(), watch(&report, 3).unwrap());
        for events in [&mut one, &mut slow] {
            assert!(next_of_all(events).await.unwrap().contains("retry:"));
            assert_eq!(next_of_all(events).await.unwrap(), certificates(0));
            assert!(
                is_status(next_of_all(events).await),
                "each is followed by one"
            );
        }
        for _ in 0..3 {
            assert!(is_status(next_of_all(&mut one).await));
        }
        report.certificates.store(1, Relaxed);
        assert_eq!(next_of_all(&mut one).await.unwrap(), certificates(1));
        for _ in 0..3 {
            assert!(is_status(next_of_all(&mut one).await));
        }
        // It has missed the update in which they changed.
        assert_eq!(next_of_all(&mut slow).await.unwrap(), certificates(1));
        assert!(is_status(next_of_all(&mut slow).await));
        let mut late = watch(&report, 3).unwrap();
        next_of_all(&mut late).await;
        assert_eq!(next_of_all(&mut late).await.unwrap(), certificates(1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_ticker_serves_all_viewers_and_ends_with_the_last() {
        let report = Counted::new();
        let mut one = watch(&report, 2).unwrap();
        assert!(next(&mut one).await.unwrap().contains("retry:"));
        assert_eq!(next(&mut one).await.unwrap(), "event: status\ndata: 0\n\n");
        let mut two = watch(&report, 2).unwrap();
        next(&mut two).await;
        assert_eq!(
            next(&mut two).await.unwrap(),
            "event: status\ndata: 0\n\n",
            "at once"
        );
        assert_eq!(watch(&report, 2).err(), Some(NoStream::Full));
        sleep(Duration::from_secs(10)).await;
        let with_two = report.reports();
        assert!(
            (10..=11).contains(&with_two),
            "one a second for both: {with_two}"
        );
        let latest = format!("event: status\ndata: {}\n\n", with_two - 1);
        assert_eq!(
            next(&mut one).await.unwrap(),
            latest,
            "those between are left out"
        );
        drop((one, two));
        assert_eq!(report.live.viewer_count(), 0);
        sleep(Duration::from_secs(60)).await;
        assert!(report.reports() <= with_two + 1, "no viewer, no report");
        let mut again = watch(&report, 2).unwrap();
        next(&mut again).await;
        let before = report.reports();
        next(&mut again).await;
        sleep(Duration::from_secs(3)).await;
        assert!(report.reports() >= before + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_of_changes_is_one_update() {
        let report = Counted::new();
        let mut events = watch(&report, 1).unwrap();
        next(&mut events).await;
        next(&mut events).await;
        let began = tokio::time::Instant::now();
        for weight in 2..50 {
            report.pool.update_weight("a", weight).unwrap();
        }
        next(&mut events).await;
        assert_eq!(began.elapsed(), AFTER_A_CHANGE);
        assert_eq!(report.reports(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_ends_the_streams_and_no_update_follows() {
        let report = Counted::new();
        let mut events = watch(&report, 1).unwrap();
        next(&mut events).await;
        next(&mut events).await;
        report.live.close();
        assert_eq!(next(&mut events).await, None);
        drop(events);
        assert_eq!(watch(&report, 1).err(), Some(NoStream::Closed));
        let reports = report.reports();
        sleep(Duration::from_secs(10)).await;
        assert!(report.reports() <= reports + 1);
    }
}
