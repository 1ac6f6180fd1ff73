//! SQL as a tree. Only what deltas and apply statements need.

/// A schema-qualified name.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Name {
    pub schema: String,
    pub name: String,
}

impl Name {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Name {
            schema: schema.into(),
            name: name.into(),
        }
    }
}

/// A value expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `table.column`
    Column(String, String),
    /// `$n`
    Param(u32),
    Integer(i64),
    Boolean(bool),
    Null,
    /// A string literal.
    Literal(String),
    /// Deparsed text with expressions in its holes.
    Pieces(Vec<TextPiece>),
    /// `schema.name(args)`
    Call(Name, Vec<Expr>),
    /// An aggregate call with its filter.
    Aggregate {
        function: Name,
        arguments: Vec<Expr>,
        filter: Option<Box<Expr>>,
    },
    /// `count(*)`, optionally filtered.
    CountStar(Option<Box<Expr>>),
    /// `function() OVER (PARTITION BY ..)`
    Window(Name, Vec<Expr>),
    /// `a OPERATOR(schema.op) b`
    Operator(Box<Expr>, String, Box<Expr>),
    /// Built-in infix on integers, booleans or system types: `a + b`.
    Infix(Box<Expr>, &'static str, Box<Expr>),
    Negate(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>),
    IsNotNull(Box<Expr>),
    IsNotDistinct(Box<Expr>, Box<Expr>),
    Case(Vec<(Expr, Expr)>, Box<Expr>),
    Coalesce(Vec<Expr>),
    Cast(Box<Expr>, String),
    /// `value COLLATE schema.name`
    Collate(Box<Expr>, String),
    Row(Vec<Expr>),
    Scalar(Box<Select>),
    Array(Box<Select>),
    Exists(Box<Select>),
    /// `a = ANY (b)`
    EqualAny(Box<Expr>, Box<Expr>),
    /// `(a)[i]`
    Element(Box<Expr>, u32),
    /// `merge_action()` in the RETURNING of a MERGE.
    MergeAction,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TextPiece {
    Text(String),
    Expr(Expr),
}

impl Expr {
    pub fn column(table: &str, column: impl Into<String>) -> Expr {
        Expr::Column(table.to_owned(), column.into())
    }

    pub fn infix(self, operator: &'static str, other: Expr) -> Expr {
        Expr::Infix(Box::new(self), operator, Box::new(other))
    }

    pub fn operator(self, operator: &str, other: Expr) -> Expr {
        Expr::Operator(Box::new(self), operator.to_owned(), Box::new(other))
    }

    pub fn cast(self, ty: &str) -> Expr {
        Expr::Cast(Box::new(self), ty.to_owned())
    }

    pub fn collate(self, collation: &str) -> Expr {
        Expr::Collate(Box::new(self), collation.to_owned())
    }

    pub fn is_null(self) -> Expr {
        Expr::IsNull(Box::new(self))
    }

    pub fn is_not_null(self) -> Expr {
        Expr::IsNotNull(Box::new(self))
    }

    /// `pg_catalog.name(args)`
    pub fn builtin(name: &str, arguments: Vec<Expr>) -> Expr {
        Expr::Call(Name::new("pg_catalog", name), arguments)
    }

    /// `pg_catalog.name(argument)`, an aggregate.
    pub fn aggregate(name: &str, argument: Expr) -> Expr {
        Expr::Aggregate {
            function: Name::new("pg_catalog", name),
            arguments: vec![argument],
            filter: None,
        }
    }

    pub fn filter(self, condition: Expr) -> Expr {
        match self {
            Expr::Aggregate {
                function,
                arguments,
                ..
            } => Expr::Aggregate {
                function,
                arguments,
                filter: Some(Box::new(condition)),
            },
            Expr::CountStar(_) => Expr::CountStar(Some(Box::new(condition))),
            other => other,
        }
    }

    /// `a AND b`, flattening and dropping `true`.
    pub fn and(conditions: Vec<Expr>) -> Expr {
        let mut conditions: Vec<Expr> = conditions
            .into_iter()
            .filter(|condition| *condition != Expr::Boolean(true))
            .collect();
        match conditions.len() {
            0 => Expr::Boolean(true),
            1 => conditions.remove(0),
            _ => Expr::And(conditions),
        }
    }
}

/// An entry of a FROM list.
#[derive(Clone, Debug, PartialEq)]
pub enum From {
    /// A table under an alias.
    Table {
        name: Name,
        alias: String,
        only: bool,
    },
    /// A common table expression under an alias.
    Cte { name: String, alias: String },
    /// A parenthesised query under an alias.
    Select {
        query: Box<Query>,
        alias: String,
        lateral: bool,
    },
    /// `(left INTERSECT right) AS alias`, or another set operation.
    SetOperation {
        left: Box<Query>,
        operator: &'static str,
        right: Box<Query>,
        alias: String,
    },
    /// A call of a set-returning function with one column.
    Function {
        function: Name,
        arguments: Vec<Expr>,
        alias: String,
        column: String,
    },
    /// `LATERAL item AS alias(columns)`: a FROM item known as text.
    Item {
        item: Expr,
        alias: String,
        columns: Vec<String>,
    },
    /// `left <kind> JOIN right ON condition`
    Join {
        left: Box<From>,
        kind: JoinKind,
        right: Box<From>,
        on: Expr,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Full,
}

/// A SELECT without set operations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Select {
    /// DISTINCT ON.
    pub distinct_on: Vec<Expr>,
    pub items: Vec<(Expr, String)>,
    pub from: Vec<From>,
    pub conditions: Vec<Expr>,
    pub group_by: Vec<Expr>,
    pub having: Option<Expr>,
    /// Values with their `USING OPERATOR(..) NULLS ..`.
    pub order_by: Vec<Expr>,
    /// OFFSET and LIMIT or FETCH FIRST as text.
    pub rows: Option<Expr>,
    pub limit: Option<u64>,
    /// `OFFSET 0`: keeps the planner from pulling the query up.
    pub fence: bool,
}

/// A SELECT, or several under UNION ALL, with common table expressions of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    pub with: Vec<Cte>,
    pub branches: Vec<Select>,
}

impl std::convert::From<Select> for Query {
    fn from(select: Select) -> Self {
        Query {
            with: vec![],
            branches: vec![select],
        }
    }
}

/// A data-modifying or plain common table expression.
#[derive(Clone, Debug, PartialEq)]
pub enum CteBody {
    Query(Query),
    /// `first UNION step`, or UNION ALL, where the step reads the expression itself.
    Recursive {
        first: Box<Select>,
        step: Box<Select>,
        all: bool,
    },
    Insert {
        table: Name,
        columns: Vec<String>,
        query: Query,
        returning: Vec<(Expr, String)>,
    },
    /// DELETE of the rows whose ctid is in the array `tids`.
    DeleteByTid {
        table: Name,
        alias: String,
        tids: Expr,
        returning: Vec<(Expr, String)>,
    },
    Merge(Box<Merge>),
}

/// Columns and the values they get.
pub type Assignments = Vec<(String, Expr)>;

/// What a MERGE does to a row that has a partner.
#[derive(Clone, Debug, PartialEq)]
pub enum Matched {
    Delete,
    Update(Assignments),
    Nothing,
}

/// A MERGE into `table AS alias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    pub table: Name,
    pub alias: String,
    pub using: From,
    pub on: Expr,
    /// Condition (besides matching) and what happens to the row; the first that holds.
    pub matched: Vec<(Option<Expr>, Matched)>,
    /// Condition and values for rows that come.
    pub not_matched: Option<(Option<Expr>, Assignments)>,
    /// Rows of the table without a partner are deleted.
    pub delete_unmatched: bool,
    pub returning: Vec<(Expr, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cte {
    pub name: String,
    pub materialized: bool,
    pub body: CteBody,
}

/// A whole statement: CTEs and the final query (or INSERT).
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub ctes: Vec<Cte>,
    pub body: CteBody,
}
