//! Intermediate results that several stream tables have in common: kept once, refreshed with each of them.

use pgt_tests::{Session, StreamTable, database};

/// Needs the sums per group as a stage.
const ABOVE: &str =
    "select g, total from (select g, sum(n) as total, count(*) as c from t group by g) x
    where total > (select avg(n) from t)";
const RANKED: &str = "select g, total, rank() over (order by total) as place
    from (select g, sum(n) as total, count(*) as c from t group by g) x";
const JOINED: &str = "select d.name, x.total from d
    left join (select g, sum(n) as total, count(*) as c from t group by g) x on x.g = d.id";

fn sources(s: &mut Session) {
    s.exec(
        "create table t (id int primary key, g int, n int);
         create table d (id int primary key, name text);
         insert into t select i, i % 7, i from generate_series(1, 100) i;
         insert into d select i, 'd' || i from generate_series(0, 9) i;",
    );
}

const CHANGES: [&str; 9] = [
    "insert into t values (200, 1, 50), (201, 8, 1)",
    "update t set n = n + 1 where id % 2 = 0",
    "update t set g = g + 1 where id < 10; delete from t where id = 50",
    "delete from t where g = 2",
    "update d set name = name || '!' where id < 3; insert into d values (20, 'x') on conflict do nothing",
    "update t set n = -n",
    "truncate t",
    "insert into t select i, i % 4, i from generate_series(1, 30) i",
    "insert into t values (300, null, 5), (301, null, null)",
];

fn stages(s: &mut Session) -> i64 {
    s.number("select count(distinct stage) from pgtrickle.pgt_stages")
}

/// How many stages are stored, whether anybody has them or not.
fn stored(s: &mut Session) -> i64 {
    s.number("select count(*) from pg_class where relnamespace = 'pgtrickle_stages'::regnamespace and relkind = 'r'")
}

/// Two stream tables of which one stage is the same.
fn ranked_and_joined(s: &mut Session) -> [StreamTable; 2] {
    sources(s);
    [("r", RANKED), ("j", JOINED)].map(|(name, query)| s.stream_table(name, query))
}

#[test]
fn what_two_stream_tables_need_is_kept_once() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let joined = s.stream_table("joined", JOINED);
    let alone = stages(&mut s);
    assert_eq!(alone, 1);
    let again = s.stream_table("again", &JOINED.replace("d.name,", "d.name || '' as name,"));
    assert_eq!(stages(&mut s), alone);
    assert_eq!(stored(&mut s), alone);
    let summary = s.value("select pgtrickle.explain_stream_table('joined')");
    assert!(summary.contains("shared with public.again"), "{summary}");
    for change in CHANGES {
        s.exec(change);
        joined.follows_somehow(&mut s);
        again.follows_somehow(&mut s);
    }
    for table in [&joined, &again] {
        table.assert_verified(&mut s);
    }
}

#[test]
fn each_is_refreshed_in_its_own_time() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let tables: Vec<StreamTable> = [("a", ABOVE), ("r", RANKED), ("j", JOINED)]
        .map(|(name, query)| s.stream_table(name, query))
        .into();
    assert!(stored(&mut s) < 5, "{}", stored(&mut s));
    for round in 0..3 {
        for (number, change) in CHANGES.iter().enumerate() {
            s.exec(change);
            // One of them at a time; the others go on later from where they are.
            let turn = &tables[(number + round) % tables.len()];
            turn.refresh(&mut s);
            turn.assert_equal(&mut s);
        }
        for table in &tables {
            table.refresh(&mut s);
            table.assert_equal(&mut s);
        }
    }
    for table in &tables {
        table.assert_verified(&mut s);
    }
}

#[test]
fn a_stage_that_moved_on_leaves_the_others_stale() {
    let db = database();
    let mut s = db.connect();
    let [r, j] = ranked_and_joined(&mut s);
    s.exec("update t set n = n + 1 where id = 3");
    j.follows(&mut s);
    assert_eq!(s.staleness("j"), 0.0);
    assert!(s.staleness("r") > 0.0);
    let before =
        s.value("select data_timestamp::text from pgtrickle.pgt_states where table_name = 'r'");
    s.exec("update t set n = n + 1 where id = 4");
    j.follows(&mut s);
    assert_eq!(
        s.value("select data_timestamp::text from pgtrickle.pgt_states where table_name = 'r'"),
        before
    );
    r.follows(&mut s);
    assert_eq!(s.staleness("r"), 0.0);
    for table in [r, j] {
        table.assert_verified(&mut s);
    }
}

#[test]
fn a_stage_goes_with_the_last_that_has_it() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    s.stream_table("r", RANKED);
    let j = s.stream_table("j", JOINED);
    let shared = stored(&mut s);
    s.exec("select pgtrickle.drop_stream_table('r')");
    assert!(stored(&mut s) <= shared);
    s.exec("update t set n = n + 1 where id < 5");
    j.follows(&mut s);
    s.exec("drop table j");
    assert_eq!(stored(&mut s), 0);
    assert_eq!(
        s.number("select count(*) from pgtrickle.pgt_stream_tables"),
        0
    );
    assert_eq!(
        s.number("select count(*) from pgtrickle.pgt_change_sources"),
        0
    );
}

#[test]
fn what_is_joined_later_finds_a_stage_with_changes_to_come() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let j = s.stream_table("j", JOINED);
    s.exec("update t set n = n + 1 where id < 5; delete from t where g = 3");
    let r = s.stream_table("r", RANKED);
    r.assert_equal(&mut s);
    j.follows(&mut s);
    s.exec("update t set n = n + 1 where id < 5");
    for table in [r, j] {
        table.follows(&mut s);
        table.assert_verified(&mut s);
    }
}

#[test]
fn another_query_leaves_the_stage_to_the_others() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    s.stream_table("r", RANKED);
    let j = s.stream_table("j", JOINED);
    let other = RANKED.replace("sum(n)", "sum(2 * n)");
    s.exec(&format!(
        "select pgtrickle.alter_stream_table('r', query => {})",
        pgt_tests::quote(&other)
    ));
    let r = StreamTable::new("r", &other);
    for change in CHANGES {
        s.exec(change);
        for table in [&r, &j] {
            table.follows_somehow(&mut s);
        }
    }
    // And back again.
    s.exec(&format!(
        "select pgtrickle.alter_stream_table('r', query => {})",
        pgt_tests::quote(RANKED)
    ));
    let r = StreamTable::new("r", RANKED);
    s.exec("update t set n = n + 1");
    for table in [r, j] {
        table.follows_somehow(&mut s);
        table.assert_verified(&mut s);
    }
}

#[test]
fn a_repair_of_one_reaches_the_others_as_a_change() {
    let db = database();
    let mut s = db.connect();
    let [r, j] = ranked_and_joined(&mut s);
    s.exec("update t set n = n + 1 where id < 20");
    s.exec("select pgtrickle.repair_stream_table('r')");
    r.assert_equal(&mut s);
    j.follows(&mut s);
    s.exec("delete from t where id < 20");
    for table in [r, j] {
        table.follows(&mut s);
        table.assert_verified(&mut s);
    }
}

#[test]
fn stages_belong_to_one_owner_and_one_time_zone() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    s.stream_table("j", JOINED);
    let alone = stored(&mut s);
    s.exec("set timezone = 'Asia/Tokyo'");
    let tokyo = s.stream_table("tokyo", JOINED);
    assert_eq!(stored(&mut s), 2 * alone);
    s.exec("reset timezone");
    let other = s.stream_table("other", JOINED);
    assert_eq!(stored(&mut s), 2 * alone);
    let role = db.role("other");
    s.exec(&format!(
        "grant all on schema public to {role}; grant all on t, d to {role};
         alter table other owner to {role}"
    ));
    s.exec("update t set n = n + 1 where id < 20");
    for table in [&tokyo, &other, &StreamTable::new("j", JOINED)] {
        table.follows_somehow(&mut s);
        table.assert_verified(&mut s);
    }
    assert_eq!(stored(&mut s), 3 * alone);
    assert_eq!(
        s.number(&format!(
            "select count(*) from pg_class where relnamespace = 'pgtrickle_stages'::regnamespace
             and relowner = '{role}'::regrole and relkind = 'r'"
        )),
        alone
    );
    s.exec("drop table other");
}

#[test]
fn refreshes_that_meet_on_a_stage_wait_for_each_other() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let tables: Vec<StreamTable> = [("a", ABOVE), ("r", RANKED), ("j", JOINED)]
        .map(|(name, query)| s.stream_table(name, query))
        .into();
    let refresh = |name: &str| {
        db.connect().spawn(&format!(
            "do $$ begin for i in 1 .. 60 loop
                 perform pgtrickle.refresh_stream_table('{name}'); commit;
             end loop; end $$"
        ))
    };
    let write = |first: i64| {
        db.connect().spawn(&format!(
            "do $$ begin for i in {first} .. {first} + 300 loop
                 insert into t values (i, i % 5, i); update t set n = n + 1, g = (g + 1) % 9 where id % 17 = i % 17;
                 delete from t where id = i - 20; commit;
             end loop; end $$"
        ))
    };
    let running: Vec<_> = ["a", "r", "j", "a", "r", "j"]
        .map(refresh)
        .into_iter()
        .chain([1000].map(write))
        .collect();
    for one in running {
        one.join();
    }
    for table in &tables {
        table.refresh(&mut s);
        table.assert_equal(&mut s);
        table.assert_verified(&mut s);
    }
    assert_eq!(
        s.number("select count(*) from pgtrickle.pgt_refresh_history where action = 'REINITIALIZE' or status = 'FAILED'"),
        0
    );
}

#[test]
fn a_refresh_under_an_old_snapshot_sees_the_stage_as_it_was() {
    let db = database();
    let (mut s, mut old) = (db.connect(), db.connect());
    let [r, j] = ranked_and_joined(&mut s);
    s.exec("update t set n = n + 1 where id = 3");
    old.exec("begin isolation level repeatable read; select count(*) from t");
    s.exec("update t set n = n + 1 where id = 4");
    j.follows(&mut s);
    // The stage has moved on beyond the snapshot: nothing is mixed, the refresh fails and can be repeated.
    old.error("40001", "select pgtrickle.refresh_stream_table('r')");
    old.exec("rollback");
    r.follows(&mut s);
    // With nothing to do for the stage it is read as the snapshot has it.
    old.exec("begin isolation level repeatable read; select count(*) from t");
    s.exec("update t set n = n + 1 where id = 4");
    j.follows(&mut s);
    old.exec("select pgtrickle.refresh_stream_table('r'); commit");
    r.follows(&mut s);
    for table in [r, j] {
        table.assert_verified(&mut s);
    }
}

#[test]
fn refreshed_together_a_stage_is_refreshed_once() {
    let db = database();
    let mut s = db.connect();
    let [r, j] = ranked_and_joined(&mut s);
    s.exec("select pgtrickle.create_refresh_group('both', array['r', 'j'])");
    for change in CHANGES {
        s.exec(change);
        r.refresh(&mut s);
        for table in [&r, &j] {
            table.assert_fresh(&mut s);
            table.assert_equal(&mut s);
        }
    }
    for table in [r, j] {
        table.assert_verified(&mut s);
    }
}

#[test]
fn one_transaction_may_refresh_them_one_after_the_other() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let tables: Vec<StreamTable> = [("a", ABOVE), ("r", RANKED), ("j", JOINED)]
        .map(|(name, query)| s.stream_table(name, query))
        .into();
    for change in CHANGES {
        s.exec(change);
        s.exec(
            "begin; select pgtrickle.refresh_stream_table('a'); savepoint x;
             select pgtrickle.refresh_stream_table('r'); rollback to x;
             select pgtrickle.refresh_stream_table('j'); commit",
        );
        tables[0].assert_equal(&mut s);
        tables[2].assert_equal(&mut s);
        tables[1].follows_somehow(&mut s);
    }
    s.exec("update t set n = n + 1 where id < 9");
    s.exec(
        "begin; savepoint x; select pgtrickle.refresh_stream_table('a'); rollback to x;
         select pgtrickle.refresh_stream_table('r'); commit",
    );
    for table in &tables {
        table.follows(&mut s);
    }
}

#[test]
fn a_stage_is_not_lost_between_the_one_that_goes_and_the_one_that_comes() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let mut creating = db.connect();
    s.stream_table("j", JOINED);
    creating.exec("begin");
    let r = creating.stream_table("r", RANKED);
    let dropping = db.connect().spawn("drop table j");
    db.wait_blocked(dropping.pid());
    creating.exec("commit");
    dropping.join();
    s.exec("update t set n = n + 1 where id < 9");
    r.follows(&mut s);
    assert_eq!(r.last_refresh(&mut s).0, "DIFFERENTIAL");

    s.exec("begin; drop table r");
    let creating = db.connect().spawn(&format!(
        "select pgtrickle.create_stream_table('j', {}, '1d', 'DIFFERENTIAL')",
        pgt_tests::quote(JOINED)
    ));
    db.wait_blocked(creating.pid());
    s.exec("commit");
    creating.join();
    s.exec("update t set n = n + 1 where id < 9");
    StreamTable::new("j", JOINED).follows(&mut s);
}

#[test]
fn another_name_of_a_column_changes_no_stage() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let query = "select g, total, rank() over (order by total) as place
        from (select g, sum(m) as total, count(*) as c from t group by g) x";
    s.stream_table("r", RANKED);
    s.stream_table("j", JOINED);
    s.exec("alter table t rename column n to m; update t set m = m + 1 where id < 9");
    let r = StreamTable::new("r", query);
    r.follows(&mut s);
    assert_eq!(r.last_refresh(&mut s).0, "DIFFERENTIAL");
}
