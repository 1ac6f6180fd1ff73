//! Grouped queries, aggregates, and window functions.

use super::expression::{self, Expr, Form, Scope};
use super::queries::{Queries, scope};
use super::query::{Grouping, Query, Sets};
use super::schema::Type;

/// Template, argument, result.
type Function = (&'static str, &'static [Type], Type);

use Type::{BigInt, Bool, Date, Float, Int, Json, Numeric, Text, Timestamp};

const AGGREGATES: &[Function] = &[
    ("count(*)", &[], BigInt),
    ("count(*)", &[], BigInt),
    ("count(*)", &[], BigInt),
    ("count({0})", &[Int], BigInt),
    ("count({0})", &[Text], BigInt),
    ("sum({0})", &[Int], BigInt),
    ("sum({0})", &[Int], BigInt),
    ("sum({0})", &[BigInt], Numeric),
    ("sum({0})", &[Numeric], Numeric),
    ("sum({0})", &[Float], Float),
    ("avg({0})", &[Int], Numeric),
    ("avg({0})", &[BigInt], Numeric),
    ("avg({0})", &[Numeric], Numeric),
    ("avg({0})", &[Float], Float),
    ("min({0})", &[Int], Int),
    ("max({0})", &[Int], Int),
    ("min({0})", &[Text], Text),
    ("max({0})", &[Text], Text),
    ("max({0})", &[Numeric], Numeric),
    ("min({0})", &[Date], Date),
    ("max({0})", &[Timestamp], Timestamp),
    ("min({0})", &[Float], Float),
    ("count(distinct {0})", &[Numeric], BigInt),
    ("count(distinct {0})", &[Int], BigInt),
    ("sum(distinct {0})", &[Int], BigInt),
    ("bool_and({0})", &[Bool], Bool),
    ("bool_or({0})", &[Bool], Bool),
    ("bit_or({0})", &[Int], Int),
    ("variance({0})", &[Int], Numeric),
    ("string_agg({0}, ',' order by {0})", &[Text], Text),
    ("string_agg(distinct {0}, ',')", &[Text], Text),
    ("jsonb_agg({0} order by {0} desc)", &[Int], Json),
    (
        "percentile_disc(0.5) within group (order by {0})",
        &[Int],
        Int,
    ),
    ("mode() within group (order by {0})", &[Text], Text),
];

/// Window functions whose value is the same for rows that ORDER BY does not tell apart.
const OF_PEERS: &[Function] = &[
    ("rank()", &[], BigInt),
    ("dense_rank()", &[], BigInt),
    ("percent_rank()", &[], Float),
    ("cume_dist()", &[], Float),
    ("count(*)", &[], BigInt),
    ("count({0})", &[Int], BigInt),
    ("sum({0})", &[Int], BigInt),
    ("sum({0})", &[Numeric], Numeric),
    ("avg({0})", &[Int], Numeric),
    ("min({0})", &[Int], Int),
    ("max({0})", &[Text], Text),
    ("max({0})", &[Numeric], Numeric),
    ("min({0})", &[Date], Date),
    ("max({0})", &[Timestamp], Timestamp),
    ("bool_or({0})", &[Bool], Bool),
];

/// Those that need an order without ties.
const OF_ROWS: &[Function] = &[
    ("row_number()", &[], BigInt),
    ("row_number()", &[], BigInt),
    ("ntile(3)", &[], Int),
    ("lag({0})", &[Int], Int),
    ("lag({0}, 2, {1})", &[Text, Text], Text),
    ("lead({0})", &[Date], Date),
    ("lead({0}, 1, {1})", &[Numeric, Numeric], Numeric),
    ("first_value({0})", &[Int], Int),
    ("last_value({0})", &[Text], Text),
    ("nth_value({0}, 2)", &[Int], Int),
    ("string_agg({0}, ',')", &[Text], Text),
];

const FRAMES_OF_PEERS: &[&str] = &[
    "",
    "",
    "",
    "range between unbounded preceding and unbounded following",
    "range between current row and unbounded following",
    "range between unbounded preceding and current row exclude ties",
    "groups between 1 preceding and 1 following",
    "groups between current row and 2 following exclude current row",
    "groups between unbounded preceding and current row exclude group",
];

const FRAMES_OF_ROWS: &[&str] = &[
    "",
    "rows between unbounded preceding and current row",
    "rows between 1 preceding and 1 following",
    "rows 2 preceding",
    "rows between 1 following and 2 following",
    "rows between unbounded preceding and unbounded following exclude current row",
];

impl Queries<'_> {
    pub(super) fn grouped(&mut self, query: Query) -> Query {
        let mut select = self.over(query);
        let rows = scope(&select);
        let count = self.rng.usize(..4);
        let keys = self.keys(&rows, count);
        let mut outside: Scope = keys.iter().filter(|e| e.is_column()).cloned().collect();
        let mut values: Scope = keys.clone();
        for _ in 0..self.rng.usize(1..5) {
            values.push(self.aggregate(&rows));
        }
        // An aggregate of columns of this level is one of this level in its sub-selects too.
        let of_columns = |e: &&Expr| {
            matches!(e.form, Form::Aggregate { .. }) && e.parts().iter().any(|e| e.is_column())
        };
        if self.rng.bool() {
            outside.extend(values.iter().filter(of_columns).cloned());
        }
        let sets = self.sets(keys.len());
        let mut key = keys.clone();
        if sets != Sets::One {
            let template = ["", "grouping({0})", "grouping({0}, {1})"][keys.len().min(2)];
            let grouping = Expr::call(Int, template, keys.clone());
            values.push(grouping.clone());
            key.push(grouping);
            key.push(values[keys.len()].clone());
        }
        if self.rng.u8(..8) == 0 {
            // Two grouping sets of the same columns give rows that only their other values tell apart.
            let unique = match sets {
                Sets::One => key,
                _ => values.clone(),
            };
            self.loose = true;
            let windows = self.windows(&values, &unique);
            values.extend(windows);
        }
        for value in &values {
            match self.rng.u8(..8) {
                // A key that groups but is not shown.
                0 if values.len() > 1 => {}
                1 => {
                    let ty = self.some_type(&values);
                    let loose = std::mem::replace(&mut self.loose, true);
                    let value = self.value_beside(ty, &values, &outside, 2);
                    self.loose |= loose;
                    select.output.push(value);
                }
                _ => select.output.push(value.clone()),
            }
        }
        if select.output.is_empty() {
            select.output.push(values[values.len() - 1].clone());
        }
        if self.rng.u8(..4) == 0 {
            self.loose = true;
            let plain: Scope = values.iter().filter(|e| !e.has_window()).cloned().collect();
            select.having = Some(self.value_beside(Bool, &plain, &outside, 2));
        }
        select.group_by = Some(Grouping { keys, sets });
        Query::Select(Box::new(select))
    }

    fn sets(&mut self, keys: usize) -> Sets {
        if keys == 0 || self.rng.u8(..5) > 0 {
            return Sets::One;
        }
        let kind = ["rollup", "cube"][self.rng.usize(..2)];
        match self.rng.u8(..3) {
            0 => Sets::All(kind),
            1 if keys > 1 => Sets::Rest(kind),
            _ => {
                let mut sets: Vec<Vec<usize>> = vec![(0..keys).collect()];
                for _ in 0..self.rng.usize(1..4) {
                    sets.push((0..keys).filter(|_| self.rng.bool()).collect());
                }
                Sets::Listed(sets)
            }
        }
    }

    /// A random aggregate over the scope of one row.
    pub(super) fn aggregate(&mut self, rows: &Scope) -> Expr {
        let mut choice = &AGGREGATES[0];
        for _ in 0..4 {
            choice = &AGGREGATES[self.rng.usize(..AGGREGATES.len())];
            if choice.1.iter().all(|ty| rows.iter().any(|e| e.ty == *ty)) {
                break;
            }
        }
        let (template, types, ty) = *choice;
        let mut arguments = Vec::new();
        for ty in types {
            let depth = self.rng.usize(..3);
            arguments.push(self.value(*ty, rows, depth));
        }
        let filter = match self.rng.u8(..4) {
            0 => Some(Box::new(self.value(Bool, rows, 2))),
            _ => None,
        };
        Expr {
            ty,
            form: Form::Aggregate {
                template,
                arguments,
                filter,
            },
        }
    }

    /// Window functions over rows that `key` tells apart.
    pub(super) fn windows(&mut self, rows: &Scope, key: &[Expr]) -> Vec<Expr> {
        let mut windows = Vec::new();
        let shared = self.partition(rows);
        for _ in 0..self.rng.usize(1..4) {
            let partition = if self.rng.bool() {
                shared.clone()
            } else {
                self.partition(rows)
            };
            windows.push(self.window(rows, key, partition));
        }
        windows
    }

    fn partition(&mut self, rows: &Scope) -> Vec<Expr> {
        (0..[0, 1, 1, 2][self.rng.usize(..4)])
            .map(|_| rows[self.rng.usize(..rows.len())].clone())
            .collect()
    }

    fn window(&mut self, rows: &Scope, key: &[Expr], partition: Vec<Expr>) -> Expr {
        let of_rows = self.rng.u8(..5) < 2;
        let mut order: Vec<Expr> = (0..self.rng.usize(..3))
            .map(|_| rows[self.rng.usize(..rows.len())].clone())
            .collect();
        let functions = if of_rows && self.rng.u8(..3) > 0 {
            OF_ROWS
        } else {
            OF_PEERS
        };
        let mut frame = if of_rows {
            if self.completes(&order) {
                order.extend(key.iter().cloned());
            }
            FRAMES_OF_ROWS[self.rng.usize(..FRAMES_OF_ROWS.len())]
        } else {
            FRAMES_OF_PEERS[self.rng.usize(..FRAMES_OF_PEERS.len())]
        };
        if let [one] = &order[..]
            && self.rng.u8(..3) == 0
            && !of_rows
        {
            frame = match one.ty {
                Int | BigInt | Numeric => "range between 2 preceding and 1 following",
                Date | Timestamp => {
                    "range between interval '1 day' preceding and interval '2 hours' following"
                }
                _ => frame,
            };
        }
        if order.is_empty() && frame.starts_with("groups") {
            frame = "";
        }
        let (template, types, ty) = functions[self.rng.usize(..functions.len())];
        let arguments = types
            .iter()
            .map(|ty| expression::random(*ty, rows, 1, true, self.rng))
            .collect();
        // PostgreSQL allows no aggregates there, nor grouping().
        let plain: Scope = rows.iter().filter(|e| e.is_column()).cloned().collect();
        let filter = (template.starts_with("count") || template.starts_with("sum"))
            .then(|| expression::random(Bool, &plain, 1, true, self.rng))
            .filter(|_| self.rng.u8(..3) == 0);
        let window = Expr {
            ty,
            form: Form::Window {
                template,
                arguments,
                filter: filter.map(Box::new),
                partition,
                order: self.directed(order),
                frame,
            },
        };
        // Sums of quotients depend on the order of the rows, but for those of rounded ones.
        match ty {
            Float => Expr::call(Numeric, "round(({0})::numeric, 6)", vec![window]),
            _ => window,
        }
    }
}
