//! Which groups are found, and their epochs.

use super::*;

#[test]
fn simple_diamond_is_found() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, "schedule => '1d'");
    assert_eq!(groups(&mut s), ["b c *d"]);
    assert_eq!(
        s.lines("select member_schema, member_name, is_convergence, epoch, schedule_policy from pgtrickle.diamond_groups()"),
        ["public|b|f|0|fastest", "public|c|f|0|fastest", "public|d|t|0|fastest"]
    );
    all_fresh(&mut s, &tables);
}

#[test]
fn long_branches_belong_to_a_diamond_and_their_common_root_does_not() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table other (k int primary key)");
    s.stream_table("root", "select k, g, n from s");
    s.stream_table("b1", "select k, n from root");
    s.stream_table("b2", "select k, n + 1 as n from b1");
    s.stream_table("c", "select k, g from root");
    s.stream_table("stranger", "select k from other");
    let d = s.stream_table(
        "d",
        "select b2.k, b2.n, c.g from b2 join c on c.k = b2.k left join stranger x on x.k = b2.k",
    );
    assert_eq!(groups(&mut s), ["b1 b2 c *d"]);
    s.exec("insert into s values (10, 1, 1); insert into other values (1)");
    d.follows(&mut s);
}

#[test]
fn nested_diamonds_are_one() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    diamond(&mut s, "schedule => '1d'");
    s.stream_table("e", "select k, g from s");
    let f = s.stream_table("f", "select d.k, d.m, e.g from d join e on e.k = d.k");
    assert_eq!(groups(&mut s), ["b c *d e *f"]);
    s.exec("update s set n = n + 1 where k < 4");
    f.follows(&mut s);
}

#[test]
fn overlapping_diamonds_merge_and_others_stay_apart() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key, n int)");
    diamond(&mut s, "schedule => '1d'");
    s.stream_table("e", "select k, g from s");
    s.stream_table("f", "select c.k, c.m, e.g from c join e on e.k = c.k");
    s.stream_table("x", "select k, n from t");
    s.stream_table("y", "select k, count(*) as c from t group by k");
    let z = s.stream_table("z", "select x.k, y.c from x join y on y.k = x.k");
    assert_eq!(groups(&mut s), ["b c *d e *f", "x y *z"]);
    s.exec("insert into t values (1, 1)");
    z.follows(&mut s);
}

#[test]
fn branch_may_be_the_table_itself_or_the_other_branch() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table("b", B);
    let d = s.stream_table("d", "select s.k, s.g, b.n from s join b on b.k = s.k");
    assert_eq!(groups(&mut s), ["b *d"]);
    s.stream_table("e", "select k, n + 1 as n from d");
    let f = s.stream_table(
        "f",
        "select d.k, d.n, e.n as next from d join e on e.k = d.k",
    );
    assert_eq!(groups(&mut s), ["b *d", "e *f"]);
    s.exec("delete from s where k = 1");
    d.follows(&mut s);
    f.follows(&mut s);
}

#[test]
fn independent_fan_in_and_chains_are_no_diamonds() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key, n int)");
    s.stream_table("x", B);
    s.stream_table("y", "select k, n from t");
    s.stream_table("z", "select x.k from x join y on y.k = x.k");
    s.stream_table("l1", "select k from z");
    s.stream_table("l2", "select k from l1 union all select k from l1");
    let own = s.stream_table(
        "own",
        "select a.k, b.n from s a join s b on b.k = a.k and b.n = a.n",
    );
    assert!(groups(&mut s).is_empty());
    own.assert_fresh(&mut s);
}

#[test]
fn diamond_through_sub_selects_and_views_is_found() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table("b", "select g, n from s");
    s.stream_table("c", "select g, count(*) as c from s group by g");
    s.exec("create view seen as select g, c from c");
    let d = s.stream_table(
        "d",
        "select sum(total) as total, count(*) as c from (select g, sum(n) as total from b group by g) x where exists (select from seen where seen.g = x.g)",
    );
    assert_eq!(groups(&mut s), ["b c *d"]);
    s.exec("insert into s values (10, 7, 7)");
    d.follows_somehow(&mut s);
}

#[test]
fn diamond_may_span_schemas() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create schema one; create schema \"Two\"; create schema three");
    s.stream_table("one.b", B);
    s.stream_table("\"Two\".b", C);
    let d = s.stream_table(
        "three.b",
        "select x.k, x.n, y.m from one.b x join \"Two\".b y on y.k = x.k",
    );
    assert_eq!(
        s.lines(
            "select member_schema, member_name, is_convergence from pgtrickle.diamond_groups()"
        ),
        ["Two|b|f", "one|b|f", "three|b|t"]
    );
    s.exec("alter table one.b set schema public; alter table b rename to base");
    assert_eq!(
        s.lines(
            "select member_schema, member_name, is_convergence from pgtrickle.diamond_groups()"
        ),
        ["Two|b|f", "public|base|f", "three|b|t"]
    );
    s.exec("insert into s values (10, 1, 1)");
    d.refresh(&mut s);
    d.assert_verified(&mut s);
}

#[test]
fn diamonds_follow_what_is_dropped_altered_and_created() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key, n int)");
    diamond(&mut s, "schedule => '1d'");
    s.exec("begin; select pgtrickle.drop_stream_table('d'); rollback");
    assert_eq!(groups(&mut s), ["b c *d"]);
    s.exec("select pgtrickle.drop_stream_table('d')");
    assert!(groups(&mut s).is_empty());
    s.stream_table("d", D);
    assert_eq!(groups(&mut s), ["b c *d"]);
    s.exec(
        "select pgtrickle.alter_stream_table('c', query => 'select k, n * 2 as m from public.t')",
    );
    assert!(groups(&mut s).is_empty(), "nothing is shared any more");
    s.exec("begin; savepoint a; select pgtrickle.alter_stream_table('c', query => 'select k, n * 2 as m from public.s'); rollback to a; commit");
    assert!(groups(&mut s).is_empty(), "rolled back");
    s.exec(
        "select pgtrickle.alter_stream_table('c', query => 'select k, n * 2 as m from public.s')",
    );
    assert_eq!(groups(&mut s), ["b c *d"]);
    s.stream_table("e", "select c.k, c.m, s.g from c join s on s.k = c.k");
    assert_eq!(groups(&mut s), ["b c *d *e"]);
    s.exec("drop table d");
    assert_eq!(groups(&mut s), ["c *e"]);
    s.exec("drop table s cascade");
    assert!(groups(&mut s).is_empty(), "its source is gone");
}

#[test]
fn epoch_grows_with_changes_only_and_survives_a_restart() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    let start = epoch(&mut s);
    tables[2].refresh(&mut s);
    assert_eq!(epoch(&mut s), start, "nothing has changed");
    s.exec("insert into s values (10, 1, 1)");
    tables[2].refresh(&mut s);
    assert_eq!(epoch(&mut s), start + 1);
    s.exec("update s set n = n; begin; delete from s; rollback");
    tables[2].refresh(&mut s);
    assert_eq!(epoch(&mut s), start + 1, "rows are what they were");
    s.exec("update s set n = 100 where k = 1");
    tables[0].refresh(&mut s);
    assert_eq!(epoch(&mut s), start + 2, "whichever member is asked for");
    s.exec("update s set n = 101 where k = 1");
    s.exec("begin; select pgtrickle.refresh_stream_table('d'); rollback");
    assert_eq!(epoch(&mut s), start + 2, "rolled back");
    drop(s);
    server.restart();
    let mut s = db.connect();
    assert_eq!(epoch(&mut s), start + 2);
    s.exec("select pgtrickle.refresh_stream_table('b')");
    assert_eq!(epoch(&mut s), start + 3);
    all_fresh(&mut s, &tables);
}

#[test]
fn epoch_does_not_go_back_when_groups_are_found_again() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    s.exec("insert into s values (10, 1, 1)");
    tables[2].refresh(&mut s);
    let before = epoch(&mut s);
    assert!(before > 0);
    s.stream_table("e", "select k, g from s");
    s.stream_table("f", "select d.k, e.g from d join e on e.k = d.k");
    assert!(epoch(&mut s) >= before, "a larger group");
    s.exec("select pgtrickle.drop_stream_table('f')");
    assert!(epoch(&mut s) >= before, "the smaller one again");
    all_fresh(&mut s, &tables);
}

#[test]
fn epoch_is_not_lost_between_a_refresh_and_a_definition() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key)");
    let tables = diamond(&mut s, ATOMIC);
    s.stream_table("base", "select k from t");
    s.exec("insert into s values (10, 1, 1)");
    // The refresh has advanced the epoch and is not committed when the groups are found again.
    s.exec("begin; select pgtrickle.refresh_stream_table('d')");
    let after = epoch(&mut s);
    let definition = db.connect().spawn(
        "select pgtrickle.create_stream_table('above', 'select k from base', schedule => '1d')",
    );
    db.wait_until(&format!(
        "select wait_event_type = 'Lock' or state = 'idle' from pg_stat_activity where pid = {}",
        definition.pid()
    ));
    s.exec("commit");
    definition.join();
    assert_eq!(epoch(&mut s), after);
    all_fresh(&mut s, &tables);
}
