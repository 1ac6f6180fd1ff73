//! Compiled stream tables, for every session of the cluster.
//!
//! Entries lie one behind the other in a ring. A new one overwrites the oldest, so nothing has to be freed and the cache
//! is never full: what has been overwritten is compiled again and written in front. Positions count bytes since the server
//! was started; an entry is there as long as the ring has not gone once around since.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::{PgLwLock, pg_sys};

use super::area::AREA;
use crate::pg::snapshot::database_id;

/// Bytes of the ring for each slot of the table: about the size of a small entry.
const BYTES_PER_SLOT: usize = 2048;

/// Slots in which an entry may be.
const PROBES: usize = 16;

// SAFETY: the name is unique to this extension.
pub(super) static LOCK: PgLwLock<u32> = unsafe { PgLwLock::new(c"pg_trickle cache") };

/// Where an entry is. All zero is free.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Slot {
    id: i64,
    database: u32,
    relation: u32,
    generation: i64,
    length: u64,
    /// Of its first byte, plus one.
    position: u64,
}

/// What the cache has done since the server was started, for all databases.
#[repr(C)]
pub(super) struct Counters {
    /// Bytes written so far.
    head: AtomicU64,
    /// Grows when sessions have to forget what they have compiled.
    epoch: AtomicU64,
    pub counts: [AtomicU64; COUNTS],
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    SharedHit,
    SharedMiss,
    SessionHit,
    SessionMiss,
    CatalogHit,
    Compilation,
    Eviction,
}

const COUNTS: usize = 7;

/// Slots and ring, as they lie in the area.
pub(super) struct Place {
    pub start: *mut u8,
    pub bytes: usize,
}

struct View {
    slots: *mut Slot,
    slot_count: usize,
    ring: *mut u8,
    ring_bytes: usize,
}

fn view() -> View {
    let place = AREA.cache();
    let slot_count = (place.bytes / (BYTES_PER_SLOT + size_of::<Slot>())).max(PROBES);
    // SAFETY: the slots and the ring behind them lie within the place.
    let ring = unsafe { place.start.add(slot_count * size_of::<Slot>()) };
    View {
        slots: place.start.cast(),
        slot_count,
        ring,
        ring_bytes: place.bytes - slot_count * size_of::<Slot>(),
    }
}

impl View {
    fn probe(&self, database: u32, id: i64) -> impl Iterator<Item = usize> + use<> {
        let key = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ u64::from(database).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let (start, count) = ((key >> 32) as usize, self.slot_count);
        (0..PROBES).map(move |step| (start + step) % count)
    }

    /// The caller holds the lock.
    fn slot(&self, number: usize) -> Slot {
        // SAFETY: within the table; written under the exclusive lock only.
        unsafe { *self.slots.add(number) }
    }

    /// The caller holds the lock exclusively.
    fn set_slot(&self, number: usize, slot: Slot) {
        // SAFETY: as above.
        unsafe { *self.slots.add(number) = slot }
    }

    /// Where this database's stream table `id` is, if it is there. The caller holds the lock.
    fn entry(&self, id: i64) -> Option<Slot> {
        let head = counters().head.load(Ordering::Acquire);
        let database = database_id().to_u32();
        self.probe(database, id)
            .map(|number| self.slot(number))
            .find(|slot| slot.database == database && slot.id == id && self.is_there(slot, head))
    }

    /// The ring has not come around to it.
    fn is_there(&self, slot: &Slot, head: u64) -> bool {
        slot.position > 0 && head - (slot.position - 1) <= self.ring_bytes as u64
    }
}

fn counters() -> &'static Counters {
    &AREA.header().cache
}

pub fn count(what: Count) {
    if super::available() {
        counters().counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// The compiled form of stream table `id`, of whatever generation.
pub fn find(id: i64) -> Option<Vec<u8>> {
    if !super::available() {
        return None;
    }
    let _lock = LOCK.share();
    let view = view();
    let slot = view.entry(id)?;
    let mut bytes = vec![0; slot.length as usize];
    let start = (slot.position - 1) as usize % view.ring_bytes;
    let first = bytes.len().min(view.ring_bytes - start);
    // SAFETY: both parts lie within the ring; nobody writes while the lock is held.
    unsafe {
        std::ptr::copy_nonoverlapping(view.ring.add(start), bytes.as_mut_ptr(), first);
        std::ptr::copy_nonoverlapping(
            view.ring,
            bytes.as_mut_ptr().add(first),
            bytes.len() - first,
        );
    }
    Some(bytes)
}

/// An entry for exactly this generation and relation is there.
pub fn has(id: i64, generation: i64, relation: pg_sys::Oid) -> bool {
    if !super::available() {
        return false;
    }
    let _lock = LOCK.share();
    view()
        .entry(id)
        .is_some_and(|slot| slot.generation == generation && slot.relation == relation.to_u32())
}

/// Stores a compiled stream table. One that is larger than a quarter of the ring is not worth what it displaces.
pub fn store(id: i64, generation: i64, relation: pg_sys::Oid, bytes: &[u8]) {
    if !super::available() {
        return;
    }
    let _lock = LOCK.exclusive();
    let view = view();
    if bytes.len() > view.ring_bytes / 4 {
        return;
    }
    let position = counters().head.load(Ordering::Acquire);
    let start = position as usize % view.ring_bytes;
    let first = bytes.len().min(view.ring_bytes - start);
    // SAFETY: both parts lie within the ring; nobody else reads or writes while the lock is held.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), view.ring.add(start), first);
        std::ptr::copy_nonoverlapping(bytes.as_ptr().add(first), view.ring, bytes.len() - first);
    }
    let head = position + bytes.len() as u64;
    counters().head.store(head, Ordering::Release);
    let database = database_id().to_u32();
    let own = view.probe(database, id).find(|number| {
        let slot = view.slot(*number);
        slot.database == database && slot.id == id
    });
    let free = || {
        view.probe(database, id)
            .find(|number| !view.is_there(&view.slot(*number), head))
    };
    let oldest = || {
        count(Count::Eviction);
        view.probe(database, id)
            .min_by_key(|number| view.slot(*number).position)
    };
    if let Some(number) = own.or_else(free).or_else(oldest) {
        view.set_slot(
            number,
            Slot {
                id,
                database,
                relation: relation.to_u32(),
                generation,
                length: bytes.len() as u64,
                position: position + 1,
            },
        );
    }
}

/// Forgets everything of this database. Sessions forget what they keep as soon as they look. Returns how many entries
/// there were.
pub fn clear() -> u64 {
    if !super::available() {
        return 0;
    }
    let _lock = LOCK.exclusive();
    let view = view();
    let head = counters().head.load(Ordering::Acquire);
    let database = database_id().to_u32();
    let mut cleared = 0;
    for number in 0..view.slot_count {
        let slot = view.slot(number);
        if slot.database == database {
            cleared += u64::from(view.is_there(&slot, head));
            view.set_slot(number, Slot::default());
        }
    }
    counters().epoch.fetch_add(1, Ordering::AcqRel);
    cleared
}

/// What a session has compiled before this changed is to be forgotten.
pub fn epoch() -> u64 {
    if super::available() {
        counters().epoch.load(Ordering::Acquire)
    } else {
        0
    }
}

/// Entries and bytes of this database that are there.
pub fn size() -> (u64, u64) {
    if !super::available() {
        return (0, 0);
    }
    let _lock = LOCK.share();
    let view = view();
    let head = counters().head.load(Ordering::Acquire);
    let database = database_id().to_u32();
    (0..view.slot_count)
        .map(|number| view.slot(number))
        .filter(|slot| slot.database == database && view.is_there(slot, head))
        .fold((0, 0), |(entries, bytes), slot| {
            (entries + 1, bytes + slot.length)
        })
}

/// How often something happened, in the cluster since the server was started.
pub fn counted(what: Count) -> u64 {
    if super::available() {
        counters().counts[what as usize].load(Ordering::Relaxed)
    } else {
        0
    }
}
