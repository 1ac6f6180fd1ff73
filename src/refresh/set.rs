//! A set of stream tables refreshed at one snapshot.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

use pgrx::pg_sys;
use pgt_ivm::graph::Graph;

use super::cache;
use super::compile::{Compiled, compile};
use super::ties::TIES;
use super::unit::{How, UnitOutcome};
use super::verify::Comparison;
use crate::capture;
use crate::catalog::{
    self, Action, Group, HistoryRow, InitiatedBy, Mode, SourceType, Status, StreamTable, Success,
};
use crate::config::{Broken, RefreshSettings};
use crate::error::{Error, Kind, Result};
use crate::pg::lock::Used;
use crate::pg::session::Scope;
use crate::pg::snapshot::{Snapshot, transaction_time};
use crate::pg::spi::{self, Under};
use crate::pg::{capture_trigger, entry, lock, xact};

/// What to refresh.
pub struct Request {
    /// Stream tables to refresh.
    pub ids: Vec<i64>,
    /// Also whatever they read, so that all are at one snapshot.
    pub with_upstream: bool,
    pub initiated_by: InitiatedBy,
    /// Refresh fully, for this reason.
    pub force_full: Option<String>,
    pub settings: RefreshSettings,
    /// Whether fuses may blow.
    pub fuses: bool,
    /// What sets a stream table up again that does not fit its query any more.
    pub set_up: fn(&StreamTable) -> Result<()>,
    /// What to look at afterwards, under the same snapshot.
    pub then: Then,
}

/// What to do after a refresh, under its snapshot, with the stream table asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// Count the differences from the query.
    Compare,
    /// List them.
    List,
}

/// What happened to a stream table.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub id: i64,
    pub action: Action,
    /// Rows of it or of its stages changed.
    pub changed: bool,
    /// The snapshot, as text.
    pub snapshot: String,
    pub comparison: Option<Comparison>,
    pub differences: Vec<(String, String)>,
}

/// Refreshes a set of stream tables in topological order at one snapshot, in the current transaction.
///
/// Fails with 0A000 if this transaction has written to a source: what it wrote would be seen now and again later.
pub fn refresh(request: &Request) -> Result<Vec<Outcome>> {
    let catalog_oid = catalog::installed()?;
    if entry::is_writing() {
        return Err(Error::new(
            Kind::NotIncremental,
            "cannot refresh a stream table within a refresh",
        )
        .detail("A trigger or a function that a refresh calls asks for another one.")
        .hint(
            "Give the other stream table a schedule; it is refreshed when what it reads changed.",
        ));
    }
    let mut locked: Vec<i64> = Vec::new();
    let mut attempts = 0;
    // The definitions may have changed while the locks were waited for.
    while attempts < 10 {
        for id in std::mem::take(&mut locked) {
            lock::release_stream_table(catalog_oid, id);
        }
        let order = extent(&request.ids, request.with_upstream)?;
        // In the order of ids: refreshes that meet wait for each other and not in a circle.
        locked.extend(&order);
        locked.sort_unstable();
        for id in &locked {
            lock::stream_table(catalog_oid, *id);
        }
        let compiled = compile_all(&order, &request.ids)?;
        // Others may have the same stages; whoever holds one waits for no stream table any more.
        for id in stages(&compiled) {
            lock::stream_table(catalog_oid, id);
            locked.push(id);
        }
        refuse_own_writes(&compiled)?;
        let used = match lock_used(catalog_oid, &compiled) {
            Ok(used) => used,
            Err(busy) => {
                for id in std::mem::take(&mut locked) {
                    lock::release_stream_table(catalog_oid, id);
                }
                busy.lock(catalog_oid);
                busy.release(catalog_oid);
                continue;
            }
        };
        attempts += 1;
        // Before the snapshot: whatever was committed until then is in it.
        let taken_at = now();
        let mut snapshot = Snapshot::take();
        if request.initiated_by == InitiatedBy::Create || is_older_than_logs(&compiled, &snapshot) {
            // Capture has just been installed: whatever it waited for must be visible.
            snapshot = Snapshot::latest();
        }
        refuse_unseen_truncation(&compiled, &snapshot)?;
        if !still_current(&compiled) {
            for id in &order {
                match catalog::load(*id) {
                    // What is kept of an older generation is replaced.
                    Ok(table) if compile(&table).is_ok() => {}
                    Ok(table) => {
                        // Whoever sets it up waits for others, and holds nothing then.
                        used.into_iter().for_each(|used| used.release(catalog_oid));
                        for id in std::mem::take(&mut locked) {
                            lock::release_stream_table(catalog_oid, id);
                        }
                        (request.set_up)(&table)?;
                        break;
                    }
                    Err(gone) if request.ids.contains(id) => return Err(gone),
                    Err(_) => {}
                }
            }
            continue;
        }
        let Some(groups) = whole_groups(&compiled, request.with_upstream) else {
            continue;
        };
        refuse_what_must_wait(&compiled, &groups, request)?;
        let outcomes = compiled
            .iter()
            .map(|compiled| {
                AT.set(Some(compiled.table.id));
                // Triggers on what was refreshed before may have.
                refuse_own_writes(std::slice::from_ref(compiled))?;
                refresh_one(compiled, request, &snapshot, taken_at)
            })
            .collect::<Result<Vec<Outcome>>>()?;
        AT.set(None);
        for compiled in &compiled {
            cache::save(compiled);
        }
        advance_epochs(&groups, &outcomes);
        return Ok(outcomes);
    }
    Err(Error::new(
        Kind::MustWait,
        "definitions keep changing while a refresh is prepared",
    )
    .hint("Try again."))
}

/// The stages of these stream tables.
fn stages(compiled: &[Rc<Compiled>]) -> BTreeSet<i64> {
    compiled
        .iter()
        .flat_map(|stream_table| {
            let own = stream_table.table.id;
            stream_table
                .units
                .iter()
                .map(|unit| unit.id)
                .filter(move |id| *id != own)
        })
        .collect()
}

/// PostgreSQL looks for dead rows in a page, at the cost of reading it all, whenever one is visited of which less is free
/// than the fillfactor asks for. In a page filled up to that every update leads to it. So pages are filled less at first.
fn keep_less_room(unit: &super::Unit) {
    let as_created = spi::first(
        "SELECT 1 FROM pg_catalog.pg_class WHERE oid = $1 AND reloptions @> '{fillfactor=80}'",
        &[spi::Value::Oid(unit.relid)],
    );
    if as_created.is_some() {
        let _quiet = entry::defining();
        spi::command(&format!(
            "ALTER TABLE {} SET (fillfactor = 90)",
            unit.target.table
        ));
    }
}

/// Without statistics the planner does no harm to a table of fewer rows.
const WORTH_ANALYZING: i64 = 1_000;

thread_local! {
    /// The stream table being refreshed.
    static AT: Cell<Option<i64>> = const { Cell::new(None) };
}

/// The stream table at which the last refresh of this session failed.
pub fn failed_at() -> Option<i64> {
    AT.take()
}

/// What has to be refreshed at one snapshot if `ids` are: whole groups, and everything upstream if asked. In topological
/// order.
pub fn extent(ids: &[i64], with_upstream: bool) -> Result<Vec<i64>> {
    let mut wanted = ids.to_vec();
    loop {
        let order = order(&wanted, with_upstream)?;
        let missing: Vec<i64> = atomic_groups(&order)
            .into_iter()
            .flat_map(|group| group.members)
            .map(|(id, _)| id)
            .filter(|id| !order.contains(id))
            .collect();
        if missing.is_empty() {
            return Ok(order);
        }
        wanted.extend(missing);
    }
}

/// This definition is compiled, reads no stream table and is in no group: its extent is itself, and it is ready.
pub fn stands_alone(table: &StreamTable) -> bool {
    table.consistency_group.is_none()
        && cache::kept(table.id)
            .is_some_and(|known| known.is_of(table) && known.upstream().is_empty())
}

/// The groups of stream tables that are refreshed together; none if a member is missing, or something upstream. What
/// [`extent`] knew may have been outdated; this is asked of current definitions, under the locks.
fn whole_groups(compiled: &[Rc<Compiled>], with_upstream: bool) -> Option<Vec<Group>> {
    let here: BTreeSet<i64> = compiled.iter().map(|known| known.table.id).collect();
    let groups = atomic(
        compiled
            .iter()
            .filter_map(|known| known.table.consistency_group),
    );
    let members = groups
        .iter()
        .flat_map(|group| group.members.iter().map(|(id, _)| *id));
    let upstream = compiled
        .iter()
        .filter(|_| with_upstream)
        .flat_map(|known| known.upstream());
    let whole = members.chain(upstream).all(|id| here.contains(&id));
    whole.then_some(groups)
}

/// The groups of these stream tables that are refreshed together, as far as is known.
fn atomic_groups(ids: &[i64]) -> Vec<Group> {
    atomic(ids.iter().filter_map(|id| match cache::kept(*id) {
        // Whether that is outdated is found out under the locks.
        Some(known) => known.table.consistency_group,
        None => catalog::load(*id).ok()?.consistency_group,
    }))
}

/// Those of these groups that are refreshed together.
fn atomic(groups: impl Iterator<Item = i64>) -> Vec<Group> {
    groups
        .collect::<BTreeSet<i64>>()
        .into_iter()
        .filter_map(catalog::group)
        .filter(|group| group.atomic)
        .collect()
}

/// What is held back is not refreshed, and no group of which a member must be left out.
fn refuse_what_must_wait(
    compiled: &[Rc<Compiled>],
    groups: &[Group],
    request: &Request,
) -> Result<()> {
    for stream_table in compiled {
        let table = &stream_table.table;
        if let Some(reason) = catalog::held(table.id) {
            return Err(Error::new(
                Kind::MustWait,
                format!("stream table {} must wait: {reason}", table.display_name()),
            )
            .hint("See pgtrickle.source_gates() and pgtrickle.watermark_status()."));
        }
        if request.fuses && table.fuse_blown {
            return Err(Error::new(
                Kind::MustWait,
                format!(
                    "the fuse of stream table {} has blown",
                    table.display_name()
                ),
            )
            .hint("Go on with pgtrickle.reset_fuse()."));
        }
        if request.initiated_by == InitiatedBy::Scheduler && is_out(table.status) {
            return Err(Error::new(
                Kind::MustWait,
                format!(
                    "stream table {} is out of the schedule",
                    table.display_name()
                ),
            ));
        }
    }
    for (id, status) in groups.iter().flat_map(|group| &group.members) {
        if is_out(*status) && !request.ids.contains(id) {
            let name = catalog::load(*id)?.display_name();
            return Err(Error::new(
                Kind::MustWait,
                format!("stream table {name} of the same group is out of the schedule"),
            )
            .detail("The stream tables of a group are refreshed together or not at all.")
            .hint(format!(
                "Resume it with pgtrickle.resume_stream_table('{name}'), or take it out of the group."
            )));
        }
    }
    Ok(())
}

fn is_out(status: Status) -> bool {
    matches!(status, Status::Suspended | Status::Error)
}

fn advance_epochs(groups: &[Group], outcomes: &[Outcome]) {
    for group in groups {
        let changed = outcomes.iter().any(|outcome| {
            outcome.changed && group.members.iter().any(|(id, _)| *id == outcome.id)
        });
        if changed {
            let _scope = Scope::internal();
            catalog::advance_epoch(group.id);
        }
    }
}

/// The stream tables in topological order, with everything upstream if asked.
pub fn order(ids: &[i64], with_upstream: bool) -> Result<Vec<i64>> {
    if let ([only], false) = (ids, with_upstream) {
        return Ok(vec![*only]);
    }
    let mut wanted: BTreeSet<i64> = ids.iter().copied().collect();
    let mut graph = Graph::new();
    let mut open: Vec<i64> = ids.to_vec();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        graph.add_node(id);
        for upstream in upstream_of(id)? {
            graph.add_edge(upstream, id);
            if with_upstream {
                wanted.insert(upstream);
            }
            open.push(upstream);
        }
    }
    let sorted = graph.sorted().map_err(|cycle| {
        Error::new(Kind::Cycle, "stream tables read each other in a circle")
            .detail(format!("{cycle:?}"))
    })?;
    Ok(sorted
        .into_iter()
        .filter(|id| wanted.contains(id))
        .collect())
}

/// The stream tables that `id` reads directly or through its stages.
pub fn upstream_of(id: i64) -> Result<Vec<i64>> {
    if let Some((generation, relid)) = catalog::generation(id)
        && let Some(known) = cache::kept(id)
        && known.table.generation == generation
        && known.table.relid == relid
    {
        return Ok(known.upstream());
    }
    let mut found = BTreeSet::new();
    let stages = catalog::stages_of(id)?;
    for unit in stages.iter().map(|stage| stage.id).chain([id]) {
        for dependency in catalog::dependencies(unit) {
            if dependency.kind == SourceType::StreamTable
                && let Some(upstream) = catalog::by_relation(dependency.source)?
            {
                found.insert(upstream.id);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// What is compiled, whether outdated or not: that is found out under the locks. What is gone is left out unless it was
/// asked for.
fn compile_all(order: &[i64], asked: &[i64]) -> Result<Vec<Rc<Compiled>>> {
    let mut all = Vec::with_capacity(order.len());
    for id in order {
        if let Some(known) = cache::kept(*id) {
            all.push(known);
            continue;
        }
        match catalog::load(*id) {
            Ok(table) => all.push(compile(&table)?),
            Err(gone) if asked.contains(id) => return Err(gone),
            Err(_) => {}
        }
    }
    Ok(all)
}

fn refuse_own_writes(compiled: &[Rc<Compiled>]) -> Result<()> {
    let touched = capture_trigger::touched_sources();
    if touched.is_empty() {
        return Ok(());
    }
    for stream_table in compiled {
        let wrote = stream_table
            .units
            .iter()
            .flat_map(|unit| unit.source_refs.values())
            .any(|reference| touched.contains(&reference.relid));
        if wrote {
            return Err(Error::new(
                Kind::NotIncremental,
                format!(
                    "cannot refresh {} in a transaction that has written to one of its sources",
                    stream_table.table.display_name()
                ),
            )
            .hint("Commit first."));
        }
    }
    Ok(())
}

/// Every source, every log segment and whatever else the queries are made of, locked before the snapshot: TRUNCATE is not
/// MVCC, and neither is a function. Or nothing of it, and what is in the way: whoever alters several of them in one
/// transaction would wait in a circle with a refresh that holds one and waits for another.
fn lock_used(
    catalog_oid: pg_sys::Oid,
    compiled: &[Rc<Compiled>],
) -> std::result::Result<Vec<Used>, Used> {
    let relations = compiled
        .iter()
        .flat_map(|stream_table| &stream_table.units)
        .flat_map(|unit| {
            unit.source_refs
                .values()
                .flat_map(|reference| {
                    std::iter::once(reference.relid).chain(reference.segments.iter().copied())
                })
                .chain([unit.relid])
        })
        .map(|relation| Used::Relation(relation.to_u32()));
    let ingredients = compiled
        .iter()
        .flat_map(|stream_table| &stream_table.ingredients)
        .map(|ingredient| Used::Ingredient(*ingredient));
    let used: BTreeSet<Used> = relations.chain(ingredients).collect();
    let mut taken = Vec::with_capacity(used.len());
    for used in used {
        if !used.try_lock(catalog_oid) {
            taken
                .into_iter()
                .for_each(|taken: Used| taken.release(catalog_oid));
            return Err(used);
        }
        taken.push(used);
    }
    Ok(taken)
}

/// In REPEATABLE READ the snapshot is older than the locks. A source truncated in between looks empty although the
/// snapshot does not know why; such a refresh has to start over in a new transaction.
fn refuse_unseen_truncation(compiled: &[Rc<Compiled>], snapshot: &Snapshot) -> Result<()> {
    if !snapshot.is_transactions_own() {
        return Ok(());
    }
    let latest = Snapshot::latest();
    for stream_table in compiled {
        for unit in &stream_table.units {
            if unit.truncated_between(snapshot, &latest) {
                return Err(Error::new(
                    Kind::Serialization,
                    format!(
                        "could not refresh {}: a source was truncated",
                        stream_table.table.display_name()
                    ),
                )
                .detail("The TRUNCATE was committed after this transaction took its snapshot.")
                .hint("Try again in a new transaction."));
            }
        }
    }
    Ok(())
}

/// In REPEATABLE READ the snapshot may be older than the log of something that was set up again in this transaction: what
/// was committed in between is in no log that is read later.
fn is_older_than_logs(compiled: &[Rc<Compiled>], snapshot: &Snapshot) -> bool {
    snapshot.is_transactions_own()
        && compiled
            .iter()
            .flat_map(|stream_table| &stream_table.units)
            .map(|unit| catalog::load_state(unit.id, Under::Snapshot(snapshot)))
            .any(|state| !state.populated || state.needs_reinit)
}

fn still_current(compiled: &[Rc<Compiled>]) -> bool {
    compiled.iter().all(|known| {
        catalog::generation(known.table.id) == Some((known.table.generation, known.table.relid))
    })
}

fn refresh_one(
    compiled: &Compiled,
    request: &Request,
    snapshot: &Snapshot,
    taken_at: f64,
) -> Result<Outcome> {
    let under = match request.settings.broken {
        Broken::ReadCommitted => Under::Current,
        _ => Under::Snapshot(snapshot),
    };
    let table = &compiled.table;
    let mut total = Outcome {
        id: table.id,
        action: Action::NoData,
        changed: false,
        snapshot: String::new(),
        comparison: None,
        differences: vec![],
    };
    let mut snapshot_text = String::new();
    let (mut stirred, mut from_view) = (false, false);
    for unit in &compiled.units {
        let started = Instant::now();
        let started_at = now();
        let state = catalog::load_state(unit.id, under);
        snapshot_text.clone_from(&state.snapshot);
        let force = request.force_full.as_deref().or_else(|| {
            // Nothing tells whether it has changed.
            (compiled.uncaptured && state.populated).then_some(if compiled.restless {
                "depends on more than its sources"
            } else {
                "sources cannot be captured"
            })
        });
        let outcome = {
            let _scope = Scope::restricted(table.owner, &table.settings);
            let _writing = entry::writing(unit.relid);
            from_view = unit.id == table.id && compiled.ties_decide(under);
            // Whichever of the equal rows it was, it may be another one.
            let force = force.or_else(|| {
                (from_view && state.populated && (stirred || !state.from_view)).then_some(TIES)
            });
            let empty =
                request.initiated_by == InitiatedBy::Create && request.ids.contains(&table.id);
            let how = How {
                force,
                empty,
                prefer_full: table.mode == Mode::Auto,
                fuse: table.fuse_ceiling.filter(|_| request.fuses),
                from_view,
                settings: &request.settings,
            };
            unit.refresh(&state, &how, under)?
        };
        if outcome.action == Action::Skip {
            return Err(Error::new(
                Kind::FuseBlown {
                    id: table.id,
                    rows: outcome.delta_rows as u64,
                },
                format!(
                    "the fuse of stream table {} has blown",
                    table.display_name()
                ),
            )
            .detail("More rows have changed than its fuse_ceiling allows.")
            .hint("Go on with pgtrickle.reset_fuse()."));
        }
        total.changed |= outcome.changed();
        stirred |= outcome.action != Action::NoData;
        let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
        if outcome.action != Action::NoData {
            // The plain case is written without SQL, which asks for no rights.
            let plain = state.populated && outcome.action == Action::Differential;
            let _scope = (!plain).then(Scope::internal);
            if save(unit, &state, &outcome, taken_at, duration_ms, under) {
                return Err(super::compile::overtaken(table.relid));
            }
            // Whoever reads it has it log its changes.
            if outcome.changed() && unit.target.output.is_some() {
                xact::mark_dirty_at_commit(unit.relid);
            }
            if !state.populated {
                keep_less_room(unit);
            }
            if request.initiated_by == InitiatedBy::Create && outcome.inserted >= WORTH_ANALYZING {
                // The next plans are made before autovacuum comes by.
                spi::command(&format!("ANALYZE {}", unit.target.table));
            }
            record(
                unit.id,
                &outcome,
                request.initiated_by,
                taken_at,
                started_at,
                duration_ms,
            );
        }
        if unit.id == table.id {
            total = Outcome {
                id: table.id,
                action: outcome.action,
                ..total
            };
        }
    }
    // Where equal rows decide, the query decides anew whenever it is evaluated.
    if request.settings.verify && total.action != Action::NoData && !from_view {
        super::verify::insist_on_equality(compiled, under)?;
    }
    if request.ids.contains(&table.id) {
        match request.then {
            Then::Nothing => {}
            Then::Compare => {
                total.snapshot = snapshot_text;
                total.comparison = Some(super::verify::compare(compiled, under)?);
            }
            Then::List => {
                total.comparison = Some(super::verify::compare(compiled, under)?);
                total.differences = super::verify::differences(compiled, under)?;
            }
        }
    }
    Ok(total)
}

/// As [`catalog::save_success`].
fn save(
    unit: &super::Unit,
    state: &catalog::RefreshState,
    outcome: &UnitOutcome,
    taken_at: f64,
    duration_ms: f64,
    under: Under<'_>,
) -> bool {
    if !state.populated {
        catalog::ensure_state(unit.id);
        spi::run(
            "UPDATE pgtrickle.pgt_stream_tables SET status = 'ACTIVE' WHERE pgt_id = $1 AND status = 'INITIALIZING'",
            &[spi::Value::Int(unit.id)],
        );
    }
    if outcome.action != Action::Differential {
        for reference in unit
            .source_refs
            .values()
            .filter(|reference| reference.unlogged)
        {
            capture::mark_unlogged_alive(unit.id, reference.relid);
        }
    }
    let upstream = unit.upstream();
    let consumed = upstream
        .iter()
        .map(|id| catalog::load_state(*id, under).data_version)
        .collect();
    catalog::save_success(
        unit.id,
        &Success {
            data_version: state.data_version + i64::from(outcome.changed()),
            upstream,
            consumed,
            taken_at,
            full: outcome.action != Action::Differential,
            duration_ms,
            reinit_requests: state.reinit_requests,
            frontier: catalog::frontier_of(&state.snapshot),
            clock: unit.moves().then(transaction_time),
            from_view: outcome.from_view,
        },
        under,
    )
}

fn record(
    id: i64,
    outcome: &UnitOutcome,
    initiated_by: InitiatedBy,
    taken_at: f64,
    started_at: f64,
    duration_ms: f64,
) {
    catalog::record(&HistoryRow {
        id,
        taken_at: Some(taken_at),
        started_at,
        action: outcome.action,
        initiated_by,
        reason: outcome.reason.clone(),
        inserted: outcome.inserted,
        updated: outcome.updated,
        deleted: outcome.deleted,
        delta_rows: outcome.delta_rows,
        duration_ms,
        error: None,
    });
}

/// Seconds since the epoch.
pub fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
