//! The utility hook: commands that need a database for themselves get it, and those that event triggers notice too late
//! are looked at before.
//!
//! A database with connected workers could not be dropped, renamed or used as a template. Before such a command runs, the
//! database is closed to our workers for a moment and those in it are asked to leave.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::{entry, lock, shared, worker, xact};

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// How long workers stay out, in microseconds. Longer than a command that fails needs to fail.
const CLOSED_FOR: i64 = 10_000_000;

/// Installs the hook. Called once, while libraries are preloaded.
pub fn install() {
    // SAFETY: hooks are chained before any backend exists.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(utility);
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: arguments are passed on as they came.
    unsafe {
        let node = (*statement).utilityStmt;
        if let Some(database) = needs_for_itself(node) {
            clear(database);
        }
        match partitioning(node) {
            Some(Partitioning::DetachesConcurrently(relation)) => {
                entry::detaching_concurrently(relation);
            }
            Some(Partitioning::Attaches(parent, partition)) => entry::attaching(parent, partition),
            None => {}
        }
        if (*node).type_ == NodeTag::T_DropStmt
            && (*node.cast::<pg_sys::DropStmt>()).removeType == pg_sys::ObjectType::OBJECT_EXTENSION
        {
            // Perhaps ours: the scheduler looks whether it still has anything to do.
            xact::definitions_will_change();
        }
        match PREVIOUS {
            Some(previous) => pg_sys::ffi::pg_guard_ffi_boundary(|| {
                previous(
                    statement,
                    query,
                    read_only,
                    context,
                    parameters,
                    environment,
                    destination,
                    completion,
                )
            }),
            None => pg_sys::standard_ProcessUtility(
                statement,
                query,
                read_only,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
        }
    }
}

/// What a statement does to the partitions of a table.
enum Partitioning {
    /// Detaches one in several transactions.
    DetachesConcurrently(pg_sys::Oid),
    /// Makes the second one a partition of the first.
    Attaches(pg_sys::Oid, pg_sys::Oid),
}

unsafe fn partitioning(node: *mut pg_sys::Node) -> Option<Partitioning> {
    // SAFETY: casts follow the tags; the commands of ALTER TABLE are AlterTableCmd nodes.
    unsafe {
        if (*node).type_ != NodeTag::T_AlterTableStmt {
            return None;
        }
        let alter = &*node.cast::<pg_sys::AlterTableStmt>();
        for command in super::node::list_items::<pg_sys::AlterTableCmd>(alter.cmds) {
            let partition = (*command).def.cast::<pg_sys::PartitionCmd>();
            match (*command).subtype {
                pg_sys::AlterTableType::AT_DetachPartition
                    if !partition.is_null() && (*partition).concurrent =>
                {
                    return Some(Partitioning::DetachesConcurrently(found(alter.relation)?));
                }
                pg_sys::AlterTableType::AT_AttachPartition if !partition.is_null() => {
                    let part = found((*partition).name)?;
                    return Some(Partitioning::Attaches(found(alter.relation)?, part));
                }
                _ => {}
            }
        }
        None
    }
}

/// The relation a name in a statement stands for, if there is one.
unsafe fn found(name: *mut pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    // SAFETY: a name of the statement, which is only looked up.
    let relation = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    };
    (relation != pg_sys::InvalidOid).then_some(relation)
}

/// The database a statement needs without other sessions.
unsafe fn needs_for_itself(node: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    // SAFETY: casts follow the tags.
    unsafe {
        let name = match (*node).type_ {
            NodeTag::T_DropdbStmt => (*node.cast::<pg_sys::DropdbStmt>()).dbname,
            NodeTag::T_RenameStmt => {
                let rename = &*node.cast::<pg_sys::RenameStmt>();
                if rename.renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                    return None;
                }
                rename.subname
            }
            NodeTag::T_CreatedbStmt => return template(&*node.cast::<pg_sys::CreatedbStmt>()),
            NodeTag::T_AlterDatabaseStmt => {
                let alter = &*node.cast::<pg_sys::AlterDatabaseStmt>();
                option(alter.options, c"tablespace")?;
                alter.dbname
            }
            _ => return None,
        };
        existing(name)
    }
}

unsafe fn existing(name: *const std::ffi::c_char) -> Option<pg_sys::Oid> {
    if name.is_null() {
        return None;
    }
    // SAFETY: catalog lookup by a valid name.
    let oid = unsafe { pg_sys::get_database_oid(name, true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The value of an option as text.
unsafe fn option(options: *mut pg_sys::List, wanted: &CStr) -> Option<*mut std::ffi::c_char> {
    if options.is_null() {
        return None;
    }
    // SAFETY: a list of DefElem nodes.
    unsafe {
        for position in 0..(*options).length as usize {
            let element: *mut pg_sys::DefElem =
                (*(*options).elements.add(position)).ptr_value.cast();
            if CStr::from_ptr((*element).defname) == wanted && !(*element).arg.is_null() {
                return Some(pg_sys::defGetString(element));
            }
        }
    }
    None
}

unsafe fn template(statement: &pg_sys::CreatedbStmt) -> Option<pg_sys::Oid> {
    // SAFETY: as `option`.
    unsafe {
        let name = option(statement.options, c"template")?;
        existing(name)
    }
}

/// Asks our workers to leave `database` and waits until they have.
fn clear(database: pg_sys::Oid) {
    let scheduler = shared::close_database(database, CLOSED_FOR);
    let pids = || {
        scheduler
            .into_iter()
            .chain(shared::workers_of(database))
            .filter(|pid| worker::alive(*pid))
            .collect::<Vec<_>>()
    };
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let left = pids();
        if left.is_empty() {
            return;
        }
        left.into_iter().for_each(worker::terminate);
        lock::sleep(Duration::from_millis(20));
    }
}
