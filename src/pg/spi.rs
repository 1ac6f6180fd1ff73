//! Running SQL from inside: prepared statements with typed parameters, rows as owned values.
//!
//! Every statement can be run under a given registered snapshot, so that all statements of a refresh see one state of
//! the database. An error of a statement is PostgreSQL's own error and unwinds; it is never turned into a value here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::rc::Rc;

use pgrx::pg_sys;

use super::snapshot::Snapshot;

/// A parameter value.
#[derive(Clone, Debug)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Oid(pg_sys::Oid),
    Text(String),
    OptionalText(Option<String>),
    Float(f64),
    Xid8(u64),
    Xid8Array(Vec<u64>),
    IntArray(Vec<i64>),
    /// Microseconds since 2000-01-01 UTC.
    Timestamp(i64),
    OptionalTimestamp(Option<i64>),
}

impl Value {
    fn oid(&self) -> pg_sys::Oid {
        match self {
            Value::Bool(_) => pg_sys::BOOLOID,
            Value::Int(_) => pg_sys::INT8OID,
            Value::Oid(_) => pg_sys::OIDOID,
            Value::Text(_) | Value::OptionalText(_) => pg_sys::TEXTOID,
            Value::Float(_) => pg_sys::FLOAT8OID,
            Value::Xid8(_) => pg_sys::XID8OID,
            Value::Xid8Array(_) => pg_sys::XID8ARRAYOID,
            Value::IntArray(_) => pg_sys::INT8ARRAYOID,
            Value::Timestamp(_) | Value::OptionalTimestamp(_) => pg_sys::TIMESTAMPTZOID,
        }
    }

    /// The datum, or none for NULL; by-reference values are allocated in the current memory context.
    fn datum(&self) -> Option<pg_sys::Datum> {
        Some(match self {
            Value::Bool(value) => pg_sys::Datum::from(*value),
            Value::Int(value) | Value::Timestamp(value) => pg_sys::Datum::from(*value),
            Value::Oid(value) => pg_sys::Datum::from(*value),
            Value::Text(value) => text_datum(value),
            Value::OptionalTimestamp(value) => pg_sys::Datum::from((*value)?),
            Value::OptionalText(value) => text_datum(value.as_deref()?),
            Value::Float(value) => pg_sys::Datum::from(value.to_bits()),
            Value::Xid8(value) => pg_sys::Datum::from(*value),
            Value::Xid8Array(values) => array_datum(
                values
                    .iter()
                    .map(|value| pg_sys::Datum::from(*value))
                    .collect(),
                pg_sys::XID8OID,
            ),
            Value::IntArray(values) => array_datum(
                values
                    .iter()
                    .map(|value| pg_sys::Datum::from(*value))
                    .collect(),
                pg_sys::INT8OID,
            ),
        })
    }
}

fn text_datum(value: &str) -> pg_sys::Datum {
    // SAFETY: copies `len` bytes into a new text value.
    unsafe {
        pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(
            value.as_ptr().cast(),
            value.len() as i32,
        ))
    }
}

/// A `bigint[]`.
pub(super) fn int_array(values: &[i64]) -> pg_sys::Datum {
    array_datum(
        values
            .iter()
            .map(|value| pg_sys::Datum::from(*value))
            .collect(),
        pg_sys::INT8OID,
    )
}

/// An array of 8-byte by-value elements.
fn array_datum(mut values: Vec<pg_sys::Datum>, element: pg_sys::Oid) -> pg_sys::Datum {
    // SAFETY: `values` has the length given; both element types are 8 bytes, by value, double-aligned.
    unsafe {
        pg_sys::Datum::from(pg_sys::construct_array(
            values.as_mut_ptr(),
            values.len() as i32,
            element,
            8,
            true,
            b'd' as c_char,
        ))
    }
}

/// A cell of a result row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// A result row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(Vec<Cell>);

impl Row {
    /// Column `position` (from 0) as an integer; 0 if it is NULL or no integer.
    pub fn int(&self, position: usize) -> i64 {
        self.optional_int(position).unwrap_or_default()
    }

    pub fn optional_int(&self, position: usize) -> Option<i64> {
        match self.0.get(position) {
            Some(Cell::Int(value)) => Some(*value),
            _ => None,
        }
    }

    pub fn oid(&self, position: usize) -> pg_sys::Oid {
        pg_sys::Oid::from(self.int(position) as u32)
    }

    pub fn bool(&self, position: usize) -> bool {
        matches!(self.0.get(position), Some(Cell::Bool(true)))
    }

    pub fn float(&self, position: usize) -> f64 {
        match self.0.get(position) {
            Some(Cell::Float(value)) => *value,
            Some(Cell::Int(value)) => *value as f64,
            _ => 0.0,
        }
    }

    /// Column `position` as text; empty if it is NULL.
    pub fn text(&self, position: usize) -> String {
        self.optional_text(position).unwrap_or_default()
    }

    pub fn optional_text(&self, position: usize) -> Option<String> {
        match self.0.get(position)? {
            Cell::Text(value) => Some(value.clone()),
            Cell::Int(value) => Some(value.to_string()),
            Cell::Bool(value) => Some(if *value { "t" } else { "f" }.to_owned()),
            Cell::Float(value) => Some(value.to_string()),
            Cell::Null => None,
        }
    }

    pub fn is_null(&self, position: usize) -> bool {
        matches!(self.0.get(position), None | Some(Cell::Null))
    }
}

/// Which state a statement sees and whether it may write.
#[derive(Clone, Copy)]
pub enum Under<'a> {
    /// The latest committed state (as of the statement, in READ COMMITTED).
    Current,
    /// Exactly this snapshot, plus what this transaction did before.
    Snapshot(&'a Snapshot),
}

struct Connection;

impl Connection {
    fn open() -> Self {
        // SAFETY: paired with SPI_finish in drop.
        unsafe {
            pg_sys::SPI_connect();
        }
        Connection
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: closes the connection opened last; after an error PostgreSQL has closed nothing yet.
        unsafe {
            pg_sys::SPI_finish();
        }
    }
}

/// A statement prepared for the life of the session. Plans are generic: parameters are never looked at.
pub struct Plan {
    pointer: pg_sys::SPIPlanPtr,
    types: Vec<pg_sys::Oid>,
}

impl Plan {
    /// Parses and keeps `sql`; `like` gives the parameters' types.
    pub fn prepare(sql: &str, like: &[Value]) -> Plan {
        let sql = c_string(sql);
        let mut types: Vec<pg_sys::Oid> = like.iter().map(Value::oid).collect();
        let _connection = Connection::open();
        // SAFETY: SQL and types outlive the call; a kept plan survives SPI_finish.
        unsafe {
            let pointer = pg_sys::SPI_prepare_cursor(
                sql.as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
            );
            if pointer.is_null() {
                pgrx::error!("could not prepare a statement: {}", spi_result());
            }
            pg_sys::SPI_keepplan(pointer);
            Plan { pointer, types }
        }
    }

    /// The statement has been planned and, as far as is known, need not be planned again.
    pub fn is_planned(&self) -> bool {
        // SAFETY: the plan was kept; its sources live as long.
        unsafe {
            let sources = pg_sys::SPI_plan_get_plan_sources(self.pointer);
            super::node::list_items::<pg_sys::CachedPlanSource>(sources)
                .into_iter()
                .all(|source| {
                    (*source).is_valid && !(*source).gplan.is_null() && (*(*source).gplan).is_valid
                })
        }
    }

    /// Runs the statement and returns its rows.
    pub fn run(&self, values: &[Value], under: Under<'_>) -> Vec<Row> {
        debug_assert_eq!(values.len(), self.types.len());
        let _connection = Connection::open();
        let mut datums = Vec::with_capacity(values.len());
        let mut nulls: Vec<c_char> = Vec::with_capacity(values.len());
        for value in values {
            let datum = value.datum();
            nulls.push(if datum.is_some() { b' ' } else { b'n' } as c_char);
            datums.push(datum.unwrap_or(pg_sys::Datum::from(0usize)));
        }
        let snapshot = match under {
            Under::Current => std::ptr::null_mut(),
            Under::Snapshot(snapshot) => snapshot.pointer(),
        };
        // SAFETY: arrays match the plan's parameters; the snapshot is registered.
        let code = unsafe {
            pg_sys::SPI_execute_snapshot(
                self.pointer,
                datums.as_mut_ptr(),
                nulls.as_ptr(),
                snapshot,
                std::ptr::null_mut(),
                false,
                true,
                0,
            )
        };
        check(code);
        fetch()
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the plan was kept and is not running.
        unsafe {
            pg_sys::SPI_freeplan(self.pointer);
        }
    }
}

/// Plans of statements run by text, by text.
type Kept = HashMap<String, Rc<Plan>>;

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::new(HashMap::new());
}

/// More statements than the extension has constant ones; what is over it was made for one occasion.
const MOST_KEPT: usize = 256;

/// Runs a statement. Its plan is kept for the session.
pub fn run(sql: &str, values: &[Value]) -> Vec<Row> {
    run_under(sql, values, Under::Current)
}

/// Runs a statement under `under`. Its plan is kept for the session.
pub fn run_under(sql: &str, values: &[Value], under: Under<'_>) -> Vec<Row> {
    let types: Vec<pg_sys::Oid> = values.iter().map(Value::oid).collect();
    let known = KEPT.with(|kept| {
        kept.borrow()
            .get(sql)
            .filter(|plan| plan.types == types)
            .cloned()
    });
    let plan = known.unwrap_or_else(|| {
        let plan = Rc::new(Plan::prepare(sql, values));
        KEPT.with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() >= MOST_KEPT {
                kept.clear();
            }
            kept.insert(sql.to_owned(), plan.clone());
        });
        plan
    });
    plan.run(values, under)
}

/// Runs a utility command.
pub fn command(sql: &str) {
    let sql = c_string(sql);
    let _connection = Connection::open();
    // SAFETY: plain execution of one command.
    let code = unsafe { pg_sys::SPI_execute(sql.as_ptr(), false, 0) };
    check(code);
}

/// The first row, if any.
pub fn first(sql: &str, values: &[Value]) -> Option<Row> {
    run(sql, values).into_iter().next()
}

fn c_string(sql: &str) -> CString {
    CString::new(sql).unwrap_or_else(|_| pgrx::error!("a statement contains a zero byte"))
}

fn check(code: i32) {
    if code < 0 {
        pgrx::error!("could not run a statement: {}", spi_result());
    }
}

fn spi_result() -> String {
    // SAFETY: returns a static string.
    unsafe {
        CStr::from_ptr(pg_sys::SPI_result_code_string(pg_sys::SPI_result))
            .to_string_lossy()
            .into_owned()
    }
}

/// Copies the rows of the last statement.
fn fetch() -> Vec<Row> {
    // SAFETY: SPI_tuptable is valid until SPI_finish; datums are read by their declared types.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        if table.is_null() {
            return vec![];
        }
        let table = &*table;
        let width = (*table.tupdesc).natts as usize;
        let types: Vec<pg_sys::Oid> = (1..=width)
            .map(|number| pg_sys::SPI_gettypeid(table.tupdesc, number as i32))
            .collect();
        (0..table.numvals as usize)
            .map(|index| {
                let tuple = *table.vals.add(index);
                Row((0..width)
                    .map(|column| cell(tuple, table.tupdesc, column, types[column]))
                    .collect())
            })
            .collect()
    }
}

unsafe fn cell(
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
    column: usize,
    ty: pg_sys::Oid,
) -> Cell {
    // SAFETY: the tuple matches its descriptor.
    unsafe {
        let number = column as i32 + 1;
        let mut null = false;
        let datum = pg_sys::SPI_getbinval(tuple, desc, number, &raw mut null);
        if null {
            return Cell::Null;
        }
        match ty {
            pg_sys::BOOLOID => Cell::Bool(datum.value() != 0),
            pg_sys::INT8OID | pg_sys::XID8OID => Cell::Int(datum.value() as i64),
            pg_sys::INT4OID => Cell::Int(i64::from(datum.value() as i32)),
            pg_sys::INT2OID => Cell::Int(i64::from(datum.value() as i16)),
            pg_sys::OIDOID => Cell::Int(i64::from(datum.value() as u32)),
            pg_sys::FLOAT8OID => Cell::Float(f64::from_bits(datum.value() as u64)),
            _ => {
                let printed = pg_sys::SPI_getvalue(tuple, desc, number);
                Cell::Text(CStr::from_ptr(printed).to_string_lossy().into_owned())
            }
        }
    }
}

/// EXPLAIN of a statement with parameters, without running it.
pub fn explain(statement: &str, format: &str) -> Vec<String> {
    run(
        &format!("EXPLAIN (GENERIC_PLAN, COSTS OFF, FORMAT {format}) {statement}"),
        &[],
    )
    .iter()
    .map(|row| row.text(0))
    .collect()
}
