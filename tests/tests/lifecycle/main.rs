//! Stream tables are created, altered, paused, repaired and dropped, by the product's functions or by plain DDL.

mod alteration;
mod contents;
mod creation;
mod removal;

use pgt_tests::{Session, StreamTable, database, quote};

const STATUS: &str =
    "select status from pgtrickle.pgt_stream_tables where pgt_relid = 'v'::regclass";

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

/// Everything that could be left of a stream table over `s`.
#[track_caller]
fn assert_nothing_left(s: &mut Session) {
    let left = s.lines(
        "select 'catalog', count(*) from pgtrickle.pgt_stream_tables having count(*) > 0
         union all select 'dependencies', count(*) from pgtrickle.pgt_dependencies having count(*) > 0
         union all select 'history', count(*) from pgtrickle.pgt_refresh_history having count(*) > 0
         union all select 'sources', count(*) from pgtrickle.pgt_change_sources having count(*) > 0
         union all select 'trigger ' || tgname || ' on ' || tgrelid::regclass, 1 from pg_trigger where not tgisinternal
         union all select 'relation ' || oid::regclass, 1 from pg_class where relnamespace in (select oid from pg_namespace where nspname in ('pgtrickle_defs', 'pgtrickle_changes', 'pgtrickle_stages'))",
    );
    assert!(left.is_empty(), "left behind: {left:?}");
}
