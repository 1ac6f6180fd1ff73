//! A connection pooler that hands out connections by transaction: every session may be another backend each time.

use pgt_tests::{Pooler, Server, StreamTable, database};

#[test]
fn every_statement_may_come_from_another_backend() {
    let db = database();
    let pooler = Pooler::start(Server::shared(), 3);
    let mut clients: Vec<_> = (0..6).map(|_| pooler.connect(db.name())).collect();
    let mut turn = 0;
    let mut next = |sql: &str| {
        turn += 1;
        let client = &mut clients[turn % 6];
        client
            .try_rows(sql)
            .unwrap_or_else(|e| panic!("{e}\nin: {sql}"))
    };
    next(
        "create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 30) i",
    );
    next(
        "select pgtrickle.create_stream_table('b', 'select g, sum(n) as total from public.s group by g', schedule => '1d')",
    );
    next(
        "select pgtrickle.create_stream_table('c', 'select g, count(*) as c from public.s group by g', schedule => '1d')",
    );
    next(
        "select pgtrickle.create_stream_table('d', 'select g, total, c from public.b join public.c using (g)', schedule => '1d', diamond_consistency => 'atomic')",
    );
    for round in 0..20 {
        next(&format!(
            "insert into s values ({}, {}, 1)",
            100 + round,
            round % 3
        ));
        next("select pgtrickle.refresh_stream_table('b')");
        let rows = next(
            "select sum(total) = (select sum(n) from s) and sum(c) = (select count(*) from s) from d",
        );
        assert_eq!(rows[0][0].as_deref(), Some("t"), "round {round}");
        if round % 5 == 4 {
            next(&format!(
                "select pgtrickle.alter_stream_table('c', query => 'select g, count(*) + 0 * {round} as c from public.s group by g')"
            ));
        }
    }
    for call in [
        "select * from pgtrickle.pgt_status()",
        "select * from pgtrickle.diamond_groups()",
        "select * from pgtrickle.verify_stream_table('d')",
        "select pgtrickle.explain_stream_table('d', 'plan')",
        "select * from pgtrickle.explain_delta('b')",
        "select * from pgtrickle.health_check()",
        "select * from pgtrickle.cache_stats()",
        "select pgtrickle.export_definition('d')",
        "begin; select pgtrickle.pause_stream_table('c'); rollback",
        "select pgtrickle.gate_source('s'), pgtrickle.ungate_source('s')",
        "select pgtrickle.drop_stream_table('b', cascade => true)",
    ] {
        next(call);
    }
    let c = StreamTable::new("c", "select g, count(*) + 0 * 19 as c from s group by g");
    c.assert_fresh(&mut db.connect());
}
