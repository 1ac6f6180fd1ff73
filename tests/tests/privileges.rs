//! Who may do what, and with whose rights a query runs.

use pgt_tests::{Database, Session, StreamTable, database};

/// A role that owns schema `app` with table `app.s`.
fn owner(db: &Database<'_>) -> (String, Session) {
    let role = db.role("owner");
    db.connect()
        .exec(&format!("create schema app authorization {role}"));
    let mut session = db.connect_as(&role);
    session.exec("set search_path = app; create table s (k int primary key, n int); insert into s values (1, 1), (2, 2)");
    (role, session)
}

#[test]
fn ordinary_role_does_everything_with_its_own() {
    let db = database();
    let (_, mut o) = owner(&db);
    let v = o.stream_table("v", "select k, n from s where n > 0");
    let g = o.stream_table("g", "select sum(n) as total, count(*) as c from v");
    for batch in [
        "insert into s values (3, 3)",
        "update s set n = -n where k = 1; delete from s where k = 2",
    ] {
        o.exec(batch);
        v.follows(&mut o);
        g.follows(&mut o);
    }
    o.exec("select pgtrickle.pause_stream_table('v'); select pgtrickle.resume_stream_table('v'); select pgtrickle.alter_stream_table('v', schedule => '2d')");
    o.exec("select pgtrickle.alter_stream_table('v', query => 'select k, n + 1 as n from s')");
    for sql in [
        "select * from pgtrickle.pgt_status()",
        "select * from pgtrickle.get_refresh_history('v')",
        "select pgtrickle.explain_stream_table('v', 'sql')",
        "select * from pgtrickle.explain_delta('v')",
        "select * from pgtrickle.explain_refresh_mode('v')",
        "select * from pgtrickle.list_sources('v')",
        "select * from pgtrickle.repair_stream_table('v')",
        "select pgtrickle.export_definition('v')",
        "select * from pgtrickle.health_check()",
        "select * from pgtrickle.change_buffer_sizes()",
        "select * from pgtrickle.validate_query('select k from s')",
    ] {
        o.rows(sql);
    }
    o.exec("drop table g; select pgtrickle.drop_stream_table('v')");
}

#[test]
fn scheduler_serves_ordinary_roles() {
    let db = database();
    let (_, mut o) = owner(&db);
    let v = o.stream_table_with(
        "v",
        "select sum(n) as total from s",
        "schedule => 'continuous'",
    );
    o.exec("insert into s values (3, 100)");
    db.wait_until("select total = 103 from app.v");
    v.assert_fresh(&mut o);
}

#[test]
fn others_can_neither_change_nor_spy() {
    let db = database();
    let (_, mut o) = owner(&db);
    let stranger = db.role("stranger");
    o.stream_table("v", "select k, n from s");
    o.exec(&format!("grant usage on schema app to {stranger}"));
    let mut x = db.connect_as(&stranger);
    for call in [
        "refresh_stream_table('app.v')",
        "drop_stream_table('app.v')",
        "alter_stream_table('app.v', schedule => '1h')",
        "alter_stream_table('app.v', query => 'select 1 as k, 2 as n')",
        "pause_stream_table('app.v')",
        "resume_stream_table('app.v')",
        "repair_stream_table('app.v')",
        "refresh_if_stale('app.v')",
        "create_or_replace_stream_table('app.v', 'select 1 as k, 2 as n')",
    ] {
        x.error("42501", &format!("select * from pgtrickle.{call}"));
    }
    x.error("42501", "select * from app.v");
    for hidden in ["pgtrickle_changes", "pgtrickle_defs"] {
        let tables = db.connect().lines(&format!("select oid::regclass from pg_class where relnamespace = '{hidden}'::regnamespace and relkind in ('r', 'v')"));
        for table in tables {
            x.error("42501", &format!("select * from {table}"));
            x.error(
                "42501",
                &format!("insert into {table} select * from {table}"),
            );
        }
    }
    x.error(
        "42501",
        "update pgtrickle.pgt_stream_tables set status = 'SUSPENDED'",
    );
    x.error("42501", "delete from pgtrickle.pgt_dependencies");
    assert_eq!(o.value("select count(*) from v"), "2");
}

#[test]
fn pause_all_touches_only_ones_own() {
    let db = database();
    let (_, mut o) = owner(&db);
    let stranger = db.role("stranger");
    o.stream_table("v", "select k, n from s");
    let mut x = db.connect_as(&stranger);
    if let Ok(rows) = x.try_rows("select pgtrickle.pause_all()") {
        assert_eq!(rows[0][0].as_deref(), Some("0"));
    }
    assert_eq!(
        o.value("select status from pgtrickle.pgt_stream_tables"),
        "ACTIVE"
    );
}

#[test]
fn creation_needs_rights_on_schema_and_sources() {
    let db = database();
    let (_, mut o) = owner(&db);
    let stranger = db.role("stranger");
    db.connect()
        .exec(&format!("create schema mine authorization {stranger}"));
    let mut x = db.connect_as(&stranger);
    x.exec("create table mine.own (k int primary key)");
    x.error(
        "42501",
        "select pgtrickle.create_stream_table('mine.w', 'select k from app.s')",
    );
    o.exec(&format!("grant usage on schema app to {stranger}"));
    x.error(
        "42501",
        "select pgtrickle.create_stream_table('mine.w', 'select k from app.s')",
    );
    o.exec(&format!("grant select on s to {stranger}"));
    x.error(
        "42501",
        "select pgtrickle.create_stream_table('mine.w', 'select k from app.s')",
    );
    o.exec(&format!("grant trigger on s to {stranger}"));
    x.error(
        "42501",
        "select pgtrickle.create_stream_table('app.w', 'select k from mine.own')",
    );
    let w = x.stream_table("mine.w", "select k, n from app.s");
    o.exec("insert into s values (50, 50)");
    w.follows(&mut x);
    assert_eq!(
        db.connect()
            .value("select count(*) from pgtrickle.pgt_stream_tables"),
        "1"
    );
}

#[test]
fn writers_need_no_rights_on_the_log() {
    let db = database();
    let (_, mut o) = owner(&db);
    let writer = db.role("writer");
    let v = o.stream_table("v", "select k, n from s");
    o.exec(&format!("grant usage on schema app to {writer}; grant insert, update, delete, select, truncate on s to {writer}"));
    let mut w = db.connect_as(&writer);
    w.exec("insert into app.s values (10, 10); update app.s set n = 5 where k = 1; delete from app.s where k = 2");
    v.follows(&mut o);
    w.exec("truncate app.s; insert into app.s values (1, 1)");
    v.follows_somehow(&mut o);
}

#[test]
fn readers_need_only_select() {
    let db = database();
    let (_, mut o) = owner(&db);
    let reader = db.role("reader");
    let v = o.stream_table("v", "select k, n from s");
    o.exec(&format!(
        "grant usage on schema app to {reader}; grant select on v to {reader}"
    ));
    let mut r = db.connect_as(&reader);
    assert_eq!(r.value("select count(*) from app.v"), "2");
    r.error("42501", "select * from app.s");
    o.exec("insert into s values (3, 3)");
    v.follows(&mut o);
    assert_eq!(r.value("select count(*) from app.v"), "3");
}

/// Whoever asks for the refresh, the owner is the one who runs the query.
#[test]
fn query_runs_as_the_owner() {
    let db = database();
    let (role, mut o) = owner(&db);
    o.exec("create function who() returns text language sql stable as 'select current_user::text'");
    o.stream_table_with(
        "v",
        "select k, who() as w, current_user::text as u from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    o.stream_table_with(
        "c",
        "select k, who() as w from s",
        "schedule => 'continuous', refresh_mode => 'FULL'",
    );
    o.exec("insert into s values (3, 3)");
    db.connect()
        .exec("select pgtrickle.refresh_stream_table('app.v')");
    assert_eq!(
        o.lines("select distinct w, u from v"),
        [format!("{role}|{role}")]
    );
    db.wait_until("select count(*) = 3 from app.c");
    assert_eq!(o.lines("select distinct w from c"), [role]);
}

/// What an attacker's function tries when a superuser or the worker runs it for him.
fn attack(o: &mut Session, role: &str, body: &str) {
    o.exec(&format!(
        "create or replace function evil(n int) returns int language plpgsql volatile as $f$ begin
            begin {body} exception when others then return -1; end;
            return n; end $f$"
    ));
    let _ = role;
}

#[test]
fn malicious_function_gains_nothing_from_a_superuser() {
    let db = database();
    let (role, mut o) = owner(&db);
    let mut root = db.connect();
    root.exec("create table public.secret (t text); insert into public.secret values ('x'); create table public.loot (t text); grant insert on public.loot to public");
    attack(&mut o, &role, "return n;");
    o.stream_table_with(
        "v",
        "select k, evil(n) as n from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    let bodies = [
        format!("execute 'alter role {role} superuser';"),
        "insert into public.loot select t from public.secret;".into(),
        "perform set_config('role', 'postgres', false); execute 'insert into public.loot select t from public.secret';".into(),
        "execute 'reset session authorization'; insert into public.loot select t from public.secret;".into(),
        "execute 'set session authorization postgres'; insert into public.loot select t from public.secret;".into(),
        "execute 'create temp table trap (k int)'; execute 'create function pg_temp.later() returns trigger language plpgsql as $x$ begin insert into public.loot select t from public.secret; return null; end $x$'; execute 'create constraint trigger later after insert on trap deferrable initially deferred for each row execute function pg_temp.later()'; execute 'insert into trap values (1)';".into(),
        "execute 'declare trap cursor with hold for select evil2()';".into(),
    ];
    o.exec("create function evil2() returns int language plpgsql as $$ begin insert into public.loot select t from public.secret; return 1; end $$");
    for body in bodies {
        attack(&mut o, &role, &body);
        o.exec("update s set n = n + 1");
        let _ = root.try_exec("select pgtrickle.refresh_stream_table('app.v')");
        let _ = root.try_exec("select * from pgtrickle.verify_stream_table('app.v')");
        let _ = root.try_exec("select * from pgtrickle.repair_stream_table('app.v')");
        assert_eq!(
            root.value("select count(*) from public.loot"),
            "0",
            "after {body}"
        );
        assert_eq!(
            root.value(&format!(
                "select rolsuper from pg_roles where rolname = '{role}'"
            )),
            "f",
            "after {body}"
        );
        assert_eq!(
            root.value("select current_user || session_user"),
            "postgrespostgres"
        );
    }
}

#[test]
fn malicious_function_gains_nothing_from_the_worker() {
    let db = database();
    let (role, mut o) = owner(&db);
    let mut root = db.connect();
    root.exec("create table public.secret (t text); insert into public.secret values ('x'); create table public.loot (t text); grant insert on public.loot to public");
    attack(&mut o, &role, "return n;");
    o.stream_table_with(
        "v",
        "select k, evil(n) as n from s",
        "schedule => 'continuous', refresh_mode => 'FULL'",
    );
    let bodies = [
        format!("execute 'alter role {role} superuser';"),
        "insert into public.loot select t from public.secret;".into(),
        "execute 'reset role'; execute 'set session authorization postgres'; insert into public.loot select t from public.secret;".into(),
    ];
    for (i, body) in bodies.iter().enumerate() {
        attack(&mut o, &role, body);
        o.exec(&format!("insert into s values (100 + {i}, 1)"));
        db.wait_until(&format!(
            "select exists (select from app.v where k = 100 + {i})"
        ));
        assert_eq!(
            root.value("select count(*) from public.loot"),
            "0",
            "after {body}"
        );
        assert_eq!(
            root.value(&format!(
                "select rolsuper from pg_roles where rolname = '{role}'"
            )),
            "f",
            "after {body}"
        );
    }
}

/// Code that the owner hangs on the stream table itself runs as the owner too.
#[test]
fn triggers_and_indexes_of_the_owner_run_as_the_owner() {
    let db = database();
    let (role, mut o) = owner(&db);
    let mut root = db.connect();
    o.stream_table("v", "select k, n from s");
    o.exec(
        "create table seen (who text); create function note() returns trigger language plpgsql as $$ begin insert into app.seen values (current_user); return null; end $$;
         create trigger note after insert on v for each row execute function note();
         create function idx(n int) returns int language plpgsql immutable as $$ begin insert into app.seen values (current_user); return n; exception when others then return n; end $$;
         create index on v (idx(n))",
    );
    o.exec("insert into s values (3, 3)");
    root.exec("select pgtrickle.refresh_stream_table('app.v')");
    assert_eq!(o.lines("select distinct who from seen"), [role]);
}

#[test]
fn creation_by_a_superuser_in_anothers_name_is_not_needed() {
    let db = database();
    let (role, mut o) = owner(&db);
    let mut root = db.connect();
    let v = root.stream_table("app.v", "select k, n from app.s");
    o.error("42501", "select pgtrickle.refresh_stream_table('app.v')");
    root.exec(&format!("alter table app.v owner to {role}"));
    o.exec("insert into s values (3, 3)");
    v.follows(&mut o);
}

#[test]
fn revoked_source_fails_the_refresh_and_keeps_the_contents() {
    let db = database();
    let (_, mut o) = owner(&db);
    let other = db.role("other");
    db.connect().exec(&format!(
        "create schema mine authorization {other}; grant usage on schema app to {other}"
    ));
    o.exec(&format!("grant select, trigger on s to {other}"));
    let mut x = db.connect_as(&other);
    let v = x.stream_table("mine.v", "select k, n from app.s");
    o.exec(&format!(
        "revoke select on s from {other}; insert into s values (3, 3)"
    ));
    x.error("42501", "select pgtrickle.refresh_stream_table('mine.v')");
    assert_eq!(x.value("select count(*) from mine.v"), "2");
    db.connect()
        .error("42501", "select pgtrickle.refresh_stream_table('mine.v')");
    o.exec(&format!("grant select on s to {other}"));
    v.follows(&mut x);
}

#[test]
fn row_security_applies_to_the_owner_of_the_stream_table() {
    let db = database();
    let (_, mut o) = owner(&db);
    let other = db.role("other");
    db.connect().exec(&format!(
        "create schema mine authorization {other}; grant usage on schema app to {other}"
    ));
    o.exec(&format!("grant select, trigger on s to {other}; alter table s enable row level security; create policy p on s for select to {other} using (n < 10)"));
    let mut x = db.connect_as(&other);
    let made = x.try_exec("select pgtrickle.create_stream_table('mine.v', 'select k, n from app.s', schedule => '1d')");
    if made.is_err() {
        return;
    }
    o.exec("insert into s values (3, 3), (4, 40); update s set n = 50 where k = 1");
    x.exec("select pgtrickle.refresh_stream_table('mine.v')");
    assert_eq!(
        x.lines("select k from mine.v order by k"),
        ["2", "3"],
        "rows that its owner may not see"
    );
    StreamTable::new("mine.v", "select k, n from app.s").assert_equal(&mut x);
}

#[test]
fn settings_of_the_superuser_are_his() {
    let db = database();
    let (_, mut o) = owner(&db);
    o.error("42501", "set pg_trickle.test_break = 'read_committed'");
}
