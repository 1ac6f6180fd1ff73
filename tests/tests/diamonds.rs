//! Stream tables that read the same along several ways, and groups somebody asked for: found, kept together, never mixed.

use pgt_tests::{Database, Server, Session, SqlError, StreamTable, database};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

const B: &str = "select k, n from s";
const C: &str = "select k, n * 2 as m from s";
const D: &str = "select b.k, b.n, c.m from b join c on c.k = b.k";

/// Branches `b` and `c` over `s`, both read by `d`; these further arguments hold for all three.
fn diamond(s: &mut Session, arguments: &str) -> [StreamTable; 3] {
    [("b", B), ("c", C), ("d", D)].map(|(name, query)| s.stream_table_with(name, query, arguments))
}

const ATOMIC: &str = "schedule => '1d', diamond_consistency => 'atomic'";

/// The groups of `diamond_groups()`, each as its members in alphabetical order, a star before what converges.
fn groups(s: &mut Session) -> Vec<String> {
    s.lines(
        "select string_agg(case when is_convergence then '*' else '' end || member_name, ' ' order by member_name)
         from pgtrickle.diamond_groups() group by group_id order by 1",
    )
}

fn epoch(s: &mut Session) -> i64 {
    s.number("select distinct epoch from pgtrickle.diamond_groups()")
}

/// Rows and sum of `b`, `c` and `d`, all seen by one statement.
const STATE: &str = "select (select count(*) || ':' || coalesce(sum(n), 0) from b), (select count(*) || ':' || coalesce(sum(m) / 2, 0) from c),
     (select count(*) || ':' || coalesce(sum(n), 0) from d), (select count(*) || ':' || coalesce(sum(m) / 2, 0) from d)";

/// What the source says: the state of all three if they are up to date.
const WANTED: &str = "select count(*) || ':' || coalesce(sum(n), 0) from s";

/// Rows and sum that all three have, which must agree.
#[track_caller]
fn state(s: &mut Session) -> String {
    let line = s.lines(STATE).remove(0);
    let parts: Vec<&str> = line.split('|').collect();
    assert!(
        parts.iter().all(|part| part == &parts[0]),
        "b, c, d, d are at different moments: {line}"
    );
    parts[0].to_string()
}

#[track_caller]
fn is_current(s: &mut Session) {
    assert_eq!(state(s), s.value(WANTED));
}

#[track_caller]
fn all_fresh(s: &mut Session, tables: &[StreamTable]) {
    for table in tables {
        table.assert_fresh(s);
    }
}

/// Waits until all three show what the source has.
#[track_caller]
fn wait_current(db: &Database<'_>) {
    db.wait_until(&format!(
        "with x (b, c, d, e) as ({STATE}) select b = w and c = w and d = w and e = w from x, ({WANTED}) s (w)"
    ));
}

/// Whoever evaluates `held()` waits until the session has gone or unlocked.
fn gatekeeper(db: &Database<'_>) -> Session {
    let mut keeper = db.connect();
    keeper.exec(
        "create function held(n int) returns int language plpgsql volatile as $$ begin
            perform pg_advisory_xact_lock_shared(4711); return n; end $$",
    );
    keeper
}

// ------------------------------------------------------------------------------------------------ what is found

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

// ------------------------------------------------------------------------------------------------ epochs

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

// ------------------------------------------------------------------------------------------------ mode

#[test]
fn none_lets_every_member_go_its_own_way() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let [b, c, d] = diamond(&mut s, "schedule => '1d', diamond_consistency => 'none'");
    s.exec("insert into s values (10, 1, 1)");
    b.refresh(&mut s);
    assert_eq!(
        s.lines(
            "select (select count(*) from b), (select count(*) from c), (select count(*) from d)"
        ),
        ["10|9|9"]
    );
    all_fresh(&mut s, &[b, c, d]);
}

#[test]
fn refresh_of_any_member_takes_the_group_along() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    for (key, table) in tables.iter().enumerate() {
        s.exec(&format!("insert into s values (100 + {key}, 1, 1)"));
        table.refresh(&mut s);
        is_current(&mut s);
        for member in &tables {
            member.assert_mode(&mut s, "DIFFERENTIAL");
        }
    }
    all_fresh(&mut s, &tables);
}

#[test]
fn verification_and_repair_of_a_member_take_the_group_along() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    for table in &tables {
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        table.assert_verified(&mut s);
        is_current(&mut s);
    }
    // One row of a branch is corrupted: its reader does not follow what nobody told it.
    s.exec("alter table b disable trigger pgt_refuse_write; update b set n = n + 1000 where k = 1; alter table b enable always trigger pgt_refuse_write");
    assert_eq!(
        s.number("select count(*) from pgtrickle.repair_stream_table('b')"),
        1
    );
    all_fresh(&mut s, &tables);
    is_current(&mut s);
}

#[test]
fn members_without_contents_get_them_with_the_group() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let b = s.stream_table("b", B);
    let empty = format!("{ATOMIC}, initialize => false");
    let c = s.stream_table_with("c", C, &empty);
    let d = s.stream_table_with("d", D, &empty);
    s.exec("insert into s values (10, 1, 1)");
    b.refresh(&mut s);
    is_current(&mut s);
    all_fresh(&mut s, &[b, c, d]);
}

#[test]
fn mode_changes_by_alter() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let [b, c, d] = diamond(&mut s, "schedule => '1d'");
    s.exec("select pgtrickle.alter_stream_table('d', diamond_consistency => 'atomic')");
    s.exec("insert into s values (10, 1, 1)");
    b.refresh(&mut s);
    is_current(&mut s);
    s.exec("select pgtrickle.alter_stream_table('d', diamond_consistency => 'none')");
    s.exec("insert into s values (11, 1, 1)");
    b.refresh(&mut s);
    assert_eq!(
        s.lines(
            "select (select count(*) from b), (select count(*) from c), (select count(*) from d)"
        ),
        ["11|10|10"]
    );
    let refused = s.error(
        "22023",
        "select pgtrickle.alter_stream_table('d', diamond_consistency => 'sometimes')",
    );
    assert!(refused.hint.is_some(), "{refused}");
    let refused = s.error("22023", "select pgtrickle.create_stream_table('x', 'select k from s', diamond_schedule_policy => 'never')");
    assert!(refused.hint.is_some(), "{refused}");
    all_fresh(&mut s, &[b, c, d]);
}

#[test]
fn setting_is_the_default_of_diamonds_that_do_not_say() {
    let server = Server::builder()
        .guc("pg_trickle.diamond_consistency", "atomic")
        .guc("pg_trickle.diamond_schedule_policy", "slowest")
        .guc("pg_trickle.worker_pool_size", "2")
        .start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, "schedule => '1d'");
    assert_eq!(
        s.value("select distinct schedule_policy from pgtrickle.diamond_groups()"),
        "slowest"
    );
    s.exec("insert into s values (10, 1, 1)");
    tables[0].refresh(&mut s);
    is_current(&mut s);
    s.exec("select pgtrickle.alter_stream_table('d', diamond_consistency => 'none')");
    s.exec("insert into s values (11, 1, 1)");
    tables[0].refresh(&mut s);
    assert_eq!(
        s.lines("select (select count(*) from b), (select count(*) from d)"),
        ["11|10"]
    );
    s.exec("select pgtrickle.drop_stream_table('d')");
    s.stream_table_with("d", D, "schedule => '1d'");
    s.exec("insert into s values (12, 1, 1)");
    tables[0].refresh(&mut s);
    is_current(&mut s);
    // Another default holds from the next refresh on, and for the scheduler.
    server.configure_guc("pg_trickle.diamond_consistency", "none");
    server.reload();
    db.wait_until("select current_setting('pg_trickle.diamond_consistency') = 'none'");
    let mut later = db.connect();
    later.exec("insert into s values (13, 1, 1)");
    tables[0].refresh(&mut later);
    assert_eq!(
        later.lines("select (select count(*) from b), (select count(*) from d)"),
        ["13|12"]
    );
    later.exec("select pgtrickle.refresh_stream_table('d')");
    later.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms')");
    later.exec("insert into s values (14, 1, 1)");
    db.wait_until("select count(*) = 14 from b");
    assert_eq!(later.value("select count(*) from d"), "13");
    server.configure_guc("pg_trickle.diamond_consistency", "atomic");
    server.configure_guc("pg_trickle.diamond_schedule_policy", "fastest");
    server.reload();
    later.exec("insert into s values (15, 1, 1)");
    wait_current(&db);
    all_fresh(&mut later, &tables);
}

// ------------------------------------------------------------------------------------------------ policy

#[test]
fn fastest_member_sets_the_pace() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    s.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms')");
    for key in 100..103 {
        s.exec(&format!("insert into s values ({key}, 1, 1)"));
        wait_current(&db);
        for table in &tables {
            table.assert_mode(&mut s, "DIFFERENTIAL");
        }
    }
    all_fresh(&mut s, &tables);
}

#[test]
fn slowest_member_sets_the_pace_if_so_wished() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => '1d', diamond_consistency => 'atomic', diamond_schedule_policy => 'slowest'",
    );
    s.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms'), pgtrickle.alter_stream_table('d', schedule => '100ms')");
    s.stream_table_with(
        "often",
        "select count(*) as c from s",
        "schedule => '100ms'",
    );
    for key in 100..105 {
        s.exec(&format!("insert into s values ({key}, 1, 1)"));
        db.wait_until(&format!("select c = {key} - 90 from often"));
    }
    assert!(
        state(&mut s).starts_with("9:"),
        "one member is refreshed once a day"
    );
    s.exec("select pgtrickle.alter_stream_table('c', schedule => '100ms')");
    wait_current(&db);
    all_fresh(&mut s, &tables);
}

#[test]
fn of_several_convergence_nodes_the_strictest_counts() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    s.stream_table_with(
        "e",
        "select b.k, c.m from b join c on c.k = b.k",
        "schedule => '100ms', diamond_schedule_policy => 'slowest'",
    );
    assert_eq!(
        s.lines("select distinct schedule_policy from pgtrickle.diamond_groups()"),
        ["slowest"]
    );
    s.stream_table_with(
        "often",
        "select count(*) as c from s",
        "schedule => '100ms'",
    );
    for key in 100..104 {
        s.exec(&format!("insert into s values ({key}, 1, 1)"));
        db.wait_until(&format!("select c = {key} - 90 from often"));
    }
    assert!(state(&mut s).starts_with("9:"));
    s.exec("select pgtrickle.alter_stream_table('e', diamond_schedule_policy => 'fastest')");
    wait_current(&db);
    all_fresh(&mut s, &tables);
}

// ------------------------------------------------------------------------------------------------ never a mixture

/// Reads `b`, `c` and `d` in one statement while the writers run, and looks for a mixture.
fn watch(s: &mut Session, writers: &[pgt_tests::Running]) -> usize {
    let mut states = std::collections::BTreeSet::new();
    while !writers.iter().all(pgt_tests::Running::is_finished) {
        states.insert(state(s));
    }
    states.len()
}

/// A session that changes `s` and commits, `rounds` times.
fn writer(db: &Database<'_>, number: usize, rounds: usize) -> pgt_tests::Running {
    db.connect().spawn(&format!(
        "do $$ begin for i in 1..{rounds} loop
            insert into s values ({number} * 100000 + i, i % 3, i);
            update s set n = n + 1 where k between {number} * 100000 + i - 3 and {number} * 100000 + i;
            if i % 5 = 0 then delete from s where k = {number} * 100000 + i - 2; end if;
            commit; perform pg_sleep(0.005);
         end loop; end $$"
    ))
}

#[test]
fn readers_see_one_moment_while_others_write() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => 'continuous', diamond_consistency => 'atomic'",
    );
    let writers = [writer(&db, 1, 200), writer(&db, 2, 200)];
    let seen = watch(&mut s, &writers);
    assert!(seen > 3, "they moved on meanwhile: {seen} states");
    for writer in writers {
        writer.join();
    }
    wait_current(&db);
    all_fresh(&mut s, &tables);
}

#[test]
fn failing_branch_leaves_all_members_as_they_were() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("alter table s add zero int not null default 1");
    let arguments = "schedule => '100ms', diamond_consistency => 'atomic'";
    let b = s.stream_table_with("b", B, arguments);
    let c = s.stream_table_with("c", "select k, n * 2 / zero as m from s", arguments);
    let d = s.stream_table_with("d", D, arguments);
    s.stream_table_with(
        "often",
        "select count(*) as c from s",
        "schedule => '100ms'",
    );
    for round in 0..2 {
        s.exec("update s set zero = 0 where k = 1");
        db.wait_until("select status = 'ERROR' from pgtrickle.pgt_stream_tables where pgt_relid = 'c'::regclass");
        let before = state(&mut s);
        let before_epoch = epoch(&mut s);
        let writers = [
            writer(&db, round * 10 + 1, 40),
            writer(&db, round * 10 + 2, 40),
        ];
        let seen = watch(&mut s, &writers);
        assert!(seen <= 1, "none of them moves: {seen} states");
        for writer in writers {
            writer.join();
        }
        db.wait_until("select c = (select count(*) from s) from often");
        assert_eq!(state(&mut s), before);
        assert_eq!(epoch(&mut s), before_epoch);
        for name in ["b", "d"] {
            let refused = s.error(
                "55000",
                &format!("select pgtrickle.refresh_stream_table('{name}')"),
            );
            assert!(refused.hint.is_some(), "{refused}");
        }
        s.error("22012", "select pgtrickle.refresh_stream_table('c')");
        assert_eq!(state(&mut s), before);
        s.exec("update s set zero = 1 where k = 1; select pgtrickle.resume_stream_table('c')");
        wait_current(&db);
    }
    all_fresh(&mut s, &[b, c, d]);
}

#[test]
fn violated_constraint_of_a_member_holds_the_group() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    s.exec("alter table d add constraint small check (m < 1000)");
    s.exec("insert into s values (10, 1, 1), (11, 1, 600)");
    for table in &tables {
        s.error(
            "23514",
            &format!("select pgtrickle.refresh_stream_table('{}')", table.name()),
        );
        assert!(state(&mut s).starts_with("9:"));
    }
    s.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms')");
    db.wait_until(
        "select status = 'ERROR' from pgtrickle.pgt_stream_tables where pgt_relid = 'd'::regclass",
    );
    assert!(state(&mut s).starts_with("9:"));
    s.exec("alter table d drop constraint small; select pgtrickle.resume_stream_table('d')");
    wait_current(&db);
    all_fresh(&mut s, &tables);
}

#[test]
fn paused_member_holds_the_group() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    s.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms')");
    s.exec("create table ticks (k serial primary key)");
    s.stream_table_with(
        "clock",
        "select count(*) as c from ticks",
        "schedule => '100ms'",
    );
    let let_time_pass = |s: &mut Session| {
        for _ in 0..3 {
            s.exec("insert into ticks default values");
            db.wait_until("select c = (select count(*) from ticks) from clock");
        }
    };
    for (paused, others) in [("b", ["c", "d"]), ("c", ["b", "d"]), ("d", ["b", "c"])] {
        s.exec(&format!("select pgtrickle.pause_stream_table('{paused}')"));
        let_time_pass(&mut s);
        let before = state(&mut s);
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        let_time_pass(&mut s);
        for name in others {
            let refused = s.error(
                "55000",
                &format!("select pgtrickle.refresh_stream_table('{name}')"),
            );
            assert!(
                refused
                    .hint
                    .as_deref()
                    .is_some_and(|hint| hint.contains("resume_stream_table")),
                "{refused}"
            );
        }
        assert_eq!(state(&mut s), before, "{paused} is paused");
        s.exec(&format!("select pgtrickle.resume_stream_table('{paused}')"));
        wait_current(&db);
    }
    all_fresh(&mut s, &tables);
}

#[test]
fn members_do_not_suffer_from_the_pause_of_another() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => 'continuous', diamond_consistency => 'atomic'",
    );
    let load = writer(&db, 1, 150);
    while !load.is_finished() {
        s.exec("select pgtrickle.pause_stream_table('c')");
        s.exec("select pgtrickle.resume_stream_table('c')");
    }
    load.join();
    assert_eq!(
        s.lines("select error_message from pgtrickle.pgt_refresh_history where error_message is not null"),
        [""; 0]
    );
    wait_current(&db);
    all_fresh(&mut s, &tables);
}

#[test]
fn truncate_and_changed_definition_of_a_branch_do_not_mix() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => 'continuous', diamond_consistency => 'atomic'",
    );
    let load = db.connect().spawn(
        "do $$ begin for i in 1..12 loop
            truncate s; commit;
            insert into s select x, x % 3, x + i from generate_series(1, 20 + i) x; commit; perform pg_sleep(0.03);
         end loop; end $$",
    );
    watch(&mut s, &[load]);
    wait_current(&db);
    s.exec(
        "select pgtrickle.alter_stream_table('c', query => 'select k, n + n as m from public.s')",
    );
    s.exec("insert into s values (1000, 1, 1)");
    wait_current(&db);
    let c = StreamTable::new("c", "select k, n + n as m from s");
    all_fresh(&mut s, &[tables[0].clone(), c, tables[2].clone()]);
}

#[test]
fn columns_that_come_and_go_do_not_mix_moments() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let arguments = "schedule => '100ms', diamond_consistency => 'atomic'";
    let b = s.stream_table_with("b", B, arguments);
    let c = s.stream_table_with(
        "c",
        "select g, sum(n) as total, count(*) as c from s group by g",
        arguments,
    );
    let d = s.stream_table_with(
        "d",
        "select (select sum(n) from b) as x, (select sum(total) from c) as y",
        arguments,
    );
    let load = db.connect().spawn(
        "do $$ begin for i in 1..50 loop
            insert into s values (1000 + i, i % 4, i); commit;
            if i % 10 = 5 then alter table s add extra int default 1; commit; end if;
            if i % 10 = 0 then alter table s drop extra; commit; end if;
            perform pg_sleep(0.01);
         end loop; end $$",
    );
    while !load.is_finished() {
        assert_eq!(
            s.lines(
                "select x = y, x = (select sum(n) from b), y = (select sum(total) from c) from d"
            ),
            ["t|t|t"]
        );
    }
    load.join();
    b.catches_up(&mut s);
    c.catches_up(&mut s);
    d.catches_up(&mut s);
}

// ------------------------------------------------------------------------------------------------ in each other's way

/// A diamond of which the refresh of `c` waits for the gatekeeper.
fn slow_diamond(db: &Database<'_>, s: &mut Session) -> (Session, [StreamTable; 3]) {
    source(s);
    let keeper = gatekeeper(db);
    let b = s.stream_table_with("b", B, ATOMIC);
    let c = s.stream_table_with(
        "c",
        "select k, held(n) * 2 as m from s",
        &format!("{ATOMIC}, refresh_mode => 'FULL'"),
    );
    let d = s.stream_table_with("d", D, ATOMIC);
    (keeper, [b, c, d])
}

const HOLD: &str = "select pg_advisory_lock(4711)";
const LET_GO: &str = "select pg_advisory_unlock(4711)";

#[test]
fn members_are_dropped_while_their_group_is_refreshed() {
    let db = database();
    let mut s = db.connect();
    let (mut keeper, [b, c, _]) = slow_diamond(&db, &mut s);
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    let refresh = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('b')");
    db.wait_blocked(refresh.pid());
    let dropping = db
        .connect()
        .spawn("select pgtrickle.drop_stream_table('d')");
    db.wait_blocked(dropping.pid());
    keeper.exec(LET_GO);
    refresh.join();
    dropping.join();
    assert!(groups(&mut s).is_empty());
    assert_eq!(s.value("select to_regclass('d') is null"), "t");
    s.exec("insert into s values (11, 1, 1)");
    b.follows_somehow(&mut s);
    assert_eq!(s.lines("select count(*) from c"), ["10"]);
    c.follows_somehow(&mut s);
}

#[test]
fn members_are_altered_while_their_group_is_refreshed() {
    let db = database();
    let mut s = db.connect();
    let (mut keeper, [b, c, d]) = slow_diamond(&db, &mut s);
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    let refresh = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('d')");
    db.wait_blocked(refresh.pid());
    let altering = db.connect().spawn(
        "select pgtrickle.alter_stream_table('b', query => 'select k, n + 0 as n from public.s')",
    );
    db.wait_blocked(altering.pid());
    keeper.exec(LET_GO);
    refresh.join();
    altering.join();
    is_current(&mut s);
    s.exec("update s set n = n + 1");
    b.refresh(&mut s);
    is_current(&mut s);
    all_fresh(&mut s, &[b, c, d]);
}

#[test]
fn refresh_that_waited_for_a_dropped_member_goes_on_without_it() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let [b, c, _] = diamond(&mut s, ATOMIC);
    s.exec("insert into s values (10, 1, 1)");
    s.exec("begin; select pgtrickle.drop_stream_table('d')");
    let waiting = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('b')");
    db.wait_blocked(waiting.pid());
    s.exec("commit");
    waiting.join();
    b.assert_equal(&mut s);
    all_fresh(&mut s, &[b, c]);
}

#[test]
fn worker_that_waited_for_a_dropped_member_goes_on_without_it() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let [b, c, _] = diamond(&mut s, ATOMIC);
    s.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms')");
    let mut dropping = db.connect();
    dropping.exec("begin; select pgtrickle.drop_stream_table('d')");
    // One that knows nothing of the members yet.
    s.exec("select pg_terminate_backend(pid, 10000) from pgtrickle.worker_pool_status() where kind = 'worker'");
    s.exec("insert into s values (10, 1, 1)");
    db.wait_until("select exists (select from pg_stat_activity where datname = current_database() and backend_type = 'pg_trickle worker' and wait_event_type = 'Lock')");
    dropping.exec("commit");
    db.wait_until("select workers_active = 0 from pgtrickle.cluster_worker_summary() where db_name = current_database()");
    assert_eq!(
        s.lines("select name, status from pgtrickle.pgt_status() order by 1"),
        ["public.b|ACTIVE", "public.c|ACTIVE"]
    );
    b.catches_up(&mut s);
    c.follows(&mut s);
}

#[test]
fn refreshes_of_different_members_do_not_deadlock() {
    let db = database();
    let mut s = db.connect();
    let (mut keeper, tables) = slow_diamond(&db, &mut s);
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    let first = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('d')");
    db.wait_blocked(first.pid());
    let others = ["c", "b", "d"].map(|name| {
        let running = db
            .connect()
            .spawn(&format!("select pgtrickle.refresh_stream_table('{name}')"));
        db.wait_blocked(running.pid());
        running
    });
    keeper.exec(LET_GO);
    first.join();
    let failed: Vec<SqlError> = others
        .into_iter()
        .filter_map(|running| running.finish().1.err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    all_fresh(&mut s, &tables);
}

#[test]
fn people_and_the_scheduler_refresh_a_diamond_together() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => 'continuous', diamond_consistency => 'atomic'",
    );
    let load = writer(&db, 1, 100);
    let people: Vec<_> = tables
        .iter()
        .map(|table| {
            db.connect().spawn(&format!(
                "do $$ begin for i in 1..40 loop perform pgtrickle.refresh_stream_table('{}'); commit; end loop; end $$",
                table.name()
            ))
        })
        .collect();
    let failed: Vec<SqlError> = people
        .into_iter()
        .filter_map(|running| running.finish().1.err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    load.join();
    wait_current(&db);
    assert_eq!(
        s.lines("select name, status from pgtrickle.pgt_status() where status <> 'ACTIVE'"),
        [""; 0]
    );
    assert_eq!(
        s.lines("select error_message from pgtrickle.pgt_refresh_history where error_message is not null"),
        [""; 0]
    );
    all_fresh(&mut s, &tables);
}

// ------------------------------------------------------------------------------------------------ refresh groups

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
