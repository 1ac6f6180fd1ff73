//! What an expression is.

use std::ffi::c_void;
use std::marker::PhantomData;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::facts::equality_operator;
use super::{
    AggregateNode, Expr, Kind, Query, SublinkKind, SublinkNode, VarRef, list_items, tag, text,
};

/// `now()` or `transaction_timestamp()`.
pub(super) fn is_clock(function: pg_sys::Oid) -> bool {
    [pg_sys::F_NOW, pg_sys::F_TRANSACTION_TIMESTAMP].contains(&function.to_u32())
}

/// `CURRENT_DATE`, `CURRENT_TIMESTAMP(p)` and the like, not `CURRENT_USER`.
///
/// # Safety
/// The node is an SQLValueFunction.
pub(super) unsafe fn is_clock_value(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as the caller says.
    let value = unsafe { &*node.cast::<pg_sys::SQLValueFunction>() };
    value.op <= pg_sys::SQLValueFunctionOp::SVFOP_LOCALTIMESTAMP_N
}

const NAME_COLUMNS: &str = "Name the columns, or build the value with ROW(..) or json_agg().";

impl<'q> Expr<'q> {
    pub(super) fn wrap(ptr: *mut pg_sys::Node) -> Expr<'q> {
        Expr {
            ptr,
            life: PhantomData,
        }
    }

    pub(super) fn all(list: *mut pg_sys::List) -> Vec<Expr<'q>> {
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
                    if is_clock(node.funcid) {
                        return Kind::Clock;
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
                NodeTag::T_SQLValueFunction if is_clock_value(self.ptr) => Kind::Clock,
                NodeTag::T_SubLink => {
                    let node = &*self.ptr.cast::<pg_sys::SubLink>();
                    Kind::Sublink(SublinkNode {
                        kind: match node.subLinkType {
                            pg_sys::SubLinkType::EXISTS_SUBLINK => SublinkKind::Exists,
                            pg_sys::SubLinkType::ANY_SUBLINK => SublinkKind::Any,
                            pg_sys::SubLinkType::ALL_SUBLINK => SublinkKind::All,
                            pg_sys::SubLinkType::EXPR_SUBLINK => SublinkKind::Value,
                            pg_sys::SubLinkType::ARRAY_SUBLINK => SublinkKind::Array,
                            pg_sys::SubLinkType::ROWCOMPARE_SUBLINK => SublinkKind::Row,
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
                    let inner: *mut pg_sys::Node =
                        (*self.ptr.cast::<pg_sys::JsonConstructorExpr>())
                            .func
                            .cast();
                    match (!inner.is_null()).then(|| tag(inner)) {
                        // JSON_ARRAYAGG(..) and JSON_OBJECTAGG(..) are the calls they are made of, in other words.
                        Some(NodeTag::T_Aggref) => {
                            Kind::Aggregate(self.aggregate(&*inner.cast::<pg_sys::Aggref>()))
                        }
                        Some(NodeTag::T_WindowFunc) => Kind::Wordless {
                            what: "a JSON aggregate of the SQL standard is used as a window function",
                            hint: NAME_COLUMNS,
                        },
                        _ => Kind::Other,
                    }
                }
                NodeTag::T_JsonExpr => {
                    let node = &*self.ptr.cast::<pg_sys::JsonExpr>();
                    let json = || {
                        let ty = pg_sys::getBaseType((*node.returning).typid);
                        matches!(ty, pg_sys::JSONOID | pg_sys::JSONBOID)
                    };
                    // PostgreSQL does not say of such a value that it is not null: it stays null where the value evaluated
                    // before it was, in another row or column.
                    if node.op == pg_sys::JsonExprOp::JSON_VALUE_OP && json() {
                        Kind::Wordless {
                            what: "JSON_VALUE returns json, which PostgreSQL takes for null after other nulls",
                            hint: "Use JSON_QUERY, or return another type.",
                        }
                    } else {
                        Kind::Other
                    }
                }
                NodeTag::T_FieldSelect => {
                    let node = &*self.ptr.cast::<pg_sys::FieldSelect>();
                    // A function's own result has its columns' names wherever it stands; a column that holds it has not.
                    let named = tag(node.arg.cast()) == NodeTag::T_FuncExpr;
                    if !named && pg_sys::exprType(node.arg.cast()) == pg_sys::RECORDOID {
                        Kind::Wordless {
                            what: "a field of a row without a named type is used",
                            hint: NAME_COLUMNS,
                        }
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
                        Kind::Wordless {
                            what: "a whole row is used as one value",
                            hint: NAME_COLUMNS,
                        }
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

    /// The aggregate call that an aggregate of the SQL standard stands for.
    pub fn call_within(&self) -> Option<Expr<'q>> {
        // SAFETY: the cast follows the tag.
        unsafe {
            if tag(self.ptr) != NodeTag::T_JsonConstructorExpr {
                return None;
            }
            Query::expr(
                (*self.ptr.cast::<pg_sys::JsonConstructorExpr>())
                    .func
                    .cast(),
            )
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
            distinct: !node.aggdistinct.is_null(),
            within_group: node.aggkind as u8 != b'n',
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

    /// The same, as long as equal values stay equal and others do not become so.
    pub fn strip_equal_relabel(&self) -> Expr<'q> {
        let inner = self.strip_relabel();
        if equality_operator(self.type_of().0) == equality_operator(inner.type_of().0) {
            inner
        } else {
            *self
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

    /// A set-returning function is part of it.
    pub fn returns_set(&self) -> bool {
        self.find(&mut |part| matches!(part.kind(), Kind::SetReturning))
            .is_some()
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

    /// The comparison with the negated operator, of a comparison that has one and is strict.
    pub fn negated(&self) -> Option<Expr<'q>> {
        // SAFETY: casts follow the tag; the copy is ours.
        unsafe {
            if tag(self.ptr) != NodeTag::T_OpExpr {
                return None;
            }
            let node: *mut pg_sys::OpExpr = self.ptr.cast();
            let negator = pg_sys::get_negator((*node).opno);
            if negator == pg_sys::InvalidOid || !pg_sys::op_strict((*node).opno) {
                return None;
            }
            let copy: *mut pg_sys::OpExpr = pg_sys::copyObjectImpl(node.cast()).cast();
            (*copy).opno = negator;
            (*copy).opfuncid = pg_sys::get_opcode(negator);
            Some(Self::wrap(copy.cast()))
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
}
