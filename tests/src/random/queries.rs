//! Random queries of a grammar.

use super::case::Grammar;
use super::expression::{self, Expr, Form, Scope};
use super::query::{Input, Join, Query, Relation, Select};
use super::schema::Type;
use fastrand::Rng;

/// Most base tables and stream tables that one query reads, those behind views counted.
const MAX_INPUTS: usize = 7;

/// Something that queries can read.
pub struct Source {
    pub name: String,
    pub columns: Vec<(String, Type)>,
    /// Tables behind it: more than one for a view.
    pub inputs: usize,
}

/// Makes queries over relations that exist already.
pub struct Queries<'a> {
    pub grammar: &'a Grammar,
    pub relations: &'a [Source],
    pub rng: &'a mut Rng,
    pub aliases: usize,
}

impl Queries<'_> {
    /// A query that could define a stream table, of a size that a person would write.
    pub fn top(&mut self) -> Query {
        loop {
            let query = self.any();
            if self.inputs(&query) <= MAX_INPUTS {
                return query;
            }
        }
    }

    /// Tables that the query reads, with repetitions.
    pub fn inputs(&self, query: &Query) -> usize {
        let inputs = |name: &String| {
            self.relations
                .iter()
                .find(|r| r.name == *name)
                .map_or(1, |r| r.inputs)
        };
        query.reads().iter().map(inputs).sum()
    }

    fn any(&mut self) -> Query {
        let mut query = match self.rng.u8(..10) {
            0 | 1 => self.union_all(2),
            _ => Query::Select(Box::new(self.bag(2, None))),
        };
        if self.grammar.set_operations && self.rng.u8(..8) == 0 {
            const OPERATORS: [&str; 5] = [
                "union",
                "intersect",
                "except",
                "intersect all",
                "except all",
            ];
            if let Query::Set(_, arms) = self.union_all(2) {
                let operator = OPERATORS[self.rng.usize(..OPERATORS.len())];
                return Query::Set(operator, arms.into_iter().take(2).collect());
            }
        }
        // At most one operator with state, at the root.
        match self.rng.u8(..10) {
            0..=2 => return query,
            3 => query = self.distinct(query),
            _ => query = self.grouped(query),
        }
        query
    }

    /// A plain select over one to five inputs, with the output types asked for.
    fn bag(&mut self, depth: usize, types: Option<&[Type]>) -> Select {
        let mut select = self.joined(depth);
        let scope = scope(&select);
        let windows = self.grammar.windows && types.is_none() && self.rng.u8(..6) == 0;
        let types = match types {
            Some(types) => types.to_vec(),
            None => (0..self.rng.usize(1..6))
                .map(|_| self.some_type(&scope))
                .collect(),
        };
        for ty in types {
            let depth = self.rng.usize(..4);
            select
                .output
                .push(expression::random(ty, &scope, depth, false, self.rng));
        }
        if windows {
            const WINDOWS: [&str; 3] = [
                "rank() over (partition by {0} order by {1})",
                "count(*) over (partition by {0})",
                "count({1}) over (order by {0})",
            ];
            let template = WINDOWS[self.rng.usize(..WINDOWS.len())];
            let mut column = || scope[self.rng.usize(..scope.len())].clone();
            select
                .output
                .push(Expr::call(Type::BigInt, template, vec![column(), column()]));
        }
        select
    }

    fn joined(&mut self, depth: usize) -> Select {
        let inputs = match self.rng.u8(..20) {
            0..=6 => 1,
            7..=13 => 2,
            14..=16 => 3,
            17 | 18 => 4,
            _ => 5,
        };
        let commas = self.rng.u8(..4) == 0;
        let mut select = Select::default();
        for i in 0..inputs {
            let relation = self.relation(depth);
            self.aliases += 1;
            let mut input = Input {
                relation,
                alias: format!("t{}", self.aliases),
                join: Join::Comma,
            };
            if i > 0 {
                let condition = self.join_condition(&scope(&select), &input.scope());
                // A condition in ON sees nothing across a comma, so one select has either commas or joins.
                match condition {
                    None if inputs > 2 => break,
                    None if commas => {}
                    None => input.join = Join::Cross,
                    Some(condition) if commas => select.filter.push(condition),
                    Some(condition) => input.join = self.join(condition),
                }
            }
            select.from.push(input);
        }
        let scope = scope(&select);
        for _ in 0..self.rng.usize(..3) {
            let depth = self.rng.usize(1..4);
            select.filter.push(expression::random(
                Type::Bool,
                &scope,
                depth,
                false,
                self.rng,
            ));
        }
        if self.grammar.subqueries && self.rng.u8(..4) == 0 {
            let condition = self.subquery(&scope);
            select.filter.push(condition);
        }
        select
    }

    fn join(&mut self, condition: Expr) -> Join {
        if !self.grammar.outer_joins || self.rng.bool() {
            return Join::Inner(condition);
        }
        match self.rng.u8(..4) {
            // PostgreSQL has FULL JOIN only for conditions it can hash or merge.
            0 => match condition.form {
                Form::Call("({0} = {1})", _) => Join::Outer("full", condition),
                _ => Join::Outer("left", condition),
            },
            1 => Join::Outer("right", condition),
            _ => Join::Outer("left", condition),
        }
    }

    /// `[not] exists` or `[not] in` over one relation.
    fn subquery(&mut self, outside: &Scope) -> Expr {
        let relation = self.relation(0);
        self.aliases += 1;
        let input = Input {
            relation,
            alias: format!("t{}", self.aliases),
            join: Join::Comma,
        };
        let inside = input.scope();
        let mut select = Select {
            from: vec![input],
            ..Select::default()
        };
        let both: Scope = outside.iter().chain(&inside).cloned().collect();
        if self.rng.u8(..3) == 0 {
            select
                .filter
                .push(expression::random(Type::Bool, &both, 2, false, self.rng));
        }
        let negated = self.rng.bool();
        let values: Vec<&Expr> = inside
            .iter()
            .filter(|i| outside.iter().any(|o| o.ty == i.ty))
            .collect();
        let form = if values.is_empty() || self.rng.u8(..3) > 0 {
            select.filter.extend(self.join_condition(outside, &inside));
            select.output.push(Expr::literal(Type::Int, self.rng));
            Form::Exists {
                negated,
                query: Box::new(Query::Select(Box::new(select))),
            }
        } else {
            let inner = values[self.rng.usize(..values.len())].clone();
            let outer: Vec<&Expr> = outside.iter().filter(|o| o.ty == inner.ty).collect();
            let value = Box::new(outer[self.rng.usize(..outer.len())].clone());
            select.output.push(inner);
            Form::In {
                negated,
                value,
                query: Box::new(Query::Select(Box::new(select))),
            }
        };
        Expr {
            ty: Type::Bool,
            form,
        }
    }

    fn relation(&mut self, depth: usize) -> Relation {
        let nested = depth > 0 && self.rng.u8(..5) == 0;
        if !nested {
            let source = &self.relations[self.rng.usize(..self.relations.len())];
            return Relation::Named {
                name: source.name.clone(),
                columns: source.columns.clone(),
            };
        }
        let query = if self.rng.u8(..4) == 0 {
            self.union_all(depth - 1)
        } else {
            Query::Select(Box::new(self.bag(depth - 1, None)))
        };
        if self.rng.bool() {
            self.aliases += 1;
            Relation::Common(format!("w{}", self.aliases), query)
        } else {
            Relation::Derived(query)
        }
    }

    /// Equality of two columns, perhaps with something more.
    fn join_condition(&mut self, left: &Scope, right: &Scope) -> Option<Expr> {
        if self.rng.u8(..12) == 0 {
            return None;
        }
        let pairs: Vec<(&Expr, &Expr)> = left
            .iter()
            .flat_map(|l| right.iter().map(move |r| (l, r)))
            .filter(|(l, r)| joinable(l.ty, r.ty))
            .collect();
        if pairs.is_empty() {
            return None;
        }
        let (l, r) = pairs[self.rng.usize(..pairs.len())];
        let equal = Expr::call(Type::Bool, "({0} = {1})", vec![l.clone(), r.clone()]);
        if self.rng.u8(..5) > 0 {
            return Some(equal);
        }
        let both: Scope = left.iter().chain(right).cloned().collect();
        let more = expression::random(Type::Bool, &both, 2, false, self.rng);
        Some(Expr::call(Type::Bool, "({0} and {1})", vec![equal, more]))
    }

    fn union_all(&mut self, depth: usize) -> Query {
        let depth = depth.saturating_sub(1);
        let first = self.bag(depth, None);
        let types: Vec<Type> = first.output.iter().map(|e| e.ty).collect();
        let mut arms = vec![Query::Select(Box::new(first))];
        for _ in 0..self.rng.usize(1..3) {
            arms.push(Query::Select(Box::new(self.bag(depth, Some(&types)))));
        }
        Query::Set("union all", arms)
    }

    /// The query's inputs as those of a new select: in place where it is a select, else as a sub-select.
    fn over(&mut self, query: Query) -> Select {
        match query {
            Query::Select(mut select) => {
                select.output.clear();
                *select
            }
            query @ Query::Set(..) => {
                self.aliases += 1;
                let input = Input {
                    relation: Relation::Derived(query),
                    alias: format!("t{}", self.aliases),
                    join: Join::Comma,
                };
                Select {
                    from: vec![input],
                    ..Select::default()
                }
            }
        }
    }

    fn distinct(&mut self, query: Query) -> Query {
        if !self.grammar.distinct {
            return query;
        }
        let mut select = self.over(query);
        let scope = scope(&select);
        for _ in 0..self.rng.usize(1..4) {
            let ty = self.some_type(&scope);
            let depth = self.rng.usize(..2);
            select
                .output
                .push(expression::random(ty, &scope, depth, false, self.rng));
        }
        select.distinct = true;
        Query::Select(Box::new(select))
    }

    fn grouped(&mut self, query: Query) -> Query {
        if !self.grammar.aggregates {
            return query;
        }
        let mut select = self.over(query);
        let rows = scope(&select);
        let mut keys = Vec::new();
        for _ in 0..self.rng.usize(..4) {
            let ty = self.some_type(&rows);
            let depth = self.rng.usize(..2);
            let key = expression::random(ty, &rows, depth, false, self.rng);
            // A constant would be taken for a position.
            if key.has_column() && !keys.contains(&key) {
                keys.push(key);
            }
        }
        let mut values: Scope = keys.clone();
        for _ in 0..self.rng.usize(1..5) {
            values.push(expression::aggregate(&rows, self.rng));
        }
        for value in &values {
            match self.rng.u8(..8) {
                // A key that groups but is not shown.
                0 if values.len() > 1 => {}
                1 => {
                    let ty = self.some_type(&values);
                    select
                        .output
                        .push(expression::random(ty, &values, 2, true, self.rng));
                }
                _ => select.output.push(value.clone()),
            }
        }
        if select.output.is_empty() {
            select.output.push(values[values.len() - 1].clone());
        }
        if self.rng.u8(..4) == 0 {
            select.having = Some(expression::random(Type::Bool, &values, 2, true, self.rng));
        }
        select.group_by = Some(keys);
        Query::Select(Box::new(select))
    }

    fn some_type(&mut self, scope: &Scope) -> Type {
        if scope.is_empty() || self.rng.u8(..3) == 0 {
            Type::ALL[self.rng.usize(..Type::ALL.len())]
        } else {
            scope[self.rng.usize(..scope.len())].ty
        }
    }
}

fn scope(select: &Select) -> Scope {
    select.from.iter().flat_map(Input::scope).collect()
}

fn joinable(l: Type, r: Type) -> bool {
    let number = |t| matches!(t, Type::Int | Type::BigInt);
    (number(l) && number(r)) || (l == r && l != Type::Bool)
}
