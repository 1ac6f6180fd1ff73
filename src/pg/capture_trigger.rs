//! The capture trigger: forms log rows and inserts them with the heap access method directly.
//!
//! What is logged: for an INSERT the new image with weight +1, for a DELETE the old one with -1, for an UPDATE that
//! changes a logged column both; for TRUNCATE a marker of weight 0. An image is the transaction's top-level xid8, the
//! weight and the logged columns. No SPI, no sequence, nothing that depends on the writer's snapshot.
//!
//! Which relation logs where is asked from a resolver (the `capture` room) once per backend and relation, and asked again
//! after an invalidation of the relation, of one above it or of its log. The trigger fires once, wherever it was created, and
//! logs for all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::{PgSqlErrorCode, pg_guard};

use super::image::sql_function;

/// Where the changes of a relation are logged.
#[derive(Clone, Debug)]
pub struct LogTarget {
    /// The source as stream tables know it: the relation itself or one that it is a partition of.
    pub source: pg_sys::Oid,
    pub segment: pg_sys::Oid,
    pub index: pg_sys::Oid,
    /// Attribute numbers, in the relation the trigger fires on, of the log's columns in order.
    pub attributes: Vec<i16>,
    /// Relations whose invalidation makes this outdated, besides the relation itself.
    pub depends_on: Vec<pg_sys::Oid>,
}

/// Finds the logs of a relation; none if it is no source of any stream table.
pub type Resolver = fn(pg_sys::Oid) -> Vec<LogTarget>;

/// What the trigger asks the rest of the extension.
pub struct Callbacks {
    pub resolve: Resolver,
    /// Most changes one transaction may make to a source; none if there is no limit.
    pub limit: fn() -> Option<u64>,
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

struct Backend {
    targets: HashMap<u32, Rc<[LogTarget]>>,
    /// Sources written by the current transaction and how many changes each got.
    touched: HashMap<u32, Touched>,
}

/// Changes logged by the current transaction for one source: per open subtransaction nesting level.
#[derive(Default)]
struct Touched {
    by_level: Vec<(i32, u64)>,
}

impl Touched {
    fn total(&self) -> u64 {
        self.by_level.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, level: i32) {
        match self.by_level.last_mut() {
            Some((last, count)) if *last == level => *count += 1,
            _ => self.by_level.push((level, 1)),
        }
    }
}

thread_local! {
    static BACKEND: RefCell<Backend> =
        RefCell::new(Backend { targets: HashMap::new(), touched: HashMap::new() });
}

/// Registers the callbacks. Called once per process.
pub fn install(callbacks: Callbacks) {
    if CALLBACKS.set(callbacks).is_err() {
        return;
    }
    // SAFETY: callbacks stay registered for the life of the process.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::from(0usize));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn invalidated(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    BACKEND.with(|backend| {
        // The callback can run while a target is being resolved; that resolution is then simply not kept for long.
        if let Ok(mut backend) = backend.try_borrow_mut() {
            if relation == pg_sys::InvalidOid {
                backend.targets.clear();
            } else {
                // A relation that is not captured may be from now on, as part of whatever was invalidated.
                backend.targets.retain(|on, targets| {
                    *on != relation.to_u32()
                        && !targets.is_empty()
                        && targets
                            .iter()
                            .all(|target| !target.depends_on.contains(&relation))
                });
            }
        }
    });
}

/// The sources of which the current transaction has written rows that still count.
pub fn touched_sources() -> Vec<pg_sys::Oid> {
    BACKEND.with(|backend| {
        backend
            .borrow()
            .touched
            .iter()
            // What a savepoint took back is nowhere.
            .filter(|(_, touched)| touched.total() > 0)
            .map(|(oid, _)| pg_sys::Oid::from(*oid))
            .collect()
    })
}

/// Ends the transaction's bookkeeping and returns the sources it wrote.
pub fn take_touched() -> Vec<pg_sys::Oid> {
    BACKEND.with(|backend| {
        backend
            .borrow_mut()
            .touched
            .drain()
            .map(|(oid, _)| pg_sys::Oid::from(oid))
            .collect()
    })
}

/// A subtransaction of nesting level `level` was rolled back: its changes no longer count.
pub fn subtransaction_aborted(level: i32) {
    BACKEND.with(|backend| {
        for touched in backend.borrow_mut().touched.values_mut() {
            touched.by_level.retain(|(at, _)| *at < level);
        }
    });
}

/// A subtransaction of nesting level `level` was released: its changes belong to its parent.
pub fn subtransaction_committed(level: i32) {
    BACKEND.with(|backend| {
        for touched in backend.borrow_mut().touched.values_mut() {
            let moved: u64 = touched
                .by_level
                .iter()
                .filter(|(at, _)| *at >= level)
                .map(|(_, count)| count)
                .sum();
            if moved > 0 {
                touched.by_level.retain(|(at, _)| *at < level);
                match touched.by_level.last_mut() {
                    Some((last, count)) if *last == level - 1 => *count += moved,
                    _ => touched.by_level.push((level - 1, moved)),
                }
            }
        }
    });
}

fn targets_of(relation: pg_sys::Oid) -> Rc<[LogTarget]> {
    let known = BACKEND.with(|backend| backend.borrow().targets.get(&relation.to_u32()).cloned());
    if let Some(targets) = known {
        return targets;
    }
    let targets: Rc<[LogTarget]> = CALLBACKS
        .get()
        .map(|callbacks| (callbacks.resolve)(relation))
        .unwrap_or_default()
        .into();
    BACKEND.with(|backend| {
        backend
            .borrow_mut()
            .targets
            .insert(relation.to_u32(), targets.clone())
    });
    targets
}

fn count_change(target: &LogTarget) {
    // SAFETY: reads transaction state.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    let total = BACKEND.with(|backend| {
        let mut backend = backend.borrow_mut();
        let touched = backend.touched.entry(target.source.to_u32()).or_default();
        touched.add(level);
        touched.total()
    });
    if let Some(limit) = CALLBACKS.get().and_then(|callbacks| (callbacks.limit)())
        && total > limit
    {
        refuse(target.source, limit);
    }
}

#[cold]
fn refuse(source: pg_sys::Oid, limit: u64) {
    // SAFETY: catalog lookup; the name is copied.
    let name = unsafe {
        let name = pg_sys::get_rel_name(source);
        if name.is_null() {
            String::new()
        } else {
            std::ffi::CStr::from_ptr(name)
                .to_string_lossy()
                .into_owned()
        }
    };
    pgrx::pg_sys::panic::ErrorReport::new(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!("transaction would make more than {limit} changes of \"{name}\""),
        "pgt_capture",
    )
    .set_detail("The number of changes that one transaction may make to a source of stream tables is limited.")
    .set_hint("Check for a missing WHERE clause, or raise pg_trickle.max_changes_per_tx for this transaction.")
    .report(pgrx::PgLogLevel::ERROR);
}

sql_function!(
    pg_finfo_pgt_capture,
    pgt_capture,
    capture_body,
    "`capture() trigger`"
);

unsafe fn capture_body(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: arguments as PostgreSQL's function manager passes them.
    unsafe {
        let trigger = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        if trigger.is_null() || (*trigger).type_ != pg_sys::NodeTag::T_TriggerData {
            pgrx::ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "pgtrickle.capture() can only be called as a trigger"
            );
        }
        let relation = (*trigger).tg_relation;
        for target in targets_of((*relation).rd_id).iter() {
            capture(&*trigger, relation, target);
        }
        pg_sys::Datum::from((*trigger).tg_trigtuple)
    }
}

unsafe fn capture(trigger: &pg_sys::TriggerData, relation: pg_sys::Relation, target: &LogTarget) {
    // SAFETY: trigger data of a row or statement event; tuples match the relation's descriptor.
    unsafe {
        let operation = trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
        if operation == pg_sys::TRIGGER_EVENT_TRUNCATE {
            count_change(target);
            let mut writer = Writer::open(target);
            writer.marker();
            writer.close();
            return;
        }
        let width = target.attributes.iter().copied().max().unwrap_or(0);
        let old = Image::of(trigger.tg_trigslot, width);
        match operation {
            pg_sys::TRIGGER_EVENT_INSERT => {
                count_change(target);
                let mut writer = Writer::open(target);
                writer.image(1, &old);
                writer.close();
            }
            pg_sys::TRIGGER_EVENT_DELETE => {
                count_change(target);
                let mut writer = Writer::open(target);
                writer.image(-1, &old);
                writer.close();
            }
            _ => {
                let new = Image::of(trigger.tg_newslot, width);
                if same(&old, &new, target, relation) {
                    return;
                }
                count_change(target);
                let mut writer = Writer::open(target);
                writer.image(-1, &old);
                writer.image(1, &new);
                writer.close();
            }
        }
    }
}

/// The first columns of a row.
struct Image<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl Image<'_> {
    /// The columns up to number `width` of the row in `slot`, which has to outlive the image.
    unsafe fn of<'a>(slot: *mut pg_sys::TupleTableSlot, width: i16) -> Image<'a> {
        // SAFETY: the slot of a row trigger holds a row of the relation; once asked for, its first columns are in arrays.
        unsafe {
            if (*slot).tts_nvalid < width {
                pg_sys::slot_getsomeattrs_int(slot, i32::from(width));
            }
            let width = width as usize;
            Image {
                values: std::slice::from_raw_parts((*slot).tts_values, width),
                nulls: std::slice::from_raw_parts((*slot).tts_isnull, width),
            }
        }
    }
}

unsafe extern "C-unwind" {
    /// utils/datum.h: equality of stored images, seeing through TOAST.
    fn datum_image_eq(a: pg_sys::Datum, b: pg_sys::Datum, by_value: bool, length: i32) -> bool;
}

/// The logged columns have the same bytes before and after.
unsafe fn same(
    old: &Image<'_>,
    new: &Image<'_>,
    target: &LogTarget,
    relation: pg_sys::Relation,
) -> bool {
    target.attributes.iter().all(|attnum| {
        let position = *attnum as usize - 1;
        let (a, b) = (old.values[position], new.values[position]);
        match (old.nulls[position], new.nulls[position]) {
            (true, true) => true,
            (false, false) => {
                // SAFETY: datums of the attribute's type; only detoasting can raise an error, and no destructor is
                // skipped between here and the guard inside.
                unsafe {
                    let attribute = super::relation::attribute((*relation).rd_att, position);
                    if attribute.attbyval {
                        return a.value() == b.value();
                    }
                    let length = i32::from(attribute.attlen);
                    if length == -1 && identical_varlena(a.cast_mut_ptr(), b.cast_mut_ptr()) {
                        return true;
                    }
                    pg_sys::ffi::pg_guard_ffi_boundary(|| datum_image_eq(a, b, false, length))
                }
            }
            _ => false,
        }
    })
}

/// Both values are stored as the same bytes (for values stored out of line: the same pointer).
unsafe fn identical_varlena(a: *const u8, b: *const u8) -> bool {
    // SAFETY: VARSIZE_ANY covers headers of all kinds.
    unsafe {
        let (size_a, size_b) = (pgrx::varsize_any(a.cast()), pgrx::varsize_any(b.cast()));
        size_a == size_b
            && std::slice::from_raw_parts(a, size_a) == std::slice::from_raw_parts(b, size_b)
    }
}

/// The open log segment.
struct Writer<'a> {
    target: &'a LogTarget,
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    xid: u64,
}

impl<'a> Writer<'a> {
    unsafe fn open(target: &'a LogTarget) -> Writer<'a> {
        // SAFETY: the segment and its index exist as long as the source is registered; locks are held to the end of
        // the transaction, which is what keeps the segment from being truncated meanwhile.
        unsafe {
            let heap = pg_sys::table_open(target.segment, pg_sys::RowExclusiveLock as i32);
            let index = pg_sys::index_open(target.index, pg_sys::RowExclusiveLock as i32);
            let xid = pg_sys::GetTopFullTransactionId().value;
            Writer {
                target,
                heap,
                index,
                xid,
            }
        }
    }

    unsafe fn image(&mut self, weight: i16, image: &Image<'_>) {
        let width = self.target.attributes.len() + 2;
        let mut values = Vec::with_capacity(width);
        let mut nulls = Vec::with_capacity(width);
        values.push(pg_sys::Datum::from(self.xid));
        values.push(pg_sys::Datum::from(weight));
        nulls.extend([false, false]);
        for attnum in &self.target.attributes {
            let position = *attnum as usize - 1;
            values.push(image.values[position]);
            nulls.push(image.nulls[position]);
        }
        // SAFETY: one value per column of the segment, of the column's type.
        unsafe { self.insert(&mut values, &mut nulls) }
    }

    unsafe fn marker(&mut self) {
        let width = self.target.attributes.len() + 2;
        let mut values = vec![pg_sys::Datum::from(0usize); width];
        let mut nulls = vec![true; width];
        values[0] = pg_sys::Datum::from(self.xid);
        values[1] = pg_sys::Datum::from(0i16);
        nulls[0] = false;
        nulls[1] = false;
        // SAFETY: as `image`.
        unsafe { self.insert(&mut values, &mut nulls) }
    }

    unsafe fn insert(&mut self, values: &mut [pg_sys::Datum], nulls: &mut [bool]) {
        // SAFETY: the arrays match the segment's descriptor; its only index is on the first column.
        unsafe {
            let tuple = pg_sys::heap_form_tuple(
                (*self.heap).rd_att,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::heap_insert(self.heap, tuple, command, 0, std::ptr::null_mut());
            let mut info: pg_sys::IndexInfo = std::mem::zeroed();
            pg_sys::index_insert(
                self.index,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &raw mut (*tuple).t_self,
                self.heap,
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                false,
                &raw mut info,
            );
            pg_sys::heap_freetuple(tuple);
        }
    }

    unsafe fn close(self) {
        // SAFETY: closes what `open` opened, keeping the locks.
        unsafe {
            pg_sys::index_close(self.index, pg_sys::NoLock as i32);
            pg_sys::table_close(self.heap, pg_sys::NoLock as i32);
        }
    }
}
