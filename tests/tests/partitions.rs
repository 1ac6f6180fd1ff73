//! Partitions as sources of their own, beside or without the table they are part of.

use pgt_tests::{Session, StreamTable, database};

/// `s2` has its columns in another order, `s3` is partitioned itself.
const TREE: &str = "
    create table s (k int, r int, n int, primary key (r, k)) partition by range (r);
    create table s1 partition of s for values from (0) to (10);
    create table s2 (n int, gone int, k int not null, r int not null); alter table s2 drop gone;
    alter table s attach partition s2 for values from (10) to (20);
    create table s3 partition of s for values from (20) to (40) partition by list (r);
    create table s31 partition of s3 for values in (20, 21); create table s32 partition of s3 default;
    insert into s select i, i, i * 10 from generate_series(0, 39) i";

const WHOLE: [(&str, &str); 2] = [
    ("whole", "select k, r, n from s"),
    (
        "groups",
        "select r / 10 as d, count(*) as c, sum(n) as n from s group by r / 10",
    ),
];

const PARTS: [(&str, &str); 6] = [
    ("one", "select k, r, n from s1"),
    ("two", "select n, count(*) as c from s2 group by n"),
    ("three", "select k, n from s3"),
    (
        "three_groups",
        "select n % 3 as m, sum(k) as k from s3 group by n % 3",
    ),
    ("leaf", "select k, r from s31 where n > 0"),
    (
        "joined",
        "select a.k, b.n from s1 a join s32 b on b.r = a.r + 20",
    ),
];

fn create(s: &mut Session, tables: &[(&str, &str)]) -> Vec<StreamTable> {
    tables
        .iter()
        .map(|(name, query)| s.stream_table(name, query))
        .collect()
}

fn all_follow(s: &mut Session, tables: &[StreamTable]) {
    for table in tables {
        table.follows(s);
    }
}

fn all_follow_somehow(s: &mut Session, tables: &[StreamTable]) {
    for table in tables {
        table.follows_somehow(s);
    }
}

/// Every source has its triggers, and each change is logged once for each source.
fn is_captured(s: &mut Session) {
    assert_eq!(
        s.lines(
            "select source, relation, trigger_name from pgtrickle.trigger_inventory() where not ok"
        ),
        Vec::<String>::new()
    );
}

/// Changes of every partition, from everywhere.
const BATCHES: [&str; 8] = [
    "insert into s select 100 + i, i, 20 from generate_series(0, 39, 3) i",
    "insert into s2 (r, k, n) values (11, 200, 40); insert into s31 values (201, 20, 60); insert into s3 values (202, 30, 80)",
    "update s set n = n + 10 where k % 3 = 0; update s3 set n = n + 1; update s31 set n = 5 where k = 201",
    "update s set r = (r + 17) % 40 where k < 100; update s3 set r = 41 - r where r in (20, 21)",
    "begin; update s set r = r + 10 where r < 10; savepoint a; delete from s3; rollback to a; delete from s31 where k % 2 = 0; commit",
    "begin; update s set n = 0; insert into s31 values (300, 21, 1); rollback; insert into s values (1000, 3, 3), (1001, 21, 3)",
    "delete from s where r between 8 and 22 and k % 2 = 1; copy s (k, r, n) from program 'printf \"2000\\t5\\t1\\n2001\\t20\\t1\\n2002\\t33\\t1\\n2003\\t12\\t1\\n\"'",
    "merge into s using (select 2000 as k union select 5000) x on s.k = x.k when matched then update set r = 25 when not matched then insert values (x.k, 20, 7)",
];

#[test]
fn beside_the_whole_table() {
    for parts_first in [false, true] {
        let db = database();
        let mut s = db.connect();
        s.exec(TREE);
        let mut tables = create(&mut s, if parts_first { &PARTS } else { &WHOLE });
        s.exec("update s set n = n + 1 where k % 4 = 0");
        tables.extend(create(&mut s, if parts_first { &WHOLE } else { &PARTS }));
        is_captured(&mut s);
        for batch in BATCHES {
            s.exec(batch);
            // Not all of them see something of each change.
            for table in &tables {
                table.follows_somehow(&mut s);
            }
        }
        s.exec("update s set n = n + 1; insert into s values (9000, 1, 1), (9001, 11, 1), (9002, 20, 1), (9003, 39, 1)");
        all_follow(&mut s, &tables);
    }
}

#[test]
fn without_the_whole_table() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    let tables = create(&mut s, &PARTS);
    is_captured(&mut s);
    for batch in BATCHES {
        s.exec(batch);
        all_follow_somehow(&mut s, &tables);
    }
    s.exec("update s set n = n + 1; insert into s values (9000, 1, 1), (9001, 11, 1), (9002, 20, 1), (9003, 39, 1), (9004, 19, 1)");
    all_follow(&mut s, &tables);
}

/// Rows that leave or enter it by an update of another table.
#[test]
fn rows_move_between_partitions() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    let tables = create(&mut s, &PARTS[..5]);
    for batch in [
        "update s set r = r + 10 where r < 10; update s set r = 5 where r in (15, 25)",
        "update s3 set r = 20 where r = 33; update s3 set r = 35 where r = 21; update s set r = 12 where r = 35",
        "with d as (delete from s where r between 10 and 12 returning *) insert into s select k, 20, n from d; update s set r = 1 where k = 39; update s set n = n + 1 where r in (1, 12, 13, 14, 20, 22)",
    ] {
        s.exec(batch);
        all_follow_somehow(&mut s, &tables);
    }
    s.exec("update s set r = 20 where k = 30; update s set r = 9 where k in (11, 21); update s set r = 12 where k in (0, 1); update s set n = n + 1");
    all_follow(&mut s, &tables);
}

/// Whoever goes first, the others are still captured.
#[test]
fn stream_tables_come_and_go() {
    let all: Vec<(&str, &str)> = WHOLE.iter().chain(&PARTS).copied().collect();
    for order in [[0, 4, 6, 2], [6, 4, 0, 2], [2, 0, 4, 6], [4, 6, 2, 0]] {
        let db = database();
        let mut s = db.connect();
        s.exec(TREE);
        let mut tables = vec![];
        let change = "update s set n = n + 1; insert into s select max(k) + 1, 20, 5 from s; insert into s select max(k) + 1, 5, 5 from s";
        for table in order {
            tables.extend(create(&mut s, &all[table..=table]));
            is_captured(&mut s);
            s.exec(change);
            all_follow(&mut s, &tables);
        }
        while !tables.is_empty() {
            let gone = tables.remove(0);
            s.exec(&format!(
                "select pgtrickle.drop_stream_table('{}')",
                gone.name()
            ));
            is_captured(&mut s);
            s.exec(change);
            all_follow(&mut s, &tables);
        }
        assert_eq!(
            s.lines("select tgrelid::regclass, tgname from pg_trigger where tgname like 'pgt%' and tgrelid in (select relid from pg_partition_tree('s'))"),
            Vec::<String>::new()
        );
    }
}

#[test]
fn detached_and_attached() {
    for with_whole in [true, false] {
        let db = database();
        let mut s = db.connect();
        s.exec(TREE);
        let mut tables = create(&mut s, &PARTS);
        if with_whole {
            tables.extend(create(&mut s, &WHOLE));
        }
        for (ddl, mut change) in [
            (
                "alter table s detach partition s2",
                "insert into s2 (k, r, n) values (500, 11, 1); update s2 set n = n + 1",
            ),
            (
                "insert into s2 (k, r, n) values (501, 12, 1); alter table s attach partition s2 for values from (10) to (20)",
                "update s set n = n + 1 where r >= 5; delete from s2 where k = 500",
            ),
            (
                "alter table s detach partition s3",
                "insert into s31 values (502, 20, 1); update s3 set n = n + 1, r = least(r + 1, 39); delete from s32 where k % 5 = 0",
            ),
            (
                "alter table s3 detach partition s31; insert into s31 values (503, 21, 7)",
                "insert into s31 values (504, 21, 7); delete from s3 where r = 30; insert into s3 values (505, 31, 1)",
            ),
            (
                "update s31 set n = n + 1; alter table s3 attach partition s31 for values in (20, 21)",
                "update s3 set r = 39 where k = 503; insert into s31 values (506, 20, 1)",
            ),
            (
                "begin; alter table s attach partition s3 for values from (20) to (40); insert into s values (507, 21, 1); rollback; insert into s31 values (508, 21, 1)",
                "insert into s3 values (509, 21, 1), (510, 22, 1)",
            ),
            (
                "alter table s attach partition s3 for values from (20) to (40); insert into s values (511, 21, 1)",
                "update s set r = 40 - r where r between 1 and 39",
            ),
            (
                "begin; alter table s detach partition s1; insert into s1 values (512, 3, 1); alter table s attach partition s1 for values from (0) to (10); commit",
                "update s set n = n + 1; insert into s1 values (513, 4, 1)",
            ),
            (
                "create table s4 (k int not null, r int not null, n int); insert into s4 values (600, 50, 1); alter table s attach partition s4 for values from (40) to (60)",
                "insert into s values (601, 51, 1); update s set r = 1 where k = 600",
            ),
        ] {
            s.exec(ddl);
            all_follow_somehow(&mut s, &tables);
            is_captured(&mut s);
            for _ in 0..2 {
                s.exec(change);
                all_follow_somehow(&mut s, &tables);
                change = "update s1 set n = n + 1; update s2 set n = n + 1; update s31 set n = n + 1; update s32 set n = n + 1";
            }
            for table in &tables {
                table.assert_mode(&mut s, "DIFFERENTIAL");
            }
        }
    }
}

/// A table that has a trigger of its own gets the one of the table that it becomes a part of, and the other way around.
#[test]
fn captured_table_is_attached_to_a_captured_one() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    s.exec(
        "create table t (n int, r int not null, k int not null); insert into t values (1, 40, 1);
         create table u (k int not null, r int not null, n int) partition by range (r); create table u1 partition of u for values from (60) to (70);
         insert into u values (1, 60, 1)",
    );
    let tables = create(
        &mut s,
        &[
            ("t_all", "select k, r, n from t"),
            ("u_all", "select k, r, n from u"),
            ("u1_all", "select k, n from u1"),
            WHOLE[0],
            PARTS[0],
        ],
    );
    let role = db.role("stranger");
    let mut stranger = db.connect_as(&role);
    stranger.error(
        "42501",
        "alter table s attach partition t for values from (40) to (50)",
    );
    s.error(
        "23514",
        "alter table s attach partition t for values from (41) to (50)",
    );
    is_captured(&mut s);
    s.exec("begin; alter table s attach partition t for values from (40) to (50); rollback; insert into t values (2, 41, 2)");
    all_follow_somehow(&mut s, &tables);
    for ddl in [
        "alter table s attach partition t for values from (40) to (50)",
        "alter table s attach partition u for values from (60) to (70)",
        "alter table s detach partition t",
        "alter table s detach partition u",
    ] {
        s.exec(ddl);
        is_captured(&mut s);
        all_follow_somehow(&mut s, &tables);
        s.exec("insert into t (k, r, n) select max(k) + 1, 42, 1 from t; insert into u select max(k) + 1, 61, 1 from u; update s set n = n + 1; update t set n = n + 1; update u1 set n = n + 1");
        all_follow(&mut s, &tables);
    }
}

#[test]
fn truncated_and_dropped() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    let mut tables = create(&mut s, &PARTS);
    tables.extend(create(&mut s, &WHOLE));
    for batch in [
        "truncate s31; insert into s values (100, 20, 1)",
        "truncate s3; insert into s3 values (101, 21, 1), (102, 30, 1)",
        "begin; truncate s; insert into s values (103, 1, 1), (104, 21, 1); rollback; insert into s values (105, 2, 1)",
        "truncate s; insert into s values (106, 1, 1), (107, 11, 1), (108, 21, 1), (109, 33, 1)",
        "create table s33 partition of s3 for values in (38, 39); insert into s33 values (110, 38, 1); insert into s values (111, 39, 2)",
        "drop table s33",
        "create table s5 partition of s default; insert into s values (112, 100, 1)",
    ] {
        s.exec(batch);
        all_follow_somehow(&mut s, &tables);
        s.exec("update s set n = n + 1; insert into s select max(k) + 1, 31, 1 from s");
        all_follow_somehow(&mut s, &tables);
    }
    s.error("2BP01", "drop table s31");
    s.error("2BP01", "drop table s");
    s.exec("drop table s31 cascade");
    tables.retain(|table| table.name() != "leaf");
    s.exec("update s set n = n + 1");
    all_follow_somehow(&mut s, &tables);
    is_captured(&mut s);
    s.exec("drop table s cascade");
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_stream_tables"),
        "0"
    );
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_change_sources"),
        "0"
    );
    assert_eq!(
        s.value(
            "select count(*) from pg_class where relnamespace = 'pgtrickle_changes'::regnamespace"
        ),
        "0"
    );
}

#[test]
fn columns_change_through_the_root() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    s.exec("alter table s add x int default 1, add g int generated always as (n * 2) stored");
    let tables = create(
        &mut s,
        &[
            ("v", "select k, g, x from s2"),
            ("w", "select k, to_jsonb(s31) as j from s31"),
            ("y", "select r, g from s3"),
            ("z", "select k, g from s"),
        ],
    );
    for ddl in [
        "alter table s add y text default 'y'",
        "alter table s drop y",
        "alter table s alter g set expression as (n * 3)",
        "alter table s2 alter g set expression as (n * 4)",
        "alter table s3 alter g set expression as (n * 5)",
        "alter table s2 add constraint c check (n is not null)",
    ] {
        s.exec(ddl);
        all_follow_somehow(&mut s, &tables);
        s.exec("update s set n = n + 1; update s2 set x = x + 1");
        all_follow(&mut s, &tables);
    }
    s.exec("alter table s rename x to xx; update s set xx = 7");
    StreamTable::new("v", "select k, g, xx as x from s2").follows_somehow(&mut s);
    s.exec("update s set xx = 8");
    StreamTable::new("v", "select k, g, xx as x from s2").follows(&mut s);
}

#[test]
fn triggers_stay() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    let leaf = create(&mut s, &PARTS[4..5]).remove(0);
    s.error("2BP01", "drop trigger pgt_capture on s31");
    s.exec("alter table s31 disable trigger all; alter table s disable trigger all");
    is_captured(&mut s);
    s.exec("insert into s values (100, 20, 1)");
    leaf.follows(&mut s);
    let whole = create(&mut s, &WHOLE[..1]).remove(0);
    s.error("2BP01", "drop trigger pgt_capture on s");
    s.exec("alter table s31 disable trigger pgt_capture; alter table s disable trigger all; set session_replication_role = replica");
    is_captured(&mut s);
    s.exec("insert into s values (101, 20, 1)");
    for table in [&leaf, &whole] {
        table.follows(&mut s);
    }
    s.error("0A000", "alter table s detach partition s1 concurrently");
    s.error("0A000", "alter table s3 detach partition s32 concurrently");
    s.exec("reset session_replication_role; select pgtrickle.drop_stream_table('whole')");
    s.exec("create table x (k int) partition by list (k); create table x1 partition of x for values in (1); create table x2 partition of x for values in (2)");
    let part = s.stream_table("part", "select k from x1");
    s.exec("alter table x detach partition x1 concurrently");
    s.exec("insert into x1 values (1), (1)");
    part.follows(&mut s);
    s.exec("alter table x attach partition x1 for values in (1); insert into x values (1)");
    part.follows(&mut s);
    leaf.follows_somehow(&mut s);
}

/// Partitions are captured while others write into them through their root.
#[test]
fn created_while_writers_are_at_work() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    s.exec("create procedure write(i int) language plpgsql as $$ begin
        insert into s select i * 100 + j, j, i from generate_series(0, 39) j; commit;
        update s set r = (r + 7) % 40 where k % 13 = i % 13; commit;
        update s set n = n + 1 where k % 7 = i % 7; delete from s where k % 5 = i % 5; commit; end $$");
    let mut writers = Vec::new();
    for from in [1, 1000] {
        let mut session = db.connect();
        writers.push(std::thread::spawn(move || {
            for i in from..from + 20 {
                if let Err(error) = session.try_exec(&format!("call write({i})")) {
                    assert!(
                        ["40P01", "40001"].contains(&&*error.code),
                        "{}",
                        error.message
                    );
                }
            }
        }));
    }
    let mut tables = Vec::new();
    for table in PARTS.iter().chain(&WHOLE) {
        let mut created = false;
        while !created {
            let sql = format!(
                "select pgtrickle.create_stream_table('{}', {}, schedule => '1d', refresh_mode => 'DIFFERENTIAL')",
                table.0,
                pgt_tests::quote(table.1)
            );
            match s.try_exec(&sql) {
                Ok(()) => created = true,
                Err(error) => assert!(
                    ["40P01", "55P03"].contains(&&*error.code),
                    "{}",
                    error.message
                ),
            }
        }
        tables.push(StreamTable::new(table.0, table.1));
        for table in &tables {
            table.refresh(&mut s);
            table.assert_verified(&mut s);
        }
    }
    while writers.iter().any(|writer| !writer.is_finished()) {
        for table in &tables {
            table.refresh(&mut s);
        }
    }
    for writer in writers {
        writer.join().expect("a writer failed");
    }
    for table in &tables {
        table.follows_somehow(&mut s);
    }
    s.exec("update s set n = n + 1; insert into s values (999999, 20, 1), (999998, 1, 1), (999997, 11, 1)");
    for table in &tables {
        table.follows(&mut s);
    }
}

const GROUPED: &str = "select r, count(*) as c from s3 group by r";

/// Rows come to a partition, or go from it, with a partition of its own.
#[test]
fn attached_below_while_somebody_reads() {
    let setup = "create table s33 (like s3 including all); alter table s3 detach partition s32; insert into s33 values (700, 30, 1), (701, 31, 1)";
    for ddl in [
        "alter table s3 attach partition s33 for values in (30, 31)",
        "alter table s3 detach partition s31",
    ] {
        for created_before in [true, false] {
            let db = database();
            let (mut s, mut other) = (db.connect(), db.connect());
            s.exec(TREE);
            s.exec(setup);
            let v = StreamTable::new("v", GROUPED);
            if created_before {
                s.stream_table("v", GROUPED);
                s.exec("insert into s values (702, 21, 1)");
            }
            other.exec("begin");
            other.exec(ddl);
            let waiting = db.connect().spawn(&if created_before {
                "select pgtrickle.refresh_stream_table('v')".to_owned()
            } else {
                format!(
                    "select pgtrickle.create_stream_table('v', {})",
                    pgt_tests::quote(GROUPED)
                )
            });
            db.wait_blocked(waiting.pid());
            other.exec("commit");
            waiting.join();
            v.assert_fresh(&mut s);
            s.exec("begin");
            v.refresh(&mut s);
            let undo = if ddl.contains("attach") {
                "alter table s3 detach partition s33"
            } else {
                "alter table s3 attach partition s31 for values in (20, 21)"
            };
            let changing = db.connect().spawn(undo);
            db.wait_blocked(changing.pid());
            s.exec("commit");
            changing.join();
            v.follows_somehow(&mut s);
            s.exec("insert into s select 800, 21, 1 where exists (select from pg_inherits where inhrelid = 's31'::regclass); update s set n = n + 1");
            v.follows_somehow(&mut s);
            v.assert_verified(&mut s);
        }
    }
}

/// Whoever has logged for it goes on with the log of the whole table.
#[test]
fn given_up_while_a_writer_is_at_work() {
    let db = database();
    let (mut s, mut w) = (db.connect(), db.connect());
    s.exec(TREE);
    let whole = create(&mut s, &WHOLE);
    create(&mut s, &PARTS[4..5]);
    w.exec("insert into s values (100, 20, 1); insert into s31 values (101, 21, 1); insert into s values (102, 30, 1)");
    w.exec("begin; insert into s values (103, 20, 1), (104, 5, 1)");
    let dropping = db
        .connect()
        .spawn("select pgtrickle.drop_stream_table('leaf')");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!dropping.is_finished());
    w.exec("insert into s31 values (105, 20, 1); insert into s values (106, 21, 1), (107, 6, 1), (108, 31, 1); commit");
    dropping.join();
    w.exec("insert into s31 values (109, 20, 1); insert into s values (110, 21, 1), (111, 7, 1), (112, 31, 1)");
    all_follow(&mut s, &whole);
    is_captured(&mut s);
    assert_eq!(
        s.lines("select source::regclass::text from pgtrickle.pgt_change_sources"),
        ["s"]
    );
}

/// Somebody who has no rights on anything of the product.
#[test]
fn ordinary_role_changes_the_tables() {
    let db = database();
    let mut s = db.connect();
    let role = db.role("owner");
    s.exec(TREE);
    s.exec("create table t (n int, r int not null, k int not null); insert into t values (1, 40, 1); create table p (k int); create table c (k int); insert into c values (1)");
    for table in ["s", "s1", "s2", "s3", "s31", "s32", "t", "p", "c"] {
        s.exec(&format!("alter table {table} owner to {role}"));
    }
    s.exec(&format!("grant create on schema public to {role}"));
    let mut tables = create(&mut s, &WHOLE);
    tables.extend(create(&mut s, &PARTS));
    tables.extend(create(
        &mut s,
        &[
            ("t_all", "select k, r, n from t"),
            ("p_all", "select k from p"),
        ],
    ));
    let mut r = db.connect_as(&role);
    for ddl in [
        "alter table s attach partition t for values from (40) to (50); alter table c inherit p",
        "alter table s3 detach partition s31; create table d () inherits (p, c); insert into d values (5)",
        "alter table s detach partition t; alter table c no inherit p",
        "alter table s3 attach partition s31 for values in (20, 21); drop table d",
    ] {
        r.exec(ddl);
        all_follow_somehow(&mut s, &tables);
        is_captured(&mut s);
        r.exec("insert into t (k, r, n) select max(k) + 1, 42, 1 from t; update s set n = n + 1; update s31 set n = n + 1; insert into s select max(k) + 1, 30, 1 from s; insert into c values (1); insert into p values (2); update p set k = k + 1");
        all_follow_somehow(&mut s, &tables);
    }
    r.exec("update s set n = n + 1; update t set n = n + 1; insert into p values (9)");
    all_follow(&mut s, &tables);
}

/// The rows are those of its partitions.
#[test]
fn only_of_a_partitioned_table_is_empty() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    let tables = [
        s.auto_stream_table("o", "select k, n from only s"),
        s.auto_stream_table("p", "select r, count(*) as c from only s3 group by r"),
    ];
    s.exec("insert into s values (100, 20, 1)");
    all_follow_somehow(&mut s, &tables);
    s.error(
        "0A000",
        "select pgtrickle.create_stream_table('d', 'select k from only s', refresh_mode => 'DIFFERENTIAL')",
    );
    for table in &tables {
        table.assert_mode(&mut s, "FULL");
    }
}
