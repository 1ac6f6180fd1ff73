//! Makes a failing case small: fewer events, fewer stream tables, simpler queries, as long as it fails in the same way.

use super::case::Case;
use super::expression::Expr;
use super::query::{Join, Query, Relation, Select};
use super::replay::{Failure, Kind};
use std::time::{Duration, Instant};

/// The smallest case found within the time, and how it fails.
pub fn minimize(
    case: &Case,
    failure: Failure,
    time: Duration,
    replay: &dyn Fn(&Case) -> Result<(), Failure>,
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
    replay: &'r dyn Fn(&Case) -> Result<(), Failure>,
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

/// Queries that are a little simpler; output columns may become fewer only where nobody can depend on them.
pub fn simpler(query: &Query) -> Vec<Query> {
    match query {
        Query::Set(operator, arms) => {
            let mut found = arms.clone();
            for (i, arm) in arms.iter().enumerate() {
                found.extend(
                    simpler(arm)
                        .into_iter()
                        .filter(|a| a.columns() == arm.columns())
                        .map(|a| {
                            let mut arms = arms.clone();
                            arms[i] = a;
                            Query::Set(operator, arms)
                        }),
                );
            }
            found
        }
        Query::Select(select) => simpler_selects(select)
            .into_iter()
            .map(|s| Query::Select(Box::new(s)))
            .collect(),
    }
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
    if select.distinct {
        propose(&|s| s.distinct = false);
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
    if let Some(keys) = &select.group_by {
        for i in 0..keys.len() {
            propose(&|s| {
                if let Some(keys) = &mut s.group_by {
                    keys.remove(i);
                }
            });
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
    for (i, input) in select.from.iter().enumerate() {
        if let Relation::Derived(query) | Relation::Common(_, query) = &input.relation {
            for inner in simpler(query)
                .into_iter()
                .filter(|q| q.columns() == query.columns())
            {
                propose(&|s| match &mut s.from[i].relation {
                    Relation::Derived(q) | Relation::Common(_, q) => *q = inner.clone(),
                    Relation::Named { .. } => {}
                });
            }
        }
        if let Join::Outer(kind, condition) = &input.join {
            propose(&|s| s.from[i].join = Join::Inner(condition.clone()));
            for c in condition.simpler() {
                propose(&|s| s.from[i].join = Join::Outer(kind, c.clone()));
            }
        }
        if let Join::Inner(condition) = &input.join {
            propose(&|s| s.from[i].join = Join::Cross);
            for c in condition.simpler() {
                propose(&|s| s.from[i].join = Join::Inner(c.clone()));
            }
        }
    }
    simpler_in(&select.filter, &mut |i, e| {
        propose(&|s| s.filter[i] = e.clone())
    });
    simpler_in(&select.output, &mut |i, e| {
        propose(&|s| s.output[i] = e.clone())
    });
    if let Some(having) = &select.having {
        for e in having.simpler() {
            propose(&|s| s.having = Some(e.clone()));
        }
    }
    found
}

fn simpler_in(list: &[Expr], propose: &mut dyn FnMut(usize, &Expr)) {
    for (i, e) in list.iter().enumerate() {
        for simple in e.simpler() {
            propose(i, &simple);
        }
    }
}
