//! Groups that a query joins to a table by its key: kept for the rows of the table that the query is about, and no others.

use pgt_tests::{Session, StreamTable, database};

fn tables(s: &mut Session, key: &str) {
    s.exec(&format!(
        "create table p (k {key} primary key, kind text, size int);
         create table l (id int primary key, k {key}, q numeric(10,2));
         create index on l (k);
         insert into p select i, case i % 3 when 0 then 'a' else 'b' end, i from generate_series(1, 12) i;
         insert into l select i, nullif(i % 14, 13), i % 11 from generate_series(1, 100) i"
    ));
}

/// Rows come into what the query is about and leave it, in every table and column that decides it.
const CHANGES: [&str; 14] = [
    "update l set q = q + 1 where id % 3 = 0",
    "update p set kind = 'a' where k = '1'",
    "update p set kind = 'b' where k = '3'",
    "update l set k = '1' where id between 5 and 20",
    "update l set k = null where id between 15 and 25",
    "delete from p where k in ('1', '6')",
    "insert into p values ('1', 'a', 1), ('13', 'a', 13); insert into l select 1000 + i, '13', i from generate_series(1, 5) i",
    "update p set k = '20' where k = '9'; update l set k = '20' where k = '9'",
    "update p set size = size + 100 where k in ('1', '2', '13')",
    "update p set kind = null where k = '12'",
    "update p set kind = 'a', size = 5; update l set q = q - 1 where id % 7 = 0",
    "truncate p",
    "insert into p select i, 'a', i from generate_series(1, 4) i",
    "delete from l where id % 2 = 0; insert into p values ('7', 'a', 7)",
];

fn follow(s: &mut Session, v: &StreamTable) {
    for change in CHANGES {
        s.exec(change);
        v.follows_somehow(s);
    }
    assert_eq!(
        s.lines(
            "select distinct reason from pgtrickle.pgt_refresh_history
             where action <> 'DIFFERENTIAL' and reason not in ('initial', 'TRUNCATE')"
        ),
        [""; 0]
    );
}

/// Rows of the stages of `v`.
fn kept(s: &mut Session) -> i64 {
    let stage = s.value(
        "select st.pgt_relid::regclass from pgtrickle.pgt_stages part join pgtrickle.pgt_stream_tables st on st.pgt_id = part.stage",
    );
    s.number(&format!("select count(*) from {stage}"))
}

#[test]
fn groups_of_other_rows_are_not_kept() {
    for correlated in ["p.k", "l.k"] {
        let db = database();
        let mut s = db.connect();
        tables(&mut s, "int");
        let v = s.stream_table(
            "v",
            &format!(
                "select l.id, l.q, p.size from l join p on p.k = l.k where p.kind = 'a'
                 and l.q < (select 1.1 * avg(q) from l x where x.k = {correlated})"
            ),
        );
        assert_eq!(kept(&mut s), 4, "of 12 rows of p");
        s.exec("update p set kind = 'a' where k = 1");
        v.follows(&mut s);
        assert_eq!(kept(&mut s), 5);
        s.exec("update p set kind = 'b' where k <= 6");
        v.follows(&mut s);
        assert_eq!(kept(&mut s), 2);
    }
}

#[test]
fn groups_follow_the_table_they_are_kept_for() {
    const QUERIES: [&str; 7] = [
        "select l.id, p.size from l join p on p.k = l.k where p.kind = 'a' and l.q < (select avg(q) from l x where x.k = p.k)",
        "select p.k, p.size from p where p.kind = 'a' and size < (select max(x.id) from l x where x.k = p.k)",
        "select p.k, g.c, g.m from p join (select k, count(*) as c, min(q) as m from l group by k having count(*) > 2) g on g.k = p.k where p.kind = 'a'",
        "select p.k, g.t from (select * from p where size < 100) p join (select k, sum(q) as t from l group by k) g on g.k = p.k",
        "select p.k, d.k as dk from p join (select distinct k from l) d on d.k = p.k where p.size % 2 = 1",
        "select p.k, (select count(*) from l x where x.k = p.k) as c from p where p.kind = 'a'",
        "select a.k, g.c from p a join p b on b.k = a.k join (select k, count(*) as c from l group by k) g on g.k = b.k where a.kind = 'a' and b.size > 2",
    ];
    for query in QUERIES {
        let db = database();
        let mut s = db.connect();
        tables(&mut s, "int");
        let v = s.stream_table("v", query);
        follow(&mut s, &v);
    }
}

/// Keys that are equal without being the same are no reason to leave groups out, or leave out the right ones.
#[test]
fn keys_of_many_types() {
    for key in [
        "text",
        "varchar(10)",
        "char(5)",
        "numeric",
        "float8",
        "text collate nocase",
    ] {
        let db = database();
        let mut s = db.connect();
        s.exec("create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)");
        tables(&mut s, key);
        let v = s.stream_table(
            "v",
            "select l.id, p.size from l join p on p.k = l.k where p.kind = 'a' and l.q < (select avg(q) from l x where x.k = p.k)",
        );
        follow(&mut s, &v);
        let spelled = match key {
            "numeric" => "1.00",
            "float8" => "-0",
            _ => "A",
        };
        s.exec(&format!(
            "insert into p values ('{spelled}', 'a', 1) on conflict (k) do update set kind = 'a';
             insert into l values (2000, '{spelled}', 3), (2001, lower('{spelled}')::{key}, 9)"
        ));
        v.follows(&mut s);
    }
}
