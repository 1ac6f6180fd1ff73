//! What shared memory knows.

use pgrx::prelude::*;

use crate::pg::shared;

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
