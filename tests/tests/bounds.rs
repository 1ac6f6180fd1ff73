//! Values compared with the one row of an aggregate: what passes when that moves, and what it costs.

use pgt_tests::{Session, StreamTable, database};

const TABLE: &str = "create table t (k int primary key, v int, w numeric(10,2), x float8, n text)";

/// Values come, go and move, and with them every total of them; at times there is none.
const CHANGES: [&str; 16] = [
    "insert into t select i, i % 17, i * 1.5, i / 3.0, chr(97 + i % 26) from generate_series(1, 60) i",
    "update t set v = v + 1 where k = 7",
    "update t set v = 1000, w = 1000, x = 1000 where k = 8",
    "update t set v = null, w = null, x = null, n = null where k % 9 = 0",
    "delete from t where k = 8",
    "insert into t values (200, -500, -500, -500, 'zz')",
    "update t set v = 3, w = 3, x = 3, n = 'm'",
    "update t set v = k, w = k, x = k, n = k",
    "update t set x = 'NaN' where k = 3",
    "update t set x = 'infinity', w = 0 where k in (3, 4)",
    "update t set v = null, w = null, x = null, n = null",
    "update t set v = 1, w = 1, x = 1, n = 'a' where k < 20",
    "delete from t",
    "insert into t values (1, null, null, null, null)",
    "insert into t values (2, 5, 5, 5, 'q'), (3, 6, 6, 6, 'r')",
    "begin; update t set v = v + 10 where k = 2; update t set v = v - 20 where k = 2; delete from t where k = 3; commit",
];

/// All of them follow all changes by their deltas; `bounded` says whether their plans have a bound.
#[track_caller]
fn follow(queries: &[&str], bounded: bool) {
    let db = database();
    let mut s = db.connect();
    s.exec(TABLE);
    let tables: Vec<StreamTable> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| s.stream_table(&format!("v{number}"), query))
        .collect();
    for v in &tables {
        assert_eq!(is_bounded(&mut s, v.name()), bounded, "{}", v.query());
    }
    for change in CHANGES {
        s.exec(change);
        for v in &tables {
            v.follows_somehow(&mut s);
        }
    }
    assert_eq!(
        s.lines(
            "select distinct reason from pgtrickle.pgt_refresh_history
             where action <> 'DIFFERENTIAL' and reason <> 'initial'"
        ),
        [""; 0]
    );
}

fn is_bounded(s: &mut Session, v: &str) -> bool {
    s.value(&format!(
        "select pgtrickle.explain_stream_table('{v}', 'rewritten')"
    ))
    .contains("Bounded")
}

#[test]
fn rows_follow_their_bound() {
    const QUERIES: [&str; 16] = [
        "select k, v from t where v > (select avg(v) from t)",
        "select k, v from t where v >= (select max(v) from t)",
        "select k, v from t where v < (select 2 * sum(v) / nullif(count(*), 0) from t)",
        "select k from t where (select min(w) + 3 from t) <= w",
        "select k, x from t where x > (select avg(x) from t)",
        "select k, n from t where n > (select min(n) from t where v > 3)",
        "select v from t where v > (select count(*) from t where w > 5)",
        "select k from t where v > (select avg(v) from t) and v <= (select max(v) - 1 from t)",
        "select k from t, (select min(v) as lo, max(v) as hi from t) b where v > lo and v < hi",
        "select k from t, (select min(v) as lo, max(v) as hi from t) b where v > lo and w <= hi and k > 2",
        "select v, sum(w) as s from t group by v having sum(w) > (select sum(w) * 0.05 from t)",
        "select v, count(*) from t where w > (select avg(w) from t) group by v",
        "select a.k, b.k as other from t a join t b on b.v = a.v and b.k > a.k where a.w > (select avg(w) from t)",
        "select k, (select count(*) from t y where y.v = t.k) from t where v > (select avg(v) from t)",
        "select k from t where v > (select avg(v) from t) union all select v from t where w < (select avg(w) from t)",
        "select k, v, rank() over (order by v) from t where v * 2 > (select avg(v) from t)",
    ];
    follow(&QUERIES, true);
}

/// What the one row gives besides a bound, or does not always give, is joined as ever.
#[test]
fn other_joins_with_one_row_are_joins() {
    const QUERIES: [&str; 6] = [
        "select k, m from t, (select avg(v) as m from t) b where v > m",
        "select k from t where v > (select avg(v) from t having count(*) > 3)",
        "select k from t where v = (select max(v) from t)",
        "select a.k from t a, t b, (select avg(v) as m from t) c where a.v > m and b.v < m and a.k = b.k",
        "select k from t, (select avg(v) as m, max(k) as top from t) b where v > m and k <> top",
        "select k from t where v > (select avg(v) from t where t.k > 3) is true",
    ];
    follow(&QUERIES, false);
}

/// The aggregate is kept once for both; it moved several times since the other one looked.
#[test]
fn bound_moves_several_times_between_refreshes() {
    let db = database();
    let mut s = db.connect();
    s.exec(TABLE);
    s.exec("create table u (k int primary key, v int); insert into u select i, i from generate_series(1, 40) i");
    let often = s.stream_table("often", "select k from t where v > (select avg(v) from t)");
    let seldom = s.stream_table("seldom", "select k from u where v > (select avg(v) from t)");
    for (round, change) in CHANGES.iter().enumerate() {
        s.exec(change);
        s.exec(&format!("update u set v = v + 1 where k % 5 = {round} % 5"));
        often.follows_somehow(&mut s);
        if round % 4 == 3 {
            seldom.follows_somehow(&mut s);
        }
    }
}

/// Rows of the table that a refresh has read since the last look.
fn rows_read(s: &mut Session) -> i64 {
    s.exec("select pg_stat_force_next_flush()");
    s.number(
        "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 't'",
    )
}

#[test]
fn only_rows_between_two_values_are_read() {
    for (column, indexed) in [("w", "w"), ("v", "(v::numeric)")] {
        let db = database();
        let mut s = db.connect();
        s.exec(TABLE);
        s.exec(&format!(
            "insert into t select i, i, i from generate_series(1, 40000) i;
             create index looked_up on t ({indexed});
             analyze t"
        ));
        s.exec("set pg_trickle.verify_refresh = off");
        let query =
            format!("select k, {column} from t where {column} > (select avg({column}) from t)");
        let v = s.stream_table("v", &query);
        for amount in [10_000, -10_000, 1_000_000] {
            s.exec(&format!(
                "update t set {column} = {column} + {amount} where k = 77"
            ));
            let before = rows_read(&mut s);
            v.refresh(&mut s);
            let read = rows_read(&mut s) - before;
            assert!(read < 500, "{column} + {amount}: {read} rows read");
            v.follows(&mut s);
        }
        if column == "w" {
            const MISSING: &str = "select statement from pgtrickle.pgt_missing_indexes";
            assert_eq!(s.lines(MISSING), [""; 0]);
            s.exec("drop index looked_up");
            assert_eq!(s.lines(MISSING), ["CREATE INDEX ON t (w)"]);
        }
    }
}
