//! Queries as values, printed as SQL. Output columns are always called c0, c1, ...

use super::expression::{Expr, Form, Key, fill, list};
use super::schema::Type;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    Select(Box<Select>),
    /// A set operation, as `union all`, of queries with the same column types.
    Set(&'static str, Vec<Query>),
    /// Rows of a query in the order of its columns at these positions, cut off.
    Sorted {
        query: Box<Query>,
        order: Vec<(usize, &'static str)>,
        limit: Limit,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Select {
    pub distinct: Distinct,
    pub output: Vec<Expr>,
    pub from: Vec<Input>,
    pub filter: Vec<Expr>,
    /// With GROUP BY or aggregates.
    pub group_by: Option<Grouping>,
    pub having: Option<Expr>,
    pub order: Vec<Key>,
    pub limit: Limit,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Distinct {
    #[default]
    No,
    Rows,
    On(Vec<Expr>),
}

/// The keys, perhaps none, and how they are combined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grouping {
    pub keys: Vec<Expr>,
    pub sets: Sets,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Sets {
    #[default]
    One,
    /// `rollup` or `cube` of all keys.
    All(&'static str),
    /// The first key beside `rollup` or `cube` of the others.
    Rest(&'static str),
    /// Lists of positions.
    Listed(Vec<Vec<usize>>),
}

/// LIMIT and OFFSET, as far as there are any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limit {
    pub rows: Option<u8>,
    pub ties: bool,
    pub offset: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub relation: Relation,
    pub alias: String,
    pub join: Join,
}

/// How an input is joined to those before it. The first input's is ignored.
#[derive(Clone, Debug, PartialEq)]
pub enum Join {
    Comma,
    Cross,
    Inner(Expr),
    /// `left`, `right` or `full`.
    Outer(&'static str, Expr),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Relation {
    /// A table, view or stream table.
    Named {
        name: String,
        columns: Vec<(String, Type)>,
    },
    /// A sub-select in FROM.
    Derived(Query),
    /// A sub-select that sees the inputs before it.
    Lateral(Query),
    /// A common table expression of that name.
    Common(String, Query),
    /// The common table expression of that name, within itself.
    Itself(String, Vec<(String, Type)>),
    /// Inputs joined in parentheses. The alias is not printed.
    Joined(Vec<Input>),
    /// Rows of constants, or of columns of the inputs before it.
    Values(Vec<Vec<Expr>>),
    /// Set-returning functions, side by side.
    Functions {
        calls: Vec<Function>,
        ordinality: bool,
    },
}

/// A set-returning function and the types of its columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub template: &'static str,
    pub arguments: Vec<Expr>,
    pub types: Vec<Type>,
}

fn numbered(types: impl IntoIterator<Item = Type>) -> Vec<(String, Type)> {
    let name = |(i, ty)| (format!("c{i}"), ty);
    types.into_iter().enumerate().map(name).collect()
}

impl Relation {
    fn columns(&self) -> Vec<(String, Type)> {
        match self {
            Self::Named { columns, .. } | Self::Itself(_, columns) => columns.clone(),
            Self::Derived(query) | Self::Lateral(query) | Self::Common(_, query) => query.columns(),
            Self::Joined(_) => Vec::new(),
            Self::Values(rows) => numbered(rows[0].iter().map(|e| e.ty)),
            Self::Functions { calls, ordinality } => {
                let types = calls.iter().flat_map(|c| c.types.iter().copied());
                numbered(types.chain(ordinality.then_some(Type::BigInt)))
            }
        }
    }

    pub fn query(&self) -> Option<&Query> {
        match self {
            Self::Derived(query) | Self::Lateral(query) | Self::Common(_, query) => Some(query),
            _ => None,
        }
    }

    pub fn query_mut(&mut self) -> Option<&mut Query> {
        match self {
            Self::Derived(query) | Self::Lateral(query) | Self::Common(_, query) => Some(query),
            _ => None,
        }
    }
}

impl Input {
    /// One that is not joined to others yet.
    pub fn first(relation: Relation, alias: String) -> Self {
        Self {
            relation,
            alias,
            join: Join::Comma,
        }
    }

    /// The columns of this input as expressions.
    pub fn scope(&self) -> Vec<Expr> {
        if let Relation::Joined(inputs) = &self.relation {
            return inputs.iter().flat_map(Self::scope).collect();
        }
        let column = |(name, ty)| Expr {
            ty,
            form: Form::Column {
                alias: self.alias.clone(),
                name,
            },
        };
        self.relation.columns().into_iter().map(column).collect()
    }

    /// Itself, or the inputs joined in parentheses.
    pub fn leaves(&self) -> Vec<&Self> {
        match &self.relation {
            Relation::Joined(inputs) => inputs.iter().flat_map(Self::leaves).collect(),
            _ => vec![self],
        }
    }

    fn expressions_mut<'a>(&'a mut self, found: &mut Vec<&'a mut Expr>) {
        match &mut self.relation {
            Relation::Joined(inputs) => inputs.iter_mut().for_each(|i| i.expressions_mut(found)),
            Relation::Values(rows) => found.extend(rows.iter_mut().flatten()),
            Relation::Functions { calls, .. } => {
                found.extend(calls.iter_mut().flat_map(|c| &mut c.arguments));
            }
            _ => {}
        }
        if let Join::Inner(condition) | Join::Outer(_, condition) = &mut self.join {
            found.push(condition);
        }
    }
}

impl Select {
    /// All expressions, those below others left out.
    pub fn expressions_mut(&mut self) -> Vec<&mut Expr> {
        let mut found = Vec::new();
        for input in &mut self.from {
            input.expressions_mut(&mut found);
        }
        if let Distinct::On(keys) = &mut self.distinct {
            found.extend(keys);
        }
        found.extend(&mut self.filter);
        found.extend(self.group_by.iter_mut().flat_map(|g| &mut g.keys));
        found.extend(&mut self.having);
        found.extend(&mut self.output);
        found.extend(self.order.iter_mut().map(|k| &mut k.0));
        found
    }

    fn expressions(&self) -> Vec<Expr> {
        let mut copy = self.clone();
        copy.expressions_mut()
            .into_iter()
            .map(|e| e.clone())
            .collect()
    }

    /// The inputs, those in parentheses one by one.
    pub fn leaves(&self) -> Vec<&Input> {
        self.from.iter().flat_map(Input::leaves).collect()
    }

    /// Whether other outputs can be put in place of its own.
    pub fn is_plain(&self) -> bool {
        self.distinct == Distinct::No
            && self.group_by.is_none()
            && self.order.is_empty()
            && self.limit == Limit::default()
    }
}

impl Query {
    pub fn columns(&self) -> Vec<(String, Type)> {
        match self {
            Self::Select(select) => numbered(select.output.iter().map(|e| e.ty)),
            Self::Set(_, arms) => arms[0].columns(),
            Self::Sorted { query, .. } => query.columns(),
        }
    }

    /// Whether the rows are the input's rows, so that their bytes are determined: grouped values are so only up to `=`.
    pub fn is_bag(&self) -> bool {
        match self {
            Self::Set(operator, arms) => *operator == "union all" && arms.iter().all(Self::is_bag),
            Self::Sorted { .. } => false,
            Self::Select(s) => {
                s.is_plain()
                    && s.expressions().iter().all(Expr::is_exact)
                    && s.leaves()
                        .iter()
                        .all(|i| i.relation.query().is_none_or(Self::is_bag))
            }
        }
    }

    /// Names of all tables, views and stream tables that are read.
    pub fn reads(&self) -> Vec<String> {
        match self {
            Self::Set(_, arms) => arms.iter().flat_map(Self::reads).collect(),
            Self::Sorted { query, .. } => query.reads(),
            Self::Select(s) => {
                let mut found = Vec::new();
                for input in s.leaves() {
                    match &input.relation {
                        Relation::Named { name, .. } => found.push(name.clone()),
                        other => found.extend(other.query().into_iter().flat_map(Self::reads)),
                    }
                }
                for expression in s.expressions() {
                    found.extend(expression.queries().into_iter().flat_map(Self::reads));
                }
                found
            }
        }
    }

    fn is_recursive(&self) -> bool {
        match self {
            Self::Set(_, arms) => arms.iter().any(Self::is_recursive),
            Self::Sorted { .. } => false,
            Self::Select(s) => {
                let itself = |i: &&Input| matches!(i.relation, Relation::Itself(..));
                s.leaves().iter().any(itself)
            }
        }
    }

    fn common(&self, found: &mut Vec<(String, Self)>) {
        match self {
            Self::Set(_, arms) => arms.iter().for_each(|a| a.common(found)),
            Self::Sorted { query, .. } => query.common(found),
            Self::Select(s) => {
                for expression in s.expressions() {
                    for query in expression.queries() {
                        query.common(found);
                    }
                }
                for input in s.leaves() {
                    if let Some(query) = input.relation.query() {
                        query.common(found);
                    }
                    if let Relation::Common(name, query) = &input.relation
                        && !found.iter().any(|(n, _)| n == name)
                    {
                        found.push((name.clone(), query.clone()));
                    }
                }
            }
        }
    }

    /// The query as a statement, its common table expressions in front.
    pub fn sql(&self) -> String {
        let mut common = Vec::new();
        self.common(&mut common);
        let parts: Vec<String> = common
            .iter()
            .map(|(name, q)| format!("{name} as ({q})"))
            .collect();
        if parts.is_empty() {
            self.to_string()
        } else {
            let recursive = common.iter().any(|(_, q)| q.is_recursive());
            let with = if recursive { "with recursive" } else { "with" };
            format!("{with} {} {self}", parts.join(", "))
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Select(select) => write!(f, "{select}"),
            Self::Set(operator, arms) => {
                for (i, arm) in arms.iter().enumerate() {
                    if i > 0 {
                        write!(f, " {operator} ")?;
                    }
                    match arm {
                        Self::Select(s) if s.order.is_empty() && s.limit == Limit::default() => {
                            write!(f, "{arm}")?
                        }
                        _ => write!(f, "({arm})")?,
                    }
                }
                Ok(())
            }
            Self::Sorted {
                query,
                order,
                limit,
            } => {
                let order: Vec<String> = order
                    .iter()
                    .map(|(position, direction)| format!("{}{direction}", position + 1))
                    .collect();
                write!(f, "{query} order by {}{limit}", order.join(", "))
            }
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.offset > 0 {
            write!(f, " offset {}", self.offset)?;
        }
        match self.rows {
            None => Ok(()),
            Some(n) if self.ties => write!(f, " fetch first {n} rows with ties"),
            Some(n) => write!(f, " limit {n}"),
        }
    }
}

impl fmt::Display for Grouping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keys.is_empty() {
            return Ok(());
        }
        f.write_str(" group by ")?;
        match &self.sets {
            Sets::Rest(kind) if self.keys.len() > 1 => {
                write!(f, "{}, {kind} ({})", self.keys[0], list(&self.keys[1..]))
            }
            Sets::One | Sets::Rest(_) => f.write_str(&list(&self.keys)),
            Sets::All(kind) => write!(f, "{kind} ({})", list(&self.keys)),
            Sets::Listed(sets) => {
                let set = |set: &Vec<usize>| {
                    let keys: Vec<&Expr> = set.iter().map(|i| &self.keys[*i]).collect();
                    format!("({})", list(&keys))
                };
                let sets: Vec<String> = sets.iter().map(set).collect();
                write!(f, "grouping sets ({})", sets.join(", "))
            }
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output: Vec<String> = self
            .output
            .iter()
            .enumerate()
            .map(|(i, e)| format!("{e} as c{i}"))
            .collect();
        match &self.distinct {
            Distinct::No => f.write_str("select ")?,
            Distinct::Rows => f.write_str("select distinct ")?,
            Distinct::On(keys) => write!(f, "select distinct on ({}) ", list(keys))?,
        }
        f.write_str(&output.join(", "))?;
        if !self.from.is_empty() {
            f.write_str(" from ")?;
            inputs(f, &self.from)?;
        }
        if !self.filter.is_empty() {
            let conjuncts: Vec<String> = self.filter.iter().map(ToString::to_string).collect();
            write!(f, " where {}", conjuncts.join(" and "))?;
        }
        if let Some(grouping) = &self.group_by {
            write!(f, "{grouping}")?;
        }
        if let Some(condition) = &self.having {
            write!(f, " having {condition}")?;
        }
        if !self.order.is_empty() {
            write!(f, " order by {}", list(&self.order))?;
        }
        write!(f, "{}", self.limit)
    }
}

fn inputs(f: &mut fmt::Formatter<'_>, inputs: &[Input]) -> fmt::Result {
    for (i, input) in inputs.iter().enumerate() {
        let (before, condition) = match &input.join {
            _ if i == 0 => ("", None),
            Join::Comma => (", ", None),
            Join::Cross => (" cross join ", None),
            Join::Inner(condition) => (" join ", Some(condition)),
            Join::Outer("left", condition) => (" left join ", Some(condition)),
            Join::Outer("right", condition) => (" right join ", Some(condition)),
            Join::Outer(_, condition) => (" full join ", Some(condition)),
        };
        write!(f, "{before}{input}")?;
        if let Some(condition) = condition {
            write!(f, " on {condition}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alias = &self.alias;
        let columns = || {
            let names: Vec<String> = self.relation.columns().into_iter().map(|c| c.0).collect();
            names.join(", ")
        };
        match &self.relation {
            Relation::Named { name, .. }
            | Relation::Itself(name, _)
            | Relation::Common(name, _) => write!(f, "{name} {alias}"),
            Relation::Derived(query) => write!(f, "({query}) {alias}"),
            Relation::Lateral(query) => write!(f, "lateral ({query}) {alias}"),
            Relation::Joined(joined) => {
                f.write_str("(")?;
                inputs(f, joined)?;
                f.write_str(")")
            }
            Relation::Values(rows) => {
                let lateral = rows.iter().flatten().any(Expr::has_column);
                let rows: Vec<String> = rows.iter().map(|r| format!("({})", list(r))).collect();
                let before = if lateral { "lateral " } else { "" };
                write!(
                    f,
                    "{before}(values {}) {alias}({})",
                    rows.join(", "),
                    columns()
                )
            }
            Relation::Functions { calls, ordinality } => {
                match &calls[..] {
                    [one] => write!(f, "{one}")?,
                    several => write!(f, "rows from ({})", list(several))?,
                }
                let ordinality = if *ordinality { " with ordinality" } else { "" };
                write!(f, "{ordinality} {alias}({})", columns())
            }
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fill(f, self.template, &self.arguments, None)
    }
}
