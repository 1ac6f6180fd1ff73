//! When a group is refreshed together, and by whose schedule.

use super::*;

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
