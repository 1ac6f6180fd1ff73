//! The writer: SQL trees to text.

use std::fmt::{self, Display, Formatter, Write};

use super::ast::{
    Cte, CteBody, Expr, From, JoinKind, Matched, Merge, Name, Query, Select, Statement, TextPiece,
};

/// An identifier in double quotes.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An identifier as it may stand in `OPERATOR(schema.op)`: quoted only if it has to be.
pub fn plain_identifier(name: &str) -> String {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
        && name
            .bytes()
            .next()
            .is_some_and(|byte| !byte.is_ascii_digit());
    if plain {
        name.to_owned()
    } else {
        quote_identifier(name)
    }
}

/// A string literal, safe under any setting of `standard_conforming_strings`.
pub fn quote_literal(value: &str) -> String {
    if value.contains('\\') {
        format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", value.replace('\'', "''"))
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }
}

fn list<T: Display>(
    f: &mut Formatter<'_>,
    items: impl IntoIterator<Item = T>,
    separator: &str,
) -> fmt::Result {
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Column(table, column) if table.is_empty() => {
                f.write_str(&quote_identifier(column))
            }
            Expr::Column(table, column) => write!(
                f,
                "{}.{}",
                quote_identifier(table),
                quote_identifier(column)
            ),
            Expr::Param(number) => write!(f, "${number}"),
            Expr::Integer(value) => write!(f, "{value}"),
            Expr::Boolean(value) => write!(f, "{value}"),
            Expr::Null => f.write_str("NULL"),
            Expr::Literal(value) => f.write_str(&quote_literal(value)),
            Expr::Pieces(pieces) => {
                for piece in pieces {
                    match piece {
                        TextPiece::Text(text) => f.write_str(text)?,
                        TextPiece::Expr(expr @ (Expr::Column(..) | Expr::Param(_))) => {
                            write!(f, "{expr}")?
                        }
                        TextPiece::Expr(expr) => write!(f, "({expr})")?,
                    }
                }
                Ok(())
            }
            Expr::Call(function, arguments) => {
                write!(f, "{function}(")?;
                list(f, arguments, ", ")?;
                f.write_char(')')
            }
            Expr::Aggregate {
                function,
                arguments,
                filter,
            } => {
                write!(f, "{function}(")?;
                list(f, arguments, ", ")?;
                f.write_char(')')?;
                write_filter(f, filter.as_deref())
            }
            Expr::CountStar(filter) => {
                f.write_str("pg_catalog.count(*)")?;
                write_filter(f, filter.as_deref())
            }
            Expr::Window(function, partition) => {
                write!(f, "{function}() OVER (")?;
                if !partition.is_empty() {
                    f.write_str("PARTITION BY ")?;
                    list(f, partition, ", ")?;
                }
                f.write_char(')')
            }
            Expr::Operator(left, operator, right) => {
                write!(f, "({left} OPERATOR({operator}) {right})")
            }
            Expr::Infix(left, operator, right) => write!(f, "({left} {operator} {right})"),
            Expr::Negate(value) => write!(f, "(- {value})"),
            Expr::And(conditions) => {
                f.write_char('(')?;
                list(f, conditions, " AND ")?;
                f.write_char(')')
            }
            Expr::Or(conditions) => {
                f.write_char('(')?;
                list(f, conditions, " OR ")?;
                f.write_char(')')
            }
            Expr::Not(condition) => write!(f, "(NOT {condition})"),
            // `IS NULL` looks into rows: a row of nulls is not the null value.
            Expr::IsNull(value) => write!(f, "({value} IS NOT DISTINCT FROM NULL)"),
            Expr::IsNotNull(value) => write!(f, "({value} IS DISTINCT FROM NULL)"),
            Expr::IsNotDistinct(left, right) => write!(f, "({left} IS NOT DISTINCT FROM {right})"),
            Expr::Case(branches, otherwise) => {
                f.write_str("CASE")?;
                for (condition, value) in branches {
                    write!(f, " WHEN {condition} THEN {value}")?;
                }
                write!(f, " ELSE {otherwise} END")
            }
            Expr::Coalesce(values) => {
                f.write_str("COALESCE(")?;
                list(f, values, ", ")?;
                f.write_char(')')
            }
            Expr::Cast(value, ty) => write!(f, "({value})::{ty}"),
            Expr::Collate(value, collation) => write!(f, "({value} COLLATE {collation})"),
            Expr::Row(values) => {
                f.write_str("ROW(")?;
                list(f, values, ", ")?;
                f.write_char(')')
            }
            Expr::Scalar(query) => write!(f, "({query})"),
            Expr::Array(query) => write!(f, "ARRAY({query})"),
            Expr::Exists(query) => write!(f, "EXISTS ({query})"),
            Expr::EqualAny(value, array) => write!(f, "({value} = ANY ({array}))"),
            Expr::Element(array, position) => write!(f, "({array})[{position}]"),
            Expr::MergeAction => f.write_str("merge_action()"),
        }
    }
}

fn write_filter(f: &mut Formatter<'_>, filter: Option<&Expr>) -> fmt::Result {
    match filter {
        Some(condition) => write!(f, " FILTER (WHERE {condition})"),
        None => Ok(()),
    }
}

impl Display for From {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            From::Table { name, alias, only } => {
                let only = if *only { "ONLY " } else { "" };
                write!(f, "{only}{name} AS {}", quote_identifier(alias))
            }
            From::Cte { name, alias } => write!(
                f,
                "{} AS {}",
                quote_identifier(name),
                quote_identifier(alias)
            ),
            From::Select {
                query,
                alias,
                lateral,
            } => {
                let lateral = if *lateral { "LATERAL " } else { "" };
                write!(f, "{lateral}({query}) AS {}", quote_identifier(alias))
            }
            From::SetOperation {
                left,
                operator,
                right,
                alias,
            } => {
                write!(
                    f,
                    "(({left}) {operator} ({right})) AS {}",
                    quote_identifier(alias)
                )
            }
            From::Function {
                function,
                arguments,
                alias,
                column,
            } => {
                write!(f, "{function}(")?;
                list(f, arguments, ", ")?;
                write!(
                    f,
                    ") AS {}({})",
                    quote_identifier(alias),
                    quote_identifier(column)
                )
            }
            From::Item {
                item,
                alias,
                columns,
            } => {
                write!(f, "LATERAL {item} AS {}(", quote_identifier(alias))?;
                list(f, columns.iter().map(|name| quote_identifier(name)), ", ")?;
                f.write_char(')')
            }
            From::Join {
                left,
                kind,
                right,
                on,
            } => {
                let kind = match kind {
                    JoinKind::Inner => "JOIN",
                    JoinKind::Left => "LEFT JOIN",
                    JoinKind::Full => "FULL JOIN",
                };
                match **right {
                    From::Join { .. } => write!(f, "{left} {kind} ({right}) ON {on}"),
                    _ => write!(f, "{left} {kind} {right} ON {on}"),
                }
            }
        }
    }
}

struct Item<'a>(&'a (Expr, String));

impl Display for Item<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (expr, name) = self.0;
        match expr {
            Expr::Column(_, column) if column == name => write!(f, "{expr}"),
            _ => write!(f, "{expr} AS {}", quote_identifier(name)),
        }
    }
}

impl Display for Select {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT ")?;
        if !self.distinct_on.is_empty() {
            f.write_str("DISTINCT ON (")?;
            list(f, &self.distinct_on, ", ")?;
            f.write_str(") ")?;
        }
        list(f, self.items.iter().map(Item), ", ")?;
        if !self.from.is_empty() {
            f.write_str(" FROM ")?;
            list(f, &self.from, ", ")?;
        }
        if !self.conditions.is_empty() {
            f.write_str(" WHERE ")?;
            list(f, &self.conditions, " AND ")?;
        }
        if !self.group_by.is_empty() {
            f.write_str(" GROUP BY ")?;
            list(f, &self.group_by, ", ")?;
        }
        if let Some(having) = &self.having {
            write!(f, " HAVING {having}")?;
        }
        if !self.order_by.is_empty() {
            f.write_str(" ORDER BY ")?;
            list(f, &self.order_by, ", ")?;
        }
        if let Some(rows) = &self.rows {
            write!(f, "{rows}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, " LIMIT {limit}")?;
        }
        if self.fence {
            f.write_str(" OFFSET 0")?;
        }
        Ok(())
    }
}

impl Select {
    /// It ends in a clause that SQL allows behind a union only.
    fn has_tail(&self) -> bool {
        !self.order_by.is_empty() || self.rows.is_some() || self.limit.is_some() || self.fence
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (position, cte) in self.with.iter().enumerate() {
            f.write_str(if position == 0 { "WITH " } else { ", " })?;
            let materialized = if cte.materialized {
                " MATERIALIZED"
            } else {
                ""
            };
            write!(
                f,
                "{} AS{materialized} ({})",
                quote_identifier(&cte.name),
                cte.body
            )?;
        }
        if !self.with.is_empty() {
            f.write_char(' ')?;
        }
        if let [only] = self.branches.as_slice() {
            return write!(f, "{only}");
        }
        for (position, branch) in self.branches.iter().enumerate() {
            if position > 0 {
                f.write_str("\n    UNION ALL ")?;
            }
            // What stands behind the last branch would otherwise be that of the union.
            if branch.has_tail() {
                write!(f, "({branch})")?
            } else {
                write!(f, "{branch}")?
            }
        }
        Ok(())
    }
}

fn returning(f: &mut Formatter<'_>, items: &[(Expr, String)]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    f.write_str(" RETURNING ")?;
    list(f, items.iter().map(Item), ", ")
}

impl Display for CteBody {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            CteBody::Query(query) => write!(f, "{query}"),
            CteBody::Recursive { first, step, all } => {
                let all = if *all { " ALL" } else { "" };
                write!(f, "{first}\n    UNION{all} {step}")
            }
            CteBody::Insert {
                table,
                columns,
                query,
                returning: items,
            } => {
                write!(f, "INSERT INTO {table}")?;
                if !columns.is_empty() {
                    f.write_str(" (")?;
                    list(
                        f,
                        columns.iter().map(|column| quote_identifier(column)),
                        ", ",
                    )?;
                    f.write_char(')')?;
                }
                write!(f, " {query}")?;
                returning(f, items)
            }
            CteBody::DeleteByTid {
                table,
                alias,
                tids,
                returning: items,
            } => {
                let alias = quote_identifier(alias);
                write!(
                    f,
                    "DELETE FROM {table} AS {alias} WHERE {alias}.ctid = ANY ({tids})"
                )?;
                returning(f, items)
            }
            CteBody::Merge(merge) => write!(f, "{merge}"),
        }
    }
}

impl Display for Merge {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MERGE INTO {} AS {} USING {} ON {}",
            self.table,
            quote_identifier(&self.alias),
            self.using,
            self.on
        )?;
        for (condition, action) in &self.matched {
            f.write_str("\n    WHEN MATCHED")?;
            if let Some(condition) = condition {
                write!(f, " AND {condition}")?;
            }
            match action {
                Matched::Delete => f.write_str(" THEN DELETE")?,
                Matched::Nothing => f.write_str(" THEN DO NOTHING")?,
                Matched::Update(assignments) => {
                    f.write_str(" THEN UPDATE SET ")?;
                    list(
                        f,
                        assignments.iter().map(|(column, value)| {
                            format!("{} = {value}", quote_identifier(column))
                        }),
                        ", ",
                    )?;
                }
            }
        }
        if self.delete_unmatched {
            f.write_str("\n    WHEN NOT MATCHED BY SOURCE THEN DELETE")?;
        }
        if let Some((condition, values)) = &self.not_matched {
            f.write_str("\n    WHEN NOT MATCHED")?;
            if let Some(condition) = condition {
                write!(f, " AND {condition}")?;
            }
            f.write_str(" THEN INSERT (")?;
            list(
                f,
                values.iter().map(|(column, _)| quote_identifier(column)),
                ", ",
            )?;
            f.write_str(") VALUES (")?;
            list(f, values.iter().map(|(_, value)| value), ", ")?;
            f.write_char(')')?;
        }
        returning(f, &self.returning)
    }
}

impl Display for Cte {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let materialized = if self.materialized {
            " MATERIALIZED"
        } else {
            ""
        };
        write!(
            f,
            "{} AS{materialized} (\n    {})",
            quote_identifier(&self.name),
            self.body
        )
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.ctes.is_empty() {
            let recursive = |cte: &Cte| matches!(cte.body, CteBody::Recursive { .. });
            f.write_str(if self.ctes.iter().any(recursive) {
                "WITH RECURSIVE "
            } else {
                "WITH "
            })?;
            list(f, &self.ctes, ",\n")?;
            f.write_char('\n')?;
        }
        write!(f, "{}", self.body)
    }
}
