//! Random queries: selects over joined inputs, and what is made of them. Rows are always determined by the query
//! itself: what depends on an order has one that ends in the key of the row.

use super::expression::{self, Expr, Form, Key, Scope};
use super::query::{Distinct, Input, Limit, Query, Relation, Select};
use super::schema::Type;
use fastrand::Rng;

/// Most base tables and stream tables that one query reads, those behind views counted.
const MAX_INPUTS: usize = 7;

/// Something that queries can read.
pub struct Source {
    pub name: String,
    pub columns: Vec<(String, Type)>,
    /// Columns whose values together no two rows share and that are never NULL; empty if there are none.
    pub key: Vec<String>,
    /// It is a table, and so has few rows.
    pub base: bool,
    /// Its values are only defined up to `=`.
    pub loose: bool,
    /// Tables behind it: more than one for a view.
    pub inputs: usize,
}

/// Makes queries over relations that exist already.
pub struct Queries<'a> {
    pub relations: &'a [Source],
    pub rng: &'a mut Rng,
    aliases: usize,
    /// There are values that are only defined up to `=`.
    pub(super) loose: bool,
    /// Orders may leave something open.
    pub(super) open: bool,
    /// Depth of the sub-select that is being made.
    pub(super) nesting: usize,
}

impl<'a> Queries<'a> {
    pub fn new(relations: &'a [Source], rng: &'a mut Rng) -> Self {
        Self {
            relations,
            rng,
            aliases: 0,
            loose: false,
            open: false,
            nesting: 0,
        }
    }

    /// Where rows are ordered, some may be equal.
    pub fn leaving_open(self, open: bool) -> Self {
        Self { open, ..self }
    }

    /// Whether an order is to be completed by `key`.
    pub(super) fn completes(&mut self, order: &[Expr]) -> bool {
        !self.open || order.is_empty() || self.rng.u8(..3) == 0
    }

    /// A query that could define a stream table, of a size that a person would write.
    pub fn top(&mut self) -> Query {
        loop {
            self.loose = false;
            let mut query = self.any(2);
            let seldom = if self.open { 2 } else { 8 };
            if self.rng.u8(..seldom) == 0 {
                query = self.transformed(query);
            }
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

    pub(super) fn any(&mut self, depth: usize) -> Query {
        let query = match self.rng.u8(..12) {
            0 | 1 => self.union_all(depth),
            2 | 3 => self.set_operation(depth),
            _ => Query::Select(Box::new(self.bag(depth, None))),
        };
        if self.rng.u8(..3) == 0 {
            return query;
        }
        self.transformed(query)
    }

    fn transformed(&mut self, query: Query) -> Query {
        match self.rng.u8(..if self.open { 6 } else { 12 }) {
            0 | 1 => self.distinct(query),
            2 => self.distinct_on(query),
            3 | 4 => self.limited(query),
            _ => self.grouped(query),
        }
    }

    pub(super) fn next_alias(&mut self, letter: char) -> String {
        self.aliases += 1;
        format!("{letter}{}", self.aliases)
    }

    /// A plain select over one to five inputs, with the output types asked for.
    pub(super) fn bag(&mut self, depth: usize, types: Option<&[Type]>) -> Select {
        if types.is_some() && self.rng.u8(..12) == 0 {
            let types = types.unwrap_or_default().iter();
            return Select {
                output: types.map(|ty| Expr::literal(*ty, self.rng)).collect(),
                ..Select::default()
            };
        }
        let mut select = self.joined(depth);
        let rows = scope(&select);
        let mut windows = Vec::new();
        if self.rng.u8(..6) == 0 {
            self.loose = true;
            let key = self.row_key(&select);
            windows = self.windows(&rows, &key);
        }
        let wanted: Vec<Type> = match types {
            Some(types) => types.to_vec(),
            None => (0..self.rng.usize(1..6))
                .map(|_| self.some_type(&rows))
                .collect(),
        };
        for ty in wanted {
            let depth = self.rng.usize(..4);
            let value = match windows.pop() {
                Some(window) if types.is_none() && self.rng.bool() => window,
                Some(window) => self.embed(window, ty, &rows),
                None => self.value(ty, &rows, depth),
            };
            select.output.push(value);
        }
        if types.is_none() && self.rng.u8(..10) == 0 {
            for _ in 0..self.rng.usize(1..3) {
                let set = self.set_returning(&rows);
                select.output.push(set);
            }
        }
        select
    }

    pub(super) fn joined(&mut self, depth: usize) -> Select {
        let inputs = match self.rng.u8(..20) {
            0..=6 => 1,
            7..=13 => 2,
            14..=16 => 3,
            17 | 18 => 4,
            _ => 5,
        };
        self.joined_of(inputs, depth)
    }

    pub(super) fn joined_of(&mut self, inputs: usize, depth: usize) -> Select {
        let mut select = self.from(inputs, depth);
        let rows = scope(&select);
        // Conditions are mostly false or NULL, and what has no rows tests little.
        for _ in 0..[0, 0, 0, 0, 1, 1, 2][self.rng.usize(..7)] {
            let depth = self.rng.usize(..3);
            let condition = self.value(Type::Bool, &rows, depth);
            select.filter.push(condition);
        }
        select
    }

    /// A value over the columns of the scope, perhaps with a sub-select in it.
    pub(super) fn value(&mut self, ty: Type, scope: &Scope, depth: usize) -> Expr {
        self.value_beside(ty, scope, scope, depth)
    }

    /// The same, but sub-selects in it see other columns.
    pub(super) fn value_beside(
        &mut self,
        ty: Type,
        scope: &Scope,
        outside: &Scope,
        depth: usize,
    ) -> Expr {
        let one_in = [14, 24, 255][self.nesting.min(2)];
        if self.nesting < 2
            && self.rng.u8(..one_in) == 0
            && let Some(sub) = self.sub_select(outside)
        {
            return self.embed(sub, ty, scope);
        }
        expression::random(ty, scope, depth, self.loose, self.rng)
    }

    /// An expression of the type with the given one in it.
    pub(super) fn embed(&mut self, inner: Expr, ty: Type, scope: &Scope) -> Expr {
        let mut other = |ty: Type| expression::random(ty, scope, 1, self.loose, self.rng);
        if inner.ty == ty {
            let more = other(ty);
            let condition = other(Type::Bool);
            return match (self.rng.u8(..6), ty) {
                (0 | 1, _) => inner,
                (2, Type::Bool) => Expr::call(ty, "(not {0})", vec![inner]),
                (3, Type::Bool) => Expr::call(ty, "({0} or {1})", vec![inner, more]),
                (4, Type::Bool) => Expr::call(ty, "({0} and {1})", vec![more, inner]),
                (5, Type::Bool) => Expr::call(ty, "({0} is null)", vec![inner]),
                (2, _) => Expr::call(ty, "coalesce({0}, {1})", vec![inner, more]),
                (3, _) => Expr::call(ty, "nullif({0}, {1})", vec![inner, more]),
                _ => {
                    let template = "case when {0} then {1} else {2} end";
                    Expr::call(ty, template, vec![condition, inner, more])
                }
            };
        }
        if inner.ty != Type::Bool {
            const TESTS: [&str; 5] = [
                "({0} = {1})",
                "({0} < {1})",
                "({0} >= {1})",
                "({0} is distinct from {1})",
                "({0} is null)",
            ];
            let test = TESTS[self.rng.usize(..TESTS.len())];
            let mut pair = vec![expression::random(inner.ty, scope, 1, self.loose, self.rng)];
            pair.insert(0, inner);
            let condition = Expr::call(Type::Bool, test, pair);
            return self.embed(condition, ty, scope);
        }
        let (yes, no) = (other(ty), other(ty));
        let template = "case when {0} then {1} else {2} end";
        Expr::call(ty, template, vec![inner, yes, no])
    }

    /// Columns that no two rows share all, but for rows that are equal altogether.
    pub(super) fn row_key(&self, select: &Select) -> Vec<Expr> {
        let mut key = Vec::new();
        for input in select.leaves() {
            let known = match &input.relation {
                Relation::Named { name, .. } => self.relations.iter().find(|r| r.name == *name),
                _ => None,
            };
            let names = known.map(|r| &r.key[..]).unwrap_or_default();
            let wanted = |e: &Expr| match &e.form {
                Form::Column { name, .. } => names.is_empty() || names.contains(name),
                _ => false,
            };
            key.extend(input.scope().into_iter().filter(wanted));
        }
        key
    }

    pub(super) fn direction(&mut self) -> &'static str {
        ["", "", " desc", " nulls first", " desc nulls last"][self.rng.usize(..5)]
    }

    fn set_operation(&mut self, depth: usize) -> Query {
        let types: Vec<Type> = (0..self.rng.usize(1..4))
            .map(|_| Type::ALL[self.rng.usize(..Type::ALL.len())])
            .collect();
        self.set_operation_of(&types, depth)
    }

    pub(super) fn set_operation_of(&mut self, types: &[Type], depth: usize) -> Query {
        // Which of several equal values that look different survives the others is not determined.
        const OPERATORS: [&str; 5] = [
            "union",
            "intersect",
            "except",
            "intersect all",
            "except all",
        ];
        let operators = match types.iter().all(|ty| ty.is_exact()) {
            true => &OPERATORS[..],
            false => &OPERATORS[..1],
        };
        let depth = depth.saturating_sub(1);
        let mut arm = || {
            let mut select = self.bag(depth, Some(types));
            if self.rng.u8(..8) == 0 {
                select.distinct = Distinct::Rows;
            }
            Query::Select(Box::new(select))
        };
        let (first, second, third) = (arm(), arm(), arm());
        let operator = operators[self.rng.usize(..operators.len())];
        let query = Query::Set(operator, vec![first, second]);
        if self.rng.u8(..4) > 0 {
            return query;
        }
        let operator = operators[self.rng.usize(..operators.len())];
        let mut arms = vec![query, third];
        if self.rng.bool() {
            arms.reverse();
        }
        Query::Set(operator, arms)
    }

    fn union_all(&mut self, depth: usize) -> Query {
        let depth = depth.saturating_sub(1);
        let first = self.bag(depth, None);
        let types: Vec<Type> = first.output.iter().map(|e| e.ty).collect();
        let mut arms = vec![Query::Select(Box::new(first))];
        for _ in 0..self.rng.usize(1..3) {
            let arm = Query::Select(Box::new(self.bag(depth, Some(&types))));
            arms.push(match self.rng.u8(..8) {
                0 => self.limited(arm),
                _ => arm,
            });
            if arms[0].columns() != arms[arms.len() - 1].columns() {
                arms.pop();
            }
        }
        if arms.len() == 1 {
            arms.push(arms[0].clone());
        }
        Query::Set("union all", arms)
    }

    /// The query's inputs as those of a new select: in place where it is a plain select, else as a sub-select.
    pub(super) fn over(&mut self, query: Query) -> Select {
        match query {
            Query::Select(mut select) if select.is_plain() && !select.from.is_empty() => {
                select.output.clear();
                *select
            }
            query => {
                self.loose |= !query.is_bag();
                let alias = self.next_alias('t');
                Select {
                    from: vec![Input::first(Relation::Derived(query), alias)],
                    ..Select::default()
                }
            }
        }
    }

    fn distinct(&mut self, query: Query) -> Query {
        let mut select = self.over(query);
        let rows = scope(&select);
        for _ in 0..self.rng.usize(1..4) {
            let ty = self.some_type(&rows);
            let depth = self.rng.usize(..2);
            let value = self.value(ty, &rows, depth);
            select.output.push(value);
        }
        select.distinct = Distinct::Rows;
        Query::Select(Box::new(select))
    }

    /// Columns or expressions that are no constants, which would be taken for positions.
    pub(super) fn keys(&mut self, rows: &Scope, count: usize) -> Vec<Expr> {
        let mut keys = Vec::new();
        for _ in 0..count {
            let ty = self.some_type(rows);
            let depth = self.rng.usize(..2);
            let key = self.value(ty, rows, depth);
            if key.has_column() && !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    fn distinct_on(&mut self, query: Query) -> Query {
        let mut select = self.over(query);
        self.loose = true;
        let rows = scope(&select);
        let count = self.rng.usize(1..4);
        let keys = self.keys(&rows, count);
        if keys.is_empty() {
            select.output.push(rows[0].clone());
            return Query::Select(Box::new(select));
        }
        let mut order = keys.clone();
        self.rng.shuffle(&mut order);
        let count = self.rng.usize(..3);
        order.extend(self.keys(&rows, count));
        if self.completes(&order[keys.len()..]) {
            order.extend(self.row_key(&select));
        }
        select.order = self.directed(order);
        for _ in 0..self.rng.usize(1..5) {
            let ty = self.some_type(&rows);
            let value = self.value(ty, &rows, 1);
            select.output.push(value);
        }
        select.distinct = Distinct::On(keys);
        Query::Select(Box::new(select))
    }

    pub(super) fn directed(&mut self, order: Vec<Expr>) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        for e in order {
            if !keys.iter().any(|k| k.0 == e) {
                keys.push(Key(e, self.direction()));
            }
        }
        keys
    }

    fn limit(&mut self) -> Limit {
        Limit {
            rows: (self.rng.u8(..8) > 0).then(|| self.rng.u8(..9)),
            ties: false,
            offset: [0, 0, 0, 1, 3][self.rng.usize(..5)],
        }
    }

    /// The first rows in some order.
    pub(super) fn limited(&mut self, query: Query) -> Query {
        let mut limit = self.limit();
        let ties = self.rng.u8(..4) == 0;
        if ties {
            limit = Limit {
                rows: Some(self.rng.u8(1..7)),
                ties: true,
                offset: 0,
            };
        }
        match query {
            Query::Select(select) if select.is_plain() && !select.from.is_empty() => {
                let mut select = *select;
                let types: Vec<Type> = select.output.iter().map(|e| e.ty).collect();
                select.output.clear();
                self.loose = true;
                let rows = scope(&select);
                let count = self.rng.usize(..3);
                let mut order = self.keys(&rows, count);
                if if ties {
                    order.is_empty()
                } else {
                    self.completes(&order)
                } {
                    order.extend(self.row_key(&select));
                }
                select.order = self.directed(order);
                for ty in types {
                    let value = self.value(ty, &rows, 1);
                    select.output.push(value);
                }
                select.limit = limit;
                Query::Select(Box::new(select))
            }
            query @ Query::Sorted { .. } => query,
            Query::Select(select) if !select.order.is_empty() => Query::Select(select),
            query => {
                self.loose = true;
                let mut positions: Vec<usize> = (0..query.columns().len()).collect();
                self.rng.shuffle(&mut positions);
                if ties || self.open && self.rng.bool() {
                    positions.truncate(1);
                }
                let order = positions.into_iter().map(|p| (p, self.direction()));
                Query::Sorted {
                    order: order.collect(),
                    query: Box::new(query),
                    limit,
                }
            }
        }
    }

    pub(super) fn some_type(&mut self, scope: &Scope) -> Type {
        if scope.is_empty() || self.rng.u8(..6) == 0 {
            Type::ALL[self.rng.usize(..Type::ALL.len())]
        } else {
            scope[self.rng.usize(..scope.len())].ty
        }
    }
}

pub(super) fn scope(select: &Select) -> Scope {
    select.from.iter().flat_map(Input::scope).collect()
}
