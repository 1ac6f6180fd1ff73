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

/// In templates `{0}`, `{1}` and `{2}` stand for the arguments, `{q}` for the query.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    Column {
        alias: String,
        name: String,
    },
    Literal(String),
    /// Also a set-returning function, at the top of an output column.
    Call(&'static str, Vec<Expr>),
    Aggregate {
        template: &'static str,
        arguments: Vec<Expr>,
        filter: Option<Box<Expr>>,
    },
    Window {
        template: &'static str,
        arguments: Vec<Expr>,
        filter: Option<Box<Expr>>,
        partition: Vec<Expr>,
        order: Vec<Key>,
        frame: &'static str,
    },
    /// A sub-select and what it is compared with; the query may use columns from outside.
    Sub {
        template: &'static str,
        arguments: Vec<Expr>,
        query: Box<Query>,
    },
}

/// One item of ORDER BY, with its direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Key(pub Expr, pub &'static str);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

/// The items of a list, with commas between them.
pub fn list<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

impl Expr {
    pub fn literal(ty: Type, rng: &mut Rng) -> Self {
        Self {
            ty,
            form: Form::Literal(ty.literal(rng)),
        }
    }

    pub fn null(ty: Type) -> Self {
        Self {
            ty,
            form: Form::Literal(format!("null::{}", ty.sql())),
        }
    }

    pub fn call(ty: Type, template: &'static str, arguments: Vec<Self>) -> Self {
        Self {
            ty,
            form: Form::Call(template, arguments),
        }
    }

    pub fn sub(ty: Type, template: &'static str, arguments: Vec<Self>, query: Query) -> Self {
        let query = Box::new(query);
        Self {
            ty,
            form: Form::Sub {
                template,
                arguments,
                query,
            },
        }
    }

    /// Whether it is more than a constant.
    pub fn has_column(&self) -> bool {
        match &self.form {
            Form::Column { .. } => true,
            Form::Literal(_) => false,
            Form::Call(_, arguments) => arguments.iter().any(Self::has_column),
            Form::Aggregate { .. } | Form::Window { .. } | Form::Sub { .. } => true,
        }
    }

    pub fn has_aggregate(&self) -> bool {
        matches!(self.form, Form::Aggregate { .. })
            || self.parts().iter().any(|e| e.has_aggregate())
    }

    pub fn has_window(&self) -> bool {
        matches!(self.form, Form::Window { .. }) || self.parts().iter().any(|e| e.has_window())
    }

    pub fn is_column(&self) -> bool {
        matches!(self.form, Form::Column { .. })
    }

    /// Whether the bytes of its value are determined by its columns' bytes.
    pub fn is_exact(&self) -> bool {
        match &self.form {
            Form::Window { .. } | Form::Aggregate { .. } => false,
            Form::Sub { .. } => self.ty == Type::Bool,
            _ => self.parts().iter().all(|e| e.is_exact()),
        }
    }

    /// The expressions right below, but not those of a sub-select.
    pub fn parts(&self) -> Vec<&Self> {
        match &self.form {
            Form::Column { .. } | Form::Literal(_) => Vec::new(),
            Form::Call(_, arguments) | Form::Sub { arguments, .. } => arguments.iter().collect(),
            Form::Aggregate {
                arguments, filter, ..
            } => arguments.iter().chain(filter.as_deref()).collect(),
            Form::Window {
                arguments,
                filter,
                partition,
                order,
                ..
            } => arguments
                .iter()
                .chain(filter.as_deref())
                .chain(partition)
                .chain(order.iter().map(|k| &k.0))
                .collect(),
        }
    }

    fn parts_mut(&mut self) -> Vec<&mut Self> {
        match &mut self.form {
            Form::Column { .. } | Form::Literal(_) => Vec::new(),
            Form::Call(_, arguments) | Form::Sub { arguments, .. } => {
                arguments.iter_mut().collect()
            }
            Form::Aggregate {
                arguments, filter, ..
            } => arguments.iter_mut().chain(filter.as_deref_mut()).collect(),
            Form::Window {
                arguments,
                filter,
                partition,
                order,
                ..
            } => arguments
                .iter_mut()
                .chain(filter.as_deref_mut())
                .chain(partition)
                .chain(order.iter_mut().map(|k| &mut k.0))
                .collect(),
        }
    }

    /// The sub-selects in it.
    pub fn queries(&self) -> Vec<&Query> {
        let own = match &self.form {
            Form::Sub { query, .. } => Some(&**query),
            _ => None,
        };
        own.into_iter()
            .chain(self.parts().into_iter().flat_map(Self::queries))
            .collect()
    }

    /// Puts `to` where `from` stands.
    pub fn replace(&mut self, from: &Self, to: &Self) {
        if self == from {
            *self = to.clone();
        } else {
            for part in self.parts_mut() {
                part.replace(from, to);
            }
        }
    }

    /// Simpler expressions of the same type.
    pub fn simpler(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut propose = |form: Form| found.push(Self { ty: self.ty, form });
        match &self.form {
            Form::Literal(_) | Form::Column { .. } => return found,
            Form::Call(..) => {}
            Form::Sub {
                template,
                arguments,
                query,
            } => {
                let simple = minimize::simpler(query).into_iter();
                for query in simple.filter(|q| q.columns() == query.columns()) {
                    propose(Form::Sub {
                        template,
                        arguments: arguments.clone(),
                        query: Box::new(query),
                    });
                }
            }
            Form::Aggregate {
                template,
                arguments,
                filter,
            } => {
                if filter.is_some() {
                    propose(Form::Aggregate {
                        template,
                        arguments: arguments.clone(),
                        filter: None,
                    });
                }
            }
            Form::Window {
                template,
                arguments,
                filter,
                partition,
                order,
                frame,
            } => {
                let mut with = |filter: Option<Box<Self>>, partition, order, frame| {
                    propose(Form::Window {
                        template,
                        arguments: arguments.clone(),
                        filter,
                        partition,
                        order,
                        frame,
                    })
                };
                if filter.is_some() {
                    with(None, partition.clone(), order.clone(), frame);
                }
                if !frame.is_empty() {
                    with(filter.clone(), partition.clone(), order.clone(), "");
                }
                for i in 0..partition.len() {
                    let mut fewer = partition.clone();
                    fewer.remove(i);
                    with(filter.clone(), fewer, order.clone(), frame);
                }
                // The last items make the order unique.
                if order.len() > 1 {
                    with(
                        filter.clone(),
                        partition.clone(),
                        order[1..].to_vec(),
                        frame,
                    );
                }
            }
        }
        if !matches!(self.form, Form::Aggregate { .. }) {
            found.push(Self::null(self.ty));
            for part in self.parts() {
                if part.ty == self.ty {
                    found.push(part.clone());
                }
            }
        }
        for i in 0..self.parts().len() {
            for simple in self.parts()[i].simpler() {
                let mut whole = self.clone();
                *whole.parts_mut()[i] = simple;
                found.push(whole);
            }
        }
        found
    }
}

/// Writes a template, what stands in its braces filled in.
pub fn fill(
    f: &mut fmt::Formatter<'_>,
    template: &str,
    arguments: &[Expr],
    query: Option<&Query>,
) -> fmt::Result {
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        f.write_str(&rest[..at])?;
        match (rest.as_bytes()[at + 1], query) {
            (b'q', Some(query)) => write!(f, "{query}")?,
            (digit, _) => write!(f, "{}", arguments[usize::from(digit - b'0')])?,
        }
        rest = &rest[at + 3..];
    }
    f.write_str(rest)
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Column { alias, name } => write!(f, "{alias}.{name}"),
            Form::Literal(text) => f.write_str(text),
            Form::Call(template, arguments) => fill(f, template, arguments, None),
            Form::Sub {
                template,
                arguments,
                query,
            } => fill(f, template, arguments, Some(query)),
            Form::Aggregate {
                template,
                arguments,
                filter,
            } => {
                fill(f, template, arguments, None)?;
                match filter {
                    Some(p) => write!(f, " filter (where {p})"),
                    None => Ok(()),
                }
            }
            Form::Window {
                template,
                arguments,
                filter,
                partition,
                order,
                frame,
            } => {
                fill(f, template, arguments, None)?;
                if let Some(p) = filter {
                    write!(f, " filter (where {p})")?;
                }
                let mut parts = Vec::new();
                if !partition.is_empty() {
                    parts.push(format!("partition by {}", list(partition)));
                }
                if !order.is_empty() {
                    parts.push(format!("order by {}", list(order)));
                }
                if !frame.is_empty() {
                    parts.push((*frame).to_string());
                }
                write!(f, " over ({})", parts.join(" "))
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
            return against_literal(column, rng);
        }
        if columns.is_empty()
            && rng.u8(..4) > 0
            && let Some(made) = made_of_another(ty, scope, above_groups, rng)
        {
            return made;
        }
        return if rng.u8(..12) == 0 {
            Expr::null(ty)
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

/// A comparison of the value with a constant.
fn against_literal(value: Expr, rng: &mut Rng) -> Expr {
    const TESTS: [&str; 6] = [
        "({0} = {1})",
        "({0} <> {1})",
        "({0} <= {1})",
        "({0} > {1})",
        "({0} is distinct from {1})",
        "({0} is not null)",
    ];
    let test = TESTS[rng.usize(..TESTS.len())];
    let literal = Expr::literal(value.ty, rng);
    Expr::call(Bool, test, vec![value, literal])
}

/// A value of the type made of a column of another one.
fn made_of_another(ty: Type, scope: &Scope, above_groups: bool, rng: &mut Rng) -> Option<Expr> {
    let column = |wanted: Type| scope.iter().filter(move |e| e.ty == wanted);
    let fitting: Vec<&Operator> = OPERATORS
        .iter()
        .filter(|o| o.0 == ty && o.2.len() == 1 && (o.3 || !above_groups))
        .filter(|o| column(o.2[0]).next().is_some())
        .collect();
    let (_, template, arguments, _) = fitting.get(rng.usize(..fitting.len().max(1)))?;
    let columns: Vec<&Expr> = column(arguments[0]).collect();
    let argument = columns[rng.usize(..columns.len())].clone();
    Some(Expr::call(ty, template, vec![argument]))
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
        n if rng.bool() => {
            let right = random(ty, scope, depth - 1, above_groups, rng);
            if right == left {
                return against_literal(left, rng);
            }
            Expr::call(Bool, PAIRS[usize::from(n) - 2], vec![left, right])
        }
        _ => against_literal(left, rng),
    }
}
