//! Several sessions at once: commit order against write order, one snapshot per refresh, locks before looking.

use pgt_tests::{Session, StreamTable, database};

#[test]
fn early_writer_commits_after_a_later_one_was_refreshed() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    b.exec("create table s (k int primary key)");
    let v = b.stream_table("v", "select k from s");
    a.exec("begin; insert into s values (1)");
    b.exec("insert into s values (2)");
    v.follows(&mut b);
    assert_eq!(b.lines("select * from v"), ["2"]);
    a.exec("commit");
    v.follows(&mut b);
    assert_eq!(b.lines("select * from v order by k"), ["1", "2"]);
}

#[test]
fn idle_writer_commits_after_many_refreshes() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    b.exec("create table s (k int primary key)");
    let v = b.stream_table("v", "select count(*) as n, sum(k) as total from s");
    a.exec("begin; insert into s values (1000)");
    for k in 1..=20 {
        b.exec(&format!("insert into s values ({k})"));
        v.follows(&mut b);
    }
    a.exec("commit");
    v.follows(&mut b);
    assert_eq!(b.lines("select * from v"), ["21|1210"]);
}

#[test]
fn writer_aborts_after_a_refresh() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    b.exec("create table s (k int primary key)");
    let v = b.stream_table("v", "select k from s");
    a.exec("begin; insert into s values (1)");
    b.exec("insert into s values (2)");
    v.follows(&mut b);
    a.exec("rollback");
    b.exec("insert into s values (3)");
    v.follows(&mut b);
}

/// Xids are taken in one order and committed in the other, several deep.
#[test]
fn writers_commit_in_reverse_order_with_a_refresh_between_each() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int)");
    let v = s.stream_table("v", "select g, count(*) as n from s group by g");
    let mut writers: Vec<_> = (0..6).map(|_| db.connect()).collect();
    for (i, writer) in writers.iter_mut().enumerate() {
        writer.exec(&format!("begin; insert into s values ({i}, {i} % 2)"));
    }
    for writer in writers.iter_mut().rev() {
        writer.exec("commit");
        v.follows(&mut s);
    }
    assert_eq!(s.lines("select g, n from v order by g"), ["0|3", "1|3"]);
}

#[test]
fn second_stream_table_is_created_while_a_writer_is_in_flight() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    b.exec("create table s (k int primary key, n int)");
    let first = b.stream_table("first", "select k from s");
    a.exec("begin; insert into s values (1, 10)");
    let create =
        "select pgtrickle.create_stream_table('second', 'select n from s', schedule => '1d')";
    let creating = db.connect().spawn(create);
    // Whether creation waits for the writer or goes past it is the product's choice; losing the row is not.
    std::thread::sleep(std::time::Duration::from_millis(300));
    a.exec("insert into s values (2, 20); commit");
    creating.join();
    let second = pgt_tests::StreamTable::new("second", "select n from s");
    for v in [&first, &second] {
        v.refresh(&mut b);
        v.assert_fresh(&mut b);
    }
    b.exec("insert into s values (3, 30)");
    first.follows(&mut b);
    second.follows(&mut b);
}

#[test]
fn first_stream_table_is_created_while_a_writer_is_in_flight() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    b.exec("create table s (k int primary key)");
    a.exec("begin; insert into s values (1)");
    let create = "select pgtrickle.create_stream_table('v', 'select k from s', schedule => '1d')";
    let creating = db.connect().spawn(create);
    std::thread::sleep(std::time::Duration::from_millis(300));
    a.exec("insert into s values (2); commit");
    creating.join();
    let v = pgt_tests::StreamTable::new("v", "select k from s");
    v.refresh(&mut b);
    v.assert_fresh(&mut b);
    assert_eq!(b.value("select count(*) from v"), "2");
}

/// Every refresh sees each transfer whole or not at all, so the sum never moves.
#[test]
fn transfers_are_never_torn() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table acc (id int primary key, branch int, balance bigint)");
    s.exec("insert into acc select i, i % 5, 1000 from generate_series(1, 50) i");
    let total = s.stream_table("total", "select sum(balance) as t from acc");
    let joined = s.stream_table(
        "joined",
        "select sum(a.balance + b.balance) as t from acc a join acc b on a.id = b.id",
    );
    let transfer = "do $$ begin
        for i in 1..400 loop
            update acc set balance = balance - i where id = 1 + i % 50;
            update acc set balance = balance + i where id = 1 + (i * 7 + 3) % 50;
            commit;
        end loop; end $$";
    let writers: Vec<_> = (0..2).map(|_| db.connect().spawn(transfer)).collect();
    let mut rounds = 0;
    while rounds < 5 || writers.iter().any(|w| !w.is_finished()) {
        total.refresh(&mut s);
        assert_eq!(s.value("select t from total"), "50000");
        joined.refresh(&mut s);
        assert_eq!(s.value("select t from joined"), "100000");
        rounds += 1;
    }
    for writer in writers {
        // A deadlock between the two writers is theirs; whatever was committed counts.
        let _ = writer.finish();
    }
    total.refresh(&mut s);
    total.assert_fresh(&mut s);
    joined.refresh(&mut s);
    joined.assert_fresh(&mut s);
}

#[test]
fn prepared_transaction_is_committed_after_a_refresh() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    let gid = format!("{}_p", db.name());
    s.exec(&format!(
        "begin; insert into s values (1); prepare transaction '{gid}'"
    ));
    s.exec("insert into s values (2)");
    v.follows(&mut s);
    assert_eq!(s.lines("select k from v"), ["2"]);
    s.exec(&format!("commit prepared '{gid}'"));
    v.follows(&mut s);
    assert_eq!(s.lines("select k from v order by k"), ["1", "2"]);
}

#[test]
fn refresh_in_a_prepared_transaction_reaches_what_reads_its_result() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    let w = s.stream_table_with("w", "select count(*) as c from v", "schedule => '100ms'");
    let gid = format!("{}_p", db.name());
    s.exec("insert into s values (1)");
    s.exec(&format!(
        "begin; select pgtrickle.refresh_stream_table('v'); prepare transaction '{gid}'"
    ));
    s.exec("insert into s values (2)");
    assert_eq!(s.value("select c from w"), "0");
    s.exec(&format!("commit prepared '{gid}'"));
    db.wait_until("select c = 1 from w");
    v.follows(&mut s);
    w.catches_up(&mut s);
}

#[test]
fn prepared_transaction_is_rolled_back_after_a_refresh() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    let gid = format!("{}_p", db.name());
    s.exec(&format!(
        "begin; insert into s values (1); prepare transaction '{gid}'"
    ));
    s.exec("insert into s values (2)");
    v.follows(&mut s);
    s.exec(&format!("rollback prepared '{gid}'"));
    s.exec("insert into s values (3)");
    v.follows(&mut s);
}

#[test]
fn savepoints_released_and_rolled_back() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select sum(n) as total, count(*) as c from s");
    s.exec(
        "begin; insert into s values (1, 1);
         savepoint a; insert into s values (2, 10); savepoint b; update s set n = n + 100; rollback to b; release a;
         savepoint c; delete from s; rollback to c;
         savepoint d; insert into s values (3, 1000); release d; commit",
    );
    v.follows(&mut s);
    assert_eq!(s.lines("select total, c from v"), ["1011|3"]);
}

#[test]
fn exception_blocks_in_functions_abort_only_their_part() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    s.exec(
        "do $$ begin
            for i in 1..20 loop
                begin insert into s values (i); if i % 3 = 0 then perform 1 / 0; end if; exception when division_by_zero then null; end;
            end loop; end $$",
    );
    v.follows(&mut s);
    assert_eq!(s.value("select count(*) from v"), "14");
}

#[test]
fn subtransaction_of_a_writer_in_flight_is_not_seen_early() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    b.exec("create table s (k int primary key)");
    let v = b.stream_table("v", "select k from s");
    a.exec("begin; savepoint x; insert into s values (1); release x; savepoint y; insert into s values (2)");
    b.exec("insert into s values (3)");
    v.follows(&mut b);
    a.exec("rollback to y; commit");
    v.follows(&mut b);
    assert_eq!(b.lines("select k from v order by k"), ["1", "3"]);
}

#[test]
fn repeatable_read_writer_whose_snapshot_is_older_than_refreshes() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    b.exec("create table s (k int primary key)");
    let v = b.stream_table("v", "select k from s");
    a.exec("begin isolation level repeatable read; select count(*) from s");
    for k in 1..4 {
        b.exec(&format!("insert into s values ({k})"));
        v.follows(&mut b);
    }
    a.exec("insert into s values (100); commit");
    v.follows(&mut b);
}

#[test]
fn serializable_writers() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    b.exec("create table s (k int primary key, g int); insert into s select i, i % 2 from generate_series(1, 10) i");
    let v = b.stream_table("v", "select g, count(*) as n from s group by g");
    a.exec("begin isolation level serializable; insert into s select 100, count(*)::int % 2 from s where g = 0");
    b.exec("begin isolation level serializable; insert into s select 200, count(*)::int % 2 from s where g = 1");
    a.exec("commit");
    v.refresh(&mut a);
    v.assert_fresh(&mut a);
    let _ = b.try_exec("commit");
    let _ = b.try_exec("rollback");
    v.refresh(&mut a);
    v.assert_fresh(&mut a);
}

#[test]
fn refresh_inside_a_repeatable_read_transaction_uses_its_snapshot() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key)");
    let v = a.stream_table("v", "select k from s");
    b.exec("insert into s values (1)");
    a.exec("begin isolation level repeatable read; select count(*) from s");
    b.exec("insert into s values (2)");
    v.refresh(&mut a);
    assert_eq!(a.lines("select k from v"), ["1"]);
    v.assert_equal(&mut a);
    a.exec("commit");
    v.follows(&mut a);
    assert_eq!(a.lines("select k from v order by k"), ["1", "2"]);
}

#[test]
fn refresh_inside_an_old_snapshot_does_not_go_back() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key)");
    let v = a.stream_table("v", "select k from s");
    a.exec("begin isolation level repeatable read; select count(*) from s");
    b.exec("insert into s values (1)");
    v.follows(&mut b);
    // The stream table is ahead of this snapshot: refusing or doing nothing is fine, taking rows away is not.
    let _ = a.try_exec("select pgtrickle.refresh_stream_table('v')");
    let _ = a.try_exec("commit");
    let _ = a.try_exec("rollback");
    v.assert_fresh(&mut b);
    b.exec("insert into s values (2)");
    v.follows(&mut b);
}

#[test]
fn refresh_inside_a_read_committed_transaction() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key)");
    let v = a.stream_table("v", "select k from s");
    b.exec("insert into s values (1)");
    a.exec("begin; select count(*) from s");
    b.exec("insert into s values (2)");
    v.refresh(&mut a);
    a.exec("commit");
    v.assert_fresh(&mut a);
    assert_eq!(a.value("select count(*) from v"), "2");
}

#[test]
fn refresh_that_is_rolled_back_is_repeated_by_the_next() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select count(*) as c, sum(n) as total from s");
    s.exec("insert into s values (1, 5)");
    s.exec("begin");
    v.refresh(&mut s);
    s.exec("rollback");
    assert_eq!(s.value("select c from v"), "0");
    s.exec("insert into s values (2, 6)");
    v.follows(&mut s);
    assert_eq!(s.lines("select c, total from v"), ["2|11"]);
}

#[test]
fn refresh_after_the_own_transaction_wrote_to_a_source_is_refused() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key); create table other (k int)");
    let v = s.stream_table("v", "select k from s");
    s.exec("begin; insert into other values (1)");
    v.refresh(&mut s);
    s.exec("insert into s values (1)");
    let e = s.error("0A000", "select pgtrickle.refresh_stream_table('v')");
    assert!(
        e.hint.is_some_and(|h| h.to_lowercase().contains("commit")),
        "the hint tells to commit first"
    );
    s.exec("rollback; insert into s values (2)");
    v.follows(&mut s);
}

#[test]
fn refresh_after_a_rolled_back_write_of_the_own_transaction() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    s.exec("insert into s values (1)");
    s.exec("begin; savepoint a; insert into s values (2); rollback to a");
    // Nothing of this transaction is left in the source; refused or done, the result must be right.
    let _ = s.try_exec("select pgtrickle.refresh_stream_table('v')");
    let _ = s.try_exec("commit");
    let _ = s.try_exec("rollback");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    s.exec("insert into s values (3)");
    v.follows(&mut s);
}

#[test]
fn two_refreshes_at_once_take_turns() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key, n int)");
    let v = a.stream_table("v", "select sum(n) as total from s");
    a.exec("insert into s values (1, 1)");
    a.exec("begin");
    v.refresh(&mut a);
    b.exec("insert into s values (2, 10)");
    let second = b.spawn("select pgtrickle.refresh_stream_table('v')");
    db.wait_blocked(second.pid());
    a.exec("commit");
    let mut b = second.join();
    v.assert_fresh(&mut b);
    assert_eq!(b.value("select total from v"), "11");
}

#[test]
fn refresh_waits_for_a_truncate_in_flight() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key); insert into s select generate_series(1, 10)");
    let v = a.stream_table("v", "select k from s");
    a.exec("insert into s values (11)");
    a.exec("begin; truncate s; insert into s values (100)");
    b.exec("set statement_timeout = '60s'");
    let refresh = b.spawn("select pgtrickle.refresh_stream_table('v')");
    db.wait_blocked(refresh.pid());
    a.exec("commit");
    let mut b = refresh.join();
    v.assert_fresh(&mut b);
    assert_eq!(b.lines("select k from v"), ["100"]);
}

#[test]
fn refresh_waits_for_a_truncate_that_is_rolled_back() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key); insert into s select generate_series(1, 10)");
    let v = a.stream_table("v", "select k from s");
    a.exec("insert into s values (11)");
    a.exec("begin; truncate s");
    b.exec("set statement_timeout = '60s'");
    let refresh = b.spawn("select pgtrickle.refresh_stream_table('v')");
    db.wait_blocked(refresh.pid());
    a.exec("rollback");
    let mut b = refresh.join();
    v.assert_fresh(&mut b);
    v.assert_mode(&mut b, "DIFFERENTIAL");
    assert_eq!(b.value("select count(*) from v"), "11");
}

#[test]
fn refresh_does_not_wait_for_writers_nor_they_for_it() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key); insert into s values (1)");
    let v = a.stream_table("v", "select k from s");
    b.exec("begin; update s set k = 2");
    a.exec("set lock_timeout = '5s'; insert into s values (3)");
    a.exec("begin");
    v.refresh(&mut a);
    b.exec("set lock_timeout = '5s'; insert into s values (4); commit");
    a.exec("commit");
    v.follows(&mut a);
}

#[test]
fn repeatable_read_reader_keeps_the_old_contents_during_a_full_refresh() {
    let db = database();
    let (mut reader, mut s) = (db.connect(), db.connect());
    s.exec("create table s (k int primary key); insert into s select generate_series(1, 100)");
    let v = s.stream_table_with(
        "v",
        "select k, k % 7 as m from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    reader.exec("begin isolation level repeatable read");
    assert_eq!(reader.value("select count(*) from v"), "100");
    s.exec("update s set k = k + 1000");
    v.refresh(&mut s);
    v.assert_mode(&mut s, "FULL");
    assert_eq!(reader.lines("select count(*), max(k) from v"), ["100|100"]);
    reader.exec("commit");
    assert_eq!(reader.lines("select count(*), max(k) from v"), ["100|1100"]);
    v.assert_fresh(&mut s);
}

#[test]
fn nobody_ever_sees_an_empty_stream_table() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int); insert into s select i, i % 3 from generate_series(1, 500) i");
    s.stream_table_with(
        "f",
        "select k, g from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    s.stream_table("d", "select g, count(*) as n from s group by g");
    let work = "do $$ begin
        for i in 1..60 loop
            update s set k = k + 1000; commit;
            perform pgtrickle.refresh_stream_table('f'); commit;
            perform pgtrickle.refresh_stream_table('d'); commit;
        end loop; end $$";
    let running = db.connect().spawn(work);
    let mut reads = 0;
    while !running.is_finished() {
        assert_eq!(
            s.lines("select (select count(*) from f), (select sum(n) from d)"),
            ["500|500"]
        );
        reads += 1;
    }
    running.join();
    assert!(reads > 0);
}

/// The frontier is stored with the rows it explains: a reader of both sees them agree.
#[test]
fn contents_and_frontier_change_together() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key)");
    let v = a.stream_table("v", "select k from s");
    a.exec("insert into s values (1)");
    let before = b.value(
        "select frontier_base from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state where pgt_relid = 'v'::regclass",
    );
    a.exec("begin");
    v.refresh(&mut a);
    let during = b.lines("select frontier_base, (select count(*) from v) from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state where pgt_relid = 'v'::regclass");
    assert_eq!(during, [format!("{before}|0")]);
    a.exec("commit");
    let after = b.value(
        "select frontier_base from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state where pgt_relid = 'v'::regclass",
    );
    assert_ne!(after, before);
    assert_eq!(b.value("select count(*) from v"), "1");
}

#[test]
fn open_cursor_over_a_stream_table_survives_a_refresh() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key); insert into s select generate_series(1, 100)");
    let v = a.stream_table("v", "select k from s");
    b.exec("begin; declare c cursor for select k from v order by k");
    assert_eq!(b.lines("fetch 2 from c"), ["1", "2"]);
    a.exec("delete from s where k > 1");
    v.refresh(&mut a);
    assert_eq!(b.rows("fetch all from c").len(), 98);
    b.exec("commit");
    v.assert_fresh(&mut a);
}

#[test]
fn several_writers_several_stream_tables_refreshed_at_random() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k bigserial primary key, g int, n int)");
    let tables = [
        s.stream_table("t1", "select g, count(*) as c, sum(n) as total, min(n) as low, max(n) as high from s group by g"),
        s.stream_table("t2", "select k, n from s where n % 2 = 0"),
        s.stream_table("t3", "select distinct g, n % 10 as d from s"),
        s.stream_table("t4", "select a.k as ak, b.k as bk from s a join s b on a.g = b.g and a.n = b.n"),
    ];
    let work = |seed: i32| {
        format!(
            "do $$ begin perform setseed(0.{seed}); for i in 1..120 loop
                insert into s(g, n) select (random() * 8)::int, (random() * 50)::int from generate_series(1, 3);
                update s set n = n + 1 where k = (select max(k) - (random() * 10)::int from s);
                begin update s set g = (random() * 8)::int where k = (select min(k) from s); if random() < 0.3 then perform 1 / 0; end if;
                exception when division_by_zero then null; end;
                delete from s where k in (select k from s order by random() limit 1);
                commit; end loop; end $$"
        )
    };
    let writers: Vec<_> = (1..=3).map(|i| db.connect().spawn(&work(i))).collect();
    let mut i = 0;
    while writers.iter().any(|w| !w.is_finished()) {
        let v = &tables[i % tables.len()];
        // The server is told to compare after every refresh, at the refresh's own snapshot.
        v.refresh(&mut s);
        i += 1;
    }
    for writer in writers {
        let _ = writer.finish();
    }
    for v in &tables {
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
    }
}

/// How rows are found again changes while a refresh waits for the table.
#[test]
fn key_comes_and_goes_while_a_refresh_waits() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int not null, n int); insert into s values (1, 10), (1, 20), (2, 5)");
    let tables = [
        ("v", "select k, n from s"),
        ("g", "select k, sum(n) as t from s group by k"),
        (
            "j",
            "select a.k, b.n from s a left join s b on a.k = b.k and b.n > 5",
        ),
    ]
    .map(|(name, query)| s.stream_table(name, query));
    for (ddl, after) in [
        (
            "delete from s where n = 20; alter table s add primary key (k)",
            "insert into s values (3, 3); update s set n = n + 1 where k = 1",
        ),
        (
            "alter table s drop constraint s_pkey; insert into s values (1, 99), (1, 99)",
            "delete from s where n = 99 and ctid = (select min(ctid) from s where n = 99)",
        ),
    ] {
        let contents = |s: &mut Session| s.lines("select k, n from v order by 1, 2");
        let before = contents(&mut s);
        s.exec(&format!("begin; {ddl}"));
        let waiting = tables.each_ref().map(|table| {
            let running = db.connect().spawn(&format!(
                "select pgtrickle.refresh_stream_table('{}')",
                table.name()
            ));
            db.wait_blocked(running.pid());
            running
        });
        s.exec("commit");
        let mut done = Vec::new();
        for refresh in waiting {
            match refresh.finish().1 {
                Ok(_) => done.push(true),
                Err(refused) => {
                    assert_eq!(refused.code, "55000", "{refused}");
                    done.push(false);
                }
            }
        }
        for (table, done) in tables.iter().zip(&done) {
            if *done {
                table.assert_equal(&mut s);
            }
        }
        if !done[0] {
            assert_eq!(contents(&mut s), before);
        }
        for table in &tables {
            table.follows_somehow(&mut s);
        }
        s.exec(after);
        for table in &tables {
            table.follows(&mut s);
        }
    }
}

/// What is logged for a new query begins after the snapshot of the transaction that alters it.
#[test]
fn query_is_altered_under_an_old_snapshot() {
    let db = database();
    let (mut s, mut other) = (db.connect(), db.connect());
    s.exec("create table s (k int primary key, n int, m int); insert into s values (1, 1, 1)");
    let query = |column: &str| format!("select k, {column} as x from s");
    s.stream_table("v", &query("n"));
    for (column, level) in [("m", "repeatable read"), ("m + n", "serializable")] {
        s.exec(&format!(
            "begin isolation level {level}; select count(*) from s"
        ));
        other.exec("insert into s select max(k) + 1, 2, 2 from s");
        s.exec(&format!(
            "select pgtrickle.alter_stream_table('v', query => {}); commit",
            pgt_tests::quote(&query(column))
        ));
        let v = StreamTable::new("v", &query(column));
        v.follows_somehow(&mut s);
        other.exec(
            "update s set m = m + 1 where k = 1; insert into s select max(k) + 1, 3, 3 from s",
        );
        v.follows(&mut s);
    }
}
