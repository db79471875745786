//! Drains: when they end, and which attachments are retired by them, by a move and by a removal.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_sessions_until_its_deadline() {
    let pool = pool(&["a", "b"]);
    let a = pool.snapshot().get("a").unwrap().clone();
    pool.drain("a", Duration::from_secs(10)).unwrap();
    assert!(!a.is_usable() && a.keeps_sessions());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!a.keeps_sessions(), "the deadline has passed");
    pool.mark_ready("a").unwrap();
    assert!(a.is_usable());
    pool.start_maintenance("a").unwrap();
    assert!(!a.keeps_sessions());
    assert!(pool.drain("zzz", Duration::ZERO).is_err());
}

#[test]
fn an_attachment_is_made_once_and_retired_with_the_backend() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Idle(AtomicUsize);
    impl Attachment for Idle {
        fn retire(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let pool = pool(&["a"]);
    let a = pool.snapshot().get("a").unwrap().clone();
    let (key, other) = (AttachmentKey::new(), AttachmentKey::new());
    let first = a.attachment(&key, || Idle(AtomicUsize::new(0)));
    let again = a.attachment(&key, || Idle(AtomicUsize::new(100)));
    let apart = a.attachment(&other, || Idle(AtomicUsize::new(7)));
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    pool.drain("a", Duration::from_secs(1)).unwrap();
    pool.remove("a").unwrap();
    assert_eq!(first.0.load(Ordering::SeqCst), 2);
    assert_eq!(apart.0.load(Ordering::SeqCst), 9);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_with_the_last_lease_or_its_deadline_or_an_undo() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    let minute = Duration::from_secs(60);
    assert_eq!(pool.drain("a", minute).unwrap().await, Drained::Empty);
    pool.mark_ready("a").unwrap();
    let leases = [Lease::acquire(&a).unwrap(), Lease::acquire(&a).unwrap()];
    let drain = pool.drain("a", minute).unwrap();
    let ended = tokio::spawn(drain.into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let [one, two] = leases;
    drop(one);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!ended.is_finished(), "one is in flight still");
    drop(two);
    assert_eq!(ended.await.unwrap(), Drained::Empty);
    pool.mark_ready("a").unwrap();

    let _held = Lease::acquire(&a).unwrap();
    let began = Instant::now();
    assert_eq!(pool.drain("a", minute).unwrap().await, Drained::Deadline);
    assert_eq!(began.elapsed(), minute);
    pool.mark_ready("a").unwrap();

    let ended = tokio::spawn(pool.drain("a", minute).unwrap().into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    pool.mark_ready("a").unwrap();
    assert_eq!(ended.await.unwrap(), Drained::Undone);

    let ended = tokio::spawn(pool.drain("a", minute).unwrap().into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let next = pool.drain("a", 2 * minute).unwrap();
    assert_eq!(
        ended.await.unwrap(),
        Drained::Undone,
        "another order replaced it"
    );
    assert_eq!(next.await, Drained::Deadline);
    pool.mark_ready("a").unwrap();
    assert!(a.is_usable());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_ends_retires_attachments_again() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Idle(AtomicUsize);
    impl Attachment for Idle {
        fn retire(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let pool = pool(&["a"]);
    let a = member(&pool, "a");
    let idle = a.attachment(&AttachmentKey::new(), || Idle(AtomicUsize::new(0)));
    let now = Instant::now();
    pool.drain("a", Duration::from_secs(9)).unwrap();
    let until = pool.tick(now).unwrap();
    assert_eq!(until, now + Duration::from_secs(9));
    assert_eq!(pool.tick(until), None);
    assert_eq!(
        idle.0.load(Ordering::SeqCst),
        2,
        "when it begins and when it ends"
    );
}

/// Calls the pool when it is retired.
struct Asks(Pool, std::sync::mpsc::Sender<usize>);

impl Attachment for Asks {
    fn retire(&self) {
        let _ = self.1.send(self.0.evacuated().len());
    }
}

#[test]
fn an_attachment_that_is_retired_may_call_the_pool() {
    let (sender, calls) = std::sync::mpsc::channel();
    let pool = pool(&["a", "b", "c"]);
    for id in ["a", "b", "c"] {
        let asks = || Asks(pool.clone(), sender.clone());
        member(&pool, id).attachment(&AttachmentKey::new(), asks);
    }
    let moved = |id| Backend::new(id, "http://127.0.0.1:9002").unwrap();
    // On a thread of its own: if the lock were held, it would block for ever.
    std::thread::spawn(move || {
        pool.upsert(moved("a"));
        let staying = pool.snapshot().backends()[2].clone();
        pool.replace([moved("b"), staying]).unwrap();
        drop(pool.drain("c", Duration::ZERO));
        pool.tick(Instant::now());
    });
    // Moved, removed and moved, drained and at its deadline.
    for _ in 0..5 {
        let asked = calls.recv_timeout(Duration::from_secs(10));
        assert_eq!(asked, Ok(0), "an attachment waits for the pool");
    }
}
