//! Counting what a change log holds that is new, through its index and page by page.

use pgrx::pg_sys;

use super::snapshot::Snapshot;

/// What a log holds that is new to a reader: rows (up to `cap`), or `None` if a marker is among them (weight 0 in the
/// second column).
pub struct LogScan<'a> {
    /// Logs are found by transaction id, or by version.
    pub first: u64,
    /// Transactions before `first` to be looked at too.
    pub also: &'a [u64],
    pub snapshot: &'a Snapshot,
    pub cap: u64,
}

impl LogScan<'_> {
    /// Counts in one segment, whose index is on its first column.
    pub fn count(&self, segment: pg_sys::Oid) -> Option<u64> {
        // SAFETY: opened and closed here, with a lock that is already held; the slot fits the relation.
        unsafe {
            let heap = pg_sys::table_open(segment, pg_sys::AccessShareLock as i32);
            let main = pg_sys::ForkNumber::MAIN_FORKNUM;
            if pg_sys::RelationGetNumberOfBlocksInFork(heap, main) == 0 {
                // Most segments, most of the time.
                pg_sys::table_close(heap, pg_sys::NoLock as i32);
                return Some(0);
            }
            let list = pg_sys::RelationGetIndexList(heap);
            let index = (pg_sys::list_length(list) > 0).then(|| {
                pg_sys::index_open(
                    pg_sys::list_nth_oid(list, 0),
                    pg_sys::AccessShareLock as i32,
                )
            });
            pg_sys::list_free(list);
            let mut total = Some(0);
            if let Some(index) = index {
                let from = std::iter::once((pg_sys::BTGreaterEqualStrategyNumber, self.first));
                let single = self
                    .also
                    .iter()
                    .map(|xid| (pg_sys::BTEqualStrategyNumber, *xid));
                for (strategy, value) in from.chain(single) {
                    total = match (total, self.scan(heap, index, strategy, value)) {
                        (Some(total), Some(more)) => Some(total + more),
                        _ => None,
                    };
                }
                pg_sys::index_close(index, pg_sys::NoLock as i32);
            }
            pg_sys::table_close(heap, pg_sys::NoLock as i32);
            total
        }
    }

    unsafe fn scan(
        &self,
        heap: pg_sys::Relation,
        index: pg_sys::Relation,
        strategy: u32,
        value: u64,
    ) -> Option<u64> {
        // SAFETY: xid8 and bigint compare alike as 8-byte values of their own operator class, whose comparison
        // procedure the scan key takes from the index.
        unsafe {
            let mut seen = self.snapshot.with_own_writes();
            let mut wanted: pg_sys::ScanKeyData = std::mem::zeroed();
            let is_xid = pg_sys::get_atttype((*heap).rd_id, 1) == pg_sys::XID8OID;
            let procedure = match (is_xid, strategy == pg_sys::BTEqualStrategyNumber) {
                (true, true) => pg_sys::F_XID8EQ,
                (true, false) => pg_sys::F_XID8GE,
                (false, true) => pg_sys::F_INT8EQ,
                (false, false) => pg_sys::F_INT8GE,
            };
            pg_sys::ScanKeyInit(
                &raw mut wanted,
                1,
                strategy as u16,
                pg_sys::Oid::from(procedure),
                pg_sys::Datum::from(value),
            );
            let scan =
                pg_sys::index_beginscan(heap, index, &raw mut seen, std::ptr::null_mut(), 1, 0);
            pg_sys::index_rescan(scan, &raw mut wanted, 1, std::ptr::null_mut(), 0);
            let mut rows = 0;
            let mut marker = false;
            let mut found = [pg_sys::ItemPointerData::default(); BATCH];
            loop {
                let filled = next_places(scan, &mut found);
                let (more, marked) = look_at(heap, &found[..filled], &raw mut seen, is_xid);
                rows += more;
                marker |= marked;
                if filled < BATCH || rows >= self.cap {
                    break;
                }
            }
            pg_sys::index_endscan(scan);
            (!marker).then_some(rows)
        }
    }
}

/// Places of rows looked at together.
const BATCH: usize = 256;

/// What is called for each row, without the guard against errors that pgrx puts around every call.
mod unguarded {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn index_getnext_tid(
            scan: pg_sys::IndexScanDesc,
            direction: pg_sys::ScanDirection::Type,
        ) -> pg_sys::ItemPointer;
        pub fn ReadBuffer(heap: pg_sys::Relation, block: pg_sys::BlockNumber) -> pg_sys::Buffer;
        pub fn LockBuffer(buffer: pg_sys::Buffer, mode: i32);
        pub fn UnlockReleaseBuffer(buffer: pg_sys::Buffer);
        pub fn HeapTupleSatisfiesVisibility(
            tuple: pg_sys::HeapTuple,
            snapshot: pg_sys::Snapshot,
            buffer: pg_sys::Buffer,
        ) -> bool;
        pub fn HeapCheckForSerializableConflictOut(
            visible: bool,
            heap: pg_sys::Relation,
            tuple: pg_sys::HeapTuple,
            buffer: pg_sys::Buffer,
            snapshot: pg_sys::Snapshot,
        );
    }
}

/// The next places that an index scan finds, in the order of the index; how many there were.
unsafe fn next_places(
    scan: pg_sys::IndexScanDesc,
    found: &mut [pg_sys::ItemPointerData; BATCH],
) -> usize {
    // SAFETY: a scan that has been started; one guard around all calls, and nothing in between needs to be dropped.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            for (filled, place) in found.iter_mut().enumerate() {
                let next = unguarded::index_getnext_tid(scan, forward);
                if next.is_null() {
                    return filled;
                }
                *place = *next;
            }
            BATCH
        })
    }
}

/// Where a row is in its page, if there is one at that place. The functions of PostgreSQL for it are macros in C.
unsafe fn item_at(page: pg_sys::Page, offset: pg_sys::OffsetNumber) -> Option<pg_sys::ItemIdData> {
    const START: usize = std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp);
    // SAFETY: a page that is pinned and locked; line pointers up to `pd_lower` are there.
    unsafe {
        let header: *const pg_sys::PageHeaderData = page.cast();
        let end = usize::from((*header).pd_lower);
        let at = START + (usize::from(offset) - 1) * size_of::<pg_sys::ItemIdData>();
        if at >= end {
            return None;
        }
        let item = page.add(at).cast::<pg_sys::ItemIdData>().read();
        (item.lp_flags() == pg_sys::LP_NORMAL).then_some(item)
    }
}

/// How many of the rows at `places` of a log the snapshot sees, and whether one is a marker. Each page is locked once for
/// those that come one after the other in it: a log is filled in the order of its index, mostly.
///
/// Rows of a log are never updated, so that each is where the index says. The locks of serializable transactions on what
/// they have read are left to the statement that reads it.
unsafe fn look_at(
    heap: pg_sys::Relation,
    places: &[pg_sys::ItemPointerData],
    snapshot: pg_sys::Snapshot,
    is_xid: bool,
) -> (u64, bool) {
    // SAFETY: one guard around all calls, and nothing in between needs to be dropped; an error gives back pins and locks. A
    // page is read while it is pinned and locked. Both columns are NOT NULL, of fixed length, and come first.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let (mut rows, mut marker) = (0, false);
            let mut open: Option<(pg_sys::BlockNumber, pg_sys::Buffer)> = None;
            for place in places {
                let block = u32::from(place.ip_blkid.bi_hi) << 16 | u32::from(place.ip_blkid.bi_lo);
                let buffer = match open {
                    Some((known, buffer)) if known == block => buffer,
                    _ => {
                        if let Some((_, buffer)) = open {
                            unguarded::UnlockReleaseBuffer(buffer);
                        }
                        let buffer = unguarded::ReadBuffer(heap, block);
                        unguarded::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
                        open = Some((block, buffer));
                        buffer
                    }
                };
                let page = pg_sys::BufferGetPage(buffer);
                let Some(item) = item_at(page, place.ip_posid) else {
                    continue;
                };
                let header: pg_sys::HeapTupleHeader = page.add(item.lp_off() as usize).cast();
                let mut tuple = pg_sys::HeapTupleData {
                    t_len: item.lp_len(),
                    t_self: *place,
                    t_tableOid: (*heap).rd_id,
                    t_data: header,
                };
                let tuple = &raw mut tuple;
                let visible = unguarded::HeapTupleSatisfiesVisibility(tuple, snapshot, buffer);
                unguarded::HeapCheckForSerializableConflictOut(
                    visible, heap, tuple, buffer, snapshot,
                );
                if visible {
                    rows += 1;
                    // Behind the position, of 8 bytes: smallint in logs of tables, bigint in those of stream tables.
                    let weight = header.cast::<u8>().add(usize::from((*header).t_hoff) + 8);
                    marker |= if is_xid {
                        weight.cast::<i16>().read() == 0
                    } else {
                        weight.cast::<i64>().read() == 0
                    };
                }
            }
            if let Some((_, buffer)) = open {
                unguarded::UnlockReleaseBuffer(buffer);
            }
            (rows, marker)
        })
    }
}
