//! Makes a failing case small: fewer events, fewer stream tables, simpler queries, as long as it fails in the same way.

use super::case::Case;
use super::expression::Expr;
use super::query::{Distinct, Input, Join, Limit, Query, Relation, Select, Sets};
use super::replay::{Failure, Kind, Tally};
use std::time::{Duration, Instant};

/// The smallest case found within the time, and how it fails.
pub fn minimize(
    case: &Case,
    failure: Failure,
    time: Duration,
    replay: &dyn Fn(&Case) -> Result<Tally, Failure>,
) -> (Case, Failure) {
    if failure.kind == Kind::Invalid || time.is_zero() {
        return (case.clone(), failure);
    }
    let deadline = Instant::now() + time;
    let mut best = Minimizer {
        case: case.clone(),
        failure,
        deadline,
        replay,
    };
    loop {
        let before = best.size();
        best.streams();
        best.tables();
        best.events();
        best.queries();
        best.fill();
        if best.size() >= before || Instant::now() > best.deadline {
            return (best.case, best.failure);
        }
    }
}

struct Minimizer<'r> {
    case: Case,
    failure: Failure,
    deadline: Instant,
    replay: &'r dyn Fn(&Case) -> Result<Tally, Failure>,
}

impl Minimizer<'_> {
    fn size(&self) -> usize {
        self.case.script().len()
    }

    /// Keeps the candidate if it fails like the original.
    fn attempt(&mut self, candidate: Case) -> bool {
        if Instant::now() > self.deadline {
            return false;
        }
        match (self.replay)(&candidate) {
            Err(f) if f.kind == self.failure.kind && f.kind != Kind::Invalid => {
                self.case = candidate;
                self.failure = f;
                true
            }
            _ => false,
        }
    }

    fn streams(&mut self) {
        for i in (0..self.case.streams.len()).rev() {
            let mut candidate = self.case.clone();
            candidate.streams.remove(i);
            let name = &self.case.streams[i].0;
            if self.case.streams.len() > 1
                && !candidate
                    .streams
                    .iter()
                    .any(|(_, q)| q.reads().contains(name))
            {
                for event in &mut candidate.events {
                    if let super::Event::Refresh { stream } = event {
                        *stream = if *stream == i {
                            usize::MAX
                        } else if *stream > i && *stream != usize::MAX {
                            *stream - 1
                        } else {
                            *stream
                        };
                    }
                }
                self.attempt(candidate);
            }
        }
    }

    /// Leaves out tables and views that no query reads, with the statements that mention them.
    fn tables(&mut self) {
        for (view, _) in self.case.views.clone() {
            let mut candidate = self.case.clone();
            candidate.views.retain(|(name, _)| *name != view);
            if !is_read(&candidate, &view) {
                self.attempt(candidate);
            }
        }
        for table in self.case.tables.clone() {
            let mut candidate = self.case.clone();
            candidate.tables.retain(|t| t.name != table.name);
            candidate.fill.retain(|sql| !sql.contains(&table.name));
            candidate.events.retain(|e| match e {
                super::Event::Statement { sql, .. } => !sql.contains(&table.name),
                super::Event::Rotate { relation } => *relation != table.name,
                _ => true,
            });
            if !is_read(&candidate, &table.name) && !candidate.tables.is_empty() {
                self.attempt(candidate);
            }
        }
    }

    /// Leaves out ever smaller runs of events.
    fn events(&mut self) {
        let mut run = self.case.events.len().div_ceil(2);
        while run > 0 {
            let mut at = 0;
            while at < self.case.events.len() {
                let mut candidate = self.case.clone();
                candidate
                    .events
                    .drain(at..(at + run).min(self.case.events.len()));
                if !self.attempt(candidate) {
                    at += run;
                }
            }
            run /= 2;
        }
    }

    fn queries(&mut self) {
        // A simpler query may be refused for a good reason.
        if self.failure.kind == Kind::Refused("0A000".into()) {
            return;
        }
        for i in 0..self.case.streams.len() {
            let mut again = true;
            while again {
                again = false;
                for query in simpler(&self.case.streams[i].1) {
                    let mut candidate = self.case.clone();
                    candidate.streams[i].1 = query;
                    if self.attempt(candidate) {
                        again = true;
                        break;
                    }
                }
            }
        }
    }

    fn fill(&mut self) {
        for i in 0..self.case.fill.len() {
            let Some((head, rest)) = self.case.fill[i].split_once(" values ") else {
                continue;
            };
            let (rows, tail) = rest
                .split_once(" on conflict")
                .map_or((rest, String::new()), |(r, t)| {
                    (r, format!(" on conflict{t}"))
                });
            let head = head.to_string();
            let mut rows: Vec<String> = rows
                .split("), (")
                .map(|r| r.trim_start_matches('(').trim_end_matches(')').to_string())
                .collect();
            let mut run = rows.len();
            while run > 0 {
                let mut at = 0;
                while at < rows.len() {
                    let mut fewer = rows.clone();
                    fewer.drain(at..(at + run).min(rows.len()));
                    let sql = if fewer.is_empty() {
                        "select 1".into()
                    } else {
                        format!("{head} values ({}){tail}", fewer.join("), ("))
                    };
                    let mut candidate = self.case.clone();
                    candidate.fill[i] = sql;
                    if self.attempt(candidate) {
                        rows = fewer;
                    } else {
                        at += run;
                    }
                }
                run /= 2;
            }
        }
    }
}

fn is_read(case: &Case, name: &String) -> bool {
    let mut queries = case.streams.iter().chain(&case.views);
    queries.any(|(_, q)| q.reads().contains(name))
}

/// Queries that are a little simpler; output columns may become fewer only where nobody can depend on them.
pub fn simpler(query: &Query) -> Vec<Query> {
    match query {
        Query::Set(operator, arms) => {
            let mut found = arms.clone();
            if arms.len() > 2 {
                for i in 0..arms.len() {
                    let mut fewer = arms.clone();
                    fewer.remove(i);
                    found.push(Query::Set(operator, fewer));
                }
            }
            for (i, arm) in arms.iter().enumerate() {
                found.extend(same_columns(arm).map(|a| {
                    let mut arms = arms.clone();
                    arms[i] = a;
                    Query::Set(operator, arms)
                }));
            }
            found
        }
        Query::Sorted {
            query,
            order,
            limit,
        } => {
            let sorted = |query| Query::Sorted {
                query: Box::new(query),
                order: order.clone(),
                limit: limit.clone(),
            };
            std::iter::once((**query).clone())
                .chain(same_columns(query).map(sorted))
                .collect()
        }
        Query::Select(select) => {
            let inner = select.leaves().into_iter();
            inner
                .filter_map(|i| i.relation.query().cloned())
                .chain(
                    simpler_selects(select)
                        .into_iter()
                        .map(|s| Query::Select(Box::new(s))),
                )
                .collect()
        }
    }
}

fn same_columns(query: &Query) -> impl Iterator<Item = Query> {
    let columns = query.columns();
    simpler(query)
        .into_iter()
        .filter(move |q| q.columns() == columns)
}

fn simpler_selects(select: &Select) -> Vec<Select> {
    let mut found = Vec::new();
    let mut propose = |change: &dyn Fn(&mut Select)| {
        let mut candidate = select.clone();
        change(&mut candidate);
        found.push(candidate);
    };
    if select.having.is_some() {
        propose(&|s| s.having = None);
    }
    if select.distinct != Distinct::No {
        propose(&|s| s.distinct = Distinct::No);
    }
    if select.limit != Limit::default() {
        propose(&|s| s.limit = Limit::default());
        propose(&|s| s.limit.offset = 0);
    } else if !select.order.is_empty() {
        propose(&|s| s.order.clear());
    }
    // The last items make the order unique.
    if select.order.len() > 1 {
        propose(&|s| {
            s.order.remove(0);
        });
    }
    for i in 0..select.filter.len() {
        propose(&|s| {
            s.filter.remove(i);
        });
    }
    if select.output.len() > 1 {
        for i in (0..select.output.len()).rev() {
            propose(&|s| {
                s.output.remove(i);
            });
        }
    }
    if let Some(grouping) = &select.group_by {
        if grouping.sets != Sets::One {
            propose(&|s| s.group_by.iter_mut().for_each(|g| g.sets = Sets::One));
        }
        if let Sets::Listed(sets) = &grouping.sets {
            for i in (0..sets.len()).filter(|_| sets.len() > 1) {
                let mut fewer = sets.clone();
                fewer.remove(i);
                propose(&|s| {
                    let sets = Sets::Listed(fewer.clone());
                    s.group_by.iter_mut().for_each(|g| g.sets = sets.clone());
                });
            }
        } else {
            for i in 0..grouping.keys.len() {
                propose(&|s| {
                    s.group_by.iter_mut().for_each(|g| {
                        g.keys.remove(i);
                    })
                });
            }
        }
        for key in &grouping.keys {
            for simple in key.simpler().into_iter().filter(Expr::has_column) {
                propose(&|s| {
                    for e in s.expressions_mut() {
                        e.replace(key, &simple);
                    }
                });
            }
        }
    }
    if select.from.len() > 1 {
        // Only one that nothing else mentions can go; others make an invalid query, which is not kept.
        for i in (0..select.from.len()).rev() {
            propose(&|s| {
                s.from.remove(i);
            });
        }
    }
    simpler_inputs(&select.from, &mut |from| {
        propose(&|s| s.from = from.clone())
    });
    let mut copy = select.clone();
    let expressions: Vec<Expr> = copy
        .expressions_mut()
        .iter()
        .map(|e| (**e).clone())
        .collect();
    for (i, expression) in expressions.iter().enumerate() {
        for simple in expression.simpler() {
            propose(&|s| *s.expressions_mut()[i] = simple.clone());
        }
    }
    found
}

/// Simpler inputs and joins; the conditions are dealt with like other expressions.
fn simpler_inputs(from: &[Input], propose: &mut dyn FnMut(Vec<Input>)) {
    for (i, input) in from.iter().enumerate() {
        let mut with = |change: &dyn Fn(&mut Input)| {
            let mut from = from.to_vec();
            change(&mut from[i]);
            propose(from);
        };
        match &input.join {
            Join::Outer(_, condition) => {
                with(&|input| input.join = Join::Inner(condition.clone()));
            }
            Join::Inner(_) => with(&|input| input.join = Join::Cross),
            Join::Comma | Join::Cross => {}
        }
        match &input.relation {
            Relation::Named { .. } | Relation::Itself(..) => {}
            Relation::Derived(query) | Relation::Lateral(query) | Relation::Common(_, query) => {
                for simple in same_columns(query) {
                    with(&|input| {
                        if let Some(query) = input.relation.query_mut() {
                            *query = simple.clone();
                        }
                    });
                }
                if matches!(input.relation, Relation::Common(..)) {
                    with(&|input| input.relation = Relation::Derived(query.clone()));
                }
            }
            Relation::Joined(inputs) => {
                let mut alone = from.to_vec();
                alone.splice(i..=i, inputs.iter().cloned());
                alone[i].join = input.join.clone();
                propose(alone);
                simpler_inputs(inputs, &mut |inputs| {
                    let mut from = from.to_vec();
                    from[i].relation = Relation::Joined(inputs);
                    propose(from);
                });
            }
            Relation::Values(rows) => {
                for row in (0..rows.len()).filter(|_| rows.len() > 1) {
                    with(&|input| {
                        if let Relation::Values(rows) = &mut input.relation {
                            rows.remove(row);
                        }
                    });
                }
            }
            Relation::Functions { calls, ordinality } => {
                if calls.len() > 1 || *ordinality {
                    with(&|input| {
                        if let Relation::Functions { calls, ordinality } = &mut input.relation {
                            calls.truncate(1);
                            *ordinality = false;
                        }
                    });
                }
            }
        }
    }
}
