//! Dirty sources.
//!
//! A scheduler *arms* a source when one of its readers is about to be refreshed. The first commit afterwards that touches
//! the source disarms it, puts it on its database's list and wakes the scheduler; later commits only look at it. So a
//! commit costs a look-up, a wake-up costs the sources that really changed, and neither depends on how many there are.
//!
//! Arming comes before the refresh takes its snapshot and marking comes after a commit is visible: a commit that found the
//! source disarmed is seen by the refresh, or was there when the reader was already dirty.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

use super::area::AREA;
use super::databases;

/// A source of stream tables. All zero is free.
#[repr(C)]
pub(super) struct SourceSlot {
    /// Database oid in the high half, source oid in the low half.
    key: AtomicU64,
    /// The slot behind this one on its database's list, plus one.
    next: AtomicU32,
    /// The scheduler wants to hear of the next commit.
    armed: AtomicBool,
    /// It is on its database's list.
    listed: AtomicBool,
}

/// A slot that was used once; look-ups go on behind it.
const TOMBSTONE: u64 = u64::MAX;

/// Slots looked at before a source is taken to have none.
const PROBES: usize = 1024;

fn key(database: pg_sys::Oid, source: pg_sys::Oid) -> u64 {
    (u64::from(database.to_u32()) << 32) | u64::from(source.to_u32())
}

fn probe(key: u64, slots: usize) -> impl Iterator<Item = usize> {
    let start = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % slots;
    (0..PROBES.min(slots)).map(move |step| (start + step) % slots)
}

fn find(key: u64) -> Option<usize> {
    let slots = AREA.sources();
    for position in probe(key, slots.len()) {
        match slots[position].key.load(Ordering::Acquire) {
            found if found == key => return Some(position),
            0 => return None,
            _ => {}
        }
    }
    None
}

/// Calls `work` with the slot of a source, giving it one if it has none; false if there is no room.
fn with_slot(key: u64, work: impl Fn(usize, &SourceSlot)) -> bool {
    {
        let _shared = AREA.share();
        if let Some(position) = find(key) {
            work(position, &AREA.sources()[position]);
            return true;
        }
    }
    let _exclusive = AREA.exclusive();
    let slots = AREA.sources();
    let found = find(key).or_else(|| {
        let free = probe(key, slots.len()).find(|position| {
            matches!(slots[*position].key.load(Ordering::Acquire), 0 | TOMBSTONE)
        })?;
        let slot = &slots[free];
        slot.next.store(0, Ordering::Release);
        slot.listed.store(false, Ordering::Release);
        slot.armed.store(true, Ordering::Release);
        slot.key.store(key, Ordering::Release);
        Some(free)
    });
    if let Some(position) = found {
        work(position, &slots[position]);
    }
    found.is_some()
}

/// A commit touched these sources of this database.
pub fn mark_dirty(sources: &[pg_sys::Oid]) {
    if !super::available() || sources.is_empty() {
        return;
    }
    let database = crate::pg::snapshot::database_id();
    let mut wake = false;
    for source in sources {
        let marked = with_slot(key(database, *source), |position, slot| {
            // Armed again before the list was taken, it is on the list already.
            if slot.armed.swap(false, Ordering::AcqRel) && !slot.listed.swap(true, Ordering::AcqRel)
            {
                databases::push_dirty(database, position as u32 + 1, &slot.next);
            }
        });
        if !marked {
            AREA.header().overflows.fetch_add(1, Ordering::AcqRel);
            wake = true;
        }
    }
    if wake {
        databases::wake_scheduler(database);
    }
}

/// The sources of this database that were marked since they were armed. They are not armed any more.
pub fn take_dirty() -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    let mut next = databases::take_dirty(crate::pg::snapshot::database_id());
    let slots = AREA.sources();
    while next != 0 {
        let slot = &slots[next as usize - 1];
        found.push(pg_sys::Oid::from(slot.key.load(Ordering::Acquire) as u32));
        next = slot.next.load(Ordering::Acquire);
        slot.listed.store(false, Ordering::Release);
    }
    found
}

/// Asks to hear of the next commit that touches `source`; false if there is no room for it.
pub fn arm(source: pg_sys::Oid) -> bool {
    with_slot(
        key(crate::pg::snapshot::database_id(), source),
        |_, slot| {
            slot.armed.store(true, Ordering::Release);
        },
    )
}

/// Gives back the slots of this database's sources that are not wanted any more and on no list.
pub fn retain_sources(wanted: impl Fn(pg_sys::Oid) -> bool) {
    let database = u64::from(crate::pg::snapshot::database_id().to_u32());
    let _exclusive = AREA.exclusive();
    for slot in AREA.sources() {
        let key = slot.key.load(Ordering::Acquire);
        if key != TOMBSTONE
            && key >> 32 == database
            && key as u32 != 0
            && !wanted(pg_sys::Oid::from(key as u32))
            && !slot.listed.load(Ordering::Acquire)
        {
            slot.key.store(TOMBSTONE, Ordering::Release);
        }
    }
}

/// Gives back the slots of databases that are gone. Their lists go with them.
pub(super) fn forget_databases(gone: &[u32]) {
    let _exclusive = AREA.exclusive();
    for slot in AREA.sources() {
        let key = slot.key.load(Ordering::Acquire);
        if key != 0 && key != TOMBSTONE && gone.contains(&((key >> 32) as u32)) {
            slot.key.store(TOMBSTONE, Ordering::Release);
        }
    }
}

/// How often a source found no room: each time every stream table of its database has to be taken as dirty. The first
/// time in the life of the server is logged.
pub fn overflows() -> u64 {
    if !super::available() {
        return 0;
    }
    let header = AREA.header();
    let overflows = header.overflows.load(Ordering::Acquire);
    if overflows > 0 && !header.warned.swap(true, Ordering::AcqRel) {
        pgrx::warning!(
            "shared memory has no room for more sources; raise pg_trickle.shared_memory_mb"
        );
    }
    overflows
}
