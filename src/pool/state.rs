//! How a backend is: measured health, ordered mode, counters. Keyed by a stable id; shared by
//! every handle and every snapshot.

use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, time::Instant};

/// Measured health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Health {
    /// Checks have the last word and say that it serves.
    Healthy,
    /// Checks or live traffic say that it does not serve.
    Unhealthy,
    /// Not measured yet.
    #[default]
    Unknown,
}

impl Health {
    /// Returns the stable name that stands in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

/// What an operator ordered, apart from what was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// No new traffic; sticky sessions stay until the deadline.
    Draining {
        /// When sessions move too.
        until: Instant,
    },
    /// No traffic at all.
    Maintenance,
    /// Traffic as health allows.
    #[default]
    Ready,
}

impl Mode {
    /// Returns the stable name that stands in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining { .. } => "draining",
            Self::Maintenance => "maintenance",
            Self::Ready => "ready",
        }
    }
}

/// What a room keeps with a backend, such as the proxy's idle connections.
pub trait Attachment: Any + Send + Sync {
    /// Called when the backend is drained, put into maintenance or removed: let go of what is
    /// idle. May be called more than once, and never on the request path.
    fn retire(&self) {}
}

/// Names one kind of [`Attachment`] of one owner.
pub struct AttachmentKey<T> {
    number: u64,
    kind: PhantomData<fn() -> T>,
}

impl<T> AttachmentKey<T> {
    /// Makes a key unlike any other of this process.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Relaxed),
            kind: PhantomData,
        }
    }
}

impl<T> Default for AttachmentKey<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for AttachmentKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AttachmentKey").field(&self.number).finish()
    }
}

type AnyAttachment = Arc<dyn Any + Send + Sync>;
type Attachments = Vec<(u64, AnyAttachment, fn(&AnyAttachment))>;

pub(super) struct State {
    hot: Hot,
    incarnation: u64,
    /// Written by the control path only; read when a snapshot is built and by onlookers.
    active: AtomicU8,
    ejected: AtomicBool,
    /// In the pick set of the current snapshot.
    usable: AtomicBool,
    mode: Mutex<Mode>,
    attachments: ArcSwap<Attachments>,
    attaching: Mutex<()>,
    /// Told when a slot of a capped backend becomes free; set when the backend joins a pool.
    pub(super) released: OnceLock<Arc<Notify>>,
}

/// Written by every request: on cache lines of their own, apart from what every pick reads.
#[repr(align(128))]
#[derive(Default)]
struct Hot {
    in_flight: AtomicU32,
    requests: AtomicU64,
}

impl State {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            hot: Hot::default(),
            incarnation: NEXT.fetch_add(1, Relaxed),
            active: AtomicU8::new(UNKNOWN),
            ejected: AtomicBool::new(false),
            usable: AtomicBool::new(false),
            mode: Mutex::new(Mode::Ready),
            attachments: ArcSwap::from_pointee(Vec::new()),
            attaching: Mutex::new(()),
            released: OnceLock::new(),
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.hot.in_flight.load(Relaxed)
    }

    pub(super) fn requests(&self) -> u64 {
        self.hot.requests.load(Relaxed)
    }

    /// Takes a slot, wait-free: adds, checks, and undoes where the cap was reached.
    pub(super) fn enter(&self, cap: Option<u32>) -> bool {
        if let Some(cap) = cap {
            // A full backend is told by a read, which leaves its cache line shared.
            if self.in_flight() >= cap {
                return false;
            }
            if self.hot.in_flight.fetch_add(1, Relaxed) >= cap {
                // A slot that became free between the two looked taken to others: tell them.
                if self.hot.in_flight.fetch_sub(1, Relaxed) <= cap {
                    self.tell_released();
                }
                return false;
            }
        } else {
            self.hot.in_flight.fetch_add(1, Relaxed);
        }
        self.hot.requests.fetch_add(1, Relaxed);
        true
    }

    pub(super) fn leave(&self, capped: bool) {
        self.hot.in_flight.fetch_sub(1, Relaxed);
        if capped {
            self.tell_released();
        }
    }

    fn tell_released(&self) {
        if let Some(released) = self.released.get() {
            released.notify_one();
        }
    }

    pub(super) fn active(&self) -> Health {
        match self.active.load(Relaxed) {
            HEALTHY => Health::Healthy,
            UNHEALTHY => Health::Unhealthy,
            _ => Health::Unknown,
        }
    }

    pub(super) fn set_active(&self, health: Health) {
        let value = match health {
            Health::Healthy => HEALTHY,
            Health::Unhealthy => UNHEALTHY,
            Health::Unknown => UNKNOWN,
        };
        self.active.store(value, Relaxed);
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Relaxed);
    }

    /// The one place where active and passive health are combined.
    pub(super) fn health(&self) -> Health {
        if self.is_ejected() {
            Health::Unhealthy
        } else {
            self.active()
        }
    }

    pub(super) fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    pub(super) fn is_usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    pub(super) fn set_usable(&self, usable: bool) {
        self.usable.store(usable, Relaxed);
    }

    /// For a backend out of the pick set: whether its sessions stay.
    pub(super) fn keeps_sessions(&self, weight_is_zero: bool) -> bool {
        if self.health() == Health::Unhealthy {
            return false;
        }
        match self.mode() {
            Mode::Draining { until } => Instant::now() < until,
            Mode::Maintenance => false,
            Mode::Ready => weight_is_zero,
        }
    }

    pub(super) fn attachment<T: Attachment>(
        &self,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        if let Some(found) = find(&self.attachments.load(), key) {
            return found;
        }
        let _one_at_a_time = self
            .attaching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = find(&self.attachments.load(), key) {
            return found;
        }
        let made = Arc::new(make());
        let mut list = Attachments::clone(&self.attachments.load());
        list.push((key.number, made.clone(), |any| {
            if let Some(attachment) = any.downcast_ref::<T>() {
                attachment.retire();
            }
        }));
        self.attachments.store(Arc::new(list));
        made
    }

    /// Lets every room release what it holds idle.
    pub(super) fn retire(&self) {
        for (_, attachment, retire) in self.attachments.load().iter() {
            retire(attachment);
        }
    }
}

fn find<T: Attachment>(list: &Attachments, key: &AttachmentKey<T>) -> Option<Arc<T>> {
    let (_, any, _) = list.iter().find(|(number, ..)| *number == key.number)?;
    any.clone().downcast().ok()
}

const UNKNOWN: u8 = 0;
const HEALTHY: u8 = 1;
const UNHEALTHY: u8 = 2;
