//! A recursive WITH query as text of its own, and what it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::{Query, list_items, tag, text};

/// A query that is evaluated as a whole.
pub struct Whole {
    pub text: String,
    /// The columns it reads of each relation (by oid), with kind and whether children are read too.
    pub reads: BTreeMap<u32, Read>,
}

pub struct Read {
    pub relkind: u8,
    pub inherit: bool,
    pub columns: BTreeSet<i16>,
}

impl<'q> Query<'q> {
    /// The common table expression `name` of this level refers to itself.
    pub fn is_recursive_cte(&self, name: &str) -> bool {
        list_items::<pg_sys::CommonTableExpr>(self.node().cteList)
            .into_iter()
            // SAFETY: cteList holds CommonTableExpr nodes.
            .any(|cte| unsafe { text((*cte).ctename) == name && (*cte).cterecursive })
    }

    /// A common table expression of this level has `SEARCH BREADTH FIRST`. What the rewriter makes of it looks into rows
    /// without a named type, which its text alone cannot.
    pub fn searches_breadth_first(&self) -> bool {
        list_items::<pg_sys::CommonTableExpr>(self.node().cteList)
            .into_iter()
            // SAFETY: cteList holds CommonTableExpr nodes with a CTESearchClause or none.
            .any(|cte| unsafe {
                let search = (*cte).search_clause;
                !search.is_null() && (*search).search_breadth_first
            })
    }

    /// `WITH RECURSIVE .. SELECT * FROM name`, as read by range-table entry `index` of `reader`; none if it refers to
    /// anything around this level, or to whole rows or system columns.
    pub fn whole_cte(&self, reader: Query<'q>, index: usize) -> Option<Whole> {
        // SAFETY: the new query is made of copies; deparsing only reads it.
        unsafe {
            let rte: *mut pg_sys::RangeTblEntry =
                pg_sys::copyObjectImpl(std::ptr::from_ref(reader.range_entry(index)).cast()).cast();
            (*rte).ctelevelsup = 0;
            let query: *mut pg_sys::Query = pg_sys::palloc0(size_of::<pg_sys::Query>()).cast();
            (*query).type_ = NodeTag::T_Query;
            (*query).commandType = pg_sys::CmdType::CMD_SELECT;
            (*query).canSetTag = true;
            (*query).hasRecursive = true;
            (*query).cteList = pg_sys::copyObjectImpl(self.node().cteList.cast()).cast();
            // The rewriter has worked SEARCH and CYCLE into the queries; named again they would be added again.
            for cte in list_items::<pg_sys::CommonTableExpr>((*query).cteList) {
                (*cte).search_clause = std::ptr::null_mut();
                (*cte).cycle_clause = std::ptr::null_mut();
            }
            (*query).rtable = pg_sys::lappend(std::ptr::null_mut(), rte.cast());
            let range: *mut pg_sys::RangeTblRef =
                pg_sys::palloc0(size_of::<pg_sys::RangeTblRef>()).cast();
            (*range).type_ = NodeTag::T_RangeTblRef;
            (*range).rtindex = 1;
            (*query).jointree = pg_sys::makeFromExpr(
                pg_sys::lappend(std::ptr::null_mut(), range.cast()),
                std::ptr::null_mut(),
            );
            let mut names: *mut pg_sys::List = std::ptr::null_mut();
            let mut vars: *mut pg_sys::List = std::ptr::null_mut();
            pg_sys::expandRTE(
                rte,
                1,
                0,
                pg_sys::VarReturningType::VAR_RETURNING_DEFAULT,
                -1,
                false,
                &mut names,
                &mut vars,
            );
            for (position, (name, var)) in list_items::<pg_sys::String>(names)
                .into_iter()
                .zip(list_items::<pg_sys::Expr>(vars))
                .enumerate()
            {
                let target = pg_sys::makeTargetEntry(var, position as i16 + 1, (*name).sval, false);
                (*query).targetList = pg_sys::lappend((*query).targetList, target.cast());
            }
            let reads = reads(query)?;
            Some(Whole {
                text: text(pg_sys::pg_get_querydef(query, false))
                    .trim_end_matches(';')
                    .to_owned(),
                reads,
            })
        }
    }
}

/// The relations and columns a query reads; none if it is not closed.
unsafe fn reads(query: *mut pg_sys::Query) -> Option<BTreeMap<u32, Read>> {
    struct Walk {
        levels: Vec<*mut pg_sys::Query>,
        found: BTreeMap<u32, Read>,
        closed: bool,
    }
    #[pg_guard]
    unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: `context` is the Walk passed below; nodes are valid.
        unsafe {
            let state = &mut *context.cast::<Walk>();
            let depth = state.levels.len();
            match tag(node) {
                NodeTag::T_RangeTblEntry => {
                    let rte = &*node.cast::<pg_sys::RangeTblEntry>();
                    match rte.rtekind {
                        pg_sys::RTEKind::RTE_RELATION => {
                            let read = state.found.entry(rte.relid.to_u32()).or_insert(Read {
                                relkind: rte.relkind as u8,
                                inherit: false,
                                columns: BTreeSet::new(),
                            });
                            read.inherit |= rte.inh;
                            state.closed &=
                                rte.tablesample.is_null() && rte.securityQuals.is_null();
                        }
                        pg_sys::RTEKind::RTE_CTE => {
                            state.closed &= (rte.ctelevelsup as usize) < depth;
                        }
                        _ => {}
                    }
                    false
                }
                NodeTag::T_Var => {
                    let var = &*node.cast::<pg_sys::Var>();
                    let Some(level) = depth.checked_sub(1 + var.varlevelsup as usize) else {
                        state.closed = false;
                        return false;
                    };
                    let entries =
                        list_items::<pg_sys::RangeTblEntry>((*state.levels[level]).rtable);
                    if let Some(rte) = (var.varno as usize)
                        .checked_sub(1)
                        .and_then(|place| entries.get(place))
                        && (**rte).rtekind == pg_sys::RTEKind::RTE_RELATION
                    {
                        if var.varattno <= 0 {
                            state.closed = false;
                        }
                        let rte = &**rte;
                        state
                            .found
                            .entry(rte.relid.to_u32())
                            .or_insert(Read {
                                relkind: rte.relkind as u8,
                                inherit: rte.inh,
                                columns: BTreeSet::new(),
                            })
                            .columns
                            .insert(var.varattno);
                    }
                    false
                }
                NodeTag::T_Query => {
                    state.levels.push(node.cast());
                    let stop = pg_sys::query_tree_walker_impl(
                        node.cast(),
                        Some(walk),
                        context,
                        (pg_sys::QTW_EXAMINE_RTES_BEFORE | pg_sys::QTW_IGNORE_JOINALIASES) as c_int,
                    );
                    state.levels.pop();
                    stop
                }
                _ => pg_sys::expression_tree_walker_impl(node, Some(walk), context),
            }
        }
    }
    let mut state = Walk {
        levels: vec![],
        found: BTreeMap::new(),
        closed: true,
    };
    // SAFETY: the walker only reads and its context outlives the call.
    unsafe {
        walk(query.cast(), (&raw mut state).cast());
    }
    state.closed.then_some(state.found)
}
