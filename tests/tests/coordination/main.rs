//! What has to wait and what stops: gates, watermarks, fuses, tiers, draining, pausing.

mod fuses;
mod gates;
mod pace;
mod watermarks;

use pgt_tests::{Database, Server, Session, StreamTable, database};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

/// A stream table that is refreshed many times a second, by whose refreshes others can see that time passes.
fn clock(s: &mut Session) {
    s.exec("create table ticks (k serial primary key)");
    s.stream_table_with(
        "clock",
        "select count(*) as c from ticks",
        "schedule => '100ms'",
    );
}

/// Returns after the scheduler has refreshed something else three times.
fn let_time_pass(db: &Database<'_>, s: &mut Session) {
    for _ in 0..3 {
        s.exec("insert into ticks default values");
        db.wait_until("select c = (select count(*) from ticks) from clock");
    }
}

#[track_caller]
fn must_wait(s: &mut Session, name: &str) {
    let refused = s.error(
        "55000",
        &format!("select pgtrickle.refresh_stream_table('{name}')"),
    );
    assert!(refused.hint.is_some(), "{refused}");
}

fn held(s: &mut Session) -> Vec<String> {
    s.lines(
        "select pgt_relid from pgtrickle.pgt_stream_tables join pgtrickle.pgt_held using (pgt_id) order by pgt_relid::text",
    )
}
