//! What shared memory knows.

use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::config::{Broken, RefreshSettings};
use crate::error::{Error, Kind};
use crate::pg::session;
use crate::pg::shared;
use crate::pg::shared::cache::{Count, counted, size};
use crate::pg::snapshot::{cluster_id, database_id};
use crate::refresh;

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn cache_stats() -> TableIterator<
    'static,
    (
        name!(l0_hits, i64),
        name!(l0_misses, i64),
        name!(l1_hits, i64),
        name!(l1_misses, i64),
        name!(l2_hits, i64),
        name!(compilations, i64),
        name!(evictions, i64),
        name!(l0_entries, i64),
        name!(l0_bytes, i64),
        name!(l1_entries, i64),
    ),
> {
    let count = |what| counted(what) as i64;
    let (entries, bytes) = size();
    TableIterator::once((
        count(Count::SharedHit),
        count(Count::SharedMiss),
        count(Count::SessionHit),
        count(Count::SessionMiss),
        count(Count::CatalogHit),
        count(Count::Compilation),
        count(Count::Eviction),
        entries as i64,
        bytes as i64,
        refresh::session_entries() as i64,
    ))
}

/// Not declared in the extension: a test declares it, to see who waits for readers.
#[pg_extern(sql = false)]
fn pgt_read_slowly(milliseconds: i32) -> Result<(), ErrorReport> {
    if RefreshSettings::read().broken != Broken::SlowReaders {
        return Err(Error::new(Kind::Permission, "only for tests").into());
    }
    shared::read_slowly(Duration::from_millis(milliseconds.clamp(0, 10_000) as u64));
    Ok(())
}

#[pg_extern(sql = false)]
fn pgt_overflows() -> i64 {
    shared::overflows() as i64
}

/// Of every row of a list of frontiers: what SQL can say about it reads a file of the server.
#[pg_extern(sql = false)]
fn pgt_is_here(cluster: i64, database: pg_sys::Oid) -> bool {
    cluster == cluster_id() && database == database_id()
}

#[pg_extern(sql = false)]
fn clear_caches() -> Result<i64, ErrorReport> {
    if !session::owns_database() {
        return Err(Error::new(Kind::Permission, "must be owner of the database").into());
    }
    let _scope = session::Scope::internal();
    Ok(refresh::clear() as i64)
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn scheduler_statistics() -> TableIterator<
    'static,
    (
        name!(wakeups, i64),
        name!(busy_us, i64),
        name!(last_us, i64),
        name!(max_us, i64),
        name!(stream_tables, i64),
        name!(definitions_read, i64),
        name!(reading_us, i64),
    ),
> {
    let known = shared::scheduler_statistics();
    TableIterator::once((
        known.wakeups as i64,
        known.busy_us as i64,
        known.last_us as i64,
        known.max_us as i64,
        known.stream_tables as i64,
        known.readings as i64,
        known.reading_us as i64,
    ))
}

#[pg_extern(sql = false)]
fn scheduler_pid() -> Option<i32> {
    shared::scheduler_pid()
}
