//! What differential refreshes have cost, for every session: results by database and id, each with its last samples.
//!
//! Samples are written one at a time under the stream table's lock and read without any; a sample that is half written
//! is one odd sample among many. What finds no room is remembered by the session alone.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use pgt_ivm::schedule::{COST_SAMPLES, Cost, Sample};

use super::area::AREA;
use crate::pg::snapshot::database_id;

#[repr(C)]
pub(super) struct CostSlot {
    database: AtomicU64,
    id: AtomicI64,
    first_at: AtomicI64,
    count: AtomicU32,
    samples: [SampleSlot; COST_SAMPLES],
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
    let count = slot.count.load(Ordering::Acquire) as usize;
    let first = count.saturating_sub(COST_SAMPLES);
    Some(Cost {
        first_at: (count > 0).then(|| slot.first_at.load(Ordering::Acquire)),
        samples: (first..count)
            .map(|number| &slot.samples[number % COST_SAMPLES])
            .map(|sample| Sample {
                at: sample.at.load(Ordering::Acquire),
                rows: sample.rows.load(Ordering::Acquire),
                ms: sample.us.load(Ordering::Acquire) as f64 / 1_000.0,
            })
            .collect(),
    })
}

/// Notes a differential refresh of result `id`; false if there is no room.
pub fn note(id: i64, sample: Sample) -> bool {
    let Some(slot) = find(id).or_else(|| give(id)) else {
        return false;
    };
    let count = slot.count.load(Ordering::Acquire);
    if count == 0 {
        slot.first_at.store(sample.at, Ordering::Release);
    }
    let place = &slot.samples[count as usize % COST_SAMPLES];
    place.at.store(sample.at, Ordering::Release);
    place.rows.store(sample.rows, Ordering::Release);
    place
        .us
        .store((sample.ms * 1_000.0) as u64, Ordering::Release);
    slot.count.store(count + 1, Ordering::Release);
    true
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
    slot.count.store(0, Ordering::Release);
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
