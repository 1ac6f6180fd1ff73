//! A view's analyzed, rewritten query tree, read-only.
//!
//! [`with_view_query`] lends a [`Query`]; everything reached from it lives in a memory context of its own that is gone
//! when the closure returns, which the lifetime `'q` expresses. Nothing here decides anything: it only lets `analyze`
//! look at PostgreSQL's nodes as Rust values.

mod clauses;
mod whole;

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};
use pgt_ivm::scalar::Type;

pub use clauses::{Item, SortItem, Window, WindowNode};

/// An analyzed query. Copyable view of a node that lives as long as `'q`.
#[derive(Clone, Copy)]
pub struct Query<'q> {
    ptr: *mut pg_sys::Query,
    life: PhantomData<&'q ()>,
}

/// An expression node.
#[derive(Clone, Copy)]
pub struct Expr<'q> {
    ptr: *mut pg_sys::Node,
    life: PhantomData<&'q ()>,
}

/// A range-table entry.
pub enum Rte<'q> {
    Relation {
        relid: pg_sys::Oid,
        inherit: bool,
        relkind: u8,
        sampled: bool,
        row_security: bool,
    },
    Subquery {
        query: Query<'q>,
    },
    Join,
    Cte {
        name: String,
        levels_up: u32,
        recursive: bool,
    },
    /// VALUES, or functions.
    Item,
    Group {
        expressions: Vec<Expr<'q>>,
    },
    Result,
    Other,
}

/// A node of the FROM clause's join tree.
pub enum FromNode<'q> {
    Range(usize),
    Join {
        kind: JoinKind,
        left: Box<FromNode<'q>>,
        right: Box<FromNode<'q>>,
        on: Option<Expr<'q>>,
    },
    List {
        items: Vec<FromNode<'q>>,
        condition: Option<Expr<'q>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

/// An entry of the select list.
pub struct Target<'q> {
    pub expr: Expr<'q>,
    pub name: String,
    pub junk: bool,
    /// How sort and group clauses refer to it; 0 if none does.
    pub reference: u32,
}

/// A set operation over range-table entries.
pub enum SetOperation {
    Range(usize),
    Operation {
        kind: SetKind,
        all: bool,
        left: Box<SetOperation>,
        right: Box<SetOperation>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    Union,
    Intersect,
    Except,
}

/// A reference to a column of a range-table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarRef {
    pub range: usize,
    pub attnum: i16,
    pub levels_up: u32,
}

/// What an expression node is, as far as analysis asks.
pub enum Kind<'q> {
    Var(VarRef),
    Const {
        is_null: bool,
    },
    And(Vec<Expr<'q>>),
    Or(Vec<Expr<'q>>),
    Not(Expr<'q>),
    Operator {
        operator: pg_sys::Oid,
        arguments: Vec<Expr<'q>>,
    },
    Function {
        function: pg_sys::Oid,
        arguments: Vec<Expr<'q>>,
    },
    Relabel(Expr<'q>),
    Coalesce(Vec<Expr<'q>>),
    Case {
        results: Vec<Expr<'q>>,
        otherwise: Option<Expr<'q>>,
    },
    NullTest,
    Aggregate(AggregateNode<'q>),
    Sublink(SublinkNode<'q>),
    /// A column of the sub-select a sub-link compares with, from 1.
    SublinkColumn(u32),
    Window(WindowNode<'q>),
    /// GROUPING(..), by the references of its arguments.
    Grouping(Vec<u32>),
    SetReturning,
    /// Something whose meaning its text alone does not carry, and what it is.
    Wordless(&'static str),
    Other,
}

/// A sub-select in an expression.
#[derive(Clone, Copy)]
pub struct SublinkNode<'q> {
    pub kind: SublinkKind,
    /// The comparison of an ANY or ALL sub-link.
    pub test: Option<Expr<'q>>,
    pub query: Query<'q>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SublinkKind {
    Exists,
    Any,
    All,
    /// A scalar sub-select.
    Value,
    Array,
    Other,
}

/// An aggregate call.
#[derive(Clone)]
pub struct AggregateNode<'q> {
    pub function: pg_sys::Oid,
    pub star: bool,
    pub levels_up: u32,
    /// Not DISTINCT, not ordered, not an ordered-set aggregate.
    pub plain: bool,
    pub ordered: bool,
    /// A hypothetical-set aggregate.
    pub hypothetical: bool,
    pub arguments: Vec<Expr<'q>>,
    pub filter: Option<Expr<'q>>,
}

/// A piece of deparsed text; holes carry the number given by the lifter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fragment {
    Text(String),
    Hole(u32),
}

/// A function a query depends on that is not immutable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MutableFunction {
    pub name: String,
    pub builtin: bool,
    pub volatile: bool,
}

/// A relation the query reads anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRelation {
    pub relid: pg_sys::Oid,
    pub relkind: u8,
}

impl Ord for ReadRelation {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.relid.to_u32().cmp(&other.relid.to_u32())
    }
}

impl PartialOrd for ReadRelation {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn list_items<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    if list.is_null() {
        return vec![];
    }
    // SAFETY: a non-null List has `length` valid cells; the caller names the right pointee.
    unsafe {
        (0..(*list).length as usize)
            .map(|position| (*(*list).elements.add(position)).ptr_value.cast())
            .collect()
    }
}

fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: PostgreSQL's strings are NUL-terminated.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

fn tag(node: *mut pg_sys::Node) -> NodeTag {
    // SAFETY: every node starts with its tag; callers pass non-null nodes.
    unsafe { (*node).type_ }
}

/// Lends the rewritten query of view `view` to `read`.
///
/// Views inside it are expanded and row security is applied as for the current user. All memory is released at the end.
pub fn with_view_query<R>(view: pg_sys::Oid, read: impl for<'q> FnOnce(Query<'q>) -> R) -> R {
    // SAFETY: the relation stays open (and locked) while its query is copied; QueryRewrite gets its own copy, with the
    // locks its range table needs taken by AcquireRewriteLocks.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"pg_trickle analysis".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let caller = pg_sys::MemoryContextSwitchTo(context);
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let relation = pg_sys::relation_open(view, pg_sys::AccessShareLock as i32);
            let query: *mut pg_sys::Query =
                pg_sys::copyObjectImpl(pg_sys::get_view_query(relation).cast()).cast();
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            pg_sys::AcquireRewriteLocks(query, true, false);
            let rewritten = list_items::<pg_sys::Query>(pg_sys::QueryRewrite(query));
            let query = rewritten.first().copied().unwrap_or(query);
            prepare(query);
            read(Query {
                ptr: query,
                life: PhantomData,
            })
        }));
        pg_sys::MemoryContextSwitchTo(caller);
        match result {
            Ok(value) => {
                pg_sys::MemoryContextDelete(context);
                value
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Replaces join alias Vars by what they stand for, in this query and every sub-query of it.
unsafe fn prepare(query: *mut pg_sys::Query) {
    // SAFETY: `query` and everything below it is our own copy.
    unsafe {
        let flatten = move |node: *mut pg_sys::Node| {
            pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, node)
        };
        for rte in list_items::<pg_sys::RangeTblEntry>((*query).rtable) {
            match (*rte).rtekind {
                pg_sys::RTEKind::RTE_SUBQUERY => {
                    prepare((*rte).subquery);
                    if (*rte).lateral {
                        (*rte).subquery = flatten((*rte).subquery.cast()).cast();
                    }
                }
                pg_sys::RTEKind::RTE_FUNCTION => {
                    (*rte).functions = flatten((*rte).functions.cast()).cast();
                }
                pg_sys::RTEKind::RTE_VALUES => {
                    (*rte).values_lists = flatten((*rte).values_lists.cast()).cast();
                }
                pg_sys::RTEKind::RTE_TABLEFUNC => {
                    (*rte).tablefunc = flatten((*rte).tablefunc.cast()).cast();
                }
                _ => {}
            }
            if (*rte).rtekind == pg_sys::RTEKind::RTE_GROUP {
                let flat = pg_sys::flatten_join_alias_vars(
                    std::ptr::null_mut(),
                    query,
                    (*rte).groupexprs.cast(),
                );
                (*rte).groupexprs = flat.cast();
            }
        }
        for cte in list_items::<pg_sys::CommonTableExpr>((*query).cteList) {
            prepare((*cte).ctequery.cast());
        }
        for link in sublinks(query) {
            prepare((*link).subselect.cast());
        }
        (*query).targetList = flatten((*query).targetList.cast()).cast();
        (*query).havingQual = flatten((*query).havingQual);
        flatten_from((*query).jointree.cast(), query);
    }
}

/// The sub-selects in the expressions of this query level.
unsafe fn sublinks(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::SubLink> {
    #[pg_guard]
    unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: `context` is the vector passed below; nodes are valid.
        unsafe {
            match tag(node) {
                NodeTag::T_SubLink => {
                    (*context.cast::<Vec<*mut pg_sys::SubLink>>()).push(node.cast());
                    pg_sys::expression_tree_walker_impl(
                        (*node.cast::<pg_sys::SubLink>()).testexpr,
                        Some(walk),
                        context,
                    )
                }
                NodeTag::T_Query => false,
                _ => pg_sys::expression_tree_walker_impl(node, Some(walk), context),
            }
        }
    }
    let mut found: Vec<*mut pg_sys::SubLink> = Vec::new();
    // SAFETY: the walker only reads; sub-queries in FROM are prepared on their own.
    unsafe {
        pg_sys::query_tree_walker_impl(
            query,
            Some(walk),
            (&raw mut found).cast(),
            pg_sys::QTW_IGNORE_RT_SUBQUERIES as c_int,
        );
    }
    found
}

unsafe fn flatten_from(node: *mut pg_sys::Node, query: *mut pg_sys::Query) {
    if node.is_null() {
        return;
    }
    // SAFETY: the join tree consists of RangeTblRef, JoinExpr and FromExpr nodes of our own copy.
    unsafe {
        match tag(node) {
            NodeTag::T_FromExpr => {
                let from: *mut pg_sys::FromExpr = node.cast();
                (*from).quals =
                    pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, (*from).quals);
                for item in list_items::<pg_sys::Node>((*from).fromlist) {
                    flatten_from(item, query);
                }
            }
            NodeTag::T_JoinExpr => {
                let join: *mut pg_sys::JoinExpr = node.cast();
                (*join).quals =
                    pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, (*join).quals);
                flatten_from((*join).larg, query);
                flatten_from((*join).rarg, query);
            }
            _ => {}
        }
    }
}

impl<'q> Query<'q> {
    fn node(&self) -> &'q pg_sys::Query {
        // SAFETY: the pointer is valid for 'q.
        unsafe { &*self.ptr }
    }

    fn expr(ptr: *mut pg_sys::Node) -> Option<Expr<'q>> {
        (!ptr.is_null()).then_some(Expr {
            ptr,
            life: PhantomData,
        })
    }

    fn wrap(ptr: *mut pg_sys::Query) -> Query<'q> {
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

    /// Every Var of this query level, in the select list, the join tree, HAVING, the group expressions and sub-queries
    /// that refer outwards (`levels_up` is relative to this query).
    pub fn vars(&self) -> BTreeSet<VarRef> {
        // The alias lists of joins name every column, used or not.
        const IGNORE_ALIASES: c_int = pg_sys::QTW_IGNORE_JOINALIASES as c_int;
        struct Walk {
            found: BTreeSet<VarRef>,
            depth: u32,
        }
        #[pg_guard]
        unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
            if node.is_null() {
                return false;
            }
            // SAFETY: `context` is the Walk passed below; nodes are valid.
            unsafe {
                let state = &mut *context.cast::<Walk>();
                match tag(node) {
                    NodeTag::T_Var => {
                        let var = &*node.cast::<pg_sys::Var>();
                        if var.varlevelsup >= state.depth {
                            state.found.insert(VarRef {
                                range: var.varno as usize,
                                attnum: var.varattno,
                                levels_up: var.varlevelsup - state.depth,
                            });
                        }
                        false
                    }
                    NodeTag::T_Query => {
                        state.depth += 1;
                        let stop = pg_sys::query_tree_walker_impl(
                            node.cast(),
                            Some(walk),
                            context,
                            IGNORE_ALIASES,
                        );
                        state.depth -= 1;
                        stop
                    }
                    _ => pg_sys::expression_tree_walker_impl(node, Some(walk), context),
                }
            }
        }
        let mut state = Walk {
            found: BTreeSet::new(),
            depth: 0,
        };
        // SAFETY: the walker only reads and its context outlives the call.
        unsafe {
            pg_sys::query_tree_walker_impl(
                self.ptr,
                Some(walk),
                (&raw mut state).cast(),
                IGNORE_ALIASES,
            );
        }
        state.found
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
                        let name = "current_timestamp and its relatives".to_owned();
                        found.insert(MutableFunction {
                            name,
                            builtin: true,
                            volatile: false,
                        });
                    }
                    NodeTag::T_NextValueExpr => {
                        found.insert(MutableFunction {
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

impl<'q> Expr<'q> {
    fn wrap(ptr: *mut pg_sys::Node) -> Expr<'q> {
        Expr {
            ptr,
            life: PhantomData,
        }
    }

    fn all(list: *mut pg_sys::List) -> Vec<Expr<'q>> {
        list_items::<pg_sys::Node>(list)
            .into_iter()
            .map(Self::wrap)
            .collect()
    }

    /// The node's structure.
    pub fn kind(&self) -> Kind<'q> {
        // SAFETY: each cast follows the node's tag.
        unsafe {
            match tag(self.ptr) {
                NodeTag::T_Var => {
                    let var = &*self.ptr.cast::<pg_sys::Var>();
                    Kind::Var(VarRef {
                        range: var.varno as usize,
                        attnum: var.varattno,
                        levels_up: var.varlevelsup,
                    })
                }
                NodeTag::T_Const => Kind::Const {
                    is_null: (*self.ptr.cast::<pg_sys::Const>()).constisnull,
                },
                NodeTag::T_List => Kind::And(Self::all(self.ptr.cast())),
                NodeTag::T_BoolExpr => {
                    let node = &*self.ptr.cast::<pg_sys::BoolExpr>();
                    let arguments = Self::all(node.args);
                    match node.boolop {
                        pg_sys::BoolExprType::AND_EXPR => Kind::And(arguments),
                        pg_sys::BoolExprType::OR_EXPR => Kind::Or(arguments),
                        _ => match arguments.first() {
                            Some(argument) => Kind::Not(*argument),
                            None => Kind::Other,
                        },
                    }
                }
                NodeTag::T_OpExpr => {
                    let node = &*self.ptr.cast::<pg_sys::OpExpr>();
                    if node.opretset {
                        return Kind::SetReturning;
                    }
                    Kind::Operator {
                        operator: node.opno,
                        arguments: Self::all(node.args),
                    }
                }
                NodeTag::T_FuncExpr => {
                    let node = &*self.ptr.cast::<pg_sys::FuncExpr>();
                    if node.funcretset {
                        return Kind::SetReturning;
                    }
                    Kind::Function {
                        function: node.funcid,
                        arguments: Self::all(node.args),
                    }
                }
                NodeTag::T_RelabelType => Kind::Relabel(Self::wrap(
                    (*self.ptr.cast::<pg_sys::RelabelType>()).arg.cast(),
                )),
                NodeTag::T_CoalesceExpr => {
                    Kind::Coalesce(Self::all((*self.ptr.cast::<pg_sys::CoalesceExpr>()).args))
                }
                NodeTag::T_CaseExpr => {
                    let node = &*self.ptr.cast::<pg_sys::CaseExpr>();
                    Kind::Case {
                        results: list_items::<pg_sys::CaseWhen>(node.args)
                            .into_iter()
                            .map(|when| Self::wrap((*when).result.cast()))
                            .collect(),
                        otherwise: Query::expr(node.defresult.cast()),
                    }
                }
                NodeTag::T_NullTest | NodeTag::T_BooleanTest => Kind::NullTest,
                NodeTag::T_Aggref => {
                    Kind::Aggregate(self.aggregate(&*self.ptr.cast::<pg_sys::Aggref>()))
                }
                NodeTag::T_SubLink => {
                    let node = &*self.ptr.cast::<pg_sys::SubLink>();
                    Kind::Sublink(SublinkNode {
                        kind: match node.subLinkType {
                            pg_sys::SubLinkType::EXISTS_SUBLINK => SublinkKind::Exists,
                            pg_sys::SubLinkType::ANY_SUBLINK => SublinkKind::Any,
                            pg_sys::SubLinkType::ALL_SUBLINK => SublinkKind::All,
                            pg_sys::SubLinkType::EXPR_SUBLINK => SublinkKind::Value,
                            pg_sys::SubLinkType::ARRAY_SUBLINK => SublinkKind::Array,
                            _ => SublinkKind::Other,
                        },
                        test: Query::expr(node.testexpr),
                        query: Query::wrap(node.subselect.cast()),
                    })
                }
                NodeTag::T_Param => {
                    let node = &*self.ptr.cast::<pg_sys::Param>();
                    match node.paramkind {
                        pg_sys::ParamKind::PARAM_SUBLINK => {
                            Kind::SublinkColumn(node.paramid as u32)
                        }
                        _ => Kind::Other,
                    }
                }
                NodeTag::T_JsonConstructorExpr => {
                    let inner = (*self.ptr.cast::<pg_sys::JsonConstructorExpr>()).func;
                    let aggregates = !inner.is_null()
                        && matches!(tag(inner.cast()), NodeTag::T_Aggref | NodeTag::T_WindowFunc);
                    if aggregates {
                        Kind::Wordless("a JSON aggregate of the SQL standard is used")
                    } else {
                        Kind::Other
                    }
                }
                NodeTag::T_FieldSelect => {
                    let node = &*self.ptr.cast::<pg_sys::FieldSelect>();
                    if pg_sys::exprType(node.arg.cast()) == pg_sys::RECORDOID {
                        Kind::Wordless("a field of a row without a named type is used")
                    } else {
                        Kind::Other
                    }
                }
                NodeTag::T_RowExpr => {
                    let node = &*self.ptr.cast::<pg_sys::RowExpr>();
                    let plain = list_items::<pg_sys::String>(node.colnames)
                        .into_iter()
                        .enumerate()
                        .all(|(place, name)| text((*name).sval) == format!("f{}", place + 1));
                    if node.row_typeid == pg_sys::RECORDOID && !plain {
                        Kind::Wordless("a whole row is used as one value")
                    } else {
                        Kind::Other
                    }
                }
                NodeTag::T_WindowFunc => Kind::Window(self.window_node()),
                NodeTag::T_GroupingFunc => Kind::Grouping(self.grouping_references()),
                _ => Kind::Other,
            }
        }
    }

    fn aggregate(&self, node: &pg_sys::Aggref) -> AggregateNode<'q> {
        let arguments = list_items::<pg_sys::TargetEntry>(node.args)
            .into_iter()
            // SAFETY: an aggregate's arguments are TargetEntry nodes.
            .map(|entry| Self::wrap(unsafe { (*entry).expr.cast() }))
            .collect();
        AggregateNode {
            function: node.aggfnoid,
            star: node.aggstar,
            levels_up: node.agglevelsup,
            plain: node.aggorder.is_null()
                && node.aggdistinct.is_null()
                && node.aggkind as u8 == b'n',
            ordered: !node.aggorder.is_null() || !node.aggdistinct.is_null(),
            hypothetical: node.aggkind as u8 == b'h',
            arguments,
            filter: Query::expr(node.aggfilter.cast()),
        }
    }

    /// The expression under casts that change nothing but the type's name.
    pub fn strip_relabel(&self) -> Expr<'q> {
        match self.kind() {
            Kind::Relabel(inner) => inner.strip_relabel(),
            _ => *self,
        }
    }

    /// The outermost sub-selects of the expression, and those in their comparisons; inside aggregate calls only if asked.
    pub fn sublinks(&self, in_aggregates: bool) -> Vec<Expr<'q>> {
        struct Walk {
            in_aggregates: bool,
            found: Vec<*mut pg_sys::Node>,
        }
        #[pg_guard]
        unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
            if node.is_null() {
                return false;
            }
            // SAFETY: `context` is the Walk passed below.
            unsafe {
                let state = &mut *context.cast::<Walk>();
                match tag(node) {
                    NodeTag::T_Query => return false,
                    NodeTag::T_Aggref if !state.in_aggregates => return false,
                    NodeTag::T_SubLink => state.found.push(node),
                    _ => {}
                }
                pg_sys::expression_tree_walker_impl(node, Some(walk), context)
            }
        }
        let mut state = Walk {
            in_aggregates,
            found: vec![],
        };
        // SAFETY: the walker only reads and its context outlives the call.
        unsafe {
            walk(self.ptr, (&raw mut state).cast());
        }
        state.found.into_iter().map(Self::wrap).collect()
    }

    /// The value of a constant integer, converted to bigint or not.
    pub fn integer_constant(&self) -> Option<i64> {
        // SAFETY: the casts follow the tag and the type.
        unsafe {
            if tag(self.ptr) == NodeTag::T_FuncExpr {
                let call = &*self.ptr.cast::<pg_sys::FuncExpr>();
                return (call.funcid == pg_sys::Oid::from(pg_sys::F_INT8_INT4))
                    .then(|| Self::all(call.args).first()?.integer_constant())
                    .flatten();
            }
            if tag(self.ptr) != NodeTag::T_Const {
                return None;
            }
            let constant = &*self.ptr.cast::<pg_sys::Const>();
            let value = constant.constvalue.value();
            match constant.consttype {
                _ if constant.constisnull => None,
                pg_sys::INT8OID => Some(value as i64),
                pg_sys::INT4OID => Some(i64::from(value as i32)),
                _ => None,
            }
        }
    }

    /// The constant `true`.
    pub fn is_true_constant(&self) -> bool {
        // SAFETY: the casts follow the tag and the type.
        unsafe {
            if tag(self.ptr) != NodeTag::T_Const {
                return false;
            }
            let constant = &*self.ptr.cast::<pg_sys::Const>();
            constant.consttype == pg_sys::BOOLOID
                && !constant.constisnull
                && constant.constvalue.value() != 0
        }
    }

    /// Type, modifier and collation of the expression's value.
    pub fn type_of(&self) -> (pg_sys::Oid, i32, pg_sys::Oid) {
        // SAFETY: the node is a valid expression.
        unsafe {
            (
                pg_sys::exprType(self.ptr),
                pg_sys::exprTypmod(self.ptr),
                pg_sys::exprCollation(self.ptr),
            )
        }
    }

    /// Structural equality, ignoring where in the text the nodes stood.
    pub fn equals(&self, other: &Expr<'q>) -> bool {
        // SAFETY: both nodes are valid.
        unsafe { pg_sys::equal(self.ptr.cast(), other.ptr.cast()) }
    }

    /// The display scale of a numeric constant.
    pub fn numeric_constant_scale(&self) -> Option<i32> {
        // SAFETY: the cast follows the tag; the datum is a non-null numeric.
        unsafe {
            if tag(self.ptr) != NodeTag::T_Const {
                return None;
            }
            let constant = &*self.ptr.cast::<pg_sys::Const>();
            if constant.constisnull || constant.consttype != pg_sys::NUMERICOID {
                return None;
            }
            let printed = pg_sys::OidOutputFunctionCall(
                pg_sys::Oid::from(pg_sys::F_NUMERIC_OUT),
                constant.constvalue,
            );
            let printed = text(printed);
            if !printed
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-')
            {
                return None;
            }
            Some(
                printed
                    .split_once('.')
                    .map_or(0, |(_, digits)| digits.len() as i32),
            )
        }
    }

    /// The first sub-expression that satisfies `wanted`, the expression itself included. Does not enter sub-queries.
    pub fn find(&self, wanted: &mut dyn FnMut(Expr<'q>) -> bool) -> Option<Expr<'q>> {
        struct Walk<'a, 'q> {
            wanted: &'a mut dyn FnMut(Expr<'q>) -> bool,
            found: Option<*mut pg_sys::Node>,
        }
        #[pg_guard]
        unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
            if node.is_null() || tag(node) == NodeTag::T_Query {
                return false;
            }
            // SAFETY: `context` is the Walk passed below.
            unsafe {
                let state = &mut *context.cast::<Walk<'_, '_>>();
                if tag(node) != NodeTag::T_List && (state.wanted)(Expr::wrap(node)) {
                    state.found = Some(node);
                    return true;
                }
                pg_sys::expression_tree_walker_impl(node, Some(walk), context)
            }
        }
        let mut state = Walk {
            wanted,
            found: None,
        };
        // SAFETY: the walker only reads and its context outlives the call.
        unsafe {
            walk(self.ptr, (&raw mut state).cast());
        }
        state.found.map(Self::wrap)
    }

    /// Calls `visit` for every Var that is not inside an aggregate call. Does not enter sub-queries.
    pub fn vars_outside_aggregates(&self, visit: &mut dyn FnMut(VarRef)) {
        struct Walk<'a> {
            visit: &'a mut dyn FnMut(VarRef),
        }
        #[pg_guard]
        unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
            if node.is_null() {
                return false;
            }
            // SAFETY: `context` is the Walk passed below.
            unsafe {
                match tag(node) {
                    NodeTag::T_Aggref | NodeTag::T_GroupingFunc | NodeTag::T_Query => false,
                    NodeTag::T_Var => {
                        if let Kind::Var(var) = Expr::wrap(node).kind() {
                            ((*context.cast::<Walk<'_>>()).visit)(var);
                        }
                        false
                    }
                    _ => pg_sys::expression_tree_walker_impl(node, Some(walk), context),
                }
            }
        }
        let mut state = Walk { visit };
        // SAFETY: the walker only reads and its context outlives the call.
        unsafe {
            walk(self.ptr, (&raw mut state).cast());
        }
    }

    /// The expression as SQL text. `lift` is asked for every sub-expression from the top down: `Ok(Some(n))` leaves hole
    /// `n` in its place, `Ok(None)` descends, and an error ends the walk.
    pub fn deparse<E>(
        &self,
        lift: &mut dyn FnMut(Expr<'q>) -> Result<Option<u32>, E>,
    ) -> Result<Vec<Fragment>, E> {
        struct Walk<'a> {
            step: &'a mut dyn FnMut(*mut pg_sys::Node) -> Step,
        }
        enum Step {
            Descend,
            Leave,
            Hole(u32),
        }
        #[pg_guard]
        unsafe extern "C-unwind" fn mutate(
            node: *mut pg_sys::Node,
            context: *mut c_void,
        ) -> *mut pg_sys::Node {
            if node.is_null() {
                return node;
            }
            // SAFETY: `context` is the Walk passed below; the mutator copies what it descends into.
            unsafe {
                let step = match tag(node) {
                    NodeTag::T_List => Step::Descend,
                    _ => ((*context.cast::<Walk<'_>>()).step)(node),
                };
                match step {
                    Step::Leave => node,
                    Step::Hole(number) => parameter(node, number),
                    Step::Descend => {
                        pg_sys::expression_tree_mutator_impl(node, Some(mutate), context)
                    }
                }
            }
        }
        let mut failure = None;
        let mut step = |node: *mut pg_sys::Node| {
            if failure.is_some() {
                return Step::Leave;
            }
            match lift(Expr::wrap(node)) {
                Ok(None) => Step::Descend,
                Ok(Some(hole)) => Step::Hole(hole),
                Err(error) => {
                    failure = Some(error);
                    Step::Leave
                }
            }
        };
        let mut state = Walk { step: &mut step };
        // SAFETY: the copy is made, deparsed and left behind in the analysis context.
        let copy = unsafe { mutate(self.ptr, (&raw mut state).cast()) };
        if let Some(error) = failure {
            return Err(error);
        }
        // SAFETY: as above.
        let printed = unsafe {
            text(pg_sys::deparse_expression(
                copy,
                std::ptr::null_mut(),
                false,
                false,
            ))
        };
        Ok(split_holes(&printed))
    }
}

/// A Param of the type of `node`, numbered `hole`.
unsafe fn parameter(node: *mut pg_sys::Node, hole: u32) -> *mut pg_sys::Node {
    // SAFETY: a zeroed Param with its tag and fields set is a valid node.
    unsafe {
        let param: *mut pg_sys::Param = pg_sys::palloc0(size_of::<pg_sys::Param>()).cast();
        (*param).xpr.type_ = NodeTag::T_Param;
        (*param).paramkind = pg_sys::ParamKind::PARAM_EXTERN;
        (*param).paramid = hole as c_int;
        (*param).paramtype = pg_sys::exprType(node);
        (*param).paramtypmod = pg_sys::exprTypmod(node);
        (*param).paramcollid = pg_sys::exprCollation(node);
        (*param).location = -1;
        param.cast()
    }
}

/// Splits deparsed text at its parameters, skipping string constants and quoted identifiers.
fn split_holes(printed: &str) -> Vec<Fragment> {
    let bytes = printed.as_bytes();
    let mut fragments = Vec::new();
    let mut start = 0;
    let mut position = 0;
    while position < bytes.len() {
        match bytes[position] {
            b'\'' => {
                let escapes = position > 0 && matches!(bytes[position - 1], b'E' | b'e');
                position += 1;
                while position < bytes.len() {
                    if escapes && bytes[position] == b'\\' {
                        position += 2;
                    } else if bytes[position] == b'\'' {
                        // A doubled quote re-enters this branch as a new string, which ends the same way.
                        break;
                    } else {
                        position += 1;
                    }
                }
                position += 1;
            }
            b'"' => {
                position += 1;
                while position < bytes.len() && bytes[position] != b'"' {
                    position += 1;
                }
                position += 1;
            }
            b'$' if bytes.get(position + 1).is_some_and(u8::is_ascii_digit) => {
                if start < position {
                    fragments.push(Fragment::Text(printed[start..position].to_owned()));
                }
                let digits = bytes[position + 1..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit())
                    .count();
                let number = printed[position + 1..position + 1 + digits]
                    .parse()
                    .unwrap_or(0);
                fragments.push(Fragment::Hole(number));
                position += 1 + digits;
                start = position;
            }
            _ => position += 1,
        }
    }
    if start < bytes.len() {
        fragments.push(Fragment::Text(printed[start..].to_owned()));
    }
    fragments
}

/// What the planner of deltas must know of a type.
pub fn describe_type(oid: pg_sys::Oid, modifier: i32, collation: pg_sys::Oid) -> Type {
    // SAFETY: catalog lookups for a valid type; strings are copied at once.
    unsafe {
        let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
        let name = text(pg_sys::format_type_extended(oid, modifier, flags as _));
        let cache = &*pg_sys::lookup_type_cache(
            oid,
            (pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_HASH_EXTENDED_PROC) as c_int,
        );
        let equality = (cache.eq_opr != pg_sys::InvalidOid).then(|| operator_name(cache.eq_opr));
        let deterministic =
            collation == pg_sys::InvalidOid || pg_sys::get_collation_isdeterministic(collation);
        let base = pg_sys::getBaseType(oid);
        let by_bytes = [
            pg_sys::BOOLOID,
            pg_sys::INT2OID,
            pg_sys::INT4OID,
            pg_sys::INT8OID,
            pg_sys::OIDOID,
            pg_sys::TEXTOID,
            pg_sys::VARCHAROID,
            pg_sys::NAMEOID,
            pg_sys::CHAROID,
            pg_sys::BYTEAOID,
            pg_sys::DATEOID,
            pg_sys::TIMEOID,
            pg_sys::TIMESTAMPOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::UUIDOID,
            pg_sys::XID8OID,
            pg_sys::MACADDROID,
        ];
        let fixed_spelling =
            modifier >= 0 && (base == pg_sys::NUMERICOID || base == pg_sys::BPCHAROID);
        let bitwise = deterministic
            && (by_bytes.contains(&base) || pg_sys::type_is_enum(base) || fixed_spelling);
        let own = pg_sys::get_typcollation(oid);
        Type {
            name,
            collation: (collation != pg_sys::InvalidOid && collation != own)
                .then(|| collation_name(collation)),
            hashable: deterministic && cache.hash_extended_proc != pg_sys::InvalidOid,
            equality,
            bitwise,
        }
    }
}

/// The row type of a table.
pub fn row_type(relid: pg_sys::Oid) -> Type {
    // SAFETY: catalog lookup of an existing relation.
    let oid = unsafe { pg_sys::get_rel_type_id(relid) };
    describe_type(oid, -1, pg_sys::InvalidOid)
}

/// `schema.=` for the operator.
unsafe fn operator_name(operator: pg_sys::Oid) -> String {
    // SAFETY: catalog lookup of an existing operator.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::OPEROID as c_int,
            pg_sys::Datum::from(operator),
        );
        if tuple.is_null() {
            return "pg_catalog.=".into();
        }
        let form = &*tuple_struct::<pg_sys::FormData_pg_operator>(tuple);
        let schema = text(pg_sys::get_namespace_name(form.oprnamespace));
        let name = text(form.oprname.data.as_ptr());
        pg_sys::ReleaseSysCache(tuple);
        format!("{}.{name}", pgt_ivm::sql::plain_identifier(&schema))
    }
}

unsafe fn collation_name(collation: pg_sys::Oid) -> String {
    // SAFETY: catalog lookup of an existing collation.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::COLLOID as c_int,
            pg_sys::Datum::from(collation),
        );
        if tuple.is_null() {
            return "pg_catalog.\"default\"".into();
        }
        let form = &*tuple_struct::<pg_sys::FormData_pg_collation>(tuple);
        let schema = text(pg_sys::get_namespace_name(form.collnamespace));
        let name = text(form.collname.data.as_ptr());
        pg_sys::ReleaseSysCache(tuple);
        format!(
            "{}.{}",
            pgt_ivm::sql::quote_identifier(&schema),
            pgt_ivm::sql::quote_identifier(&name)
        )
    }
}

/// Facts about a function.
pub struct FunctionFacts {
    pub name: String,
    pub builtin: bool,
    pub strict: bool,
}

pub fn function_facts(function: pg_sys::Oid) -> FunctionFacts {
    // SAFETY: catalog lookups of an existing function.
    unsafe {
        FunctionFacts {
            name: text(pg_sys::get_func_name(function)),
            builtin: function.to_u32() < pg_sys::FirstNormalObjectId,
            strict: pg_sys::func_strict(function),
        }
    }
}

/// The operator's name, its function, and whether it is its left type's default equality.
pub fn operator_facts(
    operator: pg_sys::Oid,
    left: pg_sys::Oid,
    right: pg_sys::Oid,
) -> (String, FunctionFacts, bool) {
    // SAFETY: catalog lookups of an existing operator.
    unsafe {
        let name = text(pg_sys::get_opname(operator));
        let function = function_facts(pg_sys::get_opcode(operator));
        let base = |oid| pg_sys::getBaseType(oid);
        let cache = &*pg_sys::lookup_type_cache(base(left), pg_sys::TYPECACHE_EQ_OPR as c_int);
        // Equality between integers of different width relates the same values.
        let integer = |oid| {
            matches!(
                base(oid),
                pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID
            )
        };
        let equality = (cache.eq_opr == operator && base(left) == base(right))
            || (function.builtin && name == "=" && integer(left) && integer(right));
        (name, function, equality)
    }
}

/// The operator denies its types' default equality.
pub fn negated_equality(operator: pg_sys::Oid, left: pg_sys::Oid, right: pg_sys::Oid) -> bool {
    // SAFETY: catalog lookup of an existing operator.
    let negator = unsafe { pg_sys::get_negator(operator) };
    negator != pg_sys::InvalidOid && operator_facts(negator, left, right).2
}

/// The type has the built-in aggregates `min` and `max`.
pub fn has_extrema(oid: pg_sys::Oid) -> bool {
    matches!(
        base_type(oid),
        pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::NUMERICOID
            | pg_sys::FLOAT4OID
            | pg_sys::FLOAT8OID
            | pg_sys::TEXTOID
            | pg_sys::DATEOID
            | pg_sys::TIMEOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID
            | pg_sys::INTERVALOID
            | pg_sys::MONEYOID
    )
}

/// The type under any domains.
pub fn base_type(oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: catalog lookup.
    unsafe { pg_sys::getBaseType(oid) }
}

/// The fixed part of a catalog tuple.
pub(super) unsafe fn tuple_struct<T>(tuple: pg_sys::HeapTuple) -> *const T {
    // SAFETY: catalog tuples carry their struct right behind the header.
    unsafe {
        let header = (*tuple).t_data;
        header.cast::<u8>().add((*header).t_hoff as usize).cast()
    }
}
