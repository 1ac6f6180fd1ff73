//! Typed scalar expressions that never fail.

use super::minimize;
use super::query::Query;
use super::schema::Type;
use fastrand::Rng;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub ty: Type,
    pub form: Form,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    Column {
        alias: String,
        name: String,
    },
    Literal(String),
    /// `{0}`, `{1}` and `{2}` in the template stand for the arguments.
    Call(&'static str, Vec<Expr>),
    Aggregate {
        function: &'static str,
        argument: Option<Box<Expr>>,
        filter: Option<Box<Expr>>,
    },
    /// `[not] exists (...)`, or `(x, ..) [not] in (...)`; the query may use columns from outside.
    Exists {
        negated: bool,
        query: Box<Query>,
    },
    In {
        negated: bool,
        values: Vec<Expr>,
        query: Box<Query>,
    },
}

impl Expr {
    pub fn literal(ty: Type, rng: &mut Rng) -> Self {
        Self {
            ty,
            form: Form::Literal(ty.literal(rng)),
        }
    }

    pub fn call(ty: Type, template: &'static str, arguments: Vec<Self>) -> Self {
        Self {
            ty,
            form: Form::Call(template, arguments),
        }
    }

    pub fn has_column(&self) -> bool {
        match &self.form {
            Form::Column { .. } => true,
            Form::Literal(_) => false,
            Form::Call(_, arguments) => arguments.iter().any(Self::has_column),
            Form::Aggregate { .. } | Form::Exists { .. } | Form::In { .. } => true,
        }
    }

    /// Tables that sub-selects read.
    pub fn reads(&self) -> Vec<String> {
        self.query().map(Query::reads).unwrap_or_default()
    }

    /// The query of a sub-select.
    pub fn query(&self) -> Option<&Query> {
        match &self.form {
            Form::Exists { query, .. } | Form::In { query, .. } => Some(query),
            _ => None,
        }
    }

    /// Simpler expressions of the same type.
    pub fn simpler(&self) -> Vec<Self> {
        let null = Self {
            ty: self.ty,
            form: Form::Literal(format!("null::{}", self.ty.sql())),
        };
        match &self.form {
            Form::Literal(_) | Form::Column { .. } => Vec::new(),
            Form::Exists { negated, query } | Form::In { negated, query, .. } => {
                let rebuilt = |q: Query| Self {
                    ty: self.ty,
                    form: match &self.form {
                        Form::In { values, .. } => Form::In {
                            negated: *negated,
                            values: values.clone(),
                            query: Box::new(q),
                        },
                        _ => Form::Exists {
                            negated: *negated,
                            query: Box::new(q),
                        },
                    },
                };
                let same = |q: &Query| q.columns() == query.columns();
                minimize::simpler(query)
                    .into_iter()
                    .filter(same)
                    .map(rebuilt)
                    .collect()
            }
            Form::Call(template, arguments) => {
                let mut found: Vec<Self> = arguments
                    .iter()
                    .filter(|a| a.ty == self.ty)
                    .cloned()
                    .collect();
                for (i, argument) in arguments.iter().enumerate() {
                    found.extend(argument.simpler().into_iter().map(|a| {
                        let mut arguments = arguments.clone();
                        arguments[i] = a;
                        Self {
                            ty: self.ty,
                            form: Form::Call(template, arguments),
                        }
                    }));
                }
                found.push(null);
                found
            }
            Form::Aggregate {
                function,
                argument,
                filter,
            } => {
                let with = |argument: Option<Box<Self>>, filter: Option<Box<Self>>| Self {
                    ty: self.ty,
                    form: Form::Aggregate {
                        function,
                        argument,
                        filter,
                    },
                };
                let mut found = Vec::new();
                if let Some(f) = filter {
                    found.push(with(argument.clone(), None));
                    found.extend(
                        f.simpler()
                            .into_iter()
                            .map(|f| with(argument.clone(), Some(Box::new(f)))),
                    );
                }
                if let Some(a) = argument {
                    found.extend(
                        a.simpler()
                            .into_iter()
                            .map(|a| with(Some(Box::new(a)), filter.clone())),
                    );
                }
                found
            }
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Column { alias, name } => write!(f, "{alias}.{name}"),
            Form::Literal(text) => f.write_str(text),
            Form::Call(template, arguments) => {
                let mut rest = *template;
                while let Some(at) = rest.find('{') {
                    f.write_str(&rest[..at])?;
                    let index = usize::from(rest.as_bytes()[at + 1] - b'0');
                    write!(f, "{}", arguments[index])?;
                    rest = &rest[at + 3..];
                }
                f.write_str(rest)
            }
            Form::Exists { negated, query } => {
                write!(
                    f,
                    "({}exists ({query}))",
                    if *negated { "not " } else { "" }
                )
            }
            Form::In {
                negated,
                values,
                query,
            } => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "(({}) {}in ({query}))",
                    values.join(", "),
                    if *negated { "not " } else { "" }
                )
            }
            Form::Aggregate {
                function,
                argument,
                filter,
            } => {
                match argument {
                    Some(a) => write!(f, "{function}({a})")?,
                    None => write!(f, "{function}(*)")?,
                }
                match filter {
                    Some(p) => write!(f, " filter (where {p})"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Result, template, argument types, and whether it may look at a value that is only defined up to `=`: which of 1.0
/// and 1.00 represents a group is nobody's promise, so nothing above a group may show the difference.
type Operator = (Type, &'static str, &'static [Type], bool);

use Type::{BigInt, Bool, Date, Float, Int, Json, Numeric, Text, Timestamp};

const OPERATORS: &[Operator] = &[
    (Int, "(({0} + {1}) % 1000)", &[Int, Int], true),
    (Int, "(({0} - {1}) % 1000)", &[Int, Int], true),
    (Int, "(({0} * {1}) % 1000)", &[Int, Int], true),
    (Int, "({0} / nullif({1}, 0))", &[Int, Int], true),
    (Int, "abs({0})", &[Int], true),
    (Int, "(- {0})", &[Int], true),
    (Int, "(length({0}) % 1000)", &[Text], true),
    (Int, "extract(day from {0})::int", &[Date], true),
    (Int, "({0} - date '2024-02-26')", &[Date], true),
    (Int, "({0})::int", &[Bool], true),
    (
        Int,
        "case when {0} between -1000 and 1000 then round({0})::int end",
        &[Numeric],
        true,
    ),
    (Int, "({0} % 1000)::int", &[BigInt], true),
    (BigInt, "({0})::bigint", &[Int], true),
    (BigInt, "(({0} + {1}) % 100000)", &[BigInt, BigInt], true),
    (BigInt, "(({0} * {1}) % 1000)", &[BigInt, Int], true),
    (Numeric, "({0} + {1})", &[Numeric, Numeric], true),
    (Numeric, "({0} - {1})", &[Numeric, Numeric], true),
    (Numeric, "({0} * {1})", &[Numeric, Numeric], true),
    (
        Numeric,
        "({0} / nullif({1}, 0))",
        &[Numeric, Numeric],
        false,
    ),
    (Numeric, "round({0}, 1)", &[Numeric], true),
    (Numeric, "({0})::numeric", &[Int], true),
    (Numeric, "({0})::numeric", &[BigInt], true),
    (Float, "({0} + {1})", &[Float, Float], true),
    (Float, "({0} * 0.5::float8)", &[Float], true),
    (Float, "({0})::float8", &[Int], true),
    (Float, "abs({0})", &[Float], true),
    (Text, "({0} || {1})", &[Text, Text], true),
    (Text, "upper({0})", &[Text], true),
    (Text, "left({0}, 1)", &[Text], true),
    (Text, "replace({0}, 'a', 'xy')", &[Text], true),
    (Text, "({0})::text", &[Int], true),
    (Text, "({0})::text", &[Bool], true),
    (Text, "({0})::text", &[Numeric], false),
    (Text, "({0} ->> 'b')", &[Json], true),
    (Date, "({0} + {1} % 1000)", &[Date, Int], true),
    (Json, "({0} -> 'a')", &[Json], true),
    (Bool, "(not {0})", &[Bool], true),
    (Bool, "({0} and {1})", &[Bool, Bool], true),
    (Bool, "({0} or {1})", &[Bool, Bool], true),
    (Bool, "({0} like 'a%')", &[Text], true),
    (Bool, "({0} in (1, 2, 3))", &[Int], true),
    (Bool, "({0} = any (array[{1}, 0, null]))", &[Int, Int], true),
    (Bool, "({0} between {1} and {2})", &[Int, Int, Int], true),
    (Bool, "({0} @> {1})", &[Json, Json], true),
    (Bool, "({0} < {1})", &[Date, Date], true),
    (Bool, "({0} >= {1})", &[Timestamp, Timestamp], true),
    (Bool, "({0} > {1})", &[Numeric, Numeric], true),
    (Bool, "({0} <= {1})", &[Float, Float], true),
    (Bool, "({0} > {1})", &[BigInt, BigInt], true),
];

/// The columns an expression may use.
pub type Scope = Vec<Expr>;

/// A random expression over the scope. With `above_groups`, it may be put over the keys and aggregates of a group.
pub fn random(ty: Type, scope: &Scope, depth: usize, above_groups: bool, rng: &mut Rng) -> Expr {
    let columns: Vec<&Expr> = scope.iter().filter(|e| e.ty == ty).collect();
    if !columns.is_empty() && (depth == 0 || rng.u8(..2) == 0) {
        return columns[rng.usize(..columns.len())].clone();
    }
    if depth == 0 || rng.u8(..6) == 0 {
        // A condition that is constant makes a query without rows, or none at all.
        if ty == Bool && !scope.is_empty() && rng.u8(..10) > 0 {
            let column = scope[rng.usize(..scope.len())].clone();
            const TESTS: [&str; 5] = [
                "({0} = {1})",
                "({0} <> {1})",
                "({0} <= {1})",
                "({0} > {1})",
                "({0} is distinct from {1})",
            ];
            let test = TESTS[rng.usize(..TESTS.len())];
            let literal = Expr::literal(column.ty, rng);
            return Expr::call(Bool, test, vec![column, literal]);
        }
        return if rng.u8(..12) == 0 {
            Expr {
                ty,
                form: Form::Literal(format!("null::{}", ty.sql())),
            }
        } else {
            Expr::literal(ty, rng)
        };
    }
    let sub = |ty: Type, rng: &mut Rng| random(ty, scope, depth - 1, above_groups, rng);
    let general: u8 = rng.u8(..10);
    match general {
        0 => Expr::call(ty, "coalesce({0}, {1})", vec![sub(ty, rng), sub(ty, rng)]),
        1 => Expr::call(
            ty,
            "case when {0} then {1} else {2} end",
            vec![sub(Bool, rng), sub(ty, rng), sub(ty, rng)],
        ),
        2 => Expr::call(ty, "nullif({0}, {1})", vec![sub(ty, rng), sub(ty, rng)]),
        3 => Expr::call(ty, "greatest({0}, {1})", vec![sub(ty, rng), sub(ty, rng)]),
        _ if ty == Bool && general < 8 => comparison(scope, depth, above_groups, rng),
        _ => {
            let fitting: Vec<&Operator> = OPERATORS
                .iter()
                .filter(|o| o.0 == ty && (o.3 || !above_groups))
                .collect();
            if fitting.is_empty() {
                return sub(ty, rng);
            }
            let (_, template, arguments, _) = fitting[rng.usize(..fitting.len())];
            Expr::call(
                ty,
                template,
                arguments.iter().map(|t| sub(*t, rng)).collect(),
            )
        }
    }
}

fn comparison(scope: &Scope, depth: usize, above_groups: bool, rng: &mut Rng) -> Expr {
    let ty = scope
        .get(rng.usize(..scope.len().max(1)))
        .map_or(Int, |e| e.ty);
    let left = random(ty, scope, depth - 1, above_groups, rng);
    const PAIRS: [&str; 4] = [
        "({0} = {1})",
        "({0} <> {1})",
        "({0} < {1})",
        "({0} is not distinct from {1})",
    ];
    match rng.u8(..6) {
        0 => Expr::call(Bool, "({0} is null)", vec![left]),
        1 => Expr::call(Bool, "({0} is not null)", vec![left]),
        n => Expr::call(
            Bool,
            PAIRS[usize::from(n) - 2],
            vec![left, random(ty, scope, depth - 1, above_groups, rng)],
        ),
    }
}

/// A random aggregate over the scope of one row.
pub fn aggregate(scope: &Scope, above_groups: bool, rng: &mut Rng) -> Expr {
    const CHOICES: &[(&str, Type, Type)] = &[
        ("count", Int, BigInt),
        ("count", Text, BigInt),
        ("sum", Int, BigInt),
        ("sum", BigInt, Numeric),
        ("sum", Numeric, Numeric),
        ("sum", Float, Float),
        ("avg", Int, Numeric),
        ("avg", BigInt, Numeric),
        ("avg", Numeric, Numeric),
        ("avg", Float, Float),
        ("min", Int, Int),
        ("max", Int, Int),
        ("min", Text, Text),
        ("max", Text, Text),
        ("max", Numeric, Numeric),
        ("min", Date, Date),
        ("max", Timestamp, Timestamp),
        ("min", Float, Float),
    ];
    let filter = (rng.u8(..4) == 0).then(|| Box::new(random(Bool, scope, 2, above_groups, rng)));
    if rng.u8(..4) == 0 {
        return Expr {
            ty: BigInt,
            form: Form::Aggregate {
                function: "count",
                argument: None,
                filter,
            },
        };
    }
    let (function, argument, ty) = CHOICES[rng.usize(..CHOICES.len())];
    let depth = rng.usize(..3);
    let argument = Some(Box::new(random(argument, scope, depth, above_groups, rng)));
    Expr {
        ty,
        form: Form::Aggregate {
            function,
            argument,
            filter,
        },
    }
}
