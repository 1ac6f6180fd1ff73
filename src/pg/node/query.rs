//! What a query consists of.

use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::expr::{is_clock, is_clock_value};
use super::walk::vars_in;
use super::{
    Expr, FromNode, JoinKind, MutableFunction, Query, ReadRelation, Rte, SetKind, SetOperation,
    Target, VarRef, list_items, tag, text,
};

impl<'q> Query<'q> {
    pub(super) fn node(&self) -> &'q pg_sys::Query {
        // SAFETY: the pointer is valid for 'q.
        unsafe { &*self.ptr }
    }

    pub(super) fn expr(ptr: *mut pg_sys::Node) -> Option<Expr<'q>> {
        (!ptr.is_null()).then_some(Expr {
            ptr,
            life: PhantomData,
        })
    }

    pub(super) fn wrap(ptr: *mut pg_sys::Query) -> Query<'q> {
        Query {
            ptr,
            life: PhantomData,
        }
    }

    pub fn is_plain_select(&self) -> bool {
        self.node().commandType == pg_sys::CmdType::CMD_SELECT && self.node().utilityStmt.is_null()
    }

    pub fn has_modifying_cte(&self) -> bool {
        self.node().hasModifyingCTE
    }

    pub fn has_row_marks(&self) -> bool {
        !self.node().rowMarks.is_null()
    }

    pub fn has_aggregates(&self) -> bool {
        self.node().hasAggs
    }

    pub fn has_windows(&self) -> bool {
        self.node().hasWindowFuncs
    }

    pub fn has_target_srfs(&self) -> bool {
        self.node().hasTargetSRFs
    }

    pub fn has_grouping_sets(&self) -> bool {
        !self.node().groupingSets.is_null()
    }

    pub fn has_group_by(&self) -> bool {
        !self.node().groupClause.is_null()
    }

    pub fn has_distinct(&self) -> bool {
        !self.node().distinctClause.is_null()
    }

    pub fn has_distinct_on(&self) -> bool {
        self.node().hasDistinctOn
    }

    pub fn having(&self) -> Option<Expr<'q>> {
        Self::expr(self.node().havingQual)
    }

    pub fn targets(&self) -> Vec<Target<'q>> {
        list_items::<pg_sys::TargetEntry>(self.node().targetList)
            .into_iter()
            .filter_map(|entry| {
                // SAFETY: the target list holds TargetEntry nodes.
                let entry = unsafe { &*entry };
                Some(Target {
                    expr: Self::expr(entry.expr.cast())?,
                    name: text(entry.resname),
                    junk: entry.resjunk,
                    reference: entry.ressortgroupref,
                })
            })
            .collect()
    }

    /// The range table; entry `i` has index `i + 1` in Vars.
    pub fn range_table(&self) -> Vec<Rte<'q>> {
        list_items::<pg_sys::RangeTblEntry>(self.node().rtable)
            .into_iter()
            .map(|rte| {
                // SAFETY: the range table holds RangeTblEntry nodes.
                let rte = unsafe { &*rte };
                match rte.rtekind {
                    pg_sys::RTEKind::RTE_RELATION => Rte::Relation {
                        relid: rte.relid,
                        inherit: rte.inh,
                        relkind: rte.relkind as u8,
                        sampled: !rte.tablesample.is_null(),
                        row_security: !rte.securityQuals.is_null(),
                    },
                    pg_sys::RTEKind::RTE_SUBQUERY => Rte::Subquery {
                        query: Self::wrap(rte.subquery),
                    },
                    pg_sys::RTEKind::RTE_JOIN => Rte::Join,
                    pg_sys::RTEKind::RTE_CTE => Rte::Cte {
                        name: text(rte.ctename),
                        levels_up: rte.ctelevelsup,
                        recursive: rte.self_reference,
                    },
                    pg_sys::RTEKind::RTE_VALUES
                    | pg_sys::RTEKind::RTE_FUNCTION
                    | pg_sys::RTEKind::RTE_TABLEFUNC => Rte::Item,
                    pg_sys::RTEKind::RTE_GROUP => Rte::Group {
                        expressions: list_items::<pg_sys::Node>(rte.groupexprs)
                            .into_iter()
                            .filter_map(Self::expr)
                            .collect(),
                    },
                    pg_sys::RTEKind::RTE_RESULT => Rte::Result,
                    _ => Rte::Other,
                }
            })
            .collect()
    }

    /// The query of the common table expression `name` of this level.
    pub fn cte(&self, name: &str) -> Option<Query<'q>> {
        list_items::<pg_sys::CommonTableExpr>(self.node().cteList)
            .into_iter()
            // SAFETY: cteList holds CommonTableExpr nodes whose query has been analyzed.
            .find(|cte| unsafe { text((**cte).ctename) } == name)
            // SAFETY: as above.
            .map(|cte| Self::wrap(unsafe { (*cte).ctequery.cast() }))
    }

    /// The view that an entry of the range table stands for.
    pub fn view_of(&self, index: usize) -> Option<pg_sys::Oid> {
        let rte = *list_items::<pg_sys::RangeTblEntry>(self.node().rtable).get(index - 1)?;
        // SAFETY: the range table holds RangeTblEntry nodes; a view's sub-query keeps the view's OID.
        let (kind, relation) = unsafe { ((*rte).rtekind, (*rte).relid) };
        (kind == pg_sys::RTEKind::RTE_SUBQUERY && relation != pg_sys::InvalidOid)
            .then_some(relation)
    }

    /// The join tree; conditions are the WHERE clause at the top.
    pub fn from(&self) -> FromNode<'q> {
        Self::from_node(self.node().jointree.cast())
    }

    fn from_node(node: *mut pg_sys::Node) -> FromNode<'q> {
        // SAFETY: a join tree consists of RangeTblRef, JoinExpr and FromExpr nodes.
        unsafe {
            match tag(node) {
                NodeTag::T_RangeTblRef => {
                    FromNode::Range((*node.cast::<pg_sys::RangeTblRef>()).rtindex as usize)
                }
                NodeTag::T_JoinExpr => {
                    let join = &*node.cast::<pg_sys::JoinExpr>();
                    let kind = match join.jointype {
                        pg_sys::JoinType::JOIN_LEFT => JoinKind::Left,
                        pg_sys::JoinType::JOIN_RIGHT => JoinKind::Right,
                        pg_sys::JoinType::JOIN_FULL => JoinKind::Full,
                        _ => JoinKind::Inner,
                    };
                    FromNode::Join {
                        kind,
                        left: Box::new(Self::from_node(join.larg)),
                        right: Box::new(Self::from_node(join.rarg)),
                        on: Self::expr(join.quals),
                    }
                }
                _ => {
                    let from = &*node.cast::<pg_sys::FromExpr>();
                    FromNode::List {
                        items: list_items::<pg_sys::Node>(from.fromlist)
                            .into_iter()
                            .map(Self::from_node)
                            .collect(),
                        condition: Self::expr(from.quals),
                    }
                }
            }
        }
    }

    /// The set operation tree, if the query is one.
    pub fn set_operation(&self) -> Option<SetOperation> {
        let node = self.node().setOperations;
        (!node.is_null()).then(|| Self::set_node(node))
    }

    fn set_node(node: *mut pg_sys::Node) -> SetOperation {
        // SAFETY: a set operation tree consists of SetOperationStmt and RangeTblRef nodes.
        unsafe {
            if tag(node) == NodeTag::T_RangeTblRef {
                return SetOperation::Range((*node.cast::<pg_sys::RangeTblRef>()).rtindex as usize);
            }
            let operation = &*node.cast::<pg_sys::SetOperationStmt>();
            SetOperation::Operation {
                kind: match operation.op {
                    pg_sys::SetOperation::SETOP_INTERSECT => SetKind::Intersect,
                    pg_sys::SetOperation::SETOP_EXCEPT => SetKind::Except,
                    _ => SetKind::Union,
                },
                all: operation.all,
                left: Box::new(Self::set_node(operation.larg)),
                right: Box::new(Self::set_node(operation.rarg)),
            }
        }
    }

    /// Every column of this level and of those around it that the query refers to, in sub-queries too.
    pub fn vars(&self) -> BTreeSet<VarRef> {
        vars_in(self.ptr.cast(), true)
    }

    /// Every relation read anywhere in the query.
    pub fn relations(&self) -> BTreeSet<ReadRelation> {
        #[pg_guard]
        unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
            if node.is_null() {
                return false;
            }
            // SAFETY: `context` is the set passed below; nodes are valid.
            unsafe {
                match tag(node) {
                    NodeTag::T_RangeTblEntry => {
                        let rte = &*node.cast::<pg_sys::RangeTblEntry>();
                        if rte.rtekind == pg_sys::RTEKind::RTE_RELATION {
                            (*context.cast::<BTreeSet<ReadRelation>>()).insert(ReadRelation {
                                relid: rte.relid,
                                relkind: rte.relkind as u8,
                            });
                        }
                        false
                    }
                    NodeTag::T_Query => pg_sys::query_tree_walker_impl(
                        node.cast(),
                        Some(walk),
                        context,
                        pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int,
                    ),
                    _ => pg_sys::expression_tree_walker_impl(node, Some(walk), context),
                }
            }
        }
        let mut found = BTreeSet::new();
        // SAFETY: the walker only reads and its context outlives the call.
        unsafe {
            walk(self.ptr.cast(), (&raw mut found).cast());
        }
        found
    }

    /// Every function the query calls, directly or through operators, casts and type conversions, that is not immutable.
    pub fn mutable_functions(&self) -> BTreeSet<MutableFunction> {
        #[pg_guard]
        unsafe extern "C-unwind" fn check(function: pg_sys::Oid, context: *mut c_void) -> bool {
            // SAFETY: `context` is the set passed below; catalog lookups only read.
            unsafe {
                let volatility = pg_sys::func_volatile(function) as u8;
                if volatility != pg_sys::PROVOLATILE_IMMUTABLE {
                    (*context.cast::<BTreeSet<MutableFunction>>()).insert(MutableFunction {
                        clock: is_clock(function),
                        name: text(pg_sys::get_func_name(function)),
                        builtin: function.to_u32() < pg_sys::FirstNormalObjectId,
                        volatile: volatility == pg_sys::PROVOLATILE_VOLATILE,
                    });
                }
            }
            false
        }
        #[pg_guard]
        unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
            if node.is_null() {
                return false;
            }
            // SAFETY: as in `check`.
            unsafe {
                pg_sys::check_functions_in_node(node, Some(check), context);
                let found = &mut *context.cast::<BTreeSet<MutableFunction>>();
                match tag(node) {
                    NodeTag::T_SQLValueFunction => {
                        let clock = is_clock_value(node);
                        let name = if clock {
                            "current_timestamp and its relatives"
                        } else {
                            "current_user and its relatives"
                        };
                        found.insert(MutableFunction {
                            clock,
                            name: name.to_owned(),
                            builtin: true,
                            volatile: false,
                        });
                    }
                    NodeTag::T_NextValueExpr => {
                        found.insert(MutableFunction {
                            clock: false,
                            name: "nextval".into(),
                            builtin: true,
                            volatile: true,
                        });
                    }
                    NodeTag::T_Query => {
                        return pg_sys::query_tree_walker_impl(node.cast(), Some(walk), context, 0);
                    }
                    _ => {}
                }
                pg_sys::expression_tree_walker_impl(node, Some(walk), context)
            }
        }
        let mut found = BTreeSet::new();
        // SAFETY: the walkers only read and the context outlives the call.
        unsafe {
            walk(self.ptr.cast(), (&raw mut found).cast());
        }
        found
    }
}
