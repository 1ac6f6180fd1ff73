//! The part of shared memory whose size is a setting.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use pgrx::lwlock::{PgLwLockExclusiveGuard, PgLwLockShareGuard};
use pgrx::{PgLwLock, PgSharedMemoryInitialization, pg_sys};

use super::cache;
use super::costs::CostSlot;
use super::sources::SourceSlot;

/// Bytes of the area that hold sources: one in this many.
const SHARE_OF_SOURCES: usize = 8;

/// The same for costs.
const SHARE_OF_COSTS: usize = 8;

/// Start of the area, in every process that inherits it from the postmaster.
static BASE: AtomicPtr<Header> = AtomicPtr::new(std::ptr::null_mut());

/// Bytes of the whole area.
static SIZE: AtomicUsize = AtomicUsize::new(0);

pub(super) fn set_size(megabytes: usize) {
    SIZE.store(megabytes << 20, Ordering::Relaxed);
}

#[repr(C)]
pub(super) struct Header {
    /// Times a source found no slot.
    pub overflows: AtomicU64,
    /// The overflow has been logged.
    pub warned: AtomicBool,
    /// Slots of sources behind the header, and of costs behind these.
    sources: usize,
    costs: usize,
    pub cache: cache::Counters,
}

/// The area, as pgrx wants to see it.
pub(super) struct Area(PgLwLock<u32>);

// SAFETY: the name is unique to this extension.
pub(super) static AREA: Area = Area(unsafe { PgLwLock::new(c"pg_trickle sources") });

impl PgSharedMemoryInitialization for Area {
    type Value = u32;

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called from the request hook, as its callees want.
        unsafe {
            self.0.on_shmem_request();
            pg_sys::RequestAddinShmemSpace(SIZE.load(Ordering::Relaxed));
        }
    }

    unsafe fn on_shmem_startup(&'static self, value: u32) {
        // SAFETY: called from the startup hook; the struct has the size asked for, and nobody else looks at it before it
        // is initialised.
        unsafe {
            self.0.on_shmem_startup(value);
            let size = SIZE.load(Ordering::Relaxed);
            let mut found = false;
            let base: *mut Header =
                pg_sys::ShmemInitStruct(c"pg_trickle area".as_ptr(), size, &raw mut found).cast();
            if !found {
                std::ptr::write_bytes(base.cast::<u8>(), 0, size);
                (*base).sources =
                    (size / SHARE_OF_SOURCES - size_of::<Header>()) / size_of::<SourceSlot>();
                (*base).costs = size / SHARE_OF_COSTS / size_of::<CostSlot>();
            }
            BASE.store(base, Ordering::Release);
        }
    }
}

impl Area {
    /// Slots may be looked at.
    pub fn share(&'static self) -> PgLwLockShareGuard<'static, u32> {
        self.0.share()
    }

    /// Slots may be given out and taken back.
    pub fn exclusive(&'static self) -> PgLwLockExclusiveGuard<'static, u32> {
        self.0.exclusive()
    }

    pub fn header(&self) -> &'static Header {
        // SAFETY: set at start-up; callers have made sure that shared memory is available.
        unsafe { &*BASE.load(Ordering::Acquire) }
    }

    pub fn costs(&self) -> &'static [CostSlot] {
        let sources = self.sources();
        // SAFETY: as for sources; both kinds of slots have the same alignment.
        unsafe {
            std::slice::from_raw_parts(
                sources.as_ptr().add(sources.len()).cast::<CostSlot>(),
                self.header().costs,
            )
        }
    }

    /// What lies behind the slots.
    pub fn cache(&self) -> cache::Place {
        let sources = self.sources();
        let header = std::ptr::from_ref(self.header()).cast::<u8>();
        let used = size_of::<Header>() + size_of_val(sources) + size_of_val(self.costs());
        cache::Place {
            // SAFETY: the area is larger than its header and sources.
            start: unsafe { header.cast_mut().add(used) },
            bytes: SIZE.load(Ordering::Relaxed) - used,
        }
    }

    pub fn sources(&self) -> &'static [SourceSlot] {
        let header = self.header();
        // SAFETY: the slots lie behind the header; all-zero bytes are empty slots.
        unsafe {
            std::slice::from_raw_parts(
                std::ptr::from_ref(header).add(1).cast::<SourceSlot>(),
                header.sources,
            )
        }
    }
}
