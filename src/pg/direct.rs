//! Rows of our own tables, read and written without SQL: what every refresh does, a statement each, would cost more than
//! the refresh of a few rows.
//!
//! Whatever is not the plain case is left to the caller's SQL statement: a row that somebody else has just changed, a
//! table that is not there.

use std::ffi::CString;

use pgrx::pg_sys;

use super::relation;
use super::snapshot::Snapshot;

/// A value of a column.
pub enum Field<'a> {
    Null,
    Int(i64),
    Oid(pg_sys::Oid),
    Int4(i32),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    IntArray(&'a [i64]),
    /// Microseconds since 2000-01-01 UTC.
    Timestamp(i64),
    /// A `pg_snapshot` as text.
    Snapshot(&'a str),
}

impl Field<'_> {
    fn datum(&self) -> Option<pg_sys::Datum> {
        // SAFETY: by-reference values are allocated in the current memory context; lengths are right.
        unsafe {
            Some(match self {
                Field::Null => return None,
                Field::Int(value) | Field::Timestamp(value) => pg_sys::Datum::from(*value),
                Field::Oid(value) => pg_sys::Datum::from(*value),
                Field::Int4(value) => pg_sys::Datum::from(*value),
                Field::Float(value) => pg_sys::Datum::from(value.to_bits()),
                Field::Text(value) => pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(
                    value.as_ptr().cast(),
                    value.len() as i32,
                )),
                Field::Bytes(value) => pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(
                    value.as_ptr().cast(),
                    value.len() as i32,
                )),
                Field::IntArray(values) => super::spi::int_array(values),
                Field::Snapshot(value) => {
                    let text = CString::new(*value).ok()?;
                    pg_sys::OidInputFunctionCall(
                        pg_sys::Oid::from(pg_sys::F_PG_SNAPSHOT_IN),
                        text.as_ptr().cast_mut(),
                        pg_sys::InvalidOid,
                        -1,
                    )
                }
            })
        }
    }
}

/// A row that was read; columns count from 1.
pub struct Read {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Read {
    fn value(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.nulls.get(column - 1)?).then(|| self.values[column - 1])
    }

    pub fn int(&self, column: usize) -> Option<i64> {
        self.value(column).map(|datum| datum.value() as i64)
    }

    pub fn float(&self, column: usize) -> Option<f64> {
        self.value(column)
            .map(|datum| f64::from_bits(datum.value() as u64))
    }

    pub fn oid(&self, column: usize) -> Option<pg_sys::Oid> {
        self.value(column)
            .map(|datum| pg_sys::Oid::from(datum.value() as u32))
    }

    pub fn bool(&self, column: usize) -> bool {
        self.value(column)
            .is_some_and(|datum| datum.value() & 1 == 1)
    }

    /// A text value.
    pub fn text(&self, column: usize) -> Option<String> {
        // SAFETY: the caller names a column of type text.
        self.value(column)
            .map(|datum| unsafe { print(pg_sys::F_TEXTOUT, datum) })
    }

    /// A `bytea` value.
    pub fn bytes(&self, column: usize) -> Vec<u8> {
        let Some(datum) = self.value(column) else {
            return vec![];
        };
        // SAFETY: the caller names a column of type bytea; a detoasted value has its length in front.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            pgrx::varlena_to_byte_slice(plain).to_vec()
        }
    }

    /// A `pg_snapshot` value as text.
    pub fn snapshot(&self, column: usize) -> Option<String> {
        // SAFETY: the caller names a column of type pg_snapshot.
        self.value(column)
            .map(|datum| unsafe { print(pg_sys::F_PG_SNAPSHOT_OUT, datum) })
    }

    /// A `bigint[]` value.
    pub fn int_array(&self, column: usize) -> Vec<i64> {
        let Some(datum) = self.value(column) else {
            return vec![];
        };
        // SAFETY: the caller names a column of type bigint[]; elements are by value.
        unsafe {
            let array: *mut pg_sys::ArrayType =
                pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            let mut elements: *mut pg_sys::Datum = std::ptr::null_mut();
            let mut count = 0;
            pg_sys::deconstruct_array(
                array,
                pg_sys::INT8OID,
                8,
                true,
                b'd' as _,
                &raw mut elements,
                std::ptr::null_mut(),
                &raw mut count,
            );
            (0..count as usize)
                .map(|position| (*elements.add(position)).value() as i64)
                .collect()
        }
    }
}

unsafe fn print(function: u32, datum: pg_sys::Datum) -> String {
    // SAFETY: the function is the output function of the datum's type; its result is a C string.
    unsafe {
        let text = pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(function), datum);
        std::ffi::CStr::from_ptr(text)
            .to_string_lossy()
            .into_owned()
    }
}

/// An open table of schema `pgtrickle` with its primary key index.
struct Open {
    heap: pg_sys::Relation,
    key: pg_sys::Oid,
}

impl Open {
    fn new(name: &str, lock: u32) -> Option<Open> {
        let oid = relation::find("pgtrickle", name)?;
        // SAFETY: closed in drop; the lock is kept to the end of the transaction, as statements do.
        unsafe {
            let heap = pg_sys::table_open(oid, lock as i32);
            let key = pg_sys::RelationGetPrimaryKeyIndex(heap, false);
            Some(Open { heap, key })
        }
    }

    fn width(&self) -> usize {
        // SAFETY: the relation is open.
        unsafe { (*(*self.heap).rd_att).natts as usize }
    }

    /// Calls `work` with the row whose first column, the key, is `key`, as `snapshot` sees it.
    ///
    /// If another transaction changed the row after the snapshot, and this one after that, the snapshot still shows it as it
    /// was before both; what this transaction has left counts.
    fn with_row<R>(
        &self,
        key: i64,
        snapshot: &Snapshot,
        work: impl FnOnce(pg_sys::HeapTuple) -> R,
    ) -> Option<R> {
        let seen = self.find(key, snapshot)?;
        let own = has_been_changed(seen)
            .then(|| self.find(key, &Snapshot::latest()))
            .flatten()
            .filter(|newest| is_own(*newest));
        Some(work(own.unwrap_or(seen)))
    }

    /// A copy of the row whose key is `key`.
    fn find(&self, key: i64, snapshot: &Snapshot) -> Option<pg_sys::HeapTuple> {
        // SAFETY: a scan by the primary key, whose only column is the first; the tuple is copied before the scan ends.
        unsafe {
            let mut seen = snapshot.with_own_writes();
            let mut wanted: pg_sys::ScanKeyData = std::mem::zeroed();
            pg_sys::ScanKeyInit(
                &raw mut wanted,
                1,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::from(pg_sys::F_INT8EQ),
                pg_sys::Datum::from(key),
            );
            let scan = pg_sys::systable_beginscan(
                self.heap,
                self.key,
                true,
                &raw mut seen,
                1,
                &raw mut wanted,
            );
            let tuple = pg_sys::systable_getnext(scan);
            let copy = (!tuple.is_null()).then(|| pg_sys::heap_copytuple(tuple));
            pg_sys::systable_endscan(scan);
            copy
        }
    }

    fn deform(&self, tuple: pg_sys::HeapTuple) -> Read {
        let width = self.width();
        let mut values = vec![pg_sys::Datum::from(0usize); width];
        let mut nulls = vec![true; width];
        // SAFETY: both arrays have one entry per attribute. Values by reference point into the tuple, which lives as long as
        // the current memory context.
        unsafe {
            pg_sys::heap_deform_tuple(
                tuple,
                (*self.heap).rd_att,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
        Read { values, nulls }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened once in `new`.
            unsafe { pg_sys::table_close(self.heap, pg_sys::NoLock as i32) }
        }
    }
}

/// Somebody has changed or locked this version of a row, or tried to.
fn has_been_changed(tuple: pg_sys::HeapTuple) -> bool {
    // SAFETY: callers pass tuples of `find`, which have a header.
    unsafe { (*(*tuple).t_data).t_infomask & pg_sys::HEAP_XMAX_INVALID as u16 == 0 }
}

/// This transaction has written this version of a row.
fn is_own(tuple: pg_sys::HeapTuple) -> bool {
    // SAFETY: as above.
    unsafe {
        let writer = pg_sys::htup::HeapTupleHeaderGetXmin((*tuple).t_data);
        pg_sys::TransactionIdIsCurrentTransactionId(writer)
    }
}

/// Reads the row of `table` whose key is `key`.
pub fn read<R>(
    table: &str,
    key: i64,
    snapshot: &Snapshot,
    work: impl FnOnce(&Read) -> R,
) -> Option<R> {
    let open = Open::new(table, pg_sys::AccessShareLock)?;
    open.with_row(key, snapshot, |tuple| work(&open.deform(tuple)))
}

/// As [`read`], from a table that is mostly empty.
pub fn read_rare<R>(
    table: &str,
    key: i64,
    snapshot: &Snapshot,
    work: impl FnOnce(&Read) -> R,
) -> Option<R> {
    let open = Open::new(table, pg_sys::AccessShareLock)?;
    // SAFETY: the relation is open.
    let blocks = unsafe {
        pg_sys::RelationGetNumberOfBlocksInFork(open.heap, pg_sys::ForkNumber::MAIN_FORKNUM)
    };
    if blocks == 0 {
        return None;
    }
    open.with_row(key, snapshot, |tuple| work(&open.deform(tuple)))
}

/// Changes columns (from 1) of the row whose key is `key`. False if there is no such row, or it is not the newest version
/// of it any more.
pub fn update(table: &str, key: i64, snapshot: &Snapshot, changes: &[(usize, Field<'_>)]) -> bool {
    let Some(open) = Open::new(table, pg_sys::RowExclusiveLock) else {
        return false;
    };
    let width = open.width();
    open.with_row(key, snapshot, |tuple| {
        let mut values = vec![pg_sys::Datum::from(0usize); width];
        let mut nulls = vec![true; width];
        let mut replace = vec![false; width];
        for (column, field) in changes {
            replace[column - 1] = true;
            if let Some(datum) = field.datum() {
                values[column - 1] = datum;
                nulls[column - 1] = false;
            }
        }
        // SAFETY: arrays have one entry per attribute, values the attributes' types; the key does not change, so that
        // its index is the only one to be told about a new place.
        unsafe {
            let changed = pg_sys::heap_modify_tuple(
                tuple,
                (*open.heap).rd_att,
                values.as_ptr(),
                nulls.as_ptr(),
                replace.as_ptr(),
            );
            let mut failure: pg_sys::TM_FailureData = std::mem::zeroed();
            let mut mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
            let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
            let result = pg_sys::heap_update(
                open.heap,
                &raw mut (*tuple).t_self,
                changed,
                pg_sys::GetCurrentCommandId(true),
                std::ptr::null_mut(),
                true,
                &raw mut failure,
                &raw mut mode,
                &raw mut indexes,
            );
            if result != pg_sys::TM_Result::TM_Ok {
                return false;
            }
            if indexes != pg_sys::TU_UpdateIndexes::TU_None {
                add_to_indexes(&open, changed);
            }
            pg_sys::heap_freetuple(changed);
            pg_sys::CommandCounterIncrement();
            true
        }
    })
    .unwrap_or(false)
}

/// Inserts a row. False if there is no such table.
pub fn insert(table: &str, fields: &[Field<'_>]) -> bool {
    let Some(open) = Open::new(table, pg_sys::RowExclusiveLock) else {
        return false;
    };
    if open.width() != fields.len() {
        return false;
    }
    let datums: Vec<Option<pg_sys::Datum>> = fields.iter().map(Field::datum).collect();
    let nulls: Vec<bool> = datums.iter().map(Option::is_none).collect();
    let values: Vec<pg_sys::Datum> = datums
        .into_iter()
        .map(|datum| datum.unwrap_or(pg_sys::Datum::from(0usize)))
        .collect();
    // SAFETY: arrays have one entry per attribute, values the attributes' types.
    unsafe {
        let tuple = pg_sys::heap_form_tuple((*open.heap).rd_att, values.as_ptr(), nulls.as_ptr());
        pg_sys::heap_insert(
            open.heap,
            tuple,
            pg_sys::GetCurrentCommandId(true),
            0,
            std::ptr::null_mut(),
        );
        add_to_indexes(&open, tuple);
        pg_sys::heap_freetuple(tuple);
        pg_sys::CommandCounterIncrement();
    }
    true
}

/// Makes a new tuple known to every index of its table. All are btrees over plain columns.
unsafe fn add_to_indexes(open: &Open, tuple: pg_sys::HeapTuple) {
    // SAFETY: the index list belongs to the open relation; key columns are attribute numbers above zero.
    unsafe {
        let row = open.deform(tuple);
        let list = pg_sys::RelationGetIndexList(open.heap);
        for position in 0..pg_sys::list_length(list) {
            let oid = pg_sys::list_nth_oid(list, position);
            let index = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as i32);
            let form = &*(*index).rd_index;
            let columns = form.indkey.values.as_slice(form.indnatts as usize);
            let mut values: Vec<pg_sys::Datum> = columns
                .iter()
                .map(|column| row.values[*column as usize - 1])
                .collect();
            let mut nulls: Vec<bool> = columns
                .iter()
                .map(|column| row.nulls[*column as usize - 1])
                .collect();
            let mut info: pg_sys::IndexInfo = std::mem::zeroed();
            pg_sys::index_insert(
                index,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &raw mut (*tuple).t_self,
                open.heap,
                if form.indisunique {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                } else {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                },
                false,
                &raw mut info,
            );
            pg_sys::index_close(index, pg_sys::NoLock as i32);
        }
        pg_sys::list_free(list);
    }
}

unsafe extern "C-unwind" {
    /// commands/sequence.h
    fn nextval_internal(sequence: pg_sys::Oid, check_permissions: bool) -> i64;
}

/// The next value of a sequence of schema `pgtrickle`.
pub fn next_value(sequence: &str) -> Option<i64> {
    let oid = relation::find("pgtrickle", sequence)?;
    // SAFETY: an existing sequence; like our tables, it is written without asking for rights.
    Some(unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| nextval_internal(oid, false)) })
}

/// Now, in microseconds since 2000-01-01 UTC.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Seconds since 1970 in microseconds since 2000.
pub fn timestamp(seconds: f64) -> i64 {
    const BETWEEN: f64 = 946_684_800.0;
    ((seconds - BETWEEN) * 1e6).round() as i64
}
