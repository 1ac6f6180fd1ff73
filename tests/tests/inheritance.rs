//! A table with inheritance children as a source: its rows are those of all of them.

use pgt_tests::{Session, StreamTable, database};

const TREE: &str = "
    create table p (k int, n int, t text);
    create table c1 (extra text) inherits (p);
    create table q (m int, n int);
    create table c2 (gone int) inherits (c1, q); alter table c2 drop gone;
    insert into p values (1, 1, 'p'); insert into c1 values (2, 2, 'c1', 'x'); insert into c2 (k, n, t, extra, m) values (3, 3, 'c2', 'y', 30)";

/// Queries over the tree.
const QUERIES: [(&str, &str); 9] = [
    ("v", "select k, n from p"),
    ("f", "select k, t from p where n > 2"),
    (
        "g",
        "select n % 3 as g, count(*) as c, sum(k) as s, max(t) as t from p group by n % 3",
    ),
    ("j", "select p.k, q.m from p join q on q.n = p.n"),
    ("l", "select p.k, q.m from q left join p on q.n = p.n"),
    (
        "e",
        "select k from p where exists (select from q where q.n = p.k)",
    ),
    ("d", "select distinct n from p"),
    ("a", "select count(*) as c from p"),
    ("w", "select k, to_jsonb(p) as j from p"),
];

fn tables(s: &mut Session) -> Vec<StreamTable> {
    QUERIES
        .iter()
        .map(|(name, query)| s.stream_table(name, query))
        .collect()
}

fn all_follow(s: &mut Session, tables: &[StreamTable]) {
    for table in tables {
        table.follows(s);
    }
}

#[test]
fn changes_of_any_table_of_the_tree() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    let tables = tables(&mut s);
    for batch in [
        "insert into c1 values (4, 4, 'z', 'x'), (2, 2, 'c1', 'x'); insert into p values (5, 5, 'p'), (1, 1, 'p')",
        "update p set n = n + 1",
        "update p set k = k + 10 where t = 'c2'; update c1 set n = 1 where k = 4; update only p set t = 'only' where k = 1",
        "insert into c2 (k, n, m) select i, i % 4, i from generate_series(20, 30) i; insert into q values (1, 2), (2, 2)",
        "delete from c1 where k = 2; delete from only p where k = 5; delete from p where n = 3",
        "begin; insert into c2 (k, n) values (100, 1); savepoint a; update p set n = 7; delete from q; rollback to a; update c1 set extra = 'nothing'; commit",
        "begin; update p set n = n + 1; rollback; copy c1 (k, n) from program 'printf \"40\\t1\\n41\\t2\\n\"'",
        "delete from p",
    ] {
        s.exec(batch);
        all_follow(&mut s, &tables);
    }
}

fn sources(s: &mut Session, name: &str) -> Vec<String> {
    s.lines(&format!(
        "select distinct d.source::text from pgtrickle.pgt_dependencies d join pgtrickle.pgt_units u on u.unit = d.pgt_id
         join pgtrickle.pgt_stream_tables st on st.pgt_id = u.pgt_id
         where st.pgt_relid = '{name}'::regclass and d.source_type = 'table' order by 1"
    ))
}

/// Each table once, however often it inherits.
#[test]
fn table_that_inherits_twice_is_read_once() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table p (k int); create table a (x int) inherits (p); create table b (y int) inherits (p); create table ab () inherits (a, b);
         insert into ab values (1), (2)",
    );
    let v = s.stream_table("v", "select k from p");
    assert_eq!(sources(&mut s, "v"), ["a", "ab", "b", "p"]);
    let both = s.stream_table("w", "select a.k, b.k as other from a join b on a.k = b.k");
    for batch in [
        "insert into ab values (3); update b set k = k + 1",
        "delete from a where k = 2; update p set k = 0",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        both.follows(&mut s);
    }
}

#[test]
fn tree_grows_and_shrinks() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    s.exec(
        "create table old (n int, t text, more int, k int); insert into old values (50, 'old', 1, 50), (1, 'old', 2, 51)",
    );
    let tables = tables(&mut s);
    for ddl in [
        "create table c3 (own int) inherits (p)",
        "insert into c3 values (60, 1, 'c3', 0); alter table old inherit c1",
        "alter table old add extra text; alter table old inherit c1",
        "create table c4 () inherits (c3, q); insert into c4 (k, n, m) values (70, 2, 70); update p set n = n + 1",
        "alter table c2 no inherit c1; update c2 set n = 9",
        "insert into c2 (k, n) values (71, 3); alter table c2 inherit c1",
        "begin; alter table old no inherit c1; alter table old inherit p; delete from old where k = 50; commit",
        "begin; alter table c3 no inherit p; rollback; begin; savepoint a; alter table c2 no inherit q; rollback to a; insert into c2 (k, n) values (72, 1); commit",
        "alter table c2 no inherit q",
        "drop table c4",
        "truncate c3; alter table c3 no inherit p; insert into c3 values (80, 1)",
        "drop table c3, old",
        "drop table c1 cascade",
        "create table c1 () inherits (p); insert into c1 values (90, 4, 'new')",
    ] {
        if let Err(error) = s.try_exec(ddl) {
            // `old` lacks a column.
            assert_eq!(error.code, "42804", "{ddl}: {}", error.message);
            s.exec("rollback");
        }
        for table in &tables {
            table.follows_somehow(&mut s);
            table.assert_verified(&mut s);
        }
        s.exec("insert into p values (5, 5, 'p'); update p set n = n + 1 where k > 3");
        all_follow(&mut s, &tables);
        s.exec("delete from p where k = 5");
        all_follow(&mut s, &tables);
    }
}

/// The same tables, read in other places.
#[test]
fn child_changes_its_parent() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table a (k int); create table b (k int); create table c () inherits (a); insert into a values (1); insert into b values (2); insert into c values (3)",
    );
    let tables = [
        "select 'a' as t, k from a union all select 'b', k from b",
        "select (select count(*) from a) as a, (select count(*) from b) as b",
        "select a.k, count(b.k) as n from a left join b on b.k >= a.k group by a.k",
    ]
    .iter()
    .enumerate()
    .map(|(i, query)| s.stream_table(&format!("v{i}"), query))
    .collect::<Vec<_>>();
    for ddl in [
        "alter table c no inherit a; alter table c inherit b",
        "begin; alter table c no inherit b; insert into c values (4); alter table c inherit a; commit",
        "alter table c inherit b",
        "alter table c no inherit a",
    ] {
        s.exec(ddl);
        for table in &tables {
            table.follows_somehow(&mut s);
        }
        s.exec("update c set k = k + 1; insert into c values (9)");
        all_follow(&mut s, &tables);
    }
}

#[test]
fn columns_come_and_go() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    let v = s.stream_table("v", "select p.k, p.n as x from p");
    let whole = s.stream_table("w", "select k, to_jsonb(p) as j from p");
    for ddl in [
        "alter table p add z int default 5",
        "alter table c1 add own text default 'x', drop extra",
        "alter table p drop t; alter table c2 add t int",
        "alter table p alter z type bigint",
        "alter table only p drop z; alter table c1 drop z; alter table c1 add z text",
        "alter table c1 rename to renamed; create schema elsewhere; alter table renamed set schema elsewhere",
        "alter table elsewhere.renamed set unlogged; alter table elsewhere.renamed set logged",
        "alter table p add g int generated always as (k * 2) stored",
        "alter table p add h int generated always as (k * 3) virtual",
        "alter table c2 alter g set expression as (k * 20)",
        "alter table c2 alter h set expression as (k * 30)",
    ] {
        s.exec(ddl);
        s.exec("update p set n = n + 1 where k < 3");
        for table in [&v, &whole] {
            table.follows_somehow(&mut s);
        }
        s.exec("update p set n = n + 1; insert into c2 (k, n) values (9, 9); delete from only p where k = 2");
        for table in [&v, &whole] {
            table.follows(&mut s);
        }
    }
}

#[test]
fn used_columns_are_renamed() {
    let db = database();
    let mut s = db.connect();
    s.exec(SMALL);
    s.stream_table("v", PLAIN);
    s.stream_table("g", GROUPED);
    s.exec("insert into c values (50, 1); alter table p rename g to h; insert into c values (51, 1); create table d (n int) inherits (p)");
    let tables = [
        StreamTable::new("v", "select k, h as g from p"),
        StreamTable::new("g", "select h as g, count(*) as c from p group by h"),
    ];
    for table in &tables {
        table.follows_somehow(&mut s);
    }
    s.exec("insert into d values (60, 1, 1), (61, 2, 2); update p set h = h + 1");
    all_follow(&mut s, &tables);
    s.exec("alter table c rename extra to more; alter table p rename k to id; alter table p add k int; update p set k = 5 where id > 10; update c set h = 9 where id = 12");
    let tables = [
        StreamTable::new("v", "select id as k, h as g from p"),
        StreamTable::new("g", "select h as g, count(*) as c from p group by h"),
    ];
    for table in &tables {
        table.follows_somehow(&mut s);
    }
    s.exec("delete from d where id = 60; update only p set h = 0");
    all_follow(&mut s, &tables);
}

#[test]
fn truncate_empties_the_children_too() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    let tables = tables(&mut s);
    for batch in [
        "truncate p",
        "insert into c2 (k, n) values (1, 1); insert into p values (2, 2); truncate c1; insert into c1 values (3, 3)",
        "begin; truncate p; insert into c1 values (4, 4); rollback; insert into c1 values (5, 5)",
        "truncate only p; insert into p values (6, 6)",
        "begin; truncate p, q; insert into c2 (k, n) values (7, 7); commit",
    ] {
        s.exec(batch);
        for table in &tables {
            table.follows_somehow(&mut s);
        }
        s.exec("insert into c1 values (50, 2); update p set n = n + 1");
        all_follow(&mut s, &tables);
    }
}

#[test]
fn queries_of_every_kind() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    s.exec("alter table c1 add primary key (k); create unique index on p (k); create view w as select k, n from p where n > 0");
    let tables = [
        "with recursive r(k, n) as (select k, n from p where n = 1 union all select p.k, p.n from p join r on p.n = r.n + 1) select k, n from r",
        "with recursive r(n) as (select n from p where n = 1 union select r.n + p.n from p join r on p.k = r.n where r.n < 50) select n from r",
        "select k, n, row_number() over (partition by n order by k, t) as r from p",
        "select distinct on (n) n, k, t from p order by n, k, t",
        "select k, n, t from p order by k, n, t limit 3",
        "select k, (select count(*) from p x where x.n = p.n) as c from p",
        "select n from p intersect all select n from q",
        "select k from p except select n from only p",
        "select p.k, o.k as o from p full join c1 o on o.k = p.k",
        "select w.k, x.n from w join lateral (select max(n) as n from p where p.k <= w.k) x on true",
        "select count(*) filter (where t like 'c%') as c, avg(n) as a, min(k) as m from p",
        "select k from p where n not in (select m from q where m is not null)",
        "select a.k, b.k as b, c.k as c from p a join p b on b.n = a.n join c1 c on c.n = b.n",
        "select k, n from p where k < 100 union select k, n from c1",
    ]
    .iter()
    .enumerate()
    .map(|(i, query)| s.stream_table(&format!("v{i}"), query))
    .collect::<Vec<_>>();
    for batch in [
        "insert into c1 (k, n) values (4, 3), (5, 2)",
        "update p set n = n + 1 where k in (1, 3)",
        "insert into c2 (k, n, m) values (6, 4, 4), (7, 1, 1); delete from c1 where k = 2",
        "update p set k = k + 20 where n = 4; insert into p values (8, 1, 'p'); update q set m = 2",
        "delete from p where k > 5; insert into q values (3, 3)",
    ] {
        s.exec(batch);
        all_follow(&mut s, &tables);
    }
}

/// A key of the parent says nothing about the children.
#[test]
fn keys_hold_in_one_table_only() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table p (k int unique, n int); create table c () inherits (p); create table x (k int); create table pk (k int primary key, n int); create table heir () inherits (pk); insert into p values (1, 1); insert into c values (1, 2), (1, 3), (null, 4); insert into x values (1), (2), (null)");
    let tables = [
        s.stream_table("v", "select k, n from p"),
        s.stream_table("k", "select k from p"),
        s.stream_table("l", "select x.k, p.n from x left join p on p.k = x.k"),
    ];
    let refused = s.error("0A000", "select pgtrickle.create_stream_table('g', 'select k, n, count(*) as c from pk group by k', refresh_mode => 'DIFFERENTIAL')");
    assert!(
        refused.message.contains("inheritance"),
        "{}",
        refused.message
    );
    for batch in [
        "insert into c values (1, 1), (2, 2), (null, null); insert into p values (2, 2)",
        "delete from only p; update c set k = 2 where n = 2",
        "update p set k = null where k = 2 and n > 2; insert into p values (1, 1)",
    ] {
        s.exec(batch);
        all_follow(&mut s, &tables);
    }
}

const SMALL: &str = "
    create table p (k int, g int); create table c (extra text) inherits (p); create table alone (g int, k int);
    insert into p select i, i % 3 from generate_series(1, 9) i; insert into c select i, i % 3 from generate_series(10, 19) i;
    insert into alone select i % 3, i from generate_series(20, 29) i";

const GROUPED: &str = "select g, count(*) as c from p group by g";
const PLAIN: &str = "select k, g from p";

/// DDL in one transaction.
const DDL: [&str; 5] = [
    "alter table alone inherit p",
    "alter table c no inherit p",
    "create table d () inherits (p); insert into d values (40, 1), (41, 5)",
    "create table d () inherits (c); insert into d values (42, 1), (43, 6)",
    "drop table c",
];

fn all_right(s: &mut Session, tables: &[StreamTable]) {
    for table in tables {
        table.refresh(s);
        table.assert_fresh(s);
    }
    s.exec("insert into p values (100, 1); update p set g = g + 1 where k % 2 = 0");
    for table in tables {
        table.refresh(s);
        table.assert_fresh(s);
        table.assert_mode(s, "DIFFERENTIAL");
    }
    assert_eq!(
        s.lines("select distinct status from pgtrickle.pgt_refresh_history"),
        ["COMPLETED"]
    );
}

#[test]
fn tree_changes_while_a_stream_table_is_created() {
    for ddl in DDL {
        let db = database();
        let mut s = db.connect();
        s.exec(SMALL);
        s.exec("begin");
        let tables = [s.stream_table("v", PLAIN), s.stream_table("g", GROUPED)];
        let changing = db.connect().spawn(&format!("begin; {ddl}; commit"));
        db.wait_blocked(changing.pid());
        s.exec("commit");
        changing.join();
        all_right(&mut s, &tables);
    }
}

#[test]
fn tree_changes_while_another_stream_table_is_created() {
    for ddl in DDL {
        let db = database();
        let mut s = db.connect();
        s.exec(SMALL);
        // Everything is captured already.
        let first = s.stream_table("first", "select k, g from p");
        s.exec("begin");
        let tables = [
            first,
            s.stream_table("v", PLAIN),
            s.stream_table("g", GROUPED),
        ];
        let changing = db.connect().spawn(&format!("begin; {ddl}; commit"));
        db.wait_blocked(changing.pid());
        s.exec("commit");
        changing.join();
        all_right(&mut s, &tables);
    }
}

#[test]
fn stream_table_is_created_while_the_tree_changes() {
    for captured in [false, true] {
        for ddl in DDL {
            let db = database();
            let (mut s, mut other) = (db.connect(), db.connect());
            s.exec(SMALL);
            if captured {
                s.stream_table("first", PLAIN);
            }
            other.exec("begin");
            other.exec(ddl);
            let creating = db.connect().spawn(&format!(
                "select pgtrickle.create_stream_table('v', {})",
                pgt_tests::quote(GROUPED)
            ));
            db.wait_blocked(creating.pid());
            other.exec("commit");
            creating.join();
            all_right(&mut s, &[StreamTable::new("v", GROUPED)]);
        }
    }
}

/// What the transaction's own snapshot shows is not what counts.
#[test]
fn repeatable_read_on_either_side() {
    for ddl in DDL {
        let db = database();
        let (mut s, mut other) = (db.connect(), db.connect());
        s.exec(SMALL);
        let first = s.stream_table("first", PLAIN);
        other.exec("begin isolation level repeatable read; select count(*) from p");
        let v = s.stream_table("v", GROUPED);
        other.exec(ddl);
        other.exec("commit");
        other.exec("begin isolation level repeatable read; select count(*) from first");
        let undo = match ddl {
            "alter table alone inherit p" => "alter table alone no inherit p",
            "alter table c no inherit p" => "alter table c inherit p",
            "drop table c" => "create table c () inherits (p); insert into c values (77, 1)",
            _ => "drop table d",
        };
        s.exec(undo);
        // A table that is newer than the snapshot cannot be looked at.
        let created = other.try_exec(
            "select pgtrickle.create_stream_table('w', 'select k from p', schedule => '1d')",
        );
        match &created {
            Ok(()) => other.exec("commit"),
            Err(error) => {
                assert_eq!((ddl, &*error.code), ("drop table c", "55000"));
                other.exec("rollback");
                other.stream_table("w", "select k from p");
            }
        }
        let created = StreamTable::new("w", "select k from p");
        all_right(&mut s, &[first, v, created]);
    }
}

#[test]
fn refresh_waits_for_the_tree_to_change() {
    for ddl in DDL {
        let db = database();
        let (mut s, mut other) = (db.connect(), db.connect());
        s.exec(SMALL);
        let tables = [s.stream_table("v", PLAIN), s.stream_table("g", GROUPED)];
        s.exec("insert into p values (31, 31)");
        for table in &tables {
            // Compiled, so that nothing is looked up before the locks.
            table.refresh(&mut s);
        }
        s.exec("insert into p values (32, 32)");
        other.exec("begin");
        other.exec(ddl);
        let refresh = db.connect().spawn(
            "select pgtrickle.refresh_stream_table('v'), pgtrickle.refresh_stream_table('g')",
        );
        db.wait_blocked(refresh.pid());
        other.exec("commit");
        refresh.join();
        for table in &tables {
            table.assert_fresh(&mut s);
            assert_eq!(table.last_refresh(&mut s).0, "REINITIALIZE", "{ddl}");
        }
        all_right(&mut s, &tables);
    }
}

#[test]
fn changing_the_tree_waits_for_a_refresh() {
    for ddl in DDL {
        let db = database();
        let mut s = db.connect();
        s.exec(SMALL);
        let tables = [s.stream_table("v", PLAIN), s.stream_table("g", GROUPED)];
        s.exec("insert into p values (31, 31); insert into c values (33, 1)");
        s.exec("begin");
        for table in &tables {
            table.refresh(&mut s);
        }
        let changing = db.connect().spawn(&format!("begin; {ddl}; commit"));
        db.wait_blocked(changing.pid());
        s.exec("commit");
        changing.join();
        all_right(&mut s, &tables);
    }
}

/// Writers to all tables of a tree that changes, while its stream tables are refreshed all the time.
#[test]
fn writers_ddl_and_refreshes_at_once() {
    let db = database();
    let mut s = db.connect();
    s.exec(SMALL);
    let tables = [
        s.stream_table("v", PLAIN),
        s.stream_table("g", GROUPED),
        s.stream_table("t", "select count(*) as n, sum(k) as k from p"),
    ];
    s.exec(
        "create procedure write(i int) language plpgsql as $$ begin
            insert into p values (i, i % 7); insert into c values (i, i % 7); commit;
            update p set g = (g + 1) % 7 where k % 5 = i % 5; commit;
            delete from p where k % 11 = i % 11; commit;
            insert into alone values (i % 7, i); update alone set k = k + 1 where k % 3 = 0; commit;
         end $$;
         create procedure change(i int) language plpgsql as $$ begin
            alter table alone inherit p; commit; perform pg_sleep(0.05);
            execute format('create table x%s (y int) inherits (c)', i); execute format('insert into x%s values (%s, 1)', i, i); commit;
            alter table alone no inherit p; commit; perform pg_sleep(0.05);
            if i % 2 = 0 then execute format('drop table x%s', i); end if; commit;
            if i % 3 = 0 then truncate c; end if; commit;
         end $$",
    );
    let mut running = Vec::new();
    for (what, from) in [("write", 1000), ("write", 2000), ("change", 1)] {
        let mut session = db.connect();
        running.push(std::thread::spawn(move || {
            for i in from..from + 25 {
                if let Err(error) = session.try_exec(&format!("call {what}({i})")) {
                    assert!(
                        ["40P01", "55P03"].contains(&&*error.code),
                        "{}: {}",
                        error.code,
                        error.message
                    );
                }
            }
        }));
    }
    let mut refreshes = 0;
    while running.iter().any(|thread| !thread.is_finished()) {
        for table in &tables {
            match s.try_exec(&format!(
                "select pgtrickle.refresh_stream_table('{}')",
                table.name()
            )) {
                Ok(()) => refreshes += 1,
                Err(error) => assert!(
                    ["40P01", "55P03", "55000"].contains(&&*error.code),
                    "{}: {}",
                    error.code,
                    error.message
                ),
            }
        }
    }
    for thread in running {
        thread.join().expect("a writer failed");
    }
    assert!(refreshes > 5);
    s.exec("do $$ declare r record; begin for r in select inhrelid::regclass as c from pg_inherits where inhparent = 'c'::regclass loop execute format('alter table %s no inherit c', r.c); end loop; end $$");
    for table in &tables {
        table.follows_somehow(&mut s);
    }
    s.exec("update p set g = 1 - g; insert into c values (1, 1)");
    all_follow(&mut s, &tables);
}

fn effective(s: &mut Session, name: &str) -> (String, String) {
    let line = s.value(&format!(
        "select effective_mode || '|' || coalesce(downgrade_reason, '') from pgtrickle.explain_refresh_mode('{name}')"
    ));
    let (mode, reason) = line.split_once('|').expect("two parts");
    (mode.to_owned(), reason.to_owned())
}

#[test]
fn owner_needs_rights_on_every_table() {
    let db = database();
    let mut s = db.connect();
    let role = db.role("reader");
    s.exec(SMALL);
    s.exec(&format!(
        "create schema hidden; create table hidden.h () inherits (p); insert into hidden.h values (90, 0);
         grant usage, create on schema public to {role}; grant select, trigger on p to {role}"
    ));
    let mut r = db.connect_as(&role);
    let refused = r.error("0A000", "select pgtrickle.create_stream_table('d', 'select k, g from p', refresh_mode => 'DIFFERENTIAL')");
    assert!(
        refused.message.contains("SELECT privilege"),
        "{}",
        refused.message
    );
    let v = r.auto_stream_table("v", PLAIN);
    let g = r.auto_stream_table("g", GROUPED);
    let check = |s: &mut Session, r: &mut Session, mode: &str, part: &str| {
        for table in [&v, &g] {
            s.exec("insert into c values (50, 1); insert into hidden.h values (51, 2); update p set g = g + 1 where k < 20");
            table.follows_somehow(r);
            let (now, reason) = effective(r, table.name());
            assert_eq!(now, mode, "{reason}");
            assert!(reason.contains(part), "{reason}");
            if mode == "DIFFERENTIAL" {
                s.exec("delete from c where k = 50");
                table.follows(r);
            }
        }
    };
    check(
        &mut s,
        &mut r,
        "FULL",
        "public.c inherits from public.p and",
    );
    for (grant, mode, part) in [
        ("grant select on c to", "FULL", "TRIGGER"),
        ("grant trigger on c to", "FULL", "hidden.h"),
        ("grant select (k), trigger on hidden.h to", "FULL", "USAGE"),
        ("grant usage on schema hidden to", "FULL", "column g"),
        ("grant select (g) on hidden.h to", "DIFFERENTIAL", ""),
    ] {
        s.exec(&format!("{grant} {role}"));
        check(&mut s, &mut r, mode, part);
    }
    s.exec(&format!("revoke select on c from {role}"));
    check(&mut s, &mut r, "FULL", "SELECT");
    s.exec(&format!("grant select on c to {role}"));
    check(&mut s, &mut r, "DIFFERENTIAL", "");
    s.exec("create table later () inherits (c); insert into later values (60, 1)");
    check(&mut s, &mut r, "FULL", "public.later");
    s.exec("drop table later");
    check(&mut s, &mut r, "DIFFERENTIAL", "");
}

#[test]
fn children_that_cannot_be_followed() {
    let db = database();
    let mut s = db.connect();
    s.exec(SMALL);
    s.exec("create extension file_fdw; create server files foreign data wrapper file_fdw");
    let v = s.auto_stream_table("v", PLAIN);
    let whole = s.auto_stream_table("ids", "select tableoid::int8 as t, k from p");
    let full = s.stream_table_with("f", PLAIN, "refresh_mode => 'FULL', schedule => '1d'");
    for (ddl, mode, part) in [
        (
            "alter table c enable row level security",
            "FULL",
            "public.c inherits from public.p and has row-level security",
        ),
        (
            "alter table c disable row level security",
            "DIFFERENTIAL",
            "",
        ),
        (
            "create foreign table f1 () inherits (p) server files options (program 'echo 1')",
            "FULL",
            "foreign table",
        ),
        ("drop foreign table f1", "DIFFERENTIAL", ""),
        (
            "create foreign table f2 (k int, g int) server files options (program 'printf \"7\\t1\\n\"'); alter foreign table f2 inherit p",
            "FULL",
            "foreign table",
        ),
        ("alter foreign table f2 no inherit p", "DIFFERENTIAL", ""),
        ("create temp table t1 () inherits (c)", "FULL", "temporary"),
        (
            "drop table t1; create table unrelated (); drop table unrelated",
            "DIFFERENTIAL",
            "",
        ),
    ] {
        s.exec(ddl);
        if ddl.contains("f1 ()") {
            s.exec("alter foreign table f1 options (set program 'printf \"8\\t1\\n\"')");
        }
        s.exec("insert into c values (50, 1)");
        for table in [&v, &whole, &full] {
            table.follows_somehow(&mut s);
        }
        let (now, reason) = effective(&mut s, "v");
        assert_eq!(now, mode, "{ddl}: {reason}");
        assert!(reason.contains(part), "{ddl}: {reason}");
        s.exec("delete from c where k = 50; insert into p values (51, 1)");
        v.follows_somehow(&mut s);
        v.assert_mode(&mut s, mode);
        whole.follows_somehow(&mut s);
        full.follows_somehow(&mut s);
    }
}

/// Captured while it stood alone; its children are not.
#[test]
fn full_mode_and_a_table_that_gets_its_first_child() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table p (k int); insert into p values (1)");
    let tables = [
        s.stream_table_with(
            "f",
            "select k from p",
            "refresh_mode => 'FULL', schedule => '1d'",
        ),
        s.stream_table_with(
            "o",
            "select k from only p",
            "refresh_mode => 'FULL', schedule => '1d'",
        ),
        s.stream_table("v", "select k from p"),
        s.stream_table("w", "select k from only p"),
    ];
    for batch in [
        "create table c () inherits (p); insert into c values (2)",
        "insert into c values (3)",
        "update c set k = 4 where k = 3; insert into p values (5)",
        "alter table c no inherit p; insert into c values (6)",
        "alter table c inherit p",
        "delete from c",
        "insert into c values (7); truncate c",
        "insert into c values (8); drop table c",
        "insert into p values (9)",
    ] {
        s.exec(batch);
        for table in &tables {
            table.follows_somehow(&mut s);
        }
    }
}

#[test]
fn parent_is_dropped_with_everything() {
    let db = database();
    let mut s = db.connect();
    s.exec(TREE);
    tables(&mut s);
    s.error("2BP01", "drop table p");
    s.exec("drop table p cascade");
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
    s.exec(SMALL);
    let v = s.stream_table("v", PLAIN);
    s.exec("insert into c values (1, 1)");
    v.follows(&mut s);
    s.exec("select pgtrickle.drop_stream_table('v')");
    assert_eq!(
        s.value("select count(*) from pg_trigger where tgname like 'pgt%'"),
        "0"
    );
}

#[test]
fn the_scheduler_follows() {
    let db = database();
    let mut s = db.connect();
    s.exec(SMALL);
    let v = s.stream_table_with("v", PLAIN, "schedule => '100ms'");
    let g = s.stream_table_with("g", GROUPED, "schedule => 'continuous'");
    for batch in [
        "insert into c values (50, 1)",
        "create table d () inherits (c); insert into d values (60, 1), (61, 2)",
        "insert into d values (62, 3); update p set g = g + 1",
        "alter table alone inherit p",
        "update alone set g = 5; delete from d where k = 60",
        "alter table c no inherit p",
        "insert into c values (70, 1); insert into alone values (1, 71)",
        "drop table alone; truncate p",
        "insert into p values (80, 1)",
    ] {
        s.exec(batch);
        v.catches_up(&mut s);
        g.catches_up(&mut s);
    }
    for table in [&v, &g] {
        table.assert_verified(&mut s);
        table.assert_mode(&mut s, "DIFFERENTIAL");
    }
}

/// A child is gone, and nobody has refreshed since.
#[test]
fn looked_at_before_the_next_refresh() {
    let db = database();
    let mut s = db.connect();
    s.exec(SMALL);
    let v = s.stream_table("v", PLAIN);
    let g = s.stream_table("g", GROUPED);
    s.exec("insert into c values (50, 1); drop table c");
    for look in [
        "pgtrickle.list_sources('v')",
        "pgtrickle.dependency_tree()",
        "pgtrickle.health_check()",
        "pgtrickle.change_buffer_sizes()",
        "pgtrickle.trigger_inventory()",
        "pgtrickle.pgt_status()",
        "pgtrickle.explain_dag()",
        "pgtrickle.diagnose_errors('v')",
        "pgtrickle.change_buffer_status('p')",
        "pgtrickle.frontier_lag('v')",
    ] {
        s.rows(&format!("select * from {look}"));
    }
    assert_eq!(
        s.value("select ok from pgtrickle.verify_stream_table('v')"),
        "t"
    );
    for table in [&v, &g] {
        table.follows_somehow(&mut s);
    }
    s.exec("update p set g = g + 1");
    all_follow(&mut s, &[v, g]);
}
