//! Relations: their attributes, and invalidating what other backends remember of them.

use std::collections::BTreeSet;
use std::ffi::CString;

use pgrx::pg_sys;

/// Attribute `position` (from 0) of a descriptor.
///
/// # Safety
/// The descriptor is valid and has more than `position` attributes.
pub(super) unsafe fn attribute(
    desc: pg_sys::TupleDesc,
    position: usize,
) -> &'static pg_sys::FormData_pg_attribute {
    // SAFETY: on PostgreSQL 18 the full attributes follow the compact ones.
    unsafe { &*pg_sys::TupleDescAttr(desc, position as i32) }
}

/// The access method of an index by which values of a column are found, if there is a good one. A btree cannot hold long
/// values; a hash index becomes slow where many rows have the same, and holds arrays, ranges and rows only if what they
/// consist of can be hashed.
pub fn lookup_method(relation: pg_sys::Oid, attnum: i16, distinct: bool) -> Option<&'static str> {
    let wanted = pg_sys::TYPECACHE_BTREE_OPFAMILY | pg_sys::TYPECACHE_HASH_PROC;
    // SAFETY: catalog cache look-ups; entries of the type cache live as long as the session.
    unsafe {
        let ty = pg_sys::get_atttype(relation, attnum);
        if ty == pg_sys::InvalidOid {
            return None;
        }
        let cache = &*pg_sys::lookup_type_cache(ty, wanted as i32);
        let short = pg_sys::get_typlen(ty) > 0 || ty == pg_sys::NUMERICOID;
        if short && cache.btree_opf != pg_sys::InvalidOid {
            Some("btree")
        } else if distinct && cache.hash_proc != pg_sys::InvalidOid {
            Some("hash")
        } else {
            None
        }
    }
}

/// The columns by whose values an index finds rows, first of all.
pub fn found_by_index(relation: pg_sys::Oid) -> BTreeSet<i16> {
    super::spi::run(
        "SELECT DISTINCT a.attnum FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = c.relam \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
         WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND m.amname IN ('btree', 'hash') \
         AND i.indcollation[0] IN (0, a.attcollation)",
        &[super::spi::Value::Oid(relation)],
    )
    .iter()
    .map(|row| row.int(0) as i16)
    .collect()
}

/// Tells every backend, at commit, that what it remembers of `relation` is outdated.
pub fn invalidate(relation: pg_sys::Oid) {
    // SAFETY: queues an invalidation message.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) }
}

/// The bytes of a relation's main fork; none if it is gone or somebody holds a lock on it that excludes readers.
pub fn size_unless_locked(relation: pg_sys::Oid) -> Option<i64> {
    let mode = pg_sys::AccessShareLock as i32;
    // SAFETY: opened under the lock, closed and unlocked again.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(relation, mode) {
            return None;
        }
        let open = pg_sys::RelationIdGetRelation(relation);
        let bytes = (!open.is_null()).then(|| {
            let blocks =
                pg_sys::RelationGetNumberOfBlocksInFork(open, pg_sys::ForkNumber::MAIN_FORKNUM);
            pg_sys::RelationClose(open);
            i64::from(blocks) * i64::from(pg_sys::BLCKSZ)
        });
        pg_sys::UnlockRelationOid(relation, mode);
        bytes
    }
}

/// The relation of this name, without looking at any search_path.
pub fn find(schema: &str, name: &str) -> Option<pg_sys::Oid> {
    let (schema, name) = (CString::new(schema).ok()?, CString::new(name).ok()?);
    // SAFETY: catalog cache look-ups by valid strings.
    unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if namespace == pg_sys::InvalidOid {
            return None;
        }
        let relation = pg_sys::get_relname_relid(name.as_ptr(), namespace);
        (relation != pg_sys::InvalidOid).then_some(relation)
    }
}

/// The relation a name stands for under the current search_path, as `to_regclass()` reads it.
pub fn resolve(name: &str) -> Option<pg_sys::Oid> {
    let name = pgrx::IntoDatum::into_datum(name);
    // SAFETY: a built-in function of one text argument.
    unsafe { pgrx::direct_function_call::<pg_sys::Oid>(pg_sys::to_regclass, &[name]) }
}

unsafe extern "C-unwind" {
    /// catalog/pg_inherits.h: a relation and all that inherits from it, each once, locked in this mode.
    fn find_all_inheritors(
        relation: pg_sys::Oid,
        mode: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// `relation` and whatever inherits from it by now, as a query that begins at this moment reads them, each once.
pub fn with_heirs(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    all_inheritors(relation, pg_sys::NoLock as pg_sys::LOCKMODE)
}

/// As [`with_heirs`], under ACCESS SHARE until the transaction ends: none of them ceases to inherit before.
pub fn held_with_heirs(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let look = || all_inheritors(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    let mut found = look();
    loop {
        // Whoever was waited for may have changed what they inherit from.
        let again = look();
        if again == found {
            return found;
        }
        found = again;
    }
}

fn all_inheritors(relation: pg_sys::Oid, mode: pg_sys::LOCKMODE) -> Vec<pg_sys::Oid> {
    // SAFETY: catalog look-ups, which see what is committed by now; the list holds OIDs and is copied. An error of a lock
    // is caught at the boundary.
    unsafe {
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(relation, mode, std::ptr::null_mut())
        });
        if list.is_null() {
            return vec![];
        }
        (0..(*list).length as usize)
            .map(|position| (*(*list).elements.add(position)).oid_value)
            .collect()
    }
}

/// The role a relation belongs to.
pub fn owner(relation: pg_sys::Oid) -> pg_sys::Oid {
    super::spi::first(
        "SELECT relowner FROM pg_catalog.pg_class WHERE oid = $1",
        &[super::spi::Value::Oid(relation)],
    )
    .map_or(pg_sys::InvalidOid, |row| row.oid(0))
}

/// The type of a relation's rows.
pub fn row_type(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a catalog cache look-up.
    unsafe { pg_sys::get_rel_type_id(relation) }
}
