//! Facts of the catalog about types, operators, functions and collations.

use std::ffi::c_int;

use pgrx::pg_sys;
use pgt_ivm::scalar::Type;

use super::{Expr, text};

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

/// The expression of a column that is generated when it is read, over the columns of the range-table entry `range`.
pub fn generation_expression<'q>(relid: pg_sys::Oid, attnum: i16, range: usize) -> Expr<'q> {
    // SAFETY: the caller has locked the relation; the expression is a copy in the memory context of the analysis.
    unsafe {
        let relation = pg_sys::relation_open(relid, pg_sys::NoLock as c_int);
        let node = pg_sys::build_generation_expression(relation, c_int::from(attnum));
        pg_sys::relation_close(relation, pg_sys::NoLock as c_int);
        pg_sys::ChangeVarNodes(node, 1, range as c_int, 0);
        Expr::wrap(node)
    }
}

/// The row type of a table.
pub fn row_type(relid: pg_sys::Oid) -> Type {
    // SAFETY: catalog lookup of an existing relation.
    let oid = unsafe { pg_sys::get_rel_type_id(relid) };
    describe_type(oid, -1, pg_sys::InvalidOid)
}

/// `schema.=` for the operator.
pub(super) unsafe fn operator_name(operator: pg_sys::Oid) -> String {
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

/// `"schema"."name"`
pub(super) fn function_name(function: pg_sys::Oid) -> String {
    // SAFETY: catalog lookups of an existing function.
    unsafe {
        let schema = text(pg_sys::get_namespace_name(pg_sys::get_func_namespace(
            function,
        )));
        let name = text(pg_sys::get_func_name(function));
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

/// Aggregates whose value depends on the order in which rows arrive.
pub fn order_dependent(name: &str) -> bool {
    matches!(
        name,
        "array_agg"
            | "string_agg"
            | "json_agg"
            | "jsonb_agg"
            | "json_agg_strict"
            | "jsonb_agg_strict"
            | "json_object_agg"
            | "json_object_agg_strict"
            | "json_object_agg_unique"
            | "json_object_agg_unique_strict"
            | "xmlagg"
            | "any_value"
    )
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

/// The operator compares by an order that a btree can have: `<`, `<=`, `>=` or `>`, and so does its negation.
pub fn is_ordering(operator: pg_sys::Oid) -> bool {
    use pg_sys::CompareType::{COMPARE_GE, COMPARE_GT, COMPARE_LE, COMPARE_LT};
    // SAFETY: catalog lookups of existing operators; the lists are copies.
    let places = |operator| unsafe {
        super::list_items::<pg_sys::OpIndexInterpretation>(pg_sys::get_op_index_interpretation(
            operator,
        ))
        .into_iter()
        .map(|place| ((*place).opfamily_id, (*place).cmptype))
        .collect::<Vec<_>>()
    };
    // SAFETY: catalog lookup of an existing operator.
    let negator = unsafe { pg_sys::get_negator(operator) };
    if negator == pg_sys::InvalidOid {
        return false;
    }
    let negations = places(negator);
    places(operator).into_iter().any(|(family, compares)| {
        let negated = match compares {
            COMPARE_LT => COMPARE_GE,
            COMPARE_LE => COMPARE_GT,
            COMPARE_GE => COMPARE_LT,
            COMPARE_GT => COMPARE_LE,
            _ => return false,
        };
        negations.contains(&(family, negated))
    })
}

/// The operator that values of a type are equal by; invalid if there is none.
pub fn equality_operator(oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: catalog lookup for a valid type; the entry lives as long as the session.
    unsafe {
        let base = pg_sys::getBaseType(oid);
        (*pg_sys::lookup_type_cache(base, pg_sys::TYPECACHE_EQ_OPR as c_int)).eq_opr
    }
}

/// The operator denies its types' default equality.
pub fn negated_equality(operator: pg_sys::Oid, left: pg_sys::Oid, right: pg_sys::Oid) -> bool {
    // SAFETY: catalog lookup of an existing operator.
    let negator = unsafe { pg_sys::get_negator(operator) };
    negator != pg_sys::InvalidOid && operator_facts(negator, left, right).2
}

/// A date, a time, a timestamp or an interval.
pub fn is_date_or_time(oid: pg_sys::Oid) -> bool {
    matches!(
        oid,
        pg_sys::DATEOID
            | pg_sys::TIMEOID
            | pg_sys::TIMETZOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID
            | pg_sys::INTERVALOID
    )
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
pub(in crate::pg) unsafe fn tuple_struct<T>(tuple: pg_sys::HeapTuple) -> *const T {
    // SAFETY: catalog tuples carry their struct right behind the header.
    unsafe {
        let header = (*tuple).t_data;
        header.cast::<u8>().add((*header).t_hoff as usize).cast()
    }
}
