//! TPC-H: each of the 22 queries, kept incrementally while orders come, go and change and dimensions change under them.
//!
//! `PGT_TPCH_SF` is the scale factor. What has to hold does not depend on it, how often rare rows occur does.

use pgt_tests::tpch::{Changes, Kind, QUERIES, Taste, database};
use pgt_tests::{Server, Session, StreamTable};
use std::env;

/// Batches of each kind.
const ROUNDS: usize = 10;

/// In the order in which each round applies them.
const KINDS: [Kind; 4] = [
    Kind::Placed,
    Kind::Cancelled,
    Kind::Corrected,
    Kind::Dimensions,
];

fn scale() -> f64 {
    const NAME: &str = "PGT_TPCH_SF";
    env::var(NAME).map_or(0.01, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{NAME} is no number: {text}"))
    })
}

fn query(number: usize) {
    let scale = scale();
    let db = database(Server::shared(), scale);
    let mut s = db.connect();
    let rows = (scale * 20_000.0).ceil() as i64;
    let mut changes = Changes::open(&mut s, Taste::Picky);
    let text = QUERIES[number - 1].text(scale);
    let v = s.stream_table(&format!("q{number}"), &text);
    assert_eq!(
        s.value(&format!(
            "select effective_mode from pgtrickle.explain_refresh_mode('{}')",
            v.name()
        )),
        "DIFFERENTIAL"
    );
    v.assert_fresh(&mut s);
    for round in 1..=ROUNDS {
        for kind in KINDS {
            changes.apply(&mut s, kind, rows.max(40));
            v.refresh(&mut s);
            v.assert_fresh(&mut s);
            assert_differential(&mut s, &v, &format!("{kind:?}, round {round}"));
        }
    }
    assert_noticed(&mut s, &v);
}

/// Every refresh but the one at creation was differential. One that finds no change leaves no entry.
#[track_caller]
fn assert_differential(s: &mut Session, v: &StreamTable, when: &str) {
    let others = s.lines(&format!(
        "select action, reason from pgtrickle.get_refresh_history('{}', 1000)
         where action <> 'DIFFERENTIAL' and reason is distinct from 'initial'",
        v.name()
    ));
    assert!(others.is_empty(), "{} after {when}: {others:?}", v.name());
}

/// The changes were such that the contents had to follow several times, or the test has shown nothing.
#[track_caller]
fn assert_noticed(s: &mut Session, v: &StreamTable) {
    let noticed = s.number(&format!(
        "select count(*) from pgtrickle.get_refresh_history('{}', 1000)
         where action = 'DIFFERENTIAL' and rows_inserted + rows_updated + rows_deleted > 0",
        v.name()
    ));
    assert!(
        noticed >= 3,
        "the contents of {} changed only {noticed} times",
        v.name()
    );
}

macro_rules! queries {
    ($($name:ident $number:literal)*) => {
        $(#[test] fn $name() { query($number); })*
    };
}

queries! {
    q01 1 q02 2 q03 3 q04 4 q05 5 q06 6 q07 7 q08 8 q09 9 q10 10 q11 11
    q12 12 q13 13 q14 14 q15 15 q16 16 q17 17 q18 18 q19 19 q20 20 q21 21 q22 22
}
