//! `ErasedBody`: request bodies without their type, so that the exchange is compiled once for all types.
//!
//! A thread keeps one cell, of the last type: a server has one body type, and a second cell would
//! hardly be used. Bodies of another type allocate, and take the place over.
//!
//! The cell is boxed and pinned for its life; the body in it is replaced through the pin, so no
//! `unsafe` is needed.

use std::{
    any::Any,
    cell::RefCell,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::error::BoxError;

/// A request body without its type.
///
/// Give it back with [`RecyclableBody::recycle`] when it has ended; a drop frees the memory
/// instead.
pub(crate) type ErasedBody = Pin<Box<dyn RecyclableBody>>;

/// What the exchange needs of a request body.
pub(crate) trait RecyclableBody: HttpBody<Data = Bytes, Error = BoxError> + Send {
    /// Drops the body, and keeps its allocation for the next body of its type on this thread.
    fn recycle(self: Pin<Box<Self>>);
}

/// Erases the type of a request body; `None` if the body has ended already.
///
/// Reuses the allocation of an earlier body: nearly all bodies of a thread have one type.
pub(crate) fn erase<B>(body: B) -> Option<ErasedBody>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return None;
    }
    // `Err` means that the thread is ending.
    let kept = RECYCLED.try_with(|recycled| {
        // A body whose drop erases another one finds the cell borrowed, and allocates.
        let mut recycled = recycled.try_borrow_mut().ok()?;
        let cell: &mut RecycledCell<B> = recycled.as_mut()?.downcast_mut()?;
        cell.take()
    });
    Some(match kept.ok().flatten() {
        Some(mut cell) => {
            cell.as_mut().project().body.set(Some(body));
            cell
        }
        None => Box::pin(BodyCell { body: Some(body) }),
    })
}

pin_project_lite::pin_project! {
    struct BodyCell<B> {
        #[pin]
        body: Option<B>,
    }
}

impl<B> RecyclableBody for BodyCell<B>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn recycle(mut self: Pin<Box<Self>>) {
        // Dropped first: the drop of a body may run any code, even this function.
        self.as_mut().project().body.set(None);
        let _ = RECYCLED.try_with(|recycled| {
            let Ok(mut recycled) = recycled.try_borrow_mut() else {
                return;
            };
            let kept = recycled
                .as_mut()
                .and_then(|kept| kept.downcast_mut::<RecycledCell<B>>());
            match kept {
                Some(cell) => *cell = Some(self),
                None => *recycled = Some(Box::new(Some(self))),
            }
        });
    }
}

impl<B> HttpBody for BodyCell<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = self.project().body.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// The allocation of a body that has ended.
type RecycledCell<B> = Option<Pin<Box<BodyCell<B>>>>;

thread_local! {
    /// The allocation of the thread's last body that ended: a [`RecycledCell`] of its type.
    static RECYCLED: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn a_body_cell_is_recycled() {
        let one = || erase(Full::new(Bytes::from_static(b"a"))).unwrap();
        one().recycle();
        let cost = allocation_counter::measure(|| one().recycle());
        assert_eq!(cost.count_total, 0);
        let two = allocation_counter::measure(|| {
            let (first, second) = (one(), one());
            first.recycle();
            second.recycle();
        });
        assert_eq!(
            two.count_total, 1,
            "one of two at once has a cell of its own"
        );
        erase("text".to_owned()).unwrap().recycle();
        one().recycle();
    }
}
