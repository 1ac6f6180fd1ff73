//! Column types: those without equality, those equal but not identical, large values, and the user's own.

use pgt_tests::{StreamTable, database};

#[test]
fn json_point_xml_and_other_types_without_equality() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, j json, p point, x xml, l line, n int)");
    let v = s.stream_table("v", "select k, j, p, x, l from s where n > 0");
    s.exec("insert into s values (1, '{\"a\": 1}', '(1,2)', '<a/>', '{1,2,3}', 1), (2, null, null, null, null, 2), (3, '[]', '(0,0)', '<b>t</b>', null, -1)");
    v.follows(&mut s);
    s.exec("update s set j = '{\"a\":1}' where k = 1; update s set p = '(1,2.5)', x = '<c/>' where k = 2; update s set n = -n where k = 3");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
    s.exec("update s set p = p, x = x, j = j; delete from s where k = 1");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
}

#[test]
fn keyless_rows_of_types_without_equality() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (j json, p point, x xml)");
    let v = s.stream_table("v", "select j, p, x from s");
    s.exec("insert into s select '{\"a\": 1}', '(1,2)', '<a/>' from generate_series(1, 3); insert into s values (null, null, null), (null, null, null)");
    v.follows(&mut s);
    s.exec("delete from s where ctid in (select ctid from s where j is not null limit 1); delete from s where ctid in (select ctid from s where j is null limit 1)");
    v.follows(&mut s);
    s.exec("update s set p = '(3,4)' where ctid in (select ctid from s where p is not null limit 1); update s set x = '<z/>' where p is null");
    v.follows(&mut s);
    assert_eq!(s.value("select count(*) from v"), "3");
}

#[test]
fn types_without_equality_beside_a_join_and_an_aggregate() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, j json, g int); create table b (k int primary key, a int, x xml)");
    let v = s.stream_table(
        "v",
        "select a.j, b.x, a.k, b.k as bk from a join b on b.a = a.k",
    );
    let c = s.stream_table(
        "c",
        "select g, count(j) as js, count(*) as c from a group by g",
    );
    for batch in [
        "insert into a values (1, '{}', 1), (2, null, 1), (3, '[1]', 2); insert into b values (1, 1, '<a/>'), (2, 1, null), (3, 3, '<q/>')",
        "update a set j = '{ }'; update b set x = '<b/>' where k = 2",
        "delete from a where k = 1; update a set j = null",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        c.refresh(&mut s);
        c.assert_fresh(&mut s);
    }
}

#[test]
fn new_bytes_of_an_equal_value_are_shown() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n numeric, i interval, f float8, c text)");
    let v = s.stream_table("v", "select k, n, i, f, n + 1 as n1 from s");
    s.exec("insert into s values (1, 1.0, '1 day', '-0.0', 'a'), (2, 2, '2 days', 0, 'b')");
    v.follows(&mut s);
    s.exec("update s set n = 1.00 where k = 1; update s set i = '48:00' where k = 2");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
    s.exec("update s set i = '24:00', f = 0.0 where k = 1; update s set f = '-0' where k = 2");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
}

#[test]
fn new_bytes_of_an_equal_value_in_a_keyless_table() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (n numeric); insert into s values (1.0), (1.00), (1)");
    let v = s.stream_table("v", "select n from s");
    s.exec("update s set n = 1.000 where n::text = '1'");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
    s.exec("delete from s where n::text = '1.00'; insert into s values (1.0)");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
}

#[test]
fn new_bytes_of_an_equal_key() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (n numeric primary key, t text); insert into s values (1.0, 'a'), (2.0, 'b')");
    let v = s.stream_table("v", "select n, t from s");
    s.exec("update s set n = 1.00 where n = 1; update s set n = 2, t = 'c' where n = 2");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
    s.exec("delete from s where n = 1; insert into s values (1.000, 'z')");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
}

#[test]
fn join_on_values_equal_but_not_identical() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, n numeric); create table b (k int primary key, n numeric)");
    let v = s.stream_table(
        "v",
        "select a.k as ak, b.k as bk, a.n as an, b.n as bn from a join b on a.n = b.n",
    );
    for batch in [
        "insert into a values (1, 1.0), (2, 1.00); insert into b values (1, 1), (2, 1.000)",
        "update a set n = 1 where k = 1; update b set n = 1.0 where k = 2",
        "delete from b where k = 1; update a set n = n * 1.0",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        v.assert_same_text(&mut s);
    }
}

#[test]
fn domains_enums_arrays_composites_and_ranges() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create domain positive as int check (value > 0); create domain tag as text not null default 'none'; create type mood as enum ('sad', 'ok', 'happy');
         create type addr as (street text, no int); create domain daddr as addr; create type span as range (subtype = int);
         create table s (k positive primary key, t tag, m mood, a int[], aa addr[], ad addr, dd daddr, r span, mr int4multirange, ms mood[], pa positive[], e text[][])",
    );
    let v = s.stream_table("v", "select k, t, m, a, aa, ad, dd, r, mr, ms, pa, e, (ad).no + 1 as n, a[2] as a2 from s where m is distinct from 'sad'");
    let g = s.stream_table(
        "g",
        "select m, ad, count(*) as c, min(r::text) as r, max(m) as mm from s group by m, ad",
    );
    for batch in [
        "insert into s values (1, 'x', 'ok', '{1,2}', array[row('a', 1), row(null, null)]::addr[], row('b', 2), row('c', 3), '[1,5)', '{[1,2),[5,9)}', '{sad,ok}', '{1,2}', '{{a,b},{c,d}}'), (2, 'y', 'sad', null, null, null, null, null, null, null, null, null)",
        "insert into s(k, m) values (3, 'happy'), (4, null); update s set m = 'happy' where k = 2",
        "update s set ad = row('b', 5), aa[1].no = 7 where k = 1; update s set a[5] = 9, ms = '{}' where k < 3",
        "delete from s where k = 1; update s set m = 'sad' where k = 3",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        g.refresh(&mut s);
        g.assert_fresh(&mut s);
    }
}

#[test]
fn value_added_to_an_enum_later() {
    let db = database();
    let mut s = db.connect();
    s.exec("create type mood as enum ('sad', 'happy'); create table s (k int primary key, m mood)");
    let v = s.stream_table("v", "select m, count(*) as c from s group by m");
    s.exec("alter type mood add value 'ok' before 'happy'");
    s.exec("insert into s values (1, 'ok'), (2, 'happy'), (3, 'sad')");
    v.follows(&mut s);
}

#[test]
fn composite_of_a_tables_row_type() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table t (a int, b text); create table s (k int primary key, r t, n int)");
    let v = s.stream_table("v", "select k, r, (r).b from s where n > 0");
    for batch in [
        "insert into s values (1, row(1, 'x'), 1), (2, null, 1), (3, row(null, null), 1)",
        "update s set r.a = 5 where k = 1",
        "update s set n = 0 where k = 3",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
}

#[test]
fn whole_row_reference() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, t text)");
    let v = s.auto_stream_table(
        "v",
        "select k, row_to_json(s)::text as j, s is null as nul from s",
    );
    for batch in [
        "insert into s values (1, 1, 'a'), (2, null, null)",
        "update s set t = 'b' where k = 2",
        "alter table s add column extra int default 7",
        "update s set extra = 8 where k = 1",
    ] {
        s.exec(batch);
        v.follows_somehow(&mut s);
    }
}

fn toasted(db: &pgt_tests::Database<'_>) -> (pgt_tests::Session, StreamTable) {
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, big text, ext text, b bytea); alter table s alter ext set storage external");
    let fill = "select i, i, string_agg(md5((i * 1000 + j)::text), ''), repeat(md5(i::text), 400), decode(repeat(md5(i::text), 300), 'hex') from generate_series(1, 5) i, generate_series(1, 400) j group by i";
    let v = s.stream_table("v", "select k, n, big, ext, b from s where n > 0");
    s.exec(&format!("insert into s {fill}"));
    v.follows(&mut s);
    (s, v)
}

#[test]
fn toasted_values_that_do_not_change() {
    let db = database();
    let (mut s, v) = toasted(&db);
    s.exec("update s set n = n + 1 where k < 4");
    v.follows(&mut s);
    s.exec("update s set n = -1 where k = 1; delete from s where k = 2");
    v.follows(&mut s);
    s.exec("update s set n = 1 where k = 1");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
}

#[test]
fn toasted_values_that_change() {
    let db = database();
    let (mut s, v) = toasted(&db);
    s.exec("update s set big = big || 'x', ext = substr(ext, 1, 9000) || 'y' where k < 4; update s set b = null where k = 4");
    v.follows(&mut s);
    s.exec("update s set big = 'small' where k = 1; update s set ext = big, big = ext where k = 2; delete from s where k = 3");
    v.follows(&mut s);
    // The toast pointers of the old rows must not be needed any more.
    s.exec("vacuum full s");
    s.exec("vacuum s");
    s.exec("update s set n = n + 1");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
}

/// The rows are gone and vacuumed before anybody reads their images.
#[test]
fn toasted_values_deleted_and_vacuumed_before_the_refresh() {
    let db = database();
    let (mut s, v) = toasted(&db);
    s.exec("update s set big = reverse(big) where k = 1");
    s.exec("delete from s where k <= 3");
    s.exec("vacuum s");
    v.follows(&mut s);
    s.exec("insert into s select k + 100, n, big, ext, b from s; delete from s where k < 100");
    s.exec("vacuum full s");
    v.follows(&mut s);
}

#[test]
fn toasted_keys_of_groups_and_bags() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, t text, n int)");
    let g = s.stream_table(
        "g",
        "select t, count(*) as c, sum(n) as total from s group by t",
    );
    let d = s.stream_table("d", "select distinct t from s");
    let b = s.stream_table("b", "select t from s");
    for batch in [
        "insert into s select i, repeat(md5((i % 3)::text), 1000), i from generate_series(1, 9) i",
        "update s set t = t || 'x' where k < 3",
        "delete from s where k > 7; update s set t = repeat(md5('1'), 1000) where k = 1",
    ] {
        s.exec(batch);
        for v in [&g, &d, &b] {
            v.refresh(&mut s);
            v.assert_fresh(&mut s);
        }
    }
}

#[test]
fn compressed_otherwise_but_equal() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, t text); insert into s values (1, repeat('abc', 5000))",
    );
    let v = s.stream_table("v", "select k, t from s");
    s.exec("alter table s alter t set storage external; update s set t = t || ''; update s set t = repeat('abc', 5000)");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    s.exec("delete from s");
    v.follows(&mut s);
}

#[test]
fn generated_columns_stored_and_virtual() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, st int generated always as (n * 2) stored, vi int generated always as (n * 3) virtual, id int generated by default as identity)");
    let v = s.stream_table("v", "select k, st, vi, id from s where vi > 5");
    let g = s.stream_table(
        "g",
        "select st % 4 as m, sum(vi) as total, count(*) as c from s group by st % 4",
    );
    for batch in [
        "insert into s(k, n) values (1, 1), (2, 2), (3, 3), (4, null)",
        "update s set n = n + 2",
        "update s set n = 0 where k = 1; delete from s where k = 2",
        "update s set n = n",
    ] {
        s.exec(batch);
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
        g.refresh(&mut s);
        g.assert_fresh(&mut s);
    }
}

#[test]
fn only_a_virtual_generated_column_is_used() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a int, b int, sum int generated always as (a + b) virtual)");
    let v = s.stream_table("v", "select k, sum from s");
    for batch in [
        "insert into s(k, a, b) values (1, 1, 2), (2, 3, 4)",
        "update s set a = a + 1 where k = 1",
        "update s set a = a + 1, b = b - 1 where k = 2",
        "update s set b = null",
        "alter table s alter column sum set expression as (coalesce(a, 0) - k)",
        "update s set a = 7 where k = 2",
    ] {
        s.exec(batch);
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
    }
}

#[test]
fn virtual_generated_columns_of_the_optional_side_and_in_whole_rows() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, one int generated always as (1), t text generated always as (coalesce(n::text, '?')))");
    s.exec("create table r (k int primary key, s int)");
    let v = s.stream_table(
        "v",
        "select r.k, s.one, s.t from r left join s on s.k = r.s",
    );
    let w = s.stream_table("w", "select to_jsonb(s) as j from s");
    for batch in [
        "insert into s values (1, 1), (2, null); insert into r values (1, 1), (2, 3), (3, null)",
        "update s set n = 5; delete from s where k = 1",
        "insert into s values (3, 3); update r set s = 2 where k = 1",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        w.follows(&mut s);
    }
}

#[test]
fn unique_by_a_finer_equality_than_the_one_compared_by() {
    let db = database();
    let mut s = db.connect();
    s.exec("create extension citext; create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)");
    s.exec("create table s (t text primary key, n int); create table r (id int primary key, c char(3), m citext)");
    s.exec("create table u (mail citext not null, code text collate blind not null, n int)");
    s.exec(
        "create unique index on u (mail text_ops); create unique index on u (code collate \"C\")",
    );
    let views = [
        s.stream_table("padded", "select r.id, s.n from r join s on s.t::bpchar = r.c"),
        s.stream_table("blind_join", "select r.id, s.n from r left join s on s.t::citext = r.m"),
        s.stream_table("blind_const", "select t, n from s where t::citext = 'a'"),
        s.stream_table("of_groups", "select r.id, q.n from r left join (select t, count(*) as n from s group by t) q on q.t::bpchar = r.c"),
        s.stream_table("by_operator", "select mail, n from u"),
        s.stream_table("by_collation", "select code, n from u"),
        s.stream_table("by_join", "select r.id, u.n from r join u on u.mail = r.m"),
    ];
    for batch in [
        "insert into s values ('a', 1), ('a ', 2), ('A', 3), ('b', 4); insert into r values (1, 'a', 'a'), (2, 'b', 'x');
         insert into u values ('a', 'x', 1), ('A', 'X', 2), ('b', 'y', 3)",
        "insert into s values ('b ', 5); update s set n = n + 1; delete from s where t = 'a'",
        "update u set n = 7 where code = 'x'; update r set m = 'B' where id = 2",
        "delete from u where mail = 'a'; delete from s",
    ] {
        s.exec(batch);
        for view in &views {
            view.follows(&mut s);
        }
    }
}

#[test]
fn dropped_and_added_columns() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (gone1 int, k int primary key, gone2 text, n int); alter table s drop gone1; alter table s drop gone2; alter table s add t text default 'd'");
    let v = s.stream_table("v", "select k, n, t from s");
    for batch in [
        "insert into s values (1, 1, 'a'), (2, 2, default)",
        "alter table s add late int default 9",
        "insert into s values (3, 3, 'c', 1); update s set late = 4, n = 5 where k = 1",
        "alter table s drop late; update s set t = 'z'",
    ] {
        s.exec(batch);
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
    }
    v.assert_mode(&mut s, "DIFFERENTIAL");
}

#[test]
fn column_default_filled_in_for_old_rows() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key); insert into s select generate_series(1, 5); alter table s add n int default 7, add t text default 'x' not null");
    let v = s.stream_table("v", "select k, n, t from s");
    for batch in [
        "update s set k = k + 10 where k < 3",
        "update s set n = 8 where k = 3",
        "delete from s where k = 4",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
}

#[test]
fn fixed_length_and_odd_types() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k uuid primary key, c char(8), vc varchar(3), b bit(5), vb bit varying, q \"char\", nm name, t time, tz timetz, i inet, cd cidr, m macaddr, mn money, ts tsvector, o oid, b2 bool, i2 smallint, f real, path path, box box, circle circle)");
    let v = s.stream_table("v", "select * from s");
    for batch in [
        "insert into s select md5(i::text)::uuid, 'c' || i, 'v', b'10101', b'101', 'x', 'nm', '12:00', '12:00+02', '10.0.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '12.34', 'a fat cat', i, true, i, 1.5, '((0,0),(1,1))', '((0,0),(1,1))', '<(0,0),2>' from generate_series(1, 3) i",
        "update s set c = 'x', vb = null, box = '((1,1),(2,2))' where o = 1",
        "update s set (vc, nm, tz, ts) = ('', 'other', '13:00+03', 'b'); delete from s where o = 2",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
}

#[test]
fn case_insensitive_text_groups() {
    let db = database();
    let mut s = db.connect();
    s.exec("create extension citext; create table s (k int primary key, t citext); insert into s values (1, 'a'), (2, 'A'), (3, 'b')");
    let v = s.auto_stream_table("v", "select t, count(*) as n from s group by t");
    let b = s.auto_stream_table("b", "select t from s");
    for batch in [
        "insert into s values (4, 'B'), (5, 'c')",
        "delete from s where k in (1, 3)",
        "update s set t = upper(t::text)",
    ] {
        s.exec(batch);
        v.follows_somehow(&mut s);
        b.follows_somehow(&mut s);
        b.assert_same_text(&mut s);
    }
    assert_eq!(s.value("select count(*) from v"), "3");
}

#[test]
fn jsonb_and_arrays_as_group_keys() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, j jsonb, a int[], r int4range)");
    let v = s.stream_table("v", "select j, a, r, count(*) as c from s group by j, a, r");
    for batch in [
        "insert into s values (1, '{\"a\":1.0}', '{1}', '[1,2]'), (2, '{\"a\":1.00}', '{1}', '[1,3)'), (3, null, null, null), (4, '{}', '{}', 'empty')",
        "update s set a = '{null}' where k = 1; delete from s where k = 3",
        "update s set j = '{\"a\":1.00}', a = '{1}', r = '[1,3)'",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
}

#[test]
fn unique_index_that_tells_equal_values_apart_is_no_key() {
    let db = database();
    let mut s = db.connect();
    s.exec("create type pair as (a numeric, b int); create table s (k pair not null, n int); create unique index on s (k record_image_ops)");
    let v = s.stream_table("v", "select k, n from s where n > 0");
    for batch in [
        "insert into s values ((1.0, 1), 1), ((1.00, 1), 2), ((2.0, 1), 3)",
        "update s set n = n + 1",
        "delete from s where n = 3; update s set n = -n where n = 4",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
    assert_eq!(s.lines("select k, n from v"), ["(1.0,1)|2"]);
}

#[test]
fn unique_index_of_another_collation_is_no_key() {
    let db = database();
    let mut s = db.connect();
    if s.value("select count(*) from pg_collation where collprovider = 'i'") == "0" {
        eprintln!("this PostgreSQL has no ICU");
        return;
    }
    s.exec(
        "create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    );
    s.exec("create table s (k text collate ci not null, n int); create unique index on s (k collate \"C\")");
    let v = s.stream_table("v", "select k, n from s");
    for batch in [
        "insert into s values ('a', 1), ('b', 1)",
        "insert into s values ('A', 2)",
        "update s set n = n + 1 where k = 'a'",
        "delete from s where k collate \"C\" = 'a'",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
    assert_eq!(s.lines("select k, n from v order by k"), ["A|3", "b|1"]);
}

#[test]
fn groups_met_by_arrays_and_rows_that_cannot_be_hashed() {
    let db = database();
    let mut s = db.connect();
    s.exec("create type price as (m money); create table s (k int primary key, b varbit[], p price); insert into s values (1, '{101}', row(1)), (2, '{101}', row(2))");
    let b = s.stream_table(
        "b",
        "select s.k, g.n from s join (select b, count(*) as n from s group by b) g on g.b = s.b",
    );
    let p = s.stream_table(
        "p",
        "select s.k, g.n from s join (select p, count(*) as n from s group by p) g on g.p = s.p",
    );
    for batch in [
        "insert into s values (3, '{101}', row(1)), (4, '{1,11}', null)",
        "update s set b = '{1,11}', p = row(2) where k = 1",
        "delete from s where k < 3",
    ] {
        s.exec(batch);
        b.follows(&mut s);
        p.follows(&mut s);
    }
}

/// What a session has set shows in no row, neither in how values are written nor in how a query is read.
#[test]
fn settings_of_a_session_change_no_row() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, t text, b bytea, d date, f float8); insert into s values (1, 'a b', 'x', '2024-02-03', 0.1)");
    let v = s.stream_table(
        "v",
        r"select k, quote_ident(t) as q, format('%I', t) as f, xmlelement(name e, b)::text as x, t = 'a\b' as e,
          ('{NULL,1}'::text[])[1] is null as n, d::text as d, b::text as b, f::text as fl from s",
    );
    s.exec(
        "set quote_all_identifiers = on; set xmlbinary = hex; set array_nulls = off; set transform_null_equals = on;
         set datestyle = 'German'; set bytea_output = escape; set extra_float_digits = 0;
         set escape_string_warning = off; set standard_conforming_strings = off",
    );
    s.exec(r"insert into s values (2, E'a\\b', 'y', '2024-03-04', 0.3)");
    s.exec("update s set t = 'plain' where k = 1");
    v.refresh(&mut s);
    let mut plain = db.connect();
    v.assert_equal(&mut plain);
    s.exec("update s set t = t || t");
    v.refresh(&mut s);
    v.assert_equal(&mut plain);
    v.assert_mode(&mut plain, "DIFFERENTIAL");
    s.exec("select pgtrickle.repair_stream_table('v')");
    v.assert_equal(&mut plain);
}

#[test]
fn collation_of_a_column_gives_way_to_one_that_is_written_out() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a text, b text); insert into s values (1, 'a', 'B'), (2, 'B', 'a')");
    s.exec(
        "create view w as select k, a collate \"C\" as a, (b || 'x') collate \"POSIX\" as b from s",
    );
    let streams = [
        s.stream_table("constant", "select k from w where a < 'b' collate \"POSIX\""),
        s.stream_table("again", "select k, a collate \"POSIX\" < 'b' as l from w where a collate \"POSIX\" > 'A'"),
        s.stream_table("two", "select k, (a || b) collate \"C\" as ab from w where a || b <> 'x' collate \"C\""),
        s.stream_table(
            "joined",
            "select x.k, y.k as j from w x left join w y on x.a collate \"POSIX\" < y.a",
        ),
        s.stream_table(
            "grouped",
            "select (a || b) collate \"C\" as ab, count(*) as n, max(a collate \"POSIX\") as m from w group by (a || b) collate \"C\"",
        ),
        s.stream_table(
            "numbered",
            "select k, rank() over (order by a collate \"POSIX\") as r from w",
        ),
    ];
    for change in [
        "insert into s values (3, 'c', null), (4, 'A', 'x')",
        "update s set a = lower(a), b = upper(b)",
        "delete from s where k < 3",
    ] {
        s.exec(change);
        for stream in &streams {
            stream.follows(&mut s);
        }
    }
}

/// NOT NULL that is not validated promises nothing of the rows that were there before.
#[test]
fn nulls_in_a_column_that_is_not_null_but_not_validated() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); create unique index on s (n); insert into s values (1, null), (2, 5), (3, null), (4, 7)");
    s.exec("alter table s add constraint given not null n not valid; create table u (x int not null); insert into u values (5), (6), (7)");
    let streams = [
        s.stream_table(
            "excluded",
            "select x from u where x not in (select n from s)",
        ),
        s.stream_table(
            "compared",
            "select x, x not in (select n from s) as b from u",
        ),
        s.stream_table(
            "grouped",
            "select n, count(*) as c, count(n) as d from s group by n",
        ),
        s.stream_table("plain", "select n from s"),
        s.stream_table("missing", "select u.x, s.n from u left join s on s.n = u.x"),
    ];
    for change in [
        "insert into u values (9); insert into s values (5, 9)",
        "delete from s where k = 3; update u set x = x + 1",
        "delete from s where k = 1; delete from u where x = 6",
        "alter table s validate constraint given",
        "insert into s values (6, 8); update s set n = n + 10 where k = 2",
    ] {
        s.exec(change);
        for stream in &streams {
            stream.follows_somehow(&mut s);
        }
    }
}
