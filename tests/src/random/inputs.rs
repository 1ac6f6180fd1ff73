//! What stands in FROM, and how it is joined.

use super::expression::{self, Expr, Form, Scope};
use super::queries::{Queries, Source, scope};
use super::query::{Function, Input, Join, Query, Relation, Select};
use super::schema::Type;

/// A set-returning function: template, argument, columns.
type SetReturning = (&'static str, Type, &'static [Type]);

use Type::{Bool, Int, Json, Numeric, Text};

/// With few rows each, whatever the argument.
const FUNCTIONS: &[SetReturning] = &[
    ("generate_series(1, {0} % 4)", Int, &[Int]),
    ("generate_series({0}, {0} + 1)", Int, &[Int]),
    (
        "jsonb_array_elements(case when jsonb_typeof({0}) = 'array' then {0} end)",
        Json,
        &[Json],
    ),
    (
        "jsonb_each(case when jsonb_typeof({0}) = 'object' then {0} end)",
        Json,
        &[Text, Json],
    ),
    (
        "jsonb_object_keys(case when jsonb_typeof({0}) = 'object' then {0} end)",
        Json,
        &[Text],
    ),
    ("jsonb_path_query({0}, '$.*')", Json, &[Json]),
    ("string_to_table({0}, 'b')", Text, &[Text]),
    ("regexp_split_to_table({0}, '')", Text, &[Text]),
];

impl Queries<'_> {
    /// Inputs joined in all ways, with commas or in a tree.
    pub(super) fn from(&mut self, inputs: usize, depth: usize) -> Select {
        let commas = self.rng.u8(..4) == 0;
        let mut select = Select::default();
        for i in 0..inputs {
            let left = scope(&select);
            let lateral = i > 0 && self.rng.u8(..7) == 0;
            let mut input = if lateral {
                self.lateral(&left)
            } else {
                self.input(depth)
            };
            if i > 0 {
                // A condition in ON sees nothing across a comma, so one select has either commas or joins.
                match self.join_condition(&left, &input.scope()) {
                    None if commas => {}
                    Some(condition) if commas => select.filter.push(condition),
                    None => input.join = Join::Cross,
                    Some(condition) => input.join = self.join(condition, &left, &input),
                }
            }
            select.from.push(input);
        }
        select
    }

    fn input(&mut self, depth: usize) -> Input {
        if depth > 0 && self.rng.u8(..14) == 0 {
            let mut joined = self.from(2, depth - 1);
            for input in &mut joined.from[1..] {
                // There are no commas in parentheses.
                if input.join == Join::Comma {
                    input.join = joined.filter.pop().map_or(Join::Cross, Join::Inner);
                }
            }
            return Input::first(Relation::Joined(joined.from), String::new());
        }
        let relation = match self.rng.u8(..30) {
            0 => self.functions(&Vec::new()),
            1 => self.values(&Vec::new()),
            _ => self.relation(depth),
        };
        Input::first(relation, self.next_alias('t'))
    }

    fn relation(&mut self, depth: usize) -> Relation {
        if depth == 0 || self.rng.u8(..5) > 0 {
            let source = &self.relations[self.rng.usize(..self.relations.len())];
            self.loose |= source.loose;
            return Relation::Named {
                name: source.name.clone(),
                columns: source.columns.clone(),
            };
        }
        if self.rng.u8(..6) == 0
            && let Some(recursive) = self.recursive()
        {
            return recursive;
        }
        let query = match self.rng.u8(..3) {
            0 => Query::Select(Box::new(self.bag(depth - 1, None))),
            _ => self.any(depth - 1),
        };
        self.loose |= !query.is_bag();
        if self.rng.bool() {
            Relation::Common(self.next_alias('w'), query)
        } else {
            Relation::Derived(query)
        }
    }

    fn table(&mut self) -> Input {
        let tables: Vec<&Source> = self.relations.iter().filter(|r| r.base).collect();
        let table = tables[self.rng.usize(..tables.len())];
        let relation = Relation::Named {
            name: table.name.clone(),
            columns: table.columns.clone(),
        };
        Input::first(relation, self.next_alias('t'))
    }

    /// A recursive common table expression of a few columns, which ends because its values are those of a table, or because
    /// the last one counts the steps.
    fn recursive(&mut self) -> Option<Relation> {
        let counted = self.rng.bool();
        let mut types = vec![Int];
        for _ in 0..self.rng.usize(..3) {
            types.push([Int, Int, Text, Numeric][self.rng.usize(..4)]);
        }
        let mut arms = vec![self.first_rows(&types, counted)];
        if self.rng.u8(..4) == 0 {
            arms.push(self.first_rows(&types, counted));
        }
        let name = self.next_alias('w');
        let itself = Relation::Itself(name.clone(), arms[0].columns());
        let itself = Input::first(itself, self.next_alias('t'));
        let before = itself.scope();
        let steps = before[..types.len()].to_vec();
        let mut step = Select {
            from: vec![self.table()],
            ..Select::default()
        };
        let mut inside = scope(&step);
        step.filter.push(self.equality(&steps, &inside)?);
        if self.rng.u8(..4) == 0 {
            let more = self.table();
            step.filter.push(self.equality(&inside, &more.scope())?);
            step.from.push(more);
            inside = scope(&step);
        }
        if self.rng.u8(..3) == 0 {
            step.filter
                .push(expression::random(Bool, &inside, 2, false, self.rng));
        }
        if self.rng.u8(..6) == 0 {
            let looked_up = self.value(Bool, &inside, 1);
            step.filter.push(looked_up);
        }
        step.from.insert(0, itself);
        let both: Scope = steps.iter().chain(&inside).cloned().collect();
        for ty in &types {
            let value = expression::random(*ty, &both, 0, false, self.rng);
            step.output.push(without_modifier(value));
        }
        if counted {
            let count = vec![before[types.len()].clone()];
            step.filter
                .push(Expr::call(Bool, "({0} < 3)", count.clone()));
            step.output.push(Expr::call(Int, "({0} + 1)", count));
        }
        let all = counted && self.rng.u8(..3) > 0;
        // Of several equal values any can be kept.
        self.loose |= !all && types.contains(&Numeric);
        arms.push(Query::Select(Box::new(step)));
        let operator = if all { "union all" } else { "union" };
        Some(Relation::Common(name, Query::Set(operator, arms)))
    }

    /// The rows that a recursive query begins with.
    fn first_rows(&mut self, types: &[Type], counted: bool) -> Query {
        let mut first = Select {
            from: vec![self.table()],
            ..Select::default()
        };
        let rows = scope(&first);
        if self.rng.bool() {
            first
                .filter
                .push(expression::random(Bool, &rows, 1, false, self.rng));
        }
        for ty in types {
            let value = expression::random(*ty, &rows, 0, false, self.rng);
            first.output.push(without_modifier(value));
        }
        let one = Expr {
            ty: Int,
            form: Form::Literal("1".into()),
        };
        first.output.extend(counted.then_some(one));
        Query::Select(Box::new(first))
    }

    /// An input that uses columns of those before it.
    fn lateral(&mut self, outside: &Scope) -> Input {
        let relation = match self.rng.u8(..10) {
            0..=3 => self.functions(outside),
            4 => self.values(outside),
            _ => {
                self.nesting += 1;
                let query = self.correlated(outside);
                self.nesting -= 1;
                self.loose |= !query.is_bag();
                Relation::Lateral(query)
            }
        };
        Input::first(relation, self.next_alias('t'))
    }

    fn values(&mut self, outside: &Scope) -> Relation {
        let types: Vec<Type> = (0..self.rng.usize(1..3))
            .map(|_| self.some_type(outside))
            .collect();
        let rows = (0..self.rng.usize(1..4)).map(|_| {
            let value = |ty: &Type| match (outside.is_empty(), self.rng.u8(..8)) {
                (_, 0) => Expr::null(*ty),
                (true, _) => Expr::literal(*ty, self.rng),
                (false, _) => self.value(*ty, outside, 1),
            };
            types.iter().map(value).collect()
        });
        Relation::Values(rows.collect())
    }

    pub(super) fn functions(&mut self, outside: &Scope) -> Relation {
        let several = self.rng.u8(..5) == 0;
        Relation::Functions {
            calls: (0..1 + usize::from(several))
                .map(|_| self.function(outside))
                .collect(),
            ordinality: self.rng.u8(..3) == 0,
        }
    }

    fn function(&mut self, outside: &Scope) -> Function {
        if self.rng.u8(..3) == 0 {
            let ty = self.some_type(outside);
            return Function {
                template: "unnest(array[{0}, {1}])",
                arguments: vec![self.value(ty, outside, 0), self.value(ty, outside, 1)],
                types: vec![ty],
            };
        }
        let (template, argument, types) = FUNCTIONS[self.rng.usize(..FUNCTIONS.len())];
        let depth = self.rng.usize(..2);
        Function {
            template,
            arguments: vec![self.value(argument, outside, depth)],
            types: types.to_vec(),
        }
    }

    /// A function of one column for the select list.
    pub(super) fn set_returning(&mut self, rows: &Scope) -> Expr {
        loop {
            let function = self.function(rows);
            if let [ty] = function.types[..] {
                return Expr::call(ty, function.template, function.arguments);
            }
        }
    }

    fn join(&mut self, condition: Expr, left: &Scope, input: &Input) -> Join {
        if self.rng.bool() {
            return Join::Inner(condition);
        }
        let lateral = matches!(
            &input.relation,
            Relation::Lateral(_) | Relation::Functions { .. } | Relation::Values(_)
        );
        let both: Scope = left.iter().cloned().chain(input.scope()).collect();
        let condition = match self.nesting < 2 && self.rng.u8(..16) == 0 {
            true => match self.sub_select(&both) {
                Some(sub) => {
                    let more = self.embed(sub, Bool, &both);
                    Expr::call(Bool, "({0} and {1})", vec![condition, more])
                }
                None => condition,
            },
            false => condition,
        };
        match self.rng.u8(..4) {
            // PostgreSQL has FULL JOIN only for conditions it can hash or merge.
            0 if !lateral => {
                let right = input.scope();
                let Some(equal) = self.equality(left, &right) else {
                    return Join::Outer("left", condition);
                };
                if self.rng.bool() {
                    return Join::Outer("full", equal);
                }
                let both = Expr::call(Bool, "({0} and {1})", vec![equal, condition]);
                Join::Outer("full", both)
            }
            1 if !lateral => Join::Outer("right", condition),
            _ => Join::Outer("left", condition),
        }
    }

    /// Mostly equality of two columns, perhaps with something more; none is every pair.
    fn join_condition(&mut self, left: &Scope, right: &Scope) -> Option<Expr> {
        if self.rng.u8(..14) == 0 {
            return None;
        }
        self.related(left, right)
    }

    /// A condition about columns of two sides.
    pub(super) fn related(&mut self, left: &Scope, right: &Scope) -> Option<Expr> {
        let both: Scope = left.iter().chain(right).cloned().collect();
        let first = match self.rng.u8(..12) {
            0 => return Some(self.value(Bool, &both, 2)),
            1 => {
                const TESTS: [&str; 5] = [
                    "({0} < {1})",
                    "({0} >= {1})",
                    "({0} <> {1})",
                    "({0} is not distinct from {1})",
                    "({0} is distinct from {1})",
                ];
                let (l, r) = self.pair(left, right)?;
                Expr::call(Bool, TESTS[self.rng.usize(..TESTS.len())], vec![l, r])
            }
            _ => self.equality(left, right)?,
        };
        let both_ways = match self.rng.u8(..12) {
            0 | 1 => "({0} and {1})",
            2 => "({0} or {1})",
            _ => return Some(first),
        };
        let more = self.value(Bool, &both, 2);
        Some(Expr::call(Bool, both_ways, vec![first, more]))
    }

    pub(super) fn equality(&mut self, left: &Scope, right: &Scope) -> Option<Expr> {
        let (l, r) = self.pair(left, right)?;
        Some(Expr::call(Bool, "({0} = {1})", vec![l, r]))
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
}

/// Both terms of a recursive query have to agree on lengths and scales too.
fn without_modifier(value: Expr) -> Expr {
    match value.ty {
        Text => Expr::call(Text, "({0})::text", vec![value]),
        Numeric => Expr::call(Numeric, "({0})::numeric", vec![value]),
        _ => value,
    }
}

fn joinable(l: Type, r: Type) -> bool {
    let number = |t| matches!(t, Type::Int | Type::BigInt);
    (number(l) && number(r)) || (l == r && l != Type::Bool)
}
