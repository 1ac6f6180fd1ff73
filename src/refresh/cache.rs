//! Compiled stream tables, kept in three places: in this session (with its prepared statements), in shared memory for all
//! sessions, and in the catalog for those after a restart.
//!
//! Everywhere they are kept by generation and relation, which the catalog knows; whoever uses one checks that under the
//! stream table's lock. A generation also stands for everything in the catalog that the compiled form was made from.

use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use pgrx::pg_sys;

use super::compile::Compiled;
use crate::catalog::{self, StreamTable};
use crate::config;
use crate::pg::shared::cache::{self as shared, Count};

/// What this session keeps, the least recently used one first to go.
struct Session {
    compiled: LruCache<i64, Rc<Compiled>>,
    by_relation: HashMap<u32, i64>,
    /// Generations known to be in the catalog.
    saved: HashMap<i64, i64>,
    /// The epoch of the shared cache when this was begun.
    epoch: u64,
}

thread_local! {
    static SESSION: RefCell<Session> = RefCell::new(Session {
        compiled: LruCache::unbounded(),
        by_relation: HashMap::new(),
        saved: HashMap::new(),
        epoch: 0,
    });
}

fn with_session<R>(work: impl FnOnce(&mut Session) -> R) -> R {
    SESSION.with(|session| {
        let mut session = session.borrow_mut();
        let epoch = shared::epoch();
        if session.epoch != epoch {
            session.epoch = epoch;
            session.compiled.clear();
            session.by_relation.clear();
            session.saved.clear();
        }
        work(&mut session)
    })
}

/// Puts it among what this session keeps.
fn remember(compiled: &Rc<Compiled>) {
    with_session(|session| {
        let (id, relid) = (compiled.table.id, compiled.table.relid.to_u32());
        session.by_relation.insert(relid, id);
        session.compiled.put(id, compiled.clone());
        let most = NonZeroUsize::new(config::template_cache_max_entries());
        while most.is_some_and(|most| session.compiled.len() > most.get()) {
            if let Some((_, oldest)) = session.compiled.pop_lru() {
                session.by_relation.remove(&oldest.table.relid.to_u32());
                shared::count(Count::Eviction);
            }
        }
    });
}

/// What is known of a stream table in this session, in shared memory or in the catalog, whatever its generation.
pub(super) fn kept(id: i64) -> Option<Rc<Compiled>> {
    if let Some(known) = with_session(|session| session.compiled.get(&id).cloned()) {
        shared::count(Count::SessionHit);
        return Some(known);
    }
    shared::count(Count::SessionMiss);
    if !config::template_cache() {
        return None;
    }
    let Some(bytes) = shared::find(id) else {
        shared::count(Count::SharedMiss);
        return found_in_catalog(id);
    };
    let compiled: Rc<Compiled> = Rc::new(postcard::from_bytes(&bytes).ok()?);
    shared::count(Count::SharedHit);
    remember(&compiled);
    Some(compiled)
}

fn found_in_catalog(id: i64) -> Option<Rc<Compiled>> {
    let bytes = catalog::compiled(id)?;
    let compiled: Rc<Compiled> = Rc::new(postcard::from_bytes(&bytes).ok()?);
    let table = &compiled.table;
    shared::count(Count::CatalogHit);
    shared::store(table.id, table.generation, table.relid, &bytes);
    remember(&compiled);
    with_session(|session| session.saved.insert(table.id, table.generation));
    Some(compiled)
}

/// Has the catalog keep it as well. The caller holds the stream table's lock and is writing anyway.
pub(super) fn save(compiled: &Compiled) {
    let (id, generation) = (compiled.table.id, compiled.table.generation);
    let saved = with_session(|session| session.saved.insert(id, generation));
    if saved == Some(generation) || !config::template_cache() {
        return;
    }
    let Ok(bytes) = postcard::to_allocvec(compiled) else {
        return;
    };
    if catalog::compiled(id).is_none_or(|known| known != bytes) {
        catalog::save_compiled(id, &bytes);
    }
}

/// Keeps what has been compiled.
pub(super) fn keep(compiled: &Rc<Compiled>) {
    shared::count(Count::Compilation);
    remember(compiled);
    store(compiled);
}

fn store(compiled: &Compiled) {
    if !config::template_cache() {
        return;
    }
    let table = &compiled.table;
    match postcard::to_allocvec(compiled) {
        Ok(bytes) => shared::store(table.id, table.generation, table.relid, &bytes),
        Err(problem) => pgrx::log!(
            "pg_trickle: {} cannot be kept compiled: {problem}",
            table.display_name()
        ),
    }
}

/// The stream table stored in `relid`, if this session keeps its present definition.
pub fn known(relid: pg_sys::Oid) -> Option<StreamTable> {
    let table = with_session(|session| {
        let id = *session.by_relation.get(&relid.to_u32())?;
        session
            .compiled
            .get(&id)
            .map(|compiled| compiled.table.clone())
    })?;
    (catalog::generation(table.id) == Some((table.generation, relid))).then_some(table)
}

/// The stream table with this id, if its present definition is kept.
pub fn current(id: i64) -> Option<StreamTable> {
    let known = kept(id)?;
    (catalog::generation(id) == Some((known.table.generation, known.table.relid)))
        .then(|| known.table.clone())
}

/// Exactly this definition has been compiled by some session, so that everything it needs is in place.
pub fn is_compiled(table: &StreamTable) -> bool {
    with_session(|session| {
        session
            .compiled
            .peek(&table.id)
            .is_some_and(|known| known.is_of(table))
    }) || (config::template_cache()
        && (shared::has(table.id, table.generation, table.relid)
            || found_in_catalog(table.id).is_some_and(|known| known.is_of(table))))
}

/// Stream tables this session keeps compiled.
pub fn session_entries() -> usize {
    with_session(|session| session.compiled.len())
}

/// Forgets every compiled stream table of this database, in all sessions. Returns how many were in shared memory.
pub fn clear() -> u64 {
    catalog::forget_compiled();
    shared::clear()
}
