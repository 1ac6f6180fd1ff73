//! A view's analyzed, rewritten query tree, read-only.
//!
//! [`with_view_query`] lends a [`Query`]; everything reached from it lives in a memory context of its own that is gone
//! when the closure returns, which the lifetime `'q` expresses. Nothing here decides anything: it only lets `analyze`
//! look at PostgreSQL's nodes as Rust values.

mod array_test;
mod clauses;
mod deparse;
mod expr;
mod facts;
mod inline;
mod looks;
mod outer_aggregate;
mod prepare;
mod query;
mod sorted_input;
mod walk;
mod whole;

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

use pgrx::pg_sys::{self, NodeTag};

pub use clauses::{Item, SortItem, Window, WindowNode};
pub(super) use facts::tuple_struct;
pub use facts::{
    FunctionFacts, base_type, describe_type, equality_operator, function_facts,
    generation_expression, has_extrema, is_date_or_time, is_ordering, negated_equality,
    operator_facts, order_dependent, row_type,
};
pub use prepare::with_view_query;

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
#[derive(Clone)]
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
    /// The time of the transaction, as a timestamp, date or time: `now()`, `CURRENT_DATE` and the like.
    Clock,
    SetReturning,
    /// Something whose meaning its text alone does not carry, what it is and what to do about it.
    Wordless {
        what: &'static str,
        hint: &'static str,
    },
    Other,
}

/// A sub-select in an expression.
#[derive(Clone, Copy)]
pub struct SublinkNode<'q> {
    pub kind: SublinkKind,
    /// The comparison of an ANY, ALL or row sub-link.
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
    /// A row that is compared with the one row of a sub-select.
    Row,
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
    pub distinct: bool,
    /// An ordered-set or hypothetical-set aggregate.
    pub within_group: bool,
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
    /// The time of the transaction.
    pub clock: bool,
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

pub(super) fn list_items<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
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
