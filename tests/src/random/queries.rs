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
    /// Those that are never NULL.
    pub not_null: Vec<String>,
    /// Tables behind it: more than one for a view.
    pub inputs: usize,
}

/// Makes queries over relations that exist already.
pub struct Queries<'a> {
    pub grammar: &'a Grammar,
    pub relations: &'a [Source],
    pub rng: &'a mut Rng,
    aliases: usize,
    /// Columns that are never NULL, by alias and name.
    not_null: Vec<(String, String)>,
    /// There are values that are only defined up to `=`.
    loose: bool,
    /// Depth of the sub-select in a condition that is being made.
    nesting: usize,
}

/// Types whose equal values look the same.
const EXACT: [Type; 5] = [Type::Int, Type::BigInt, Type::Text, Type::Date, Type::Bool];

impl<'a> Queries<'a> {
    pub fn new(grammar: &'a Grammar, relations: &'a [Source], rng: &'a mut Rng) -> Self {
        Self {
            grammar,
            relations,
            rng,
            aliases: 0,
            not_null: Vec::new(),
            loose: false,
            nesting: 0,
        }
    }

    /// A query that could define a stream table, of a size that a person would write.
    pub fn top(&mut self) -> Query {
        loop {
            self.loose = false;
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
        let mut query = match self.rng.u8(..12) {
            0 | 1 => self.union_all(2),
            2 | 3 if self.grammar.set_operations => self.set_operation(2),
            _ => Query::Select(Box::new(self.bag(2, None))),
        };
        match self.rng.u8(..10) {
            0..=3 => return query,
            4 => query = self.distinct(query),
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
                .push(expression::random(ty, &scope, depth, self.loose, self.rng));
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
        self.joined_of(inputs, depth)
    }

    fn joined_of(&mut self, inputs: usize, depth: usize) -> Select {
        let commas = self.rng.u8(..4) == 0;
        let mut select = Select::default();
        for i in 0..inputs {
            let mut input = self.input(depth);
            if i > 0 {
                let (left, right) = (scope(&select), input.scope());
                let condition = self.join_condition(&left, &right);
                // A condition in ON sees nothing across a comma, so one select has either commas or joins.
                match condition {
                    None if commas => {}
                    None => input.join = Join::Cross,
                    Some(condition) if commas => select.filter.push(condition),
                    Some(condition) => input.join = self.join(condition, &left, &right),
                }
                if let Join::Outer(kind, _) = input.join {
                    let before: Vec<&String> = select.from.iter().map(|i| &i.alias).collect();
                    self.not_null.retain(|(alias, _)| {
                        !(*alias == input.alias && kind != "right"
                            || before.contains(&alias) && kind != "left")
                    });
                }
            }
            select.from.push(input);
        }
        let scope = scope(&select);
        for _ in 0..[0, 0, 1, 1, 2][self.rng.usize(..5)] {
            let depth = self.rng.usize(..3);
            select.filter.push(expression::random(
                Type::Bool,
                &scope,
                depth,
                self.loose,
                self.rng,
            ));
        }
        if self.grammar.subqueries && self.nesting < 2 && self.rng.u8(..4) == 0 {
            self.nesting += 1;
            for _ in 0..self.rng.usize(1..3) {
                let condition = self.subquery(&scope);
                select.filter.extend(condition);
            }
            self.nesting -= 1;
        }
        select
    }

    fn input(&mut self, depth: usize) -> Input {
        let relation = self.relation(depth);
        self.aliases += 1;
        let alias = format!("t{}", self.aliases);
        if let Relation::Named { name, .. } = &relation {
            let source = self.relations.iter().find(|r| r.name == *name);
            for column in source.iter().flat_map(|s| &s.not_null) {
                self.not_null.push((alias.clone(), column.clone()));
            }
        }
        Input {
            relation,
            alias,
            join: Join::Comma,
        }
    }

    fn join(&mut self, condition: Expr, left: &Scope, right: &Scope) -> Join {
        if !self.grammar.outer_joins || self.rng.bool() {
            return Join::Inner(condition);
        }
        match self.rng.u8(..4) {
            // PostgreSQL has FULL JOIN only for conditions it can hash or merge.
            0 => {
                let equal = match condition.form {
                    Form::Call("({0} and {1})", mut parts) => parts.remove(0),
                    _ => condition,
                };
                // Of columns of one type, if it has to be incremental.
                if !self.grammar.any_mode && !of_one_type(&equal) {
                    return Join::Outer("left", equal);
                }
                let (any, wanted) = (self.grammar.any_mode, self.rng.u8(..3) == 0);
                let more = self
                    .pair(left, right)
                    .filter(|(l, r)| wanted && (any || l.ty == r.ty));
                Join::Outer(
                    "full",
                    match more {
                        Some((l, r)) => {
                            let operator =
                                ["({0} = {1})", "({0} < {1})", "({0} <> {1})"][self.rng.usize(..3)];
                            let more = Expr::call(Type::Bool, operator, vec![l, r]);
                            Expr::call(Type::Bool, "({0} and {1})", vec![equal, more])
                        }
                        None => equal,
                    },
                )
            }
            1 => Join::Outer("right", condition),
            _ => Join::Outer("left", condition),
        }
    }

    /// `[not] exists` or `[not] in`, if there are columns for it.
    fn subquery(&mut self, outside: &Scope) -> Option<Expr> {
        let negated = self.rng.bool();
        if self.rng.u8(..5) < 2 {
            return self.one_of(outside, negated);
        }
        let inputs = 1 + usize::from(self.rng.u8(..4) == 0);
        let mut select = self.joined_of(inputs, 1);
        let inside = scope(&select);
        select.filter.push(self.equality(outside, &inside)?);
        self.correlate(&mut select, outside);
        let ty = Type::Int;
        let output = expression::random(ty, &inside, 0, false, self.rng);
        select.output.push(output);
        let query = Box::new(Query::Select(Box::new(select)));
        Some(Expr {
            ty: Type::Bool,
            form: Form::Exists { negated, query },
        })
    }

    /// Perhaps one more condition on the rows of a sub-select.
    fn correlate(&mut self, select: &mut Select, outside: &Scope) {
        let both: Scope = outside.iter().chain(&scope(select)).cloned().collect();
        if self.rng.u8(..3) == 0 {
            let condition = expression::random(Type::Bool, &both, 2, self.loose, self.rng);
            select.filter.push(condition);
        }
    }

    fn one_of(&mut self, outside: &Scope, negated: bool) -> Option<Expr> {
        let inputs = 1 + usize::from(self.rng.u8(..4) == 0);
        let mut pairs = Vec::new();
        let query = if negated || self.rng.bool() {
            let mut select = self.joined_of(inputs, 1);
            let inside = scope(&select);
            for _ in 0..self.rng.usize(1..3) {
                let strict = |scope: &Scope, not_null: &[(String, String)]| -> Scope {
                    let known = |e: &Expr| match &e.form {
                        Form::Column { alias, name } => {
                            not_null.iter().any(|(a, n)| a == alias && n == name)
                        }
                        _ => false,
                    };
                    scope
                        .iter()
                        .filter(|e| !negated || known(e))
                        .cloned()
                        .collect()
                };
                let (left, right) = (
                    strict(outside, &self.not_null),
                    strict(&inside, &self.not_null),
                );
                pairs.extend(self.pair(&left, &right));
            }
            select.output = pairs.iter().map(|(_, inner)| inner.clone()).collect();
            if self.rng.bool() {
                self.correlate(&mut select, outside);
            }
            Query::Select(Box::new(select))
        } else {
            let types: Vec<Type> = (0..self.rng.usize(1..3))
                .filter_map(|_| outside.get(self.rng.usize(..outside.len())).map(|e| e.ty))
                .collect();
            for ty in &types {
                let depth = self.rng.usize(..2);
                let value = expression::random(*ty, outside, depth, self.loose, self.rng);
                pairs.push((value.clone(), value));
            }
            match self.rng.u8(..4) {
                0 if self.grammar.set_operations && types.iter().all(|t| EXACT.contains(t)) => {
                    self.set_operation_of(&types, 1)
                }
                1 => Query::Select(Box::new(self.bag(1, Some(&types)))),
                _ => self.grouped_of(&types, inputs),
            }
        };
        let values: Vec<Expr> = pairs.into_iter().map(|(value, _)| value).collect();
        if values.is_empty() {
            return None;
        }
        Some(Expr {
            ty: Type::Bool,
            form: Form::In {
                negated,
                values,
                query: Box::new(query),
            },
        })
    }

    /// Groups whose keys have these types, with HAVING.
    fn grouped_of(&mut self, types: &[Type], inputs: usize) -> Query {
        self.loose = true;
        let mut select = self.joined_of(inputs, 1);
        let rows = scope(&select);
        for ty in types {
            select
                .output
                .push(expression::random(*ty, &rows, 1, true, self.rng));
        }
        let mut keys: Vec<Expr> = Vec::new();
        for key in select.output.iter().filter(|e| e.has_column()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        if self.rng.u8(..3) > 0 {
            let values = vec![expression::aggregate(&rows, true, self.rng)];
            select.having = Some(expression::random(Type::Bool, &values, 2, true, self.rng));
        }
        select.group_by = Some(keys);
        Query::Select(Box::new(select))
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
        let mut query = match self.rng.u8(..8) {
            0 | 1 => self.union_all(depth - 1),
            2 if self.grammar.set_operations => self.set_operation(depth - 1),
            _ => Query::Select(Box::new(self.bag(depth - 1, None))),
        };
        match self.rng.u8(..10) {
            0 => query = self.distinct(query),
            1 | 2 => query = self.grouped(query),
            _ => {}
        }
        self.loose |= !query.is_bag();
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
        self.equality(left, right)
    }

    fn equality(&mut self, left: &Scope, right: &Scope) -> Option<Expr> {
        let (l, r) = self.pair(left, right)?;
        let equal = Expr::call(Type::Bool, "({0} = {1})", vec![l, r]);
        if self.rng.u8(..5) > 0 {
            return Some(equal);
        }
        let both: Scope = left.iter().chain(right).cloned().collect();
        let more = expression::random(Type::Bool, &both, 2, self.loose, self.rng);
        Some(Expr::call(Type::Bool, "({0} and {1})", vec![equal, more]))
    }

    /// Two columns that can be compared.
    fn pair(&mut self, left: &Scope, right: &Scope) -> Option<(Expr, Expr)> {
        let pairs: Vec<(&Expr, &Expr)> = left
            .iter()
            .flat_map(|l| right.iter().map(move |r| (l, r)))
            .filter(|(l, r)| joinable(l.ty, r.ty))
            .collect();
        if pairs.is_empty() {
            return None;
        }
        let (l, r) = pairs[self.rng.usize(..pairs.len())];
        Some((l.clone(), r.clone()))
    }

    fn set_operation(&mut self, depth: usize) -> Query {
        let types: Vec<Type> = (0..self.rng.usize(1..4))
            .map(|_| EXACT[self.rng.usize(..EXACT.len())])
            .collect();
        self.set_operation_of(&types, depth)
    }

    fn set_operation_of(&mut self, types: &[Type], depth: usize) -> Query {
        const OPERATORS: [&str; 5] = [
            "union",
            "intersect",
            "except",
            "intersect all",
            "except all",
        ];
        let mut arm = || {
            let mut select = self.joined(depth.saturating_sub(1));
            let scope = scope(&select);
            for ty in types {
                let depth = self.rng.usize(..2);
                select
                    .output
                    .push(expression::random(*ty, &scope, depth, self.loose, self.rng));
            }
            select.distinct = self.rng.u8(..8) == 0;
            Query::Select(Box::new(select))
        };
        let (first, second, third) = (arm(), arm(), arm());
        let operator = OPERATORS[self.rng.usize(..OPERATORS.len())];
        let query = Query::Set(operator, vec![first, second]);
        if self.rng.u8(..4) > 0 {
            return query;
        }
        let operator = OPERATORS[self.rng.usize(..OPERATORS.len())];
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
                self.loose |= !query.is_bag();
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
                .push(expression::random(ty, &scope, depth, self.loose, self.rng));
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
            let key = expression::random(ty, &rows, depth, self.loose, self.rng);
            // A constant would be taken for a position.
            if key.has_column() && !keys.contains(&key) {
                keys.push(key);
            }
        }
        let mut values: Scope = keys.clone();
        for _ in 0..self.rng.usize(1..5) {
            values.push(expression::aggregate(&rows, self.loose, self.rng));
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
        if scope.is_empty() || self.rng.u8(..6) == 0 {
            Type::ALL[self.rng.usize(..Type::ALL.len())]
        } else {
            scope[self.rng.usize(..scope.len())].ty
        }
    }
}

fn scope(select: &Select) -> Scope {
    select.from.iter().flat_map(Input::scope).collect()
}

/// Whether both sides of a comparison have the same type.
fn of_one_type(comparison: &Expr) -> bool {
    match &comparison.form {
        Form::Call(_, arguments) => arguments.windows(2).all(|pair| pair[0].ty == pair[1].ty),
        _ => false,
    }
}

fn joinable(l: Type, r: Type) -> bool {
    let number = |t| matches!(t, Type::Int | Type::BigInt);
    (number(l) && number(r)) || (l == r && l != Type::Bool)
}
