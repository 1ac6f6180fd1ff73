//! What differential refreshes have cost, for every session: results by database and id, each with its last samples.
//!
//! Samples are written one at a time under the stream table's lock and read without any; a sample that is half written
//! is one odd sample among many. What finds no room is remembered by the session alone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use pgt_ivm::schedule::{COST_SAMPLES, Cost, FULL_COST_SAMPLES, SMALL_COST_SAMPLES, Sample};

use super::area::AREA;
use crate::pg::snapshot::database_id;

#[repr(C)]
pub(super) struct CostSlot {
    database: AtomicU64,
    id: AtomicI64,
    /// 0 before there is one.
    first_at: AtomicI64,
    large: Samples<COST_SAMPLES>,
    small: Samples<SMALL_COST_SAMPLES>,
    full: Samples<FULL_COST_SAMPLES>,
}

/// The last ones, in a ring.
#[repr(C)]
struct Samples<const REMEMBERED: usize> {
    count: AtomicU32,
    slots: [SampleSlot; REMEMBERED],
}

#[repr(C)]
struct SampleSlot {
    at: AtomicI64,
    rows: AtomicU64,
    /// Microseconds.
    us: AtomicU64,
}

/// Slots in which a result may be.
const PROBES: usize = 32;

fn probe(id: i64, slots: usize) -> impl Iterator<Item = usize> {
    let key =
        (id as u64 ^ (u64::from(database_id().to_u32()) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PROBES.min(slots)).map(move |step| ((key >> 32) as usize + step) % slots)
}

fn find(id: i64) -> Option<&'static CostSlot> {
    if !super::available() {
        return None;
    }
    let slots = AREA.costs();
    let database = u64::from(database_id().to_u32());
    probe(id, slots.len())
        .map(|number| &slots[number])
        .find(|slot| {
            slot.database.load(Ordering::Acquire) == database
                && slot.id.load(Ordering::Acquire) == id
        })
}

/// What is known of the cost of result `id`; none if it has no slot.
pub fn cost(id: i64) -> Option<Cost> {
    let slot = find(id)?;
    let first_at = slot.first_at.load(Ordering::Acquire);
    Some(Cost {
        first_at: (first_at != 0).then_some(first_at),
        samples: slot.large.read(),
        small: slot.small.read(),
        full: slot.full.read(),
    })
}

impl<const REMEMBERED: usize> Samples<REMEMBERED> {
    /// Oldest first.
    fn read(&self) -> VecDeque<Sample> {
        let count = self.count.load(Ordering::Acquire) as usize;
        let first = count.saturating_sub(REMEMBERED);
        (first..count)
            .map(|number| &self.slots[number % REMEMBERED])
            .map(|sample| Sample {
                at: sample.at.load(Ordering::Acquire),
                rows: sample.rows.load(Ordering::Acquire),
                ms: sample.us.load(Ordering::Acquire) as f64 / 1_000.0,
            })
            .collect()
    }

    fn push(&self, sample: Sample) {
        let count = self.count.load(Ordering::Acquire);
        let place = &self.slots[count as usize % REMEMBERED];
        place.at.store(sample.at, Ordering::Release);
        place.rows.store(sample.rows, Ordering::Release);
        place
            .us
            .store((sample.ms * 1_000.0) as u64, Ordering::Release);
        self.count.store(count + 1, Ordering::Release);
    }
}

/// Notes a differential refresh of result `id`; false if there is no room.
pub fn note(id: i64, sample: Sample) -> bool {
    let Some(slot) = find(id).or_else(|| give(id)) else {
        return false;
    };
    if slot.first_at.load(Ordering::Acquire) == 0 {
        slot.first_at.store(sample.at, Ordering::Release);
    }
    if sample.is_small() {
        slot.small.push(sample);
    } else {
        slot.large.push(sample);
    }
    true
}

/// Notes a full refresh of result `id`; false if there is no room.
pub fn note_full(id: i64, sample: Sample) -> bool {
    let slot = find(id).or_else(|| give(id));
    if let Some(slot) = slot {
        slot.full.push(sample);
    }
    slot.is_some()
}

/// A slot for a result that has none.
fn give(id: i64) -> Option<&'static CostSlot> {
    if !super::available() {
        return None;
    }
    let _exclusive = AREA.exclusive();
    let slots = AREA.costs();
    let slot = probe(id, slots.len())
        .map(|number| &slots[number])
        .find(|slot| slot.database.load(Ordering::Acquire) == 0)?;
    slot.id.store(id, Ordering::Release);
    slot.first_at.store(0, Ordering::Release);
    slot.large.count.store(0, Ordering::Release);
    slot.small.count.store(0, Ordering::Release);
    slot.full.count.store(0, Ordering::Release);
    slot.database
        .store(u64::from(database_id().to_u32()), Ordering::Release);
    Some(slot)
}

/// Gives back the slots of databases that are gone.
pub(super) fn forget_databases(gone: &[u32]) {
    let _exclusive = AREA.exclusive();
    for slot in AREA.costs() {
        if gone.contains(&(slot.database.load(Ordering::Acquire) as u32)) {
            slot.database.store(0, Ordering::Release);
        }
    }
}
