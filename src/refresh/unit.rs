//! One unit (a stage or a stream table's own result) refreshed under a snapshot.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Instant;

use lru::LruCache;
use pgrx::pg_sys;
use pgt_ivm::apply::{self, Care, Change, Identity};
use pgt_ivm::rel::{CLOCK, SourceId};
use pgt_ivm::schedule::{Cost, Sample};
use pgt_ivm::sql;
use pgt_ivm::sql::ast::Statement;

use super::compile::Unit;
use super::pending::{Filled, PROBE_CAP, Pending};
use crate::catalog::{Action, RefreshState};
use crate::config::{Broken, RefreshSettings, Strategy};
use crate::error::{Error, Kind, Result};
use crate::pg::executor::{self, Merged};
use crate::pg::planner::{Expectation, Expected};
use crate::pg::session::{self, Scope};
use crate::pg::shared;
use crate::pg::snapshot::transaction_time;
use crate::pg::spi::{self, Plan, Under, Value};
use crate::pg::xact;

/// Plans are made for deltas of at most this many log rows per source, and for larger ones.
const SIZE_CLASSES: [u64; 9] = [10, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000];

/// What a differential statement and its plan are made for.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Delta {
    change: Change,
    filled: Filled,
    /// Sources of which much less changed than of the others, and how many times less, roughly.
    smaller: Vec<(SourceId, u64)>,
}

/// By how many times less a plan is made.
const TIMES_LESS: [u64; 4] = [100, 30, 10, 3];

/// The sources of which much less changed than of the one of which most did.
fn smaller(changes: &[(SourceId, u64)], limit: Option<u64>) -> Vec<(SourceId, u64)> {
    let most = changes.iter().map(|(_, rows)| *rows).max();
    let times_less = |rows: u64| {
        let fits = |times: &u64| rows * times <= limit.unwrap_or(0);
        TIMES_LESS.into_iter().find(fits)
    };
    changes
        .iter()
        .filter(|(_, rows)| Some(*rows) != most)
        .filter_map(|(id, rows)| Some((*id, times_less(*rows)?)))
        .collect()
}

fn listed<T>(list: &[(SourceId, T)], wanted: SourceId) -> Option<&(SourceId, T)> {
    list.iter().find(|(id, _)| *id == wanted)
}

/// Statements of a unit prepared in this session.
pub(super) struct Plans {
    differential: LruCache<Delta, Rc<Plan>>,
    /// How often a differential one was prepared.
    prepared: u64,
    full: Option<Rc<Plan>>,
    pub(super) from_view: Option<Rc<Plan>>,
    /// Asks whether a watch has a row.
    pub(super) ties: Option<Rc<Plan>>,
    cost: Cost,
    /// Refreshes for which the fast statement is not tried, since it has just given up.
    slower: u32,
}

/// Differential plans of one unit that a session keeps, the last ones used.
const PLANS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

impl Default for Plans {
    fn default() -> Self {
        Plans {
            differential: LruCache::new(PLANS),
            prepared: 0,
            full: None,
            from_view: None,
            ties: None,
            cost: Cost::default(),
            slower: 0,
        }
    }
}

/// Refreshes without a try of the fast statement after one that gave up.
const GIVEN_UP: u32 = 64;

/// How a unit is to be refreshed.
pub(super) struct How<'a> {
    /// Fully, for this reason.
    pub force: Option<&'a str>,
    /// The table is known to be empty.
    pub empty: bool,
    /// The stored rows are to be those of the view: rows that are equal under an ORDER BY decide, and only the query itself
    /// knows how.
    pub from_view: bool,
    /// A full refresh may be chosen where it is cheaper.
    pub prefer_full: bool,
    /// Nothing is done if more changes than this are found.
    pub fuse: Option<u64>,
    pub settings: &'a RefreshSettings,
}

/// What happened to a unit.
#[derive(Clone, Debug)]
pub struct UnitOutcome {
    pub action: Action,
    pub reason: Option<String>,
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
    pub delta_rows: i64,
    /// The stored rows are those of the view, and nothing beside them can be relied on.
    pub from_view: bool,
}

impl UnitOutcome {
    pub fn changed(&self) -> bool {
        self.inserted + self.updated + self.deleted > 0
    }
}

/// The columns of a unit's table: `"name" type [COLLATE ..] [NOT NULL]`.
pub fn storage_columns(layout: &apply::Layout) -> Vec<String> {
    layout
        .columns
        .iter()
        .map(|column| {
            let collation = column
                .ty
                .collation
                .as_ref()
                .map_or(String::new(), |collation| format!(" COLLATE {collation}"));
            let not_null = match &layout.identity {
                Identity::Key(names) if names.contains(&column.name) => " NOT NULL",
                _ => "",
            };
            format!(
                "{} {}{collation}{not_null}",
                sql::quote_identifier(&column.name),
                column.ty.name
            )
        })
        .collect()
}

impl Unit {
    /// Brings the stored rows from the state's frontier to the snapshot.
    pub(super) fn refresh(
        &self,
        state: &RefreshState,
        how: &How<'_>,
        under: Under<'_>,
    ) -> Result<UnitOutcome> {
        let How {
            force,
            empty,
            prefer_full,
            fuse,
            settings,
            from_view,
        } = *how;
        if from_view {
            return self.refresh_from_view(state, how, under);
        }
        if !state.populated {
            // After a restore the table has rows but no state.
            return self.full(
                state,
                "initial",
                Action::Full,
                empty && self.target.output.is_none(),
                under,
            );
        }
        if let Some(reason) = force {
            return self.full(state, reason, Action::Full, false, under);
        }
        if state.needs_reinit {
            let reason = state
                .reinit_reason
                .clone()
                .unwrap_or_else(|| "definition changed".into());
            return self.full(state, &reason, Action::Reinitialize, false, under);
        }
        let Some(frontier) = &state.frontier else {
            return self.full(
                state,
                "frontier of another cluster",
                Action::Reinitialize,
                false,
                under,
            );
        };
        if state.upstream != self.upstream() {
            return self.full(state, "sources changed", Action::Reinitialize, false, under);
        }
        if state.from_view {
            return self.full(state, "no more ties", Action::Full, false, under);
        }
        let frontier = match settings.broken {
            Broken::FrontierXmax => (frontier.0, vec![]),
            _ => frontier.clone(),
        };
        let values = delta_values(&frontier, state, state.snapshot_xmax);
        let moves = self.moves();
        if moves && state.clock.is_none() {
            return self.full(
                state,
                "the time of the last refresh is not known",
                Action::Full,
                false,
                under,
            );
        }
        // Within a transaction no time passes.
        let moved = moves && state.clock != Some(transaction_time());
        let cap = fuse.map_or(PROBE_CAP, |most| PROBE_CAP.max(most + 1));
        match self.pending(&values, cap, under) {
            Pending::Clean if self.query.is_none() && self.sources.is_empty() => self.full(
                state,
                "sources cannot be captured",
                Action::Full,
                false,
                under,
            ),
            Pending::Clean if moved => {
                let outcome =
                    self.differential((&[], &vec![], true), &values, state, settings, under)?;
                Ok(if outcome.changed() {
                    outcome
                } else {
                    untouched(Action::NoData, 0)
                })
            }
            Pending::Clean => Ok(untouched(Action::NoData, 0)),
            Pending::Unexplained(reason) => self.full(state, reason, Action::Full, false, under),
            Pending::Changes(changes, filled) => {
                let rows: u64 = changes.iter().map(|(_, count)| *count).sum();
                if fuse.is_some_and(|most| rows > most) {
                    return Ok(untouched(Action::Skip, rows));
                }
                if self.query.is_none() {
                    return self.full(state, "not incremental", Action::Full, false, under);
                }
                if settings.strategy == Strategy::Full {
                    return self.full(state, "refresh_strategy", Action::Full, false, under);
                }
                if settings.strategy == Strategy::Auto && prefer_full {
                    // The share of changed rows is a guess for as long as nothing is known.
                    let known = self.cost().prefers_full(
                        rows,
                        state.last_full_ms,
                        now_ms(),
                        &settings.prediction,
                    );
                    if known == Some(true) {
                        return self.full(state, "cost model", Action::Full, false, under);
                    }
                    if known.is_none() && self.too_many(&changes, settings.max_change_ratio) {
                        return self.full(state, "change ratio", Action::Full, false, under);
                    }
                }
                let before = self.plans.borrow().prepared;
                let started = Instant::now();
                let outcome =
                    self.differential((&changes, &filled, moved), &values, state, settings, under)?;
                // The time of a statement's first run is mostly that of planning it.
                let planned = self.plans.borrow().prepared == before;
                if outcome.action == Action::Differential && planned {
                    self.note_cost(rows, started.elapsed().as_secs_f64() * 1000.0);
                }
                Ok(outcome)
            }
        }
    }

    /// What is known of the cost of differential refreshes, by all sessions or else by this one.
    fn cost(&self) -> Cost {
        shared::cost(self.id).unwrap_or_else(|| self.plans.borrow().cost.clone())
    }

    fn note_cost(&self, rows: u64, ms: f64) {
        let sample = Sample {
            at: now_ms(),
            rows,
            ms,
        };
        if !shared::note(self.id, sample) {
            self.plans.borrow_mut().cost.note(sample);
        }
    }

    fn differential(
        &self,
        (changes, filled, moved): (&[(SourceId, u64)], &Filled, bool),
        values: &[Value],
        state: &RefreshState,
        settings: &RefreshSettings,
        under: Under<'_>,
    ) -> Result<UnitOutcome> {
        let largest = changes.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let largest = match settings.broken {
            Broken::LargeChanges => largest.max(1_000),
            _ => largest,
        };
        let limit = SIZE_CLASSES.iter().copied().find(|class| largest <= *class);
        let change = Change {
            dirty: changes
                .iter()
                .map(|(id, _)| *id)
                .chain(moved.then_some(CLOCK))
                .collect(),
            limit,
            open: !matches!(values.get(1), Some(Value::Xid8Array(open)) if open.is_empty()),
            care: self.care(),
        };
        let mut delta = Delta {
            change,
            filled: filled.clone(),
            smaller: smaller(changes, limit),
        };
        let applied = match xact::attempt(|| self.apply(&delta, values, settings, under)) {
            Ok(applied) => applied,
            Err(failure) if failure.may_be_the_delta() => {
                // It gave up, or an expression failed, perhaps on a value of neither state.
                self.plans.borrow_mut().slower = GIVEN_UP;
                delta.change.care = Care::Careful;
                match xact::attempt(|| self.apply(&delta, values, settings, under)) {
                    Ok(applied) => applied,
                    Err(second) if second.may_be_the_delta() => {
                        // Rows that never stood together may have met; the query itself knows.
                        let reason =
                            format!("differential refresh failed with {}", second.sqlstate);
                        return self.full(state, &reason, Action::Full, false, under);
                    }
                    Err(second) => second.raise(),
                }
            }
            Err(failure) => failure.raise(),
        };
        let logged: u64 = changes.iter().map(|(_, rows)| rows).sum();
        let (mut outcome, drifted) = match &applied {
            Applied::Told(row) => (read_outcome(row, Action::Differential, None), row.bool(4)),
            Applied::Merged(merged) => (
                UnitOutcome {
                    inserted: merged.inserted,
                    updated: merged.updated,
                    deleted: merged.deleted,
                    ..untouched(Action::Differential, logged)
                },
                false,
            ),
        };
        // The statement counts what it has read; the probe, what was logged up to its cap.
        outcome.delta_rows = outcome.delta_rows.max(logged as i64);
        if drifted {
            // Never seen without a defect somewhere; the stored rows are put right and the event is on record.
            pgrx::warning!(
                "stored rows of {} did not match the delta; they are compared with the query",
                self.target.table
            );
            return self.full(
                state,
                "stored rows did not match the delta",
                Action::Reinitialize,
                false,
                under,
            );
        }
        Ok(outcome)
    }

    /// How much is expected of the next delta.
    fn care(&self) -> Care {
        let mut plans = self.plans.borrow_mut();
        match plans.slower.checked_sub(1) {
            Some(left) => {
                plans.slower = left;
                Care::Net
            }
            None => Care::Fast,
        }
    }

    /// The sources with only those log segments that hold something new, since each one costs the start of a scan, and
    /// without indexes where so much changed that going through them row by row is no choice.
    fn reading(&self, delta: &Delta) -> sql::Sources {
        let mut sources = self.sources.clone();
        if !delta.change.is_small() {
            sources
                .values_mut()
                .for_each(|source| source.indexed.clear());
        }
        for (id, segments) in &delta.filled {
            if let Some(source) = sources.get_mut(id) {
                source.log = segments
                    .iter()
                    .filter_map(|position| source.log.get(*position).cloned())
                    .collect();
            }
        }
        sources
    }

    /// Runs the statement for a change, prepared if it was run before in this session.
    fn apply(
        &self,
        delta: &Delta,
        values: &[Value],
        settings: &RefreshSettings,
        under: Under<'_>,
    ) -> Applied {
        let known = self.plans.borrow_mut().differential.get(delta).cloned();
        let plan = known.unwrap_or_else(|| {
            let Some(query) = &self.query else {
                unreachable!("a differential refresh without a tree")
            };
            let text = apply::differential(
                query,
                &self.layout,
                &self.reading(delta),
                &self.target,
                &delta.change,
            )
            .to_string();
            if settings.log_delta_sql {
                pgrx::log!("delta statement of {}: {text}", self.target.table);
            }
            let plan = Rc::new(Plan::prepare(&text, values));
            let mut plans = self.plans.borrow_mut();
            plans.prepared += 1;
            plans.differential.put(delta.clone(), plan.clone());
            plan
        });
        let _scope = (!plan.is_planned()).then(|| self.planning(delta));
        let row = plan.run(values, under).into_iter().next();
        match (row, executor::take_merged()) {
            (Some(row), _) => Applied::Told(row),
            (None, Some(merged)) => Applied::Merged(merged),
            (None, None) => pgrx::error!("an apply statement returned no row"),
        }
    }

    /// What the planner has to be told, until this is dropped, where a statement for a change is planned.
    fn planning(&self, delta: &Delta) -> (Scope, Expectation) {
        let (change, scope) = (&delta.change, Scope::settings());
        if change.is_small() {
            // Small deltas are looked up through indexes, mostly in pages that are cached; with the defaults the planner would
            // rather read small tables whole.
            session::set("seq_page_cost", "0.2");
            session::set("random_page_cost", "0.22");
            if change.care != Care::Careful {
                // What follows from a small change is mostly small; the planner expects each step to make ten times as much.
                session::set("recursive_worktable_factor", "1");
            }
        }
        let logs = change.limit.into_iter().flat_map(|limit| {
            let below = SIZE_CLASSES.iter().rev().find(|class| **class < limit);
            // Nobody in the class is far from its geometric mean.
            let rows = (limit as f64 * *below.unwrap_or(&1) as f64).sqrt();
            change
                .dirty
                .iter()
                .filter_map(|id| Some((*id, self.source_refs.get(id)?)))
                .flat_map(move |(id, reference)| {
                    let (_, times_less) = *listed(&delta.smaller, id).unwrap_or(&(id, 1));
                    let read = listed(&delta.filled, id).map_or(0, |(_, segments)| segments.len());
                    let segments = if read == 0 {
                        reference.segments.len()
                    } else {
                        read
                    };
                    let expected = Expected::New {
                        rows: (rows / (times_less as f64 * segments as f64)).max(1.0),
                        source: id.0,
                    };
                    reference
                        .segments
                        .iter()
                        .map(move |segment| (*segment, expected))
                })
        });
        let single = self
            .single_rows()
            .map(|relation| (relation, Expected::OneRow));
        (scope, Expectation::of(logs.chain(single)))
    }

    /// The tables among its sources and itself that have one row.
    fn single_rows(&self) -> impl Iterator<Item = pg_sys::Oid> {
        let scans = self.query.iter().flat_map(|query| query.root.scans());
        scans
            .filter(|scan| scan.keys.iter().any(BTreeSet::is_empty))
            .filter_map(|scan| self.source_refs.get(&scan.source))
            .map(|reference| reference.relid)
            .chain((self.layout.identity == Identity::Single).then_some(self.relid))
    }

    /// The plan of the statement that applies a change of `dirty` sources with at most `limit` rows of each.
    pub fn explain(
        &self,
        dirty: &BTreeSet<SourceId>,
        limit: u64,
        format: &str,
    ) -> Result<Vec<String>> {
        let statement = self.differential_statement(dirty, Some(limit))?;
        let _planning = self.planning(&Delta {
            change: self.change(dirty, Some(limit)),
            filled: vec![],
            smaller: vec![],
        });
        Ok(spi::explain(&statement.to_string(), format))
    }

    /// Any change of these sources.
    fn change(&self, dirty: &BTreeSet<SourceId>, limit: Option<u64>) -> Change {
        Change {
            dirty: dirty.clone(),
            limit,
            open: true,
            care: Care::Fast,
        }
    }

    /// The statement that applies a change of `dirty` sources.
    pub fn differential_statement(
        &self,
        dirty: &BTreeSet<SourceId>,
        limit: Option<u64>,
    ) -> Result<Statement> {
        let query = self.query.as_ref().ok_or_else(|| {
            Error::new(
                Kind::NotIncremental,
                "the stream table is not maintained incrementally",
            )
            .hint("pgtrickle.explain_refresh_mode() tells why.")
        })?;
        Ok(apply::differential(
            query,
            &self.layout,
            &self.sources,
            &self.target,
            &self.change(dirty, limit),
        ))
    }

    /// The statement of a full refresh.
    pub fn full_statement(&self) -> Statement {
        match &self.query {
            Some(query) => apply::full(query, &self.layout, &self.sources, &self.target),
            None => apply::full_from_view(&self.view, &self.layout, &self.target),
        }
    }

    fn full(
        &self,
        state: &RefreshState,
        reason: &str,
        action: Action,
        empty: bool,
        under: Under<'_>,
    ) -> Result<UnitOutcome> {
        let prepare = |statement: Statement, values: &[Value]| {
            Rc::new(Plan::prepare(&statement.to_string(), values))
        };
        let values = if empty { vec![] } else { full_values(state) };
        let plan = if empty {
            let statement = match &self.query {
                Some(query) => apply::initial(query, &self.layout, &self.sources, &self.target),
                None => apply::initial_from_view(&self.view, &self.layout, &self.target),
            };
            prepare(statement, &values)
        } else if let (true, Some(query)) = (self.holds_unknown_rows(state, under), &self.query) {
            let (layout, target) = (&self.layout, &self.target);
            prepare(
                apply::full_after_view(query, layout, &self.sources, target),
                &values,
            )
        } else {
            let mut plans = self.plans.borrow_mut();
            let plan = plans
                .full
                .get_or_insert_with(|| prepare(self.full_statement(), &values));
            plan.clone()
        };
        let started = Instant::now();
        let outcome = run_full(&plan, &values, (action, reason), under)?;
        // What fills an empty table is another statement.
        if !empty {
            let sample = Sample {
                at: now_ms(),
                rows: outcome.delta_rows as u64,
                ms: started.elapsed().as_secs_f64() * 1000.0,
            };
            if !shared::note_full(self.id, sample) {
                self.plans.borrow_mut().cost.note_full(sample);
            }
        }
        Ok(outcome)
    }
}

pub(super) fn run_full(
    plan: &Plan,
    values: &[Value],
    (action, reason): (Action, &str),
    under: Under<'_>,
) -> Result<UnitOutcome> {
    let rows = plan.run(values, under);
    let row = rows
        .first()
        .ok_or_else(|| Error::new(Kind::Internal, "an apply statement returned no row"))?;
    Ok(read_outcome(row, action, Some(reason.to_owned())))
}

/// What a statement that applies a change did, see [`apply::differential`].
enum Applied {
    Told(spi::Row),
    Merged(Merged),
}

fn now_ms() -> i64 {
    (super::now() * 1000.0) as i64
}

/// Nothing was done; `logged` changes were found.
pub(super) fn untouched(action: Action, logged: u64) -> UnitOutcome {
    UnitOutcome {
        action,
        reason: None,
        inserted: 0,
        updated: 0,
        deleted: 0,
        delta_rows: logged as i64,
        from_view: false,
    }
}

/// The parameters of delta statements, see `pgt_ivm::sql::param`.
pub(super) fn delta_values(
    frontier: &(u64, Vec<u64>),
    state: &RefreshState,
    bound: u64,
) -> Vec<Value> {
    vec![
        Value::Xid8(frontier.0),
        Value::Xid8Array(frontier.1.clone()),
        Value::IntArray(state.consumed.clone()),
        Value::Int(state.data_version + 1),
        Value::Xid8(bound),
        Value::OptionalTimestamp(state.clock),
    ]
}

/// A full refresh only uses the version, but numbers parameters alike.
pub(super) fn full_values(state: &RefreshState) -> Vec<Value> {
    delta_values(&(0, vec![]), state, 0)
}

fn read_outcome(row: &spi::Row, action: Action, reason: Option<String>) -> UnitOutcome {
    UnitOutcome {
        action,
        reason,
        inserted: row.int(0),
        updated: row.int(1),
        deleted: row.int(2),
        delta_rows: row.int(3),
        from_view: false,
    }
}
