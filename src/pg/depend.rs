//! Dependencies between our objects and the user's, in PostgreSQL's own dependency catalog.

use pgrx::pg_sys;

use super::snapshot::Snapshot;

fn relation_address(relation: pg_sys::Oid) -> pg_sys::ObjectAddress {
    pg_sys::ObjectAddress {
        classId: pg_sys::RelationRelationId,
        objectId: relation,
        objectSubId: 0,
    }
}

pub fn extension_oid() -> pg_sys::Oid {
    // SAFETY: catalog lookup.
    unsafe { pg_sys::get_extension_oid(c"pg_trickle".as_ptr(), true) }
}

/// The extension is installed in this database.
pub fn extension_exists() -> bool {
    extension_oid() != pg_sys::InvalidOid
}

/// Makes `relation` a member of the extension: dropped with it, not dumped, not to be dropped alone.
pub fn make_member(relation: pg_sys::Oid) {
    let member = relation_address(relation);
    let extension = extension_address();
    // SAFETY: both objects exist and are locked by their creation in this transaction.
    unsafe {
        pg_sys::recordDependencyOn(
            &member,
            &extension,
            pg_sys::DependencyType::DEPENDENCY_EXTENSION,
        );
    }
}

fn extension_address() -> pg_sys::ObjectAddress {
    pg_sys::ObjectAddress {
        classId: pg_sys::ExtensionRelationId,
        objectId: extension_oid(),
        objectSubId: 0,
    }
}

/// Undoes [`make_member`].
pub fn release_member(relation: pg_sys::Oid) {
    // SAFETY: removes dependency records only.
    unsafe {
        pg_sys::deleteDependencyRecordsForClass(
            pg_sys::RelationRelationId,
            relation,
            pg_sys::ExtensionRelationId,
            pg_sys::DependencyType::DEPENDENCY_EXTENSION as std::ffi::c_char,
        );
    }
}

/// Makes the stream table need the extension, so that dropping the extension takes CASCADE and drops it too.
pub fn needs_extension(relation: pg_sys::Oid) {
    // SAFETY: both objects exist.
    unsafe {
        pg_sys::recordDependencyOn(
            &relation_address(relation),
            &extension_address(),
            pg_sys::DependencyType::DEPENDENCY_NORMAL,
        );
    }
}

/// Makes `part` an internal part of `whole`: dropped with it, and whatever drops the part drops the whole.
pub fn make_part(part: pg_sys::Oid, whole: pg_sys::Oid) {
    // SAFETY: both objects exist.
    unsafe {
        pg_sys::recordDependencyOn(
            &relation_address(part),
            &relation_address(whole),
            pg_sys::DependencyType::DEPENDENCY_INTERNAL,
        );
    }
}

/// Undoes [`make_part`].
pub fn release_part(part: pg_sys::Oid) {
    // SAFETY: removes dependency records only.
    unsafe {
        pg_sys::deleteDependencyRecordsForClass(
            pg_sys::RelationRelationId,
            part,
            pg_sys::RelationRelationId,
            pg_sys::DependencyType::DEPENDENCY_INTERNAL as std::ffi::c_char,
        );
    }
}

/// `part` is an internal part of `whole` already.
pub fn is_part(part: pg_sys::Oid, whole: pg_sys::Oid) -> bool {
    use super::spi::{Value, first};
    first(
        "SELECT 1 FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objid = $1 \
         AND refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND refobjid = $2 AND deptype = 'i'",
        &[Value::Oid(part), Value::Oid(whole)],
    )
    .is_some()
}

/// Makes the dependencies recorded so far visible to the following commands.
pub fn command_done() {
    // SAFETY: increments the command counter of the current transaction.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// An object of catalog `class` is older than this transaction.
pub fn is_older_than_this_transaction(class: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    let others = Snapshot::latest_of_others();
    // SAFETY: a scan of a catalog by its index on oid, under a snapshot that lives longer.
    unsafe {
        let catalog = pg_sys::table_open(class, pg_sys::AccessShareLock as i32);
        let mut wanted: pg_sys::ScanKeyData = std::mem::zeroed();
        pg_sys::ScanKeyInit(
            &raw mut wanted,
            pg_sys::get_object_attnum_oid(class),
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::Oid::from(pg_sys::F_OIDEQ),
            pg_sys::Datum::from(object),
        );
        let scan = pg_sys::systable_beginscan(
            catalog,
            pg_sys::get_object_oid_index(class),
            true,
            others.pointer(),
            1,
            &raw mut wanted,
        );
        let found = !pg_sys::systable_getnext(scan).is_null();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
        found
    }
}
