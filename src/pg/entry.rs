//! Functions PostgreSQL calls that are no plain SQL functions: trigger and event trigger entry points.
//!
//! What they do is decided elsewhere; the doors register their callbacks here.

use std::cell::Cell;
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::{PgSqlErrorCode, pg_guard};

use super::image::sql_function;

/// What is known of a command besides its objects and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `ALTER TYPE .. ADD VALUE`, which changes no value there is.
    AddsEnumValue,
    /// `ALTER TABLE .. NO INHERIT`, perhaps among other things.
    EndsInheritance,
    Other,
}

/// What the event triggers and the utility hook call.
pub struct Callbacks {
    pub ddl_end: fn(Command),
    pub dropped: fn(),
    pub rewritten: fn(),
    pub detaching_concurrently: fn(pg_sys::Oid),
    /// The table, and what is to become a partition of it.
    pub attaching: fn(pg_sys::Oid, pg_sys::Oid),
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

pub fn install(callbacks: Callbacks) {
    // A second registration in the same process would be the same one.
    let _ = CALLBACKS.set(callbacks);
}

/// Our own changes of stored rows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Writing {
    relation: pg_sys::Oid,
    /// How many triggers called what writes.
    depth: i32,
}

thread_local! {
    /// Our own changes of stored rows are under way.
    static WRITING: Cell<Option<Writing>> = const { Cell::new(None) };
    /// Our own DDL is under way: event triggers have nothing to find out.
    static DEFINING: Cell<bool> = const { Cell::new(false) };
}

/// Something that is set while the value lives, also when an error unwinds.
pub struct Flag<T: Copy + 'static>(&'static std::thread::LocalKey<Cell<T>>, T);

impl<T: Copy + 'static> Drop for Flag<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

fn raise<T: Copy>(flag: &'static std::thread::LocalKey<Cell<T>>, value: T) -> Flag<T> {
    Flag(flag, flag.replace(value))
}

/// Allows writing to a stream table while the value lives, but not to triggers that this calls.
pub fn writing(relation: pg_sys::Oid) -> Flag<impl Copy> {
    let depth = trigger_depth();
    raise(&WRITING, Some(Writing { relation, depth }))
}

/// Stored rows are being written: whoever runs now was called by that.
pub fn is_writing() -> bool {
    WRITING.get().is_some()
}

/// How many triggers are at work, one called by another.
fn trigger_depth() -> i32 {
    // SAFETY: a built-in function without arguments.
    unsafe { pgrx::direct_function_call::<i32>(pg_sys::pg_trigger_depth, &[]) }.unwrap_or(0)
}

/// Keeps our event triggers quiet while the value lives.
pub fn defining() -> Flag<bool> {
    raise(&DEFINING, true)
}

sql_function!(
    pg_finfo_pgt_refuse_write,
    pgt_refuse_write,
    refuse_write_body,
    "`refuse_write() trigger`"
);

unsafe fn refuse_write_body(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: arguments as PostgreSQL's function manager passes them.
    unsafe {
        let trigger = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        if trigger.is_null() {
            return pg_sys::Datum::from(0usize);
        }
        let ours = Writing {
            relation: (*(*trigger).tg_relation).rd_id,
            depth: trigger_depth() - 1,
        };
        if WRITING.get() != Some(ours) {
            let name =
                std::ffi::CStr::from_ptr((*(*(*trigger).tg_relation).rd_rel).relname.data.as_ptr())
                    .to_string_lossy()
                    .into_owned();
            pgrx::pg_sys::panic::ErrorReport::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("cannot change stream table \"{name}\""),
                "pgt_refuse_write",
            )
            .set_detail("Its contents are determined by its defining query.")
            .set_hint("Change the tables it reads, or alter its query with pgtrickle.alter_stream_table().")
            .report(pgrx::PgLogLevel::ERROR);
        }
        pg_sys::Datum::from(0usize)
    }
}

sql_function!(
    pg_finfo_pgt_on_ddl_end,
    pgt_on_ddl_end,
    on_ddl_end_body,
    "`on_ddl_end() event_trigger`"
);

unsafe fn on_ddl_end_body(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    if !DEFINING.get()
        && let Some(callbacks) = CALLBACKS.get()
    {
        // SAFETY: called by PostgreSQL with what it passes to event triggers.
        (callbacks.ddl_end)(unsafe { command(fcinfo) });
    }
    pg_sys::Datum::from(0usize)
}

unsafe fn command(fcinfo: pg_sys::FunctionCallInfo) -> Command {
    // SAFETY: the context is tagged; casts follow the tags.
    unsafe {
        let event = (*fcinfo).context.cast::<pg_sys::EventTriggerData>();
        if event.is_null() || (*event).type_ != pg_sys::NodeTag::T_EventTriggerData {
            return Command::Other;
        }
        let tree = (*event).parsetree;
        if tree.is_null() {
            return Command::Other;
        }
        match (*tree).type_ {
            pg_sys::NodeTag::T_AlterEnumStmt
                if (*tree.cast::<pg_sys::AlterEnumStmt>()).oldVal.is_null() =>
            {
                Command::AddsEnumValue
            }
            pg_sys::NodeTag::T_AlterTableStmt => {
                let commands = (*tree.cast::<pg_sys::AlterTableStmt>()).cmds;
                let ends = super::node::list_items::<pg_sys::AlterTableCmd>(commands)
                    .into_iter()
                    .any(|part| (*part).subtype == pg_sys::AlterTableType::AT_DropInherit);
                if ends {
                    Command::EndsInheritance
                } else {
                    Command::Other
                }
            }
            _ => Command::Other,
        }
    }
}

/// A partition of this table, or of a partition of it, is about to be detached concurrently.
pub(super) fn detaching_concurrently(relation: pg_sys::Oid) {
    if let Some(callbacks) = CALLBACKS.get() {
        (callbacks.detaching_concurrently)(relation);
    }
}

/// A table is about to become a partition of another one.
pub(super) fn attaching(parent: pg_sys::Oid, partition: pg_sys::Oid) {
    if let Some(callbacks) = CALLBACKS.get() {
        (callbacks.attaching)(parent, partition);
    }
}

sql_function!(
    pg_finfo_pgt_on_drop,
    pgt_on_drop,
    on_drop_body,
    "`on_drop() event_trigger`"
);

unsafe fn on_drop_body(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    if !DEFINING.get()
        && let Some(callbacks) = CALLBACKS.get()
    {
        (callbacks.dropped)();
    }
    pg_sys::Datum::from(0usize)
}

sql_function!(
    pg_finfo_pgt_on_rewrite,
    pgt_on_rewrite,
    on_rewrite_body,
    "`on_rewrite() event_trigger`"
);

unsafe fn on_rewrite_body(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    if !DEFINING.get()
        && let Some(callbacks) = CALLBACKS.get()
    {
        (callbacks.rewritten)();
    }
    pg_sys::Datum::from(0usize)
}
