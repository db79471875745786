//! What is judged over a window: the share that fails or breaks off, and how long answers take.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_ejects_where_none_are_in_a_row() {
    // Of ten requests, how many fail, and whether that is too many.
    for (failing, ejects) in [(6, true), (5, true), (3, false)] {
        let pool = pool(&["a", "b"]);
        let answers = answers(&[("a", Ok(200)), ("b", Ok(200))]);
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .outliers(Outliers::new().consecutive(100))
            .unwrap()
            .layer(service(&answers));
        for nth in 0..50 {
            let bad = (nth * failing) % 10 < failing;
            let answer = if bad { Ok(503) } else { Ok(200) };
            answers.lock().unwrap().insert("a", answer);
            send(&service, &pool, "a", 1).await;
            let out = pool.snapshot().usable() == 1;
            assert!(!out || nth >= 19, "not before there are 20: {nth}");
        }
        assert_eq!(pool.snapshot().usable() == 1, ejects, "{failing} of ten");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_far_apart_are_no_share() {
    let pool = pool(&["a", "b"]);
    let answers = answers(&[("a", Ok(503)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .outliers(Outliers::new().consecutive(1_000))
        .unwrap()
        .layer(service(&answers));
    for _ in 0..100 {
        send(&service, &pool, "a", 1).await;
        sleep(SECOND).await;
    }
    assert_eq!(pool.snapshot().usable(), 2, "10 within any 10 s");
}

/// A body that breaks off before its first byte.
#[derive(Clone, Copy)]
struct Broken(ErrorKind);

impl Body for Broken {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(Some(Err(Error::new(self.0))))
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_that_break_off_by_the_backends_fault_count_as_a_share() {
    for (kind, is_read, ejects) in [
        (ErrorKind::ResponseBody, true, true),
        (ErrorKind::ResponseBodyTimeout, true, true),
        (ErrorKind::ResponseBody, false, false),
        (ErrorKind::ClientBody, true, false),
        (ErrorKind::Service, true, false),
    ] {
        let pool = pool(&["a", "b"]);
        let inner =
            service_fn(
                move |_: Request<()>| async move { Ok::<_, Error>(Response::new(Broken(kind))) },
            );
        let service = HealthLayer::new(pool.clone()).no_checks().layer(inner);
        for nth in 0..20 {
            assert_eq!(pool.snapshot().usable(), 2, "{nth}");
            let mut request = Request::new(());
            let a = pool.snapshot().get("a").unwrap().clone();
            request.extensions_mut().insert(Selected(a));
            let response = service.clone().oneshot(request).await.unwrap();
            if is_read {
                let read = response.into_body().collect().await;
                assert_eq!(read.unwrap_err().kind(), kind);
            }
        }
        let is_out = pool.snapshot().usable() == 1;
        assert_eq!(is_out, ejects, "{kind}, read: {is_read}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_slow_one_among_equals_is_ejected_where_that_is_asked_for() {
    for asked in [true, false] {
        let pool = pool(&["a", "b", "c"]);
        let inner = service_fn(|request: Request<()>| async move {
            let Selected(backend) = request.extensions().get::<Selected>().unwrap();
            let ms = if backend.id() == "a" { 200 } else { 20 };
            sleep(Duration::from_millis(ms)).await;
            Ok::<_, Error>(Response::new(()))
        });
        let rules = match asked {
            true => without_jitter().slower_than(3.0),
            false => without_jitter(),
        };
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .outliers(rules)
            .unwrap()
            .layer(inner);
        let mut events = pool.subscribe();
        for id in ["a", "b", "c"] {
            send(&service, &pool, id, 25).await;
        }
        assert_eq!(pool.snapshot().usable(), 3, "judged once a window");
        sleep(WINDOW).await;
        assert_eq!(pool.snapshot().usable(), 3 - usize::from(asked));
        if asked {
            let (id, down) = transition(&mut events).await;
            assert_eq!((id.as_str(), down.reason.code), ("a", "SLOW"));
            circuit(&mut events, Circuit::HalfOpen).await;
            send(&service, &pool, "a", 1).await;
            assert_eq!(pool.snapshot().usable(), 3, "tried, and back");
        }
    }
}
