//! Groups that somebody asked for.

use super::*;

#[test]
fn refresh_group_has_its_members_at_one_moment() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key, n int)");
    let x = s.stream_table("x", "select count(*) as c from s");
    let y = s.stream_table("y", "select count(*) as c from t");
    s.exec("select pgtrickle.create_refresh_group('both', array['x', 'y'])");
    assert_eq!(
        s.lines(
            "select group_name, member_schema, member_name, epoch from pgtrickle.refresh_groups()"
        ),
        ["both|public|x|0", "both|public|y|0"]
    );
    assert!(groups(&mut s).is_empty(), "it is no diamond");
    s.exec("insert into s values (10, 1, 1); insert into t values (1, 1)");
    x.refresh(&mut s);
    assert_eq!(s.lines("select x.c, y.c from x, y"), ["10|1"]);
    assert_eq!(
        s.lines("select distinct epoch from pgtrickle.refresh_groups()"),
        ["1"]
    );
    s.exec("select pgtrickle.pause_stream_table('y')");
    s.exec("insert into s values (11, 1, 1)");
    s.error("55000", "select pgtrickle.refresh_stream_table('x')");
    s.exec("select pgtrickle.resume_stream_table('y')");
    s.exec("select pgtrickle.drop_refresh_group('both')");
    assert!(
        s.lines("select group_name from pgtrickle.refresh_groups()")
            .is_empty()
    );
    s.exec("insert into t values (2, 1)");
    x.refresh(&mut s);
    assert_eq!(s.lines("select x.c, y.c from x, y"), ["11|1"]);
    all_fresh(&mut s, &[x, y]);
}

#[test]
fn scheduler_refreshes_a_refresh_group_together() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); create table t (k int primary key, n int)");
    let x = s.stream_table_with("x", "select k, n from s", "schedule => 'continuous'");
    let y = s.stream_table_with("y", "select k, n from t", "schedule => '1d'");
    s.exec("select pgtrickle.create_refresh_group('both', array['x', 'y'])");
    // Whoever writes both in one transaction may compare them.
    let load = db.connect().spawn(
        "do $$ begin for i in 1..150 loop insert into s values (i, i); insert into t values (i, i); commit; perform pg_sleep(0.005); end loop; end $$",
    );
    let mut seen = std::collections::BTreeSet::new();
    while !load.is_finished() {
        let line = s
            .lines("select (select count(*) from x) as x, (select count(*) from y) as y")
            .remove(0);
        let (a, b) = line.split_once('|').expect("two values");
        assert_eq!(a, b, "x and y are at different moments");
        seen.insert(line);
    }
    load.join();
    assert!(seen.len() > 3, "they moved on meanwhile: {seen:?}");
    x.catches_up(&mut s);
    y.catches_up(&mut s);
}

#[test]
fn what_lies_between_members_of_a_refresh_group_joins_them() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let low = s.stream_table("low", "select k, n from s");
    let middle = s.stream_table("middle", "select k, n + 1 as n from low");
    let top = s.stream_table("top", "select sum(n) as total from middle");
    s.exec("select pgtrickle.create_refresh_group('ends', array['low', 'top'])");
    s.exec("insert into s values (10, 1, 1000)");
    low.refresh(&mut s);
    assert_eq!(
        s.lines("select (select count(*) from middle), (select total from top)"),
        ["10|1055"]
    );
    all_fresh(&mut s, &[low, middle, top]);
}

#[test]
fn refresh_groups_that_share_a_member_are_refreshed_as_one() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables: Vec<StreamTable> = ["x", "y", "z"]
        .iter()
        .map(|name| s.stream_table(name, "select count(*) as c from s"))
        .collect();
    s.exec("select pgtrickle.create_refresh_group('one', array['x', 'y']); select pgtrickle.create_refresh_group('two', array['y', 'z'])");
    s.exec("insert into s values (10, 1, 1)");
    tables[0].refresh(&mut s);
    assert_eq!(s.lines("select x.c, y.c, z.c from x, y, z"), ["10|10|10"]);
    s.exec("select pgtrickle.drop_refresh_group('one')");
    s.exec("insert into s values (11, 1, 1)");
    tables[2].refresh(&mut s);
    assert_eq!(s.lines("select x.c, y.c, z.c from x, y, z"), ["10|11|11"]);
    s.exec("select pgtrickle.drop_stream_table('z')");
    assert_eq!(
        s.lines("select group_name, member_name from pgtrickle.refresh_groups()"),
        ["two|y"]
    );
    s.exec("insert into s values (12, 1, 1)");
    tables[1].follows(&mut s);
    all_fresh(&mut s, &tables[..2]);
}

#[test]
fn refresh_group_that_is_rolled_back_binds_nobody() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let x = s.stream_table("x", "select count(*) as c from s");
    let y = s.stream_table("y", "select count(*) as c from s");
    let make = "select pgtrickle.create_refresh_group('g', array['x', 'y'])";
    s.exec(&format!("begin; {make}; rollback"));
    s.exec("insert into s values (10, 1, 1)");
    x.refresh(&mut s);
    assert_eq!(s.lines("select x.c, y.c from x, y"), ["10|9"]);
    s.exec("insert into s values (11, 1, 1)");
    s.exec(&format!(
        "begin; savepoint a; {make}; select pgtrickle.refresh_stream_table('x'); rollback to a;
         select pgtrickle.refresh_stream_table('x'); commit"
    ));
    assert_eq!(s.lines("select x.c, y.c from x, y"), ["11|9"]);
    all_fresh(&mut s, &[x, y]);
}

#[test]
fn refresh_groups_are_refused_where_they_make_no_sense() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let x = s.stream_table("x", "select k from s");
    s.stream_table("y", "select k from s");
    for (sqlstate, members) in [
        ("22023", "array[]::text[]"),
        ("22023", "array['x']"),
        ("22023", "array['x', null]"),
        ("42P01", "array['x', 'nowhere']"),
        ("42P01", "array['x', 's']"),
    ] {
        s.error(
            sqlstate,
            &format!("select pgtrickle.create_refresh_group('g', {members})"),
        );
    }
    s.exec("select pgtrickle.create_refresh_group('g', array['x', 'public.y', 'x'])");
    assert_eq!(
        s.lines("select member_name from pgtrickle.refresh_groups()"),
        ["x", "y"]
    );
    let refused = s.error(
        "42710",
        "select pgtrickle.create_refresh_group('g', array['x', 'y'])",
    );
    assert!(refused.hint.is_some(), "{refused}");
    let refused = s.error("42704", "select pgtrickle.drop_refresh_group('h')");
    assert!(refused.hint.is_some(), "{refused}");
    s.exec("begin; select pgtrickle.drop_refresh_group('g'); rollback");
    assert_eq!(
        s.number("select count(*) from pgtrickle.refresh_groups()"),
        2
    );
    x.assert_fresh(&mut s);
}

#[test]
fn refresh_group_of_one_named_twice_is_refused() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let x = s.stream_table("x", "select k from s");
    s.error(
        "22023",
        "select pgtrickle.create_refresh_group('g', array['x', 'public.x'])",
    );
    x.assert_fresh(&mut s);
}

#[test]
fn refresh_groups_belong_to_the_owners_of_their_members() {
    let db = database();
    let mut root = db.connect();
    source(&mut root);
    let role = db.role("owner");
    root.exec(&format!(
        "create schema app authorization {role}; grant select, trigger on s to {role}"
    ));
    let mut s = db.connect_as(&role);
    let theirs = root.stream_table("public.theirs", "select k from public.s");
    let mine = s.stream_table("app.mine", "select k from public.s");
    let also = s.stream_table("app.also", "select k from public.s");
    s.error(
        "42501",
        "select pgtrickle.create_refresh_group('g', array['app.mine', 'public.theirs'])",
    );
    root.exec("select pgtrickle.create_refresh_group('g', array['app.mine', 'public.theirs'])");
    s.error("42501", "select pgtrickle.drop_refresh_group('g')");
    // Whoever may refresh a member brings the others along, each with its owner's rights.
    root.exec("insert into s values (10, 1, 1)");
    mine.refresh(&mut s);
    theirs.assert_equal(&mut root);
    root.exec("select pgtrickle.drop_refresh_group('g')");
    s.exec("select pgtrickle.create_refresh_group('g', array['app.mine', 'app.also']); select pgtrickle.drop_refresh_group('g')");
    all_fresh(&mut s, &[mine, also]);
    theirs.assert_fresh(&mut root);
}

/// A dump of a diamond and a refresh group, restored in another database.
fn restored<'s>(db: &Database<'s>) -> Database<'s> {
    let mut s = db.connect();
    source(&mut s);
    diamond(&mut s, ATOMIC);
    s.stream_table("x", "select count(*) as c from s");
    s.stream_table("y", "select sum(n) as total from s");
    s.exec("select pgtrickle.create_refresh_group('both', array['x', 'y'])");
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("dump");
    let file = file.to_string_lossy();
    let server = db.server();
    server.client_program("pg_dump", &["-Fc", "-f", &file, db.name()]);
    let copy = server.empty_database();
    server.client_program("pg_restore", &["--exit-on-error", "-d", copy.name(), &file]);
    copy
}

/// Groups are what they were, and hold.
fn restored_groups_hold(s: &mut Session) {
    assert_eq!(groups(s), ["b c *d"]);
    assert_eq!(
        s.lines("select group_name, member_name from pgtrickle.refresh_groups()"),
        ["both|x", "both|y"]
    );
    s.exec("insert into s values (11, 1, 1000)");
    for name in ["b", "x"] {
        s.exec(&format!("select pgtrickle.refresh_stream_table('{name}')"));
    }
    is_current(s);
    assert_eq!(s.lines("select x.c, y.total from x, y"), ["11|2045"]);
    for (name, query) in [("b", B), ("c", C), ("d", D)] {
        StreamTable::new(name, query).assert_fresh(s);
    }
}

#[test]
fn groups_survive_a_dump() {
    let db = database();
    let copy = restored(&db);
    let mut s = copy.connect();
    s.exec("insert into s values (10, 1, 1000)");
    for name in ["d", "x", "y"] {
        s.exec(&format!("select pgtrickle.refresh_stream_table('{name}')"));
    }
    restored_groups_hold(&mut s);
}

#[test]
fn groups_survive_a_dump_whichever_member_is_refreshed_first() {
    let db = database();
    let copy = restored(&db);
    let mut s = copy.connect();
    s.exec("insert into s values (10, 1, 1000)");
    for name in ["b", "x"] {
        s.exec(&format!("select pgtrickle.refresh_stream_table('{name}')"));
    }
    restored_groups_hold(&mut s);
}

#[test]
fn exported_definition_keeps_mode_tier_and_fuse() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => '1d', diamond_consistency => 'atomic', diamond_schedule_policy => 'slowest'",
    );
    s.exec("select pgtrickle.alter_stream_table('d', tier => 'warm', fuse => 'on', fuse_ceiling => 1000)");
    let what = "select diamond_consistency, diamond_schedule_policy, tier, fuse, fuse_ceiling from pgtrickle.pgt_stream_tables where pgt_relid = 'd'::regclass";
    let before = s.lines(what);
    let script = s.value("select pgtrickle.export_definition('d')");
    s.exec("select pgtrickle.drop_stream_table('d')");
    s.exec(&script);
    assert_eq!(s.lines(what), before);
    all_fresh(&mut s, &tables);
}
