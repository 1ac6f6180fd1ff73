//! Sub-selects in expressions and in FROM, most of them correlated with the query around them. Scalar ones have at most
//! one row.

use super::expression::{self, Expr, Scope};
use super::queries::{Queries, scope};
use super::query::{Grouping, Input, Limit, Query, Relation, Select};
use super::schema::Type;

const IN: [&str; 2] = ["({0} in ({q}))", "({0} not in ({q}))"];
const ROW_IN: [&str; 2] = ["(({0}, {1}) in ({q}))", "(({0}, {1}) not in ({q}))"];
const BOUND: [&str; 5] = [
    "({0} < ({q}))",
    "({0} <= ({q}))",
    "({0} > ({q}))",
    "(({q}) <= {0})",
    "({0} is not null and {0} >= ({q}))",
];
const QUANTIFIED: [&str; 12] = [
    "({0} < any ({q}))",
    "({0} >= any ({q}))",
    "({0} = any ({q}))",
    "({0} <> any ({q}))",
    "({0} > all ({q}))",
    "({0} <= all ({q}))",
    "({0} <> all ({q}))",
    "({0} = all ({q}))",
    "(({0} > all ({q})) is not true)",
    "({0} = any (array({q})))",
    "({0} <> all (array({q})))",
    "({0} > any (array({q})))",
];

impl Queries<'_> {
    /// A sub-select in an expression over columns from outside.
    pub(super) fn sub_select(&mut self, outside: &Scope) -> Option<Expr> {
        self.nesting += 1;
        let sub = match self.rng.u8(..10) {
            0..=2 => Some(self.exists(outside)),
            3 | 4 => self.one_of(outside),
            5 => self.quantified(outside),
            6 => Some(self.bound(outside)),
            _ => self.scalar(outside),
        };
        self.nesting -= 1;
        sub
    }

    /// Inputs of a sub-select, tied to what is outside or not.
    fn body(&mut self, outside: &Scope) -> Select {
        let inputs = 1 + usize::from(self.rng.u8(..4) == 0);
        let mut select = self.joined_of(inputs, 1);
        let inside = scope(&select);
        if self.rng.u8(..5) > 0 {
            let tie = self.related(outside, &inside);
            select.filter.extend(tie);
        }
        if self.rng.u8(..4) == 0 {
            let both: Scope = outside.iter().chain(&inside).cloned().collect();
            let condition = self.value(Type::Bool, &both, 2);
            select.filter.push(condition);
        }
        select
    }

    fn exists(&mut self, outside: &Scope) -> Expr {
        let mut select = self.body(outside);
        let inside = scope(&select);
        match self.rng.u8(..8) {
            0 => {
                select.group_by = Some(Grouping {
                    keys: self.keys(&inside, 1),
                    ..Grouping::default()
                });
                let values = vec![self.aggregate(&inside)];
                select.having = Some(expression::random(Type::Bool, &values, 2, true, self.rng));
            }
            1 => {
                select.limit = Limit {
                    rows: [None, Some(0), Some(1), Some(1)][self.rng.usize(..4)],
                    ties: false,
                    offset: self.rng.u8(..3),
                }
            }
            _ => {}
        }
        select.output.push(match select.group_by {
            Some(_) => Expr::literal(Type::Int, self.rng),
            None => expression::random(Type::Int, &inside, 0, false, self.rng),
        });
        let templates = ["(exists ({q}))", "(not exists ({q}))"];
        let template = templates[self.rng.usize(..2)];
        let query = Query::Select(Box::new(select));
        Expr::sub(Type::Bool, template, Vec::new(), query)
    }

    fn one_of(&mut self, outside: &Scope) -> Option<Expr> {
        let types: Vec<Type> = (0..self.rng.usize(1..3))
            .filter_map(|_| outside.get(self.rng.usize(..outside.len().max(1))))
            .map(|e| e.ty)
            .collect();
        let templates = match types.len() {
            0 => return None,
            1 => IN,
            _ => ROW_IN,
        };
        let template = templates[self.rng.usize(..2)];
        let mut values = Vec::new();
        for ty in &types {
            let depth = self.rng.usize(..2);
            values.push(self.value(*ty, outside, depth));
        }
        let query = self.list_of(&types, outside);
        Some(Expr::sub(Type::Bool, template, values, query))
    }

    fn quantified(&mut self, outside: &Scope) -> Option<Expr> {
        let ty = outside.get(self.rng.usize(..outside.len().max(1)))?.ty;
        let template = QUANTIFIED[self.rng.usize(..QUANTIFIED.len())];
        let value = self.value(ty, outside, 1);
        let query = self.list_of(&[ty], outside);
        Some(Expr::sub(Type::Bool, template, vec![value], query))
    }

    /// A comparison with an aggregate of everything.
    fn bound(&mut self, outside: &Scope) -> Expr {
        let select = self.joined_of(1, 1);
        let query = self.aggregated_of(select, &Scope::new());
        let ty = query.columns()[0].1;
        self.loose |= !ty.is_exact();
        let value = self.value(ty, outside, 1);
        let template = BOUND[self.rng.usize(..BOUND.len())];
        Expr::sub(Type::Bool, template, vec![value], query)
    }

    /// A query with columns of these types.
    fn list_of(&mut self, types: &[Type], outside: &Scope) -> Query {
        match self.rng.u8(..8) {
            0 => self.set_operation_of(types, 1),
            1 => Query::Select(Box::new(self.bag(1, Some(types)))),
            2 => {
                let bag = Query::Select(Box::new(self.bag(1, Some(types))));
                self.limited(bag)
            }
            3 | 4 => {
                let select = self.body(outside);
                self.grouped_of(select, types)
            }
            _ => {
                let mut select = self.body(outside);
                let inside = scope(&select);
                for ty in types {
                    let depth = self.rng.usize(..2);
                    let value = self.value(*ty, &inside, depth);
                    select.output.push(value);
                }
                Query::Select(Box::new(select))
            }
        }
    }

    /// Groups whose keys have these types, with HAVING.
    fn grouped_of(&mut self, mut select: Select, types: &[Type]) -> Query {
        self.loose = true;
        let rows = scope(&select);
        for ty in types {
            let value = self.value(*ty, &rows, 1);
            select.output.push(value);
        }
        let mut keys: Vec<Expr> = Vec::new();
        for key in select.output.iter().filter(|e| e.has_column()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        if self.rng.u8(..3) > 0 {
            let values = vec![self.aggregate(&rows)];
            select.having = Some(expression::random(Type::Bool, &values, 2, true, self.rng));
        }
        select.group_by = Some(Grouping {
            keys,
            ..Grouping::default()
        });
        Query::Select(Box::new(select))
    }

    fn scalar(&mut self, outside: &Scope) -> Option<Expr> {
        let query = match self.rng.u8(..24) {
            0..=10 => self.aggregated(outside),
            11 => {
                let query = self.aggregated(outside);
                if query.columns()[0].1 == Type::Int {
                    let template = "array_to_string(array({q}), ',', '-')";
                    return Some(Expr::sub(Type::Text, template, Vec::new(), query));
                }
                query
            }
            12..=14 => self.first_row(outside),
            15..=18 => self.lookup(outside)?,
            19 => {
                let alias = self.next_alias('t');
                let functions = self.functions(outside);
                let select = Select {
                    from: vec![Input::first(functions, alias)],
                    ..Select::default()
                };
                self.aggregated_of(select, outside)
            }
            20 => {
                let ty = self.some_type(outside);
                let query = self.set_operation_of(&[ty], 1);
                Query::Sorted {
                    query: Box::new(query),
                    order: vec![(0, self.direction())],
                    limit: Limit {
                        rows: Some(1),
                        ties: false,
                        offset: self.rng.u8(..2),
                    },
                }
            }
            21 => {
                self.loose = true;
                let mut select = self.body(outside);
                let inside = scope(&select);
                select.output.push(self.value(Type::Int, &inside, 1));
                let query = Query::Sorted {
                    query: Box::new(Query::Select(Box::new(select))),
                    order: vec![(0, self.direction())],
                    limit: Limit::default(),
                };
                let template = "array_to_string(array({q}), ',', '-')";
                return Some(Expr::sub(Type::Text, template, Vec::new(), query));
            }
            22 => {
                self.loose = true;
                let mut select = self.body(outside);
                let inside = scope(&select);
                let mut order = self.keys(&inside, 1);
                order.extend(self.row_key(&select));
                select.order = self.directed(order);
                select.output.push(self.value(Type::Int, &inside, 1));
                let query = Query::Select(Box::new(select));
                let template = "json_array({q} returning text)";
                return Some(Expr::sub(Type::Text, template, Vec::new(), query));
            }
            _ => {
                let ty = self.some_type(outside);
                Query::Select(Box::new(Select {
                    output: vec![self.value(ty, outside, 1)],
                    ..Select::default()
                }))
            }
        };
        let ty = query.columns()[0].1;
        self.loose |= !ty.is_exact();
        Some(Expr::sub(ty, "({q})", Vec::new(), query))
    }

    fn aggregated(&mut self, outside: &Scope) -> Query {
        let select = self.body(outside);
        self.aggregated_of(select, outside)
    }

    /// One row of aggregates, or none if HAVING says so.
    fn aggregated_of(&mut self, mut select: Select, outside: &Scope) -> Query {
        let inside = scope(&select);
        let mut values: Scope = vec![self.aggregate(&inside)];
        if self.rng.bool() {
            values.push(self.aggregate(&inside));
        }
        let ty = values[0].ty;
        let output = match self.rng.u8(..4) {
            0 => {
                values.extend(outside.iter().cloned());
                expression::random(ty, &values, 2, true, self.rng)
            }
            1 => Expr::call(
                ty,
                "coalesce({0}, {1})",
                vec![values[0].clone(), Expr::literal(ty, self.rng)],
            ),
            _ => values[0].clone(),
        };
        select.output.push(output);
        if self.rng.u8(..6) == 0 {
            select.having = Some(expression::random(Type::Bool, &values, 2, true, self.rng));
        }
        select.group_by = Some(Grouping::default());
        // Without an aggregate that is a query of many rows.
        if !select.output[0].has_aggregate() && select.having.is_none() {
            select.output[0] = values[0].clone();
        }
        Query::Select(Box::new(select))
    }

    /// The first row in an order that leaves no choice.
    fn first_row(&mut self, outside: &Scope) -> Query {
        self.loose = true;
        let mut select = self.body(outside);
        let inside = scope(&select);
        let count = self.rng.usize(..3);
        let mut order = self.keys(&inside, count);
        if self.completes(&order) {
            order.extend(self.row_key(&select));
        }
        select.order = self.directed(order);
        let ty = self.some_type(&inside);
        let both: Scope = inside.iter().chain(outside).cloned().collect();
        let value = self.value(ty, &both, 1);
        select.output.push(value);
        select.limit = Limit {
            rows: Some(1),
            ties: false,
            offset: [0, 0, 1][self.rng.usize(..3)],
        };
        Query::Select(Box::new(select))
    }

    /// One row found by its key.
    fn lookup(&mut self, outside: &Scope) -> Option<Query> {
        let keyed: Vec<usize> = (0..self.relations.len())
            .filter(|i| !self.relations[*i].key.is_empty())
            .collect();
        let source = &self.relations[*keyed.get(self.rng.usize(..keyed.len().max(1)))?];
        let relation = Relation::Named {
            name: source.name.clone(),
            columns: source.columns.clone(),
        };
        let alias = self.next_alias('t');
        let mut select = Select {
            from: vec![Input::first(relation, alias)],
            ..Select::default()
        };
        let inside = scope(&select);
        for key in self.row_key(&select) {
            let value = expression::random(Type::Int, outside, 0, true, self.rng);
            let equal = Expr::call(Type::Bool, "({0} = {1})", vec![key, value]);
            select.filter.push(equal);
        }
        let ty = self.some_type(&inside);
        let both: Scope = inside.iter().chain(outside).cloned().collect();
        let value = match self.rng.bool() {
            true => expression::random(ty, &inside, 0, self.loose, self.rng),
            false => self.value(ty, &both, 1),
        };
        select.output.push(value);
        Some(Query::Select(Box::new(select)))
    }

    /// A query for LATERAL.
    pub(super) fn correlated(&mut self, outside: &Scope) -> Query {
        match self.rng.u8(..8) {
            0 | 1 => self.aggregated(outside),
            2 => {
                let select = self.body(outside);
                let types: Vec<Type> = (0..self.rng.usize(1..3))
                    .map(|_| self.some_type(outside))
                    .collect();
                self.grouped_of(select, &types)
            }
            3 => {
                let mut query = self.first_row(outside);
                if let Query::Select(select) = &mut query {
                    select.limit.rows = Some(self.rng.u8(1..4));
                }
                query
            }
            4 => {
                let mut arm = |_| {
                    let mut select = self.body(outside);
                    let inside = scope(&select);
                    let both: Scope = inside.iter().chain(outside).cloned().collect();
                    let value = self.value(Type::Int, &both, 1);
                    select.output.push(value);
                    Query::Select(Box::new(select))
                };
                let arms: Vec<Query> = (0..2).map(&mut arm).collect();
                Query::Set(
                    ["union all", "union", "except all"][self.rng.usize(..3)],
                    arms,
                )
            }
            5 => {
                let functions = self.functions(outside);
                let alias = self.next_alias('t');
                let mut select = Select {
                    from: vec![Input::first(functions, alias)],
                    ..Select::default()
                };
                let inside = scope(&select);
                let both: Scope = inside.iter().chain(outside).cloned().collect();
                let ty = self.some_type(&inside);
                let value = self.value(ty, &both, 1);
                select.output.push(value);
                Query::Select(Box::new(select))
            }
            _ => {
                let mut select = self.body(outside);
                let inside = scope(&select);
                let both: Scope = inside.iter().chain(outside).cloned().collect();
                for _ in 0..self.rng.usize(1..4) {
                    let ty = self.some_type(&both);
                    let value = self.value(ty, &both, 1);
                    select.output.push(value);
                }
                Query::Select(Box::new(select))
            }
        }
    }
}
