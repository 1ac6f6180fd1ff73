//! Results that rows equal under an ORDER BY leave open: maintained incrementally as long as no such rows decide, and
//! refreshed from the query itself while they do.

use pgt_tests::{Session, StreamTable, database, quote};

/// How a refresh ran.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// Whatever was done was done incrementally.
    Incrementally,
    /// Equal rows decide.
    Ties,
    /// They do not any more.
    NoMore,
}

use How::{Incrementally, NoMore, Ties};

/// Changes, refreshes, and looks at contents and mode.
#[track_caller]
fn step(s: &mut Session, table: &StreamTable, change: &str, how: How) {
    let name = quote(table.name());
    let seen = s.number(&format!(
        "select coalesce(max(refresh_id), 0) from pgtrickle.get_refresh_history({name}, 1)"
    ));
    s.exec(change);
    table.refresh(s);
    table.assert_fresh(s);
    let refreshes = s.lines(&format!(
        "select action, reason from pgtrickle.get_refresh_history({name}, 10) where refresh_id > {seen}"
    ));
    match how {
        Incrementally => assert!(
            refreshes
                .iter()
                .all(|line| line.starts_with("DIFFERENTIAL")),
            "after {change}: {refreshes:?}"
        ),
        Ties => assert_eq!(refreshes, ["FULL|ties"], "after {change}"),
        NoMore => assert_eq!(refreshes, ["FULL|no more ties"], "after {change}"),
    }
    assert_mode(s, table, how);
}

/// `explain_refresh_mode` knows.
#[track_caller]
fn assert_mode(s: &mut Session, table: &StreamTable, how: How) {
    let mode = s.lines(&format!(
        "select configured_mode, effective_mode, downgrade_reason is not null from pgtrickle.explain_refresh_mode({})",
        quote(table.name())
    ));
    let expected = match how {
        Ties => "AUTO|FULL|t",
        _ => "AUTO|DIFFERENTIAL|f",
    };
    assert_eq!(mode, [expected], "{}", table.query());
}

/// Creates it over rows without ties and goes through `steps`.
#[track_caller]
fn follow(s: &mut Session, query: &str, steps: &[(&str, How)]) {
    s.exec(
        "drop table if exists t cascade;
         create table t (id int primary key, g int, n int);
         insert into t select i, i % 10, i * i from generate_series(1, 50) i",
    );
    let table = s.auto_stream_table("v", query);
    table.assert_fresh(s);
    assert_mode(s, &table, Incrementally);
    for (change, how) in steps {
        step(s, &table, change, *how);
    }
    s.exec("select pgtrickle.drop_stream_table('v')");
}

/// The most usual one: nothing tells that sums are different, but they are.
#[test]
fn top_of_groups() {
    let db = database();
    let mut s = db.connect();
    follow(
        &mut s,
        "select g, sum(n) as total from t group by g order by total desc limit 3",
        &[
            ("update t set n = n + 1 where g = 0", Incrementally),
            (
                "insert into t values (100, 7, 5000), (101, 1, 1)",
                Incrementally,
            ),
            ("delete from t where g = 9", Incrementally),
            // Before the end and behind it.
            (
                "update t set n = 10000 where id in (5, 6); update t set n = 0 where g in (5, 6) and id > 10",
                Incrementally,
            ),
            (
                "insert into t values (200, 20, 1), (201, 21, 1)",
                Incrementally,
            ),
            // Across it.
            (
                "truncate t; insert into t select i, i, i from generate_series(1, 10) i",
                Incrementally,
            ),
            ("update t set n = 8 where id = 7", Ties),
            ("update t set n = n + 100 where id = 10", Ties),
            ("update t set n = 7 where id = 7", NoMore),
            ("update t set n = n + 1 where id = 1", Incrementally),
            ("insert into t values (30, 30, 8)", Ties),
            ("delete from t where id = 8", NoMore),
            ("delete from t where id = 30", Incrementally),
            (
                "insert into t values (31, 31, 7), (32, 32, 200)",
                Incrementally,
            ),
            ("delete from t where id = 9", Ties),
            (
                "update t set n = -1 where g = 7; insert into t values (40, 40, 300)",
                NoMore,
            ),
            ("insert into t values (41, 41, 250)", Incrementally),
        ],
    );
}

/// As reports have it: the first hundred of many groups of a join, by what was added up.
#[test]
fn first_hundred() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table item (id int primary key, brand text);
         create table sale (id int primary key, item int, n numeric(10,2));
         create index on sale (item);
         insert into item select i, 'b' || i % 400 from generate_series(1, 800) i;
         insert into sale select i, i % 800 + 1, (i * 7919) % 10007 + 0.01 * (i % 97) from generate_series(1, 4000) i;
         analyze item, sale",
    );
    let table = s.auto_stream_table(
        "v",
        "select brand, sum(n) as total, count(*) as c from sale join item on item.id = sale.item
         group by brand order by total desc, c limit 100",
    );
    assert_mode(&mut s, &table, Incrementally);
    for (change, how) in [
        ("update sale set n = n + 1 where id % 100 = 0", Incrementally),
        ("insert into sale select 5000 + i, i, 3 from generate_series(1, 50) i", Incrementally),
        // Equal to the last one of the hundred in all that is ordered by.
        ("insert into item values (1000, 'new'); insert into sale
            select 6000 + i, 1000, case when i = 1 then total else 0 end from (select total, c from v order by total, c desc limit 1) x,
            generate_series(1, c) i", Ties),
        (
            "update sale set n = n + 1 from item where item.id = sale.item
                and brand = (select brand from v order by total desc limit 1)",
            Ties,
        ),
        ("update sale set n = n + 0.01 where id = 6001", NoMore),
        ("delete from item where id % 50 = 0", Incrementally),
    ] {
        step(&mut s, &table, change, how);
    }
}

#[test]
fn both_ends_of_a_window_of_rows() {
    let db = database();
    let mut s = db.connect();
    for query in [
        "select id, n from t order by n limit 3 offset 2",
        "select id, n from t order by n offset 2 fetch first 3 rows only",
        "select id from t order by n limit 1 + 2 offset 4 - 2",
    ] {
        follow(
            &mut s,
            query,
            &[
                ("update t set n = 9 where id = 4", Incrementally),
                ("update t set n = 0 where id in (1, 2)", Incrementally),
                ("update t set n = 9 where id = 2", Ties),
                (
                    "update t set n = 4 where id = 2; update t set n = 36 where id = 5",
                    Ties,
                ),
                ("update t set n = 25 where id = 5", NoMore),
                ("delete from t where id = 1", Ties),
                ("insert into t values (1, 1, 1)", NoMore),
                ("update t set n = 30 where id in (20, 21)", Incrementally),
                ("delete from t where id = 5", Ties),
                ("insert into t values (0, 0, 5)", NoMore),
                ("truncate t", Incrementally),
                (
                    "insert into t select i, i, 1 from generate_series(1, 2) i",
                    Incrementally,
                ),
                ("insert into t values (3, 3, 1)", Ties),
                ("update t set n = 2 where id = 3", NoMore),
            ],
        );
    }
    follow(
        &mut s,
        "select id from t order by n offset 48",
        &[
            ("update t set n = 1 where id = 50", Incrementally),
            ("update t set n = 48 * 48 where id = 49", Incrementally),
            ("update t set n = 48 * 48 where id = 47", Ties),
            ("delete from t where id = 1", Ties),
            ("delete from t where id = 2", NoMore),
        ],
    );
    follow(
        &mut s,
        "select id, n from t order by n offset 2 fetch first 3 rows with ties",
        &[
            ("update t set n = 25 where id in (6, 7)", Incrementally),
            ("update t set n = 4 where id = 3", Ties),
            ("update t set n = 5 where id = 3", NoMore),
        ],
    );
}

#[test]
fn nulls_are_equal_under_an_order() {
    let db = database();
    let mut s = db.connect();
    for (order, other) in [("n desc", "n"), ("n nulls first", "n nulls last")] {
        follow(
            &mut s,
            &format!("select id, n from t order by {order} limit 2"),
            &[
                ("update t set n = null where id = 7", Incrementally),
                ("update t set n = null where id = 8", Incrementally),
                ("update t set n = null where id = 9", Ties),
                ("delete from t where id = 7", NoMore),
            ],
        );
        follow(
            &mut s,
            &format!("select id, n from t order by {other} limit 2"),
            &[
                ("update t set n = null where id > 10", Incrementally),
                ("delete from t where id < 9", Incrementally),
                ("delete from t where id = 9", Ties),
                ("insert into t values (1, 1, 1)", NoMore),
            ],
        );
    }
}

#[test]
fn top_of_each_group() {
    let db = database();
    let mut s = db.connect();
    let ranked = "select g, id, row_number() over (partition by g % 3 order by n) as place from t";
    // Whether the number is shown or not.
    follow(
        &mut s,
        &format!("select g, id from ({ranked}) x where place <= 3"),
        &[
            ("update t set n = 1 where id in (1, 4)", Incrementally),
            ("update t set n = 121 where id = 7", Ties),
            ("update t set n = 2 where id = 1", Ties),
            ("update t set n = 49 where id = 7", NoMore),
            ("update t set n = n - n % 100 where n > 1000", Incrementally),
            ("delete from t where id in (1, 2, 3)", Incrementally),
        ],
    );
    follow(
        &mut s,
        &format!("select * from ({ranked}) x where place <= 3"),
        &[
            ("update t set n = n - n % 100 where n > 1000", Incrementally),
            ("update t set n = 1 where id in (1, 11)", Ties),
            ("update t set n = 2 where id = 1", NoMore),
            ("insert into t values (101, 1, 2)", Ties),
            ("delete from t where id in (1, 101)", NoMore),
        ],
    );
    follow(
        &mut s,
        &format!("select g, id from ({ranked}) x where place = 2"),
        &[
            ("update t set n = 100 where id in (19, 21)", Incrementally),
            ("update t set n = 121 where id in (10, 13)", Incrementally),
            ("update t set n = 1 where id in (1, 11)", Ties),
            ("update t set n = 0 where id in (1, 11)", Ties),
            ("delete from t where id = 11", NoMore),
        ],
    );
    follow(
        &mut s,
        "select id, g from (select id, g, sum(n) over (partition by g) as s,
            row_number() over (partition by g order by n desc) as place from t) x where place between 2 and 3 and s > 0",
        &[
            ("update t set n = n + 1 where id > 30", Incrementally),
            ("update t set n = 50 where id in (1, 11)", Incrementally),
            ("update t set n = 3000 where id in (41, 31)", Ties),
            ("update t set n = 3001 where id in (41)", NoMore),
        ],
    );
}

#[test]
fn values_that_depend_on_the_order() {
    let db = database();
    let mut s = db.connect();
    for (call, frame) in [
        ("row_number()", ""),
        ("lag(id)", ""),
        ("first_value(id)", ""),
        ("nth_value(id, 2)", ""),
        ("ntile(3)", ""),
        ("sum(n)", "rows between 1 preceding and current row"),
        ("array_agg(id)", ""),
    ] {
        follow(
            &mut s,
            &format!("select id, {call} over (partition by g order by n {frame}) as x from t"),
            &[
                ("update t set n = n + 1 where g = 3", Incrementally),
                (
                    "insert into t values (60, 2, -1), (61, 3, -1)",
                    Incrementally,
                ),
                ("update t set n = -1 where id = 2", Ties),
                ("update t set n = 7 where g = 1 and n > 500", Ties),
                ("delete from t where id = 60", Ties),
                ("delete from t where g = 1", NoMore),
                ("insert into t values (60, 2, -3)", Incrementally),
            ],
        );
    }
    // Equal in all that is read.
    follow(
        &mut s,
        "select g, n, row_number() over (order by n) as x from t",
        &[
            ("insert into t values (60, 2, 4)", Incrementally),
            ("insert into t values (61, 3, 4)", Ties),
            ("delete from t where id = 61", NoMore),
        ],
    );
    // Two windows.
    follow(
        &mut s,
        "select id, row_number() over (order by n) as x, lag(id) over (partition by g order by n desc) as y from t",
        &[
            ("insert into t values (60, 2, 5)", Incrementally),
            ("insert into t values (61, 3, 5)", Ties),
            ("update t set n = 6 where id = 61", NoMore),
        ],
    );
}

#[test]
fn first_row_of_each_group() {
    let db = database();
    let mut s = db.connect();
    follow(
        &mut s,
        "select distinct on (g) g, id from t order by g, n",
        &[
            ("update t set n = n + 1 where g = 3", Incrementally),
            ("update t set n = 1000 where id > 20", Incrementally),
            (
                "insert into t values (60, 2, -1), (61, 3, -1)",
                Incrementally,
            ),
            ("update t set n = -1 where id = 2", Ties),
            ("insert into t values (62, null, 1), (63, null, 1)", Ties),
            ("delete from t where id = 2", Ties),
            ("update t set n = null where id = 62", NoMore),
            (
                "delete from t where id = 63; insert into t values (64, null, null)",
                Ties,
            ),
        ],
    );
    // Equal in what is shown.
    follow(
        &mut s,
        "select distinct on (g) g, n, id % 2 as odd from t order by g, n",
        &[
            ("insert into t values (60, 2, 4)", Incrementally),
            ("insert into t values (61, 2, 4)", Ties),
            ("delete from t where id = 61", NoMore),
        ],
    );
}

#[test]
fn deep_inside() {
    let db = database();
    let mut s = db.connect();
    let tie = "update t set n = 9 where id = 4";
    let tie_of_third = [
        ("update t set n = n + 1 where id > 10", Incrementally),
        (tie, Ties),
        ("insert into t values (60, 2, 500)", Ties),
        ("update t set n = 16 where id = 4", NoMore),
        ("insert into t values (61, 2, 500)", Incrementally),
    ];
    for query in [
        "select count(*) as c, sum(id) as s from (select id from t order by n limit 3) x",
        "select g % 2 as odd, count(*) as c, sum(id) as s from (select id, g from t order by n limit 3) x group by 1",
        "select count(*) as c from (select id, g from t order by n limit 3) x group by g",
        "select a.id, x.n from t a left join (select id, n from t order by n limit 3) x on x.id = a.id",
        "select id from t where id in (select id from t order by n limit 3)",
        "select id, (select id from t order by n limit 1 offset 2) as third from t where id < 6",
        "select id from (select id, n from t order by n limit 3) x order by id limit 1",
        "select distinct id % 2 as odd from (select id from t order by n limit 3) x",
        "select id from (select id from t order by n limit 3) x union select g from t where id < 5",
    ] {
        follow(&mut s, query, &tie_of_third);
    }
    for query in [
        "select d.g, x.id from (select distinct g from t) d, lateral (select id from t where t.g = d.g order by n limit 2) x",
        "select d.g, (select id from t where t.g = d.g order by n limit 1 offset 1) as second from (select distinct g from t) d",
        "select g, max(id) as m from (select g, id, row_number() over (partition by g order by n) as place from t) x where place <= 2 group by g",
    ] {
        follow(
            &mut s,
            query,
            &[
                ("update t set n = n + 1 where id > 20", Incrementally),
                ("update t set n = 5000 where id > 30", Incrementally),
                ("update t set n = 5000 where id in (13, 23)", Ties),
                ("update t set n = 169 where id in (13)", NoMore),
                ("update t set n = 0 where id in (1, 11)", Incrementally),
            ]
            .map(|(change, how)| {
                // The second one is picked by its number alone.
                let decides = query.contains("offset") && change.contains("(1, 11)");
                (change, if decides { Ties } else { how })
            }),
        );
    }
}

#[test]
fn from_the_beginning() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table t (id int primary key, g int, n int);
         insert into t select i, i % 4, i / 2 from generate_series(0, 9) i",
    );
    let table = s.auto_stream_table("v", "select id from t order by n limit 3");
    assert_eq!(
        table.last_refresh(&mut s),
        ("FULL".into(), Some("initial".into()))
    );
    table.assert_fresh(&mut s);
    assert_mode(&mut s, &table, Ties);
    step(&mut s, &table, "update t set n = 7 where id = 9", Ties);
    step(&mut s, &table, "delete from t where id = 3", NoMore);
    step(&mut s, &table, "delete from t where id = 4", Incrementally);
    // Whoever wants any of the equal rows gets it.
    s.exec("insert into t values (12, 2, 1), (13, 3, 1)");
    let any = s.stream_table("any_of_them", "select id from t order by n limit 3");
    s.exec("insert into t values (20, 2, 1)");
    any.refresh(&mut s);
    any.assert_mode(&mut s, "DIFFERENTIAL");
    step(&mut s, &table, "select 1", Ties);
    s.exec("select pgtrickle.alter_stream_table('v', refresh_mode => 'DIFFERENTIAL'); insert into t values (21, 2, 1)");
    table.refresh(&mut s);
    s.exec("select pgtrickle.alter_stream_table('v', refresh_mode => 'AUTO')");
    table.follows_somehow(&mut s);
    assert_mode(&mut s, &table, Ties);
    step(&mut s, &table, "delete from t where n = 1", NoMore);
    step(
        &mut s,
        &table,
        "insert into t values (99, 1, -1)",
        Incrementally,
    );
    any.assert_fresh(&mut s);
}

/// Where nothing could tell, or the rows of the query could not be stored as they are, it is as if there were ties.
#[test]
fn not_watched() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table t (id int primary key, g int, n int, at timestamptz);
         insert into t select i, i % 10, i * i, now() from generate_series(1, 50) i",
    );
    for (number, query) in [
        "select id from t limit 3",
        "select id, row_number() over () as p from t",
        "select id, lag(id) over (partition by g) as p from t",
        "select distinct on (g) g, id from t",
        "select array(select id from t order by n) as ids",
        "select id from t where at > now() - interval '1 day' order by n limit 3",
        "select count(*) as c from (select coalesce(g, 0) as g from t order by n limit 3) x group by g",
    ]
    .iter()
    .enumerate()
    {
        let table = s.auto_stream_table(&format!("v{number}"), query);
        assert_mode(&mut s, &table, Ties);
        s.exec("update t set n = n + 1000 where id = 1");
        table.refresh(&mut s);
        table.assert_fresh(&mut s);
        table.assert_mode(&mut s, "FULL");
    }
    // Whatever is equal is all there is.
    for (number, query) in [
        "select g, row_number() over (partition by g, n order by n) as p from t",
        "select id, place from (select id, row_number() over (order by n) as place from t) x where id = place",
        "select id from (select id, row_number() over (order by g) as place from t) x",
    ]
    .iter()
    .enumerate()
    {
        let table = s.auto_stream_table(&format!("w{number}"), query);
        assert_mode(&mut s, &table, Incrementally);
        s.exec("update t set n = n + 1000 where id = 2");
        table.follows(&mut s);
    }
}

/// A stage in common is maintained with either, and its ties are known to both.
#[test]
fn in_common() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table t (id int primary key, g int, n int);
         insert into t select i, i % 10, i * i from generate_series(1, 50) i",
    );
    let inner = "(select id, g from t order by n limit 3) x";
    let queries = [
        ("a", format!("select sum(id) as s from {inner}")),
        (
            "b",
            format!("select g, count(*) as c from {inner} group by g"),
        ),
        ("c", "select id, g from t order by n limit 3".to_owned()),
    ];
    let tables = queries.map(|(name, query)| s.auto_stream_table(name, &query));
    s.stream_table("d", &format!("select max(id) as s from {inner}"));
    for (change, how) in [
        ("update t set n = n + 1 where id = 2", Incrementally),
        ("update t set n = 9 where id = 4", Ties),
        ("update t set n = n + 2 where id = 10", Ties),
        ("update t set n = 4 where id = 4", NoMore),
        ("insert into t values (0, 0, -1)", Incrementally),
        ("insert into t values (60, 7, 6)", Incrementally),
        (
            "delete from t where id = 0; update t set n = 5 where id = 60",
            Ties,
        ),
    ] {
        s.exec(change);
        s.exec("select pgtrickle.refresh_stream_table('d')");
        for table in &tables {
            let how = match how {
                // Each finds out by itself, and does what it has to do only if it was different before.
                Ties => {
                    table.follows_somehow(&mut s);
                    assert_mode(&mut s, table, Ties);
                    continue;
                }
                other => other,
            };
            step(&mut s, table, "select 1", how);
        }
    }
}

/// What reads it sees each of its changes once, however it was refreshed.
#[test]
fn read_by_others() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table t (id int primary key, g int, n int);
         insert into t select i, i % 10, i * i from generate_series(1, 50) i",
    );
    let queries = [
        "select id, n from t order by n limit 5",
        "select g, id, row_number() over (partition by g order by n) as place from t",
        "select count(*) as n, sum(id) as id from (select id, g from t order by n limit 5) x group by g",
    ];
    let tables = queries.map(|query| {
        let name = format!("v{}", query.len());
        let table = s.auto_stream_table(&name, query);
        let reader = format!("select sum(id) as ids, count(*) as c from {name}");
        (table, s.stream_table(&format!("r{}", query.len()), &reader))
    });
    for change in [
        "update t set n = n + 1 where id = 2",
        "update t set n = 25 where id in (4, 6)",
        "update t set n = 25 where id in (5, 7); delete from t where id = 1",
        "update t set n = id * id",
        "insert into t values (0, 0, 0), (60, 0, 1)",
        "insert into t values (61, 0, 0)",
        "truncate t",
        "insert into t select i, i % 3, i from generate_series(1, 10) i",
        "update t set n = 1",
        "update t set n = id where id <> 3",
    ] {
        s.exec(change);
        for (table, reader) in &tables {
            table.follows_somehow(&mut s);
            reader.follows_somehow(&mut s);
        }
    }
    for (_, reader) in &tables {
        let full = format!(
            "select count(*) from pgtrickle.get_refresh_history({}, 100) where action <> 'DIFFERENTIAL'",
            quote(reader.name())
        );
        assert_eq!(s.value(&full), "1", "only at first");
    }
}

/// That an order is total can stop to be known.
#[test]
fn what_is_known_changes() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table t (id int not null, n int not null, constraint only_once unique (n));
         insert into t select i, i * 10 from generate_series(1, 20) i",
    );
    let table = s.auto_stream_table("v", "select id, n from t order by n limit 3");
    step(
        &mut s,
        &table,
        "update t set n = 5 where id = 2",
        Incrementally,
    );
    s.exec("alter table t drop constraint only_once");
    table.follows_somehow(&mut s);
    step(&mut s, &table, "insert into t values (50, 30)", Ties);
    s.exec("delete from t where id = 50; alter table t add unique (n)");
    table.follows_somehow(&mut s);
    step(
        &mut s,
        &table,
        "insert into t values (50, 1)",
        Incrementally,
    );
}

/// Small numbers, so that there are ties now and then, of all kinds of operators.
#[test]
fn now_and_then() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table t (id int primary key, g int, n numeric, x text)");
    let queries = [
        "select id, n from t order by n limit 4",
        "select id from t order by n desc, x limit 3 offset 2",
        "select g, sum(n) as total from t group by g order by total desc limit 2",
        "select id, g from (select id, g, row_number() over (partition by g order by n) as p from t) q where p <= 2",
        "select * from (select id, g, row_number() over (partition by g order by n desc) as p from t) q where p = 2",
        "select id, lag(id) over (partition by g, x order by n) as l from t",
        "select g, x, sum(n) over (order by n, x rows 1 preceding) as s from t",
        "select distinct on (g) g, id, x from t order by g, n",
        "select g, count(*) as c from (select g from t order by n limit 5) q group by g",
        "select count(*) as c from (select distinct on (x) x, g from t order by x, n) q group by g",
        "select a.id, q.id as first from t a left join lateral (select id from t b where b.g = a.g order by n, x limit 1) q on true",
        "select row_number() over (order by total) as p, g from (select g, count(*) as total from t group by g) q",
    ];
    let tables: Vec<StreamTable> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| s.auto_stream_table(&format!("v{number}"), query))
        .collect();
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        for _ in 0..rng.usize(1..4) {
            let (id, g, n) = (rng.u32(0..14), rng.u32(0..4), rng.u32(0..12));
            let number = match rng.u8(0..8) {
                0 => "null".to_owned(),
                1 => format!("{n}.0"),
                _ => n.to_string(),
            };
            let x = ["'a'", "'b'", "null"][rng.usize(0..3)];
            s.exec(&match rng.u8(0..6) {
                0 => format!("delete from t where id = {id}"),
                1 => format!("delete from t where g = {g} and id % 2 = 0"),
                2 => format!("update t set n = n + 1 where g = {g}"),
                _ => format!(
                    "insert into t values ({id}, {g}, {number}, {x})
                     on conflict (id) do update set g = excluded.g, n = excluded.n, x = excluded.x"
                ),
            });
        }
        for table in &tables {
            if rng.u8(0..3) > 0 || round % 10 == 9 {
                table.follows_somehow(&mut s);
            }
        }
    }
    for table in &tables {
        let ran = s.lines(&format!(
            "select coalesce(reason, action), count(*) from pgtrickle.get_refresh_history({}, 1000) group by 1 order by 1",
            quote(table.name())
        ));
        let has = |how: &str| ran.iter().any(|line| line.starts_with(how));
        assert!(
            has("DIFFERENTIAL") && has("ties|") && has("no more ties"),
            "{}: {ran:?}",
            table.query()
        );
    }
}
