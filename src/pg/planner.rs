//! What the planner is told about change logs, and about tables that have one row whatever their pages say.
//!
//! A log grows while plans stay, and its statistics say nothing about the share of it that is new to a reader. So where a
//! delta statement is planned, its logs are read through their indexes if that is possible at all, and the rows that come
//! out of one are those that were counted, and of these as many as the statement's other conditions on them let pass. So
//! many are expected also where they are netted before they are joined; the planner would take any number for 200.
//!
//! What is joined with a change is looked up from it: tables that did not change are not joined with each other before, if
//! one of them is much larger than the change. Estimates of such joins can be wrong by any factor, where columns depend on
//! each other for example; what follows from the change alone is in proportion to it.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};
use pgt_ivm::rel::SourceId;
use pgt_ivm::sql;

use super::node::list_items;

static mut PREVIOUS_FACTS: pg_sys::get_relation_info_hook_type = None;
static mut PREVIOUS_PATHS: pg_sys::set_rel_pathlist_hook_type = None;
static mut PREVIOUS_JOINS: pg_sys::set_join_pathlist_hook_type = None;

/// A table with more than so many times the rows of a change is much larger than it.
const MUCH_LARGER: f64 = 10.0;

/// Planner's cost of a row that is found through an index beside those before it: in a log they are.
const COST_OF_A_ROW: f64 = 0.02;

unsafe extern "C-unwind" {
    /// `optimizer/joininfo.h`
    fn have_relevant_joinclause(
        root: *mut pg_sys::PlannerInfo,
        one: *mut pg_sys::RelOptInfo,
        other: *mut pg_sys::RelOptInfo,
    ) -> bool;
}

thread_local! {
    /// What is known of tables, by oid; empty unless a delta statement is planned.
    static EXPECTED: RefCell<HashMap<pg_sys::Oid, Expected>> = RefCell::new(HashMap::new());

    /// The rows that come out of the logs of each source, in the statement that is planned.
    static PASSING: RefCell<HashMap<u64, f64>> = RefCell::new(HashMap::new());
}

/// What is known of a table.
#[derive(Clone, Copy)]
pub enum Expected {
    /// It is a log of a source, and so many of its rows are new.
    New { rows: f64, source: u64 },
    /// It has one row.
    OneRow,
}

/// Until it is dropped, the planner knows that of tables.
pub struct Expectation(());

impl Expectation {
    pub fn of(tables: impl Iterator<Item = (pg_sys::Oid, Expected)>) -> Expectation {
        EXPECTED.set(tables.collect());
        Expectation(())
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        EXPECTED.take();
        PASSING.take();
    }
}

/// Installs the hooks. Called once, when the library is loaded.
pub fn install() {
    // SAFETY: hooks are chained before any statement of this session is planned with them.
    unsafe {
        PREVIOUS_FACTS = pg_sys::get_relation_info_hook;
        pg_sys::get_relation_info_hook = Some(facts);
        PREVIOUS_PATHS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(paths);
        PREVIOUS_JOINS = pg_sys::set_join_pathlist_hook;
        pg_sys::set_join_pathlist_hook = Some(joins);
    }
}

fn expected(relation: pg_sys::Oid) -> Option<Expected> {
    EXPECTED.with_borrow(|tables| tables.get(&relation).copied())
}

/// A log counts as large with one row in it, so that reading it whole is no choice.
#[pg_guard]
unsafe extern "C-unwind" fn facts(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    inherited: bool,
    rel: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: arguments are passed on as they came; the node belongs to the planner.
    unsafe {
        if let Some(previous) = PREVIOUS_FACTS {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous(root, relation, inherited, rel));
        }
        if let (false, Some(expected)) = (inherited, expected(relation)) {
            (*rel).pages = match expected {
                Expected::New { .. } => 1 << 20,
                Expected::OneRow => 1,
            };
            (*rel).tuples = 1.0;
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn paths(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    index: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: arguments are passed on as they came; nodes belong to the planner.
    unsafe {
        if let Some(previous) = PREVIOUS_PATHS {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous(root, rel, index, entry));
        }
        match (*entry).rtekind {
            pg_sys::RTEKind::RTE_RELATION if !(*entry).inh => {
                if let Some(Expected::New { rows, source }) = expected((*entry).relid) {
                    // What conditions select is estimated for as many rows.
                    (*rel).tuples = rows;
                    let rows = rows * passing(root, rel);
                    PASSING.with_borrow_mut(|all| *all.entry(source).or_default() += rows);
                    expect(rel, rows.round().max(1.0));
                }
            }
            pg_sys::RTEKind::RTE_CTE => {
                // It has been planned before what reads it.
                if let Some(rows) = netted((*entry).ctename) {
                    (*rel).tuples = rows;
                    expect(rel, rows);
                }
            }
            _ => {}
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn joins(
    root: *mut pg_sys::PlannerInfo,
    joined: *mut pg_sys::RelOptInfo,
    outer: *mut pg_sys::RelOptInfo,
    inner: *mut pg_sys::RelOptInfo,
    kind: pg_sys::JoinType::Type,
    extra: *mut pg_sys::JoinPathExtraData,
) {
    // SAFETY: arguments are passed on as they came; nodes belong to the planner.
    unsafe {
        if let Some(previous) = PREVIOUS_JOINS {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                previous(root, joined, outer, inner, kind, extra)
            });
        }
        let planning = EXPECTED.with_borrow(|tables| !tables.is_empty());
        if !planning || !comes_before_a_change(root, joined) {
            return;
        }
        // Those with parameters are run for each row of something else.
        (*joined).partial_pathlist = std::ptr::null_mut();
        for path in list_items::<pg_sys::Path>((*joined).pathlist) {
            if (*path).param_info.is_null() && (*path).disabled_nodes == 0 {
                (*path).disabled_nodes = 1;
            }
        }
    }
}

/// `joined` is of tables that did not change, one of them much larger than a change that it could be joined with instead.
/// Where there are other joins than inner ones, their order is not free.
unsafe fn comes_before_a_change(
    root: *mut pg_sys::PlannerInfo,
    joined: *mut pg_sys::RelOptInfo,
) -> bool {
    // SAFETY: the nodes belong to the planner; arrays are indexed by members of its sets.
    unsafe {
        if !(*root).join_info_list.is_null() {
            return false;
        }
        let (mut largest, mut change) = (0.0_f64, None::<f64>);
        let mut number = -1;
        loop {
            number = pg_sys::bms_next_member((*root).all_baserels, number);
            if number < 0 {
                break;
            }
            let rel = *(*root).simple_rel_array.add(number as usize);
            let entry = *(*root).simple_rte_array.add(number as usize);
            let is_inside = pg_sys::bms_is_member(number, (*joined).relids);
            match (is_clean(entry), is_inside) {
                (true, true) => largest = largest.max((*rel).tuples),
                (true, false) => {}
                (false, true) => return false,
                (false, false) => {
                    if have_relevant_joinclause(root, joined, rel) {
                        change = Some(change.map_or((*rel).rows, |rows| rows.min((*rel).rows)));
                    }
                }
            }
        }
        change.is_some_and(|rows| largest > rows * MUCH_LARGER)
    }
}

/// A table as it is now.
unsafe fn is_clean(entry: *const pg_sys::RangeTblEntry) -> bool {
    // SAFETY: an entry of the planner's range table.
    let entry = unsafe { &*entry };
    entry.rtekind == pg_sys::RTEKind::RTE_RELATION
        && !matches!(expected(entry.relid), Some(Expected::New { .. }))
}

/// The rows of the net change of a source, by the name of its CTE.
unsafe fn netted(name: *const std::ffi::c_char) -> Option<f64> {
    // SAFETY: a string of the parse tree.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_str().ok()?;
    PASSING.with_borrow(|all| {
        all.iter()
            .find(|(source, _)| sql::delta_name(SourceId(**source)) == name)
            .map(|(_, rows)| rows.round().max(1.0))
    })
}

/// The column of every log by which its new rows are told: `xid` or `version`.
const POSITION: i32 = 1;

/// The share of new rows for which the conditions on logged columns hold.
unsafe fn passing(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) -> f64 {
    // SAFETY: the nodes belong to the planner, in whose memory the list is made. Bare clauses keep no earlier estimate.
    unsafe {
        let mut others = std::ptr::null_mut();
        for info in list_items::<pg_sys::RestrictInfo>((*rel).baserestrictinfo) {
            let clause = (*info).clause;
            let mut columns = std::ptr::null_mut();
            pg_sys::pull_varattnos(clause.cast(), (*rel).relid, &raw mut columns);
            if !pg_sys::bms_is_member(
                POSITION - pg_sys::FirstLowInvalidHeapAttributeNumber,
                columns,
            ) {
                others = pg_sys::lappend(others, clause.cast());
            }
        }
        let inner = pg_sys::JoinType::JOIN_INNER;
        pg_sys::clauselist_selectivity(root, others, 0, inner, std::ptr::null_mut())
    }
}

/// `rows` come out of each way to read `rel`.
unsafe fn expect(rel: *mut pg_sys::RelOptInfo, rows: f64) {
    // SAFETY: `rel` is a base relation whose paths have been made and not yet been compared.
    unsafe {
        (*rel).rows = rows;
        (*rel).partial_pathlist = std::ptr::null_mut();
        for path in list_items::<pg_sys::Path>((*rel).pathlist) {
            (*path).rows = rows;
            if (*path).pathtype != NodeTag::T_SeqScan {
                (*path).total_cost = (*path).startup_cost + rows * COST_OF_A_ROW;
            }
        }
    }
}
