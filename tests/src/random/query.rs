//! Queries as values, printed as SQL. Output columns are always called c0, c1, ...

use super::expression::{Expr, Form};
use super::schema::Type;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    Select(Box<Select>),
    /// A set operation, as `union all`, of queries with the same column types.
    Set(&'static str, Vec<Query>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Select {
    pub distinct: bool,
    pub output: Vec<Expr>,
    pub from: Vec<Input>,
    pub filter: Vec<Expr>,
    /// With GROUP BY or aggregates: the keys, perhaps none.
    pub group_by: Option<Vec<Expr>>,
    pub having: Option<Expr>,
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
    /// A common table expression of that name.
    Common(String, Query),
}

impl Relation {
    pub fn columns(&self) -> Vec<(String, Type)> {
        match self {
            Self::Named { columns, .. } => columns.clone(),
            Self::Derived(query) | Self::Common(_, query) => query.columns(),
        }
    }
}

impl Input {
    /// The columns of this input as expressions.
    pub fn scope(&self) -> Vec<Expr> {
        let column = |(name, ty)| Expr {
            ty,
            form: Form::Column {
                alias: self.alias.clone(),
                name,
            },
        };
        self.relation.columns().into_iter().map(column).collect()
    }
}

impl Query {
    pub fn columns(&self) -> Vec<(String, Type)> {
        match self {
            Self::Select(select) => select
                .output
                .iter()
                .enumerate()
                .map(|(i, e)| (format!("c{i}"), e.ty))
                .collect(),
            Self::Set(_, arms) => arms[0].columns(),
        }
    }

    /// Whether the rows are the input's rows, so that their bytes are determined: grouped values are so only up to `=`.
    pub fn is_bag(&self) -> bool {
        match self {
            Self::Set(operator, arms) => *operator == "union all" && arms.iter().all(Self::is_bag),
            Self::Select(s) => {
                !s.distinct
                    && s.group_by.is_none()
                    && s.from.iter().all(|i| match &i.relation {
                        Relation::Named { .. } => true,
                        Relation::Derived(q) | Relation::Common(_, q) => q.is_bag(),
                    })
            }
        }
    }

    /// Names of all tables, views and stream tables that are read.
    pub fn reads(&self) -> Vec<String> {
        match self {
            Self::Set(_, arms) => arms.iter().flat_map(Self::reads).collect(),
            Self::Select(s) => s
                .from
                .iter()
                .flat_map(|i| match &i.relation {
                    Relation::Named { name, .. } => vec![name.clone()],
                    Relation::Derived(q) | Relation::Common(_, q) => q.reads(),
                })
                .chain(s.filter.iter().flat_map(Expr::reads))
                .collect(),
        }
    }

    fn common(&self, found: &mut Vec<(String, Query)>) {
        match self {
            Self::Set(_, arms) => arms.iter().for_each(|a| a.common(found)),
            Self::Select(s) => {
                for query in s.filter.iter().filter_map(Expr::query) {
                    query.common(found);
                }
                for input in &s.from {
                    match &input.relation {
                        Relation::Named { .. } => {}
                        Relation::Derived(q) => q.common(found),
                        Relation::Common(name, q) => {
                            q.common(found);
                            if !found.iter().any(|(n, _)| n == name) {
                                found.push((name.clone(), q.clone()));
                            }
                        }
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
            format!("with {} {self}", parts.join(", "))
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Select(select) => write!(f, "{select}"),
            Self::Set(operator, arms) => {
                for (i, arm) in arms.iter().enumerate() {
                    let before = if i == 0 {
                        String::new()
                    } else {
                        format!(" {operator} ")
                    };
                    match arm {
                        Self::Select(_) => write!(f, "{before}{arm}")?,
                        Self::Set(..) => write!(f, "{before}({arm})")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[Expr]| {
            items
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let output: Vec<String> = self
            .output
            .iter()
            .enumerate()
            .map(|(i, e)| format!("{e} as c{i}"))
            .collect();
        write!(
            f,
            "select {}{}",
            if self.distinct { "distinct " } else { "" },
            output.join(", ")
        )?;
        for (i, input) in self.from.iter().enumerate() {
            let (before, after) = match &input.join {
                _ if i == 0 => (" from ", String::new()),
                Join::Comma => (", ", String::new()),
                Join::Cross => (" cross join ", String::new()),
                Join::Inner(condition) => (" join ", format!(" on {condition}")),
                Join::Outer("left", condition) => (" left join ", format!(" on {condition}")),
                Join::Outer("right", condition) => (" right join ", format!(" on {condition}")),
                Join::Outer(_, condition) => (" full join ", format!(" on {condition}")),
            };
            match &input.relation {
                Relation::Named { name, .. } | Relation::Common(name, _) => {
                    write!(f, "{before}{name} {}{after}", input.alias)?
                }
                Relation::Derived(query) => write!(f, "{before}({query}) {}{after}", input.alias)?,
            }
        }
        if !self.filter.is_empty() {
            let conjuncts: Vec<String> = self.filter.iter().map(ToString::to_string).collect();
            write!(f, " where {}", conjuncts.join(" and "))?;
        }
        match self.group_by.as_deref() {
            None | Some([]) => {}
            Some(keys) => write!(f, " group by {}", list(keys))?,
        }
        match &self.having {
            Some(condition) => write!(f, " having {condition}"),
            None => Ok(()),
        }
    }
}
