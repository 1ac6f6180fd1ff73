//! The clauses around a query's select list: ordering, limits, windows, grouping sets, and items of FROM that are computed.

use std::collections::BTreeSet;
use std::ffi::c_int;

use pgrx::pg_sys;
use pgt_ivm::scalar::Type;

use super::facts::{function_name, operator_name};
use super::walk::vars_in;
use super::{Expr, Query, VarRef, describe_type, list_items, text};

/// One expression of an ORDER BY, PARTITION BY or DISTINCT ON, by its reference in the select list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortItem {
    pub reference: u32,
    /// `schema.<` for `USING OPERATOR(..)`; empty where nothing is ordered.
    pub using: String,
    pub nulls_first: bool,
}

/// An OVER clause.
pub struct Window<'q> {
    pub number: u32,
    pub partition: Vec<u32>,
    pub order: Vec<SortItem>,
    pub frame: Frame<'q>,
}

/// A frame clause.
pub struct Frame<'q> {
    options: u32,
    pub start: Option<Expr<'q>>,
    pub end: Option<Expr<'q>>,
}

/// A window function call.
#[derive(Clone)]
pub struct WindowNode<'q> {
    pub function: pg_sys::Oid,
    /// `schema.name`, quoted.
    pub name: String,
    pub arguments: Vec<Expr<'q>>,
    pub filter: Option<Expr<'q>>,
    pub window: u32,
    pub star: bool,
    pub aggregate: bool,
    pub variadic: bool,
}

/// LIMIT, OFFSET and WITH TIES.
pub struct Limit<'q> {
    pub count: Option<Expr<'q>>,
    pub offset: Option<Expr<'q>>,
    pub ties: bool,
}

/// An item of FROM that is computed.
pub enum Item<'q> {
    /// ROWS FROM (..): each call with its column definition list, if it needs one.
    Functions {
        calls: Vec<(Expr<'q>, Vec<(String, String)>)>,
        ordinality: bool,
    },
    Values(Vec<Vec<Expr<'q>>>),
    /// XMLTABLE or JSON_TABLE.
    Table(Expr<'q>),
}

fn numbers(list: *mut pg_sys::List) -> Vec<u32> {
    if list.is_null() {
        return vec![];
    }
    // SAFETY: an integer list has `length` valid cells.
    unsafe {
        (0..(*list).length as usize)
            .map(|position| (*(*list).elements.add(position)).int_value as u32)
            .collect()
    }
}

fn oids(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    if list.is_null() {
        return vec![];
    }
    // SAFETY: an oid list has `length` valid cells.
    unsafe {
        (0..(*list).length as usize)
            .map(|position| (*(*list).elements.add(position)).oid_value)
            .collect()
    }
}

fn sort_items(list: *mut pg_sys::List) -> Vec<SortItem> {
    list_items::<pg_sys::SortGroupClause>(list)
        .into_iter()
        .map(|clause| {
            // SAFETY: the list holds SortGroupClause nodes; operators exist.
            unsafe {
                let clause = &*clause;
                SortItem {
                    reference: clause.tleSortGroupRef,
                    using: if clause.sortop == pg_sys::InvalidOid {
                        String::new()
                    } else {
                        operator_name(clause.sortop)
                    },
                    nulls_first: clause.nulls_first,
                }
            }
        })
        .collect()
}

/// What a grouping set node stands for: alternatives, each a list of references.
fn alternatives(node: *mut pg_sys::Node) -> Vec<Vec<u32>> {
    // SAFETY: grouping sets consist of GroupingSet nodes; SIMPLE ones hold integer lists, the others lists of sets.
    unsafe {
        let set = &*node.cast::<pg_sys::GroupingSet>();
        let parts = || list_items::<pg_sys::Node>(set.content);
        // The members of ROLLUP and CUBE are SIMPLE sets: columns that come and go together.
        let members = || -> Vec<Vec<u32>> {
            parts()
                .into_iter()
                .map(|part| numbers((*part.cast::<pg_sys::GroupingSet>()).content))
                .collect()
        };
        match set.kind {
            pg_sys::GroupingSetKind::GROUPING_SET_EMPTY => vec![vec![]],
            pg_sys::GroupingSetKind::GROUPING_SET_SIMPLE => vec![numbers(set.content)],
            pg_sys::GroupingSetKind::GROUPING_SET_ROLLUP => {
                let members = members();
                (0..=members.len())
                    .rev()
                    .map(|length| members[..length].concat())
                    .collect()
            }
            pg_sys::GroupingSetKind::GROUPING_SET_CUBE => {
                let members = members();
                (0..1_u32 << members.len().min(12))
                    .rev()
                    .map(|mask| {
                        members
                            .iter()
                            .enumerate()
                            .filter(|(position, _)| mask & (1 << position) != 0)
                            .flat_map(|(_, member)| member.clone())
                            .collect()
                    })
                    .collect()
            }
            _ => parts().into_iter().flat_map(alternatives).collect(),
        }
    }
}

impl<'q> Query<'q> {
    pub fn sort_items(&self) -> Vec<SortItem> {
        sort_items(self.node().sortClause)
    }

    pub fn distinct_items(&self) -> Vec<SortItem> {
        sort_items(self.node().distinctClause)
    }

    pub fn limit(&self) -> Option<Limit<'q>> {
        let node = self.node();
        let limit = Limit {
            count: Self::expr(node.limitCount),
            offset: Self::expr(node.limitOffset),
            ties: node.limitOption == pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES,
        };
        (limit.count.is_some() || limit.offset.is_some()).then_some(limit)
    }

    pub fn windows(&self) -> Vec<Window<'q>> {
        list_items::<pg_sys::WindowClause>(self.node().windowClause)
            .into_iter()
            .map(|clause| {
                // SAFETY: the list holds WindowClause nodes.
                let clause = unsafe { &*clause };
                Window {
                    number: clause.winref,
                    partition: sort_items(clause.partitionClause)
                        .into_iter()
                        .map(|item| item.reference)
                        .collect(),
                    order: sort_items(clause.orderClause),
                    frame: Frame {
                        options: clause.frameOptions as u32,
                        start: Self::expr(clause.startOffset),
                        end: Self::expr(clause.endOffset),
                    },
                }
            })
            .collect()
    }

    /// The references of the group expressions, in the order of the group's range-table entry.
    pub fn group_references(&self) -> Vec<u32> {
        sort_items(self.node().groupClause)
            .into_iter()
            .map(|item| item.reference)
            .collect()
    }

    /// GROUPING SETS, ROLLUP and CUBE multiplied out: each set as references of group expressions. Empty without any.
    pub fn grouping_sets(&self) -> Vec<Vec<u32>> {
        let mut sets: Vec<Vec<u32>> = Vec::new();
        for (position, node) in list_items::<pg_sys::Node>(self.node().groupingSets)
            .into_iter()
            .enumerate()
        {
            let more = alternatives(node);
            sets = if position == 0 {
                more
            } else {
                sets.iter()
                    .flat_map(|left| {
                        more.iter()
                            .map(move |right| [&left[..], &right[..]].concat())
                    })
                    .collect()
            };
        }
        let mut seen = BTreeSet::new();
        for set in &mut sets {
            set.sort_unstable();
            set.dedup();
        }
        if self.node().groupDistinct {
            sets.retain(|set| seen.insert(set.clone()));
        }
        sets
    }

    /// The computed item of FROM with this range-table index.
    pub fn item(&self, index: usize) -> Option<Item<'q>> {
        let rte = self.range_entry(index);
        match rte.rtekind {
            pg_sys::RTEKind::RTE_FUNCTION => Some(Item::Functions {
                calls: list_items::<pg_sys::RangeTblFunction>(rte.functions)
                    .into_iter()
                    .filter_map(|function| {
                        // SAFETY: the list holds RangeTblFunction nodes, whose lists are of equal length.
                        let function = unsafe { &*function };
                        let names = list_items::<pg_sys::Node>(function.funccolnames);
                        let definitions = names
                            .into_iter()
                            .zip(oids(function.funccoltypes))
                            .zip(numbers(function.funccoltypmods))
                            .map(|((name, oid), modifier)| {
                                // SAFETY: column names are String nodes.
                                let name = unsafe { text((*name.cast::<pg_sys::String>()).sval) };
                                let ty = describe_type(oid, modifier as i32, pg_sys::InvalidOid);
                                (name, ty.name)
                            })
                            .collect();
                        Some((Self::expr(function.funcexpr)?, definitions))
                    })
                    .collect(),
                ordinality: rte.funcordinality,
            }),
            pg_sys::RTEKind::RTE_VALUES => Some(Item::Values(
                list_items::<pg_sys::List>(rte.values_lists)
                    .into_iter()
                    .map(Expr::all)
                    .collect(),
            )),
            pg_sys::RTEKind::RTE_TABLEFUNC => Self::expr(rte.tablefunc.cast()).map(Item::Table),
            _ => None,
        }
    }

    /// The expressions of the computed item of FROM with this range-table index.
    pub fn item_expressions(&self, index: usize) -> Vec<Expr<'q>> {
        match self.item(index) {
            Some(Item::Functions { calls, .. }) => {
                calls.into_iter().map(|(call, _)| call).collect()
            }
            Some(Item::Values(rows)) => rows.into_iter().flatten().collect(),
            Some(Item::Table(call)) => vec![call],
            None => vec![],
        }
    }

    /// Name and type of the columns of a range-table entry.
    pub fn range_columns(&self, index: usize) -> Vec<(String, Type)> {
        let mut names: *mut pg_sys::List = std::ptr::null_mut();
        let mut vars: *mut pg_sys::List = std::ptr::null_mut();
        // SAFETY: the entry is valid; both lists are filled by the call.
        unsafe {
            pg_sys::expandRTE(
                std::ptr::from_ref(self.range_entry(index)).cast_mut(),
                index as c_int,
                0,
                pg_sys::VarReturningType::VAR_RETURNING_DEFAULT,
                -1,
                false,
                &mut names,
                &mut vars,
            );
            list_items::<pg_sys::String>(names)
                .into_iter()
                .zip(list_items::<pg_sys::Node>(vars))
                .map(|(name, var)| {
                    let ty = describe_type(
                        pg_sys::exprType(var),
                        pg_sys::exprTypmod(var),
                        pg_sys::exprCollation(var),
                    );
                    (text((*name).sval), ty)
                })
                .collect()
        }
    }

    /// The columns of this level, and of levels around it, that an item of FROM refers to.
    pub fn range_references(&self, index: usize) -> BTreeSet<VarRef> {
        let rte = self.range_entry(index);
        match rte.rtekind {
            pg_sys::RTEKind::RTE_SUBQUERY => vars_in(rte.subquery.cast(), false),
            pg_sys::RTEKind::RTE_FUNCTION => vars_in(rte.functions.cast(), false),
            pg_sys::RTEKind::RTE_VALUES => vars_in(rte.values_lists.cast(), false),
            pg_sys::RTEKind::RTE_TABLEFUNC => vars_in(rte.tablefunc.cast(), false),
            _ => BTreeSet::new(),
        }
    }

    pub(super) fn range_entry(&self, index: usize) -> &'q pg_sys::RangeTblEntry {
        let entries = list_items::<pg_sys::RangeTblEntry>(self.node().rtable);
        // SAFETY: indexes come from Vars and RangeTblRefs of this query.
        unsafe { &*entries[index - 1] }
    }
}

impl Expr<'_> {
    /// Every column the expression refers to, inside sub-selects too.
    pub fn references(&self) -> BTreeSet<VarRef> {
        vars_in(self.ptr, false)
    }

    /// The references of a GROUPING call.
    pub(super) fn grouping_references(&self) -> Vec<u32> {
        // SAFETY: only called for GroupingFunc nodes.
        numbers(unsafe { (*self.ptr.cast::<pg_sys::GroupingFunc>()).refs })
    }
}

impl<'q> Expr<'q> {
    pub(super) fn window_node(&self) -> WindowNode<'q> {
        // SAFETY: only called for WindowFunc nodes; the function exists.
        unsafe {
            let node = &*self.ptr.cast::<pg_sys::WindowFunc>();
            WindowNode {
                function: node.winfnoid,
                name: function_name(node.winfnoid),
                arguments: Self::all(node.args),
                filter: Query::expr(node.aggfilter.cast()),
                window: node.winref,
                star: node.winstar,
                aggregate: node.winagg,
                variadic: pg_sys::get_func_variadictype(node.winfnoid) != pg_sys::InvalidOid,
            }
        }
    }
}

impl Frame<'_> {
    fn has(&self, option: u32) -> bool {
        self.options & option != 0
    }

    /// Whether which rows of the frame a row sees is decided by values alone, not by the order of rows that are equal.
    pub fn is_by_value(&self) -> bool {
        let whole = self.has(pg_sys::FRAMEOPTION_START_UNBOUNDED_PRECEDING)
            && self.has(pg_sys::FRAMEOPTION_END_UNBOUNDED_FOLLOWING);
        whole || !self.has(pg_sys::FRAMEOPTION_ROWS)
    }

    /// The clause as SQL, with `start` and `end` in place of the offsets; empty for the default frame.
    pub fn text(&self, start: &str, end: &str) -> String {
        if !self.has(pg_sys::FRAMEOPTION_NONDEFAULT) {
            return String::new();
        }
        let mode = if self.has(pg_sys::FRAMEOPTION_RANGE) {
            "RANGE"
        } else if self.has(pg_sys::FRAMEOPTION_ROWS) {
            "ROWS"
        } else {
            "GROUPS"
        };
        let bound = |preceding: u32, following: u32, current: u32, before: u32, value: &str| {
            if self.has(preceding) {
                "UNBOUNDED PRECEDING".to_owned()
            } else if self.has(following) {
                "UNBOUNDED FOLLOWING".to_owned()
            } else if self.has(current) {
                "CURRENT ROW".to_owned()
            } else if self.has(before) {
                format!("{value} PRECEDING")
            } else {
                format!("{value} FOLLOWING")
            }
        };
        let first = bound(
            pg_sys::FRAMEOPTION_START_UNBOUNDED_PRECEDING,
            pg_sys::FRAMEOPTION_START_UNBOUNDED_FOLLOWING,
            pg_sys::FRAMEOPTION_START_CURRENT_ROW,
            pg_sys::FRAMEOPTION_START_OFFSET_PRECEDING,
            start,
        );
        let last = bound(
            pg_sys::FRAMEOPTION_END_UNBOUNDED_PRECEDING,
            pg_sys::FRAMEOPTION_END_UNBOUNDED_FOLLOWING,
            pg_sys::FRAMEOPTION_END_CURRENT_ROW,
            pg_sys::FRAMEOPTION_END_OFFSET_PRECEDING,
            end,
        );
        let exclude = if self.has(pg_sys::FRAMEOPTION_EXCLUDE_CURRENT_ROW) {
            " EXCLUDE CURRENT ROW"
        } else if self.has(pg_sys::FRAMEOPTION_EXCLUDE_GROUP) {
            " EXCLUDE GROUP"
        } else if self.has(pg_sys::FRAMEOPTION_EXCLUDE_TIES) {
            " EXCLUDE TIES"
        } else {
            ""
        };
        format!("{mode} BETWEEN {first} AND {last}{exclude}")
    }
}
