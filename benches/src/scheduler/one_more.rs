//! One more definition where there are many already.

use pgt_tests::Session;

use super::database::{self, creation};
use super::statistics::Statistics;
use crate::sample::{Sample, timed};

/// Milliseconds that a change of definitions takes when there are many already.
#[derive(Default)]
pub struct OneMore {
    /// A stream table over a table.
    pub create: Sample,
    /// A stream table over a stream table.
    pub create_above: Sample,
    pub drop: Sample,
    /// A table that nothing is made of.
    pub drop_unrelated: Sample,
    /// What the scheduler needs to read one changed definition.
    pub reading: Sample,
}

/// Creates and drops one more, a few times.
pub fn one_more(session: &mut Session) -> OneMore {
    let mut times = OneMore::default();
    for _ in 0..3 {
        let mut run = |sql: &str| timed(|| session.exec(sql)).0;
        times.create.push_ms(run(&creation(
            "more",
            "select k, n from src_0 where n > 50",
            "",
        )));
        times.create_above.push_ms(run(&creation(
            "above",
            "select k, n from s_0 where n > 50",
            "",
        )));
        times
            .drop
            .push_ms(run("select pgtrickle.drop_stream_table('above')"));
        times
            .drop
            .push_ms(run("select pgtrickle.drop_stream_table('more')"));
        run("create table unrelated (k int)");
        times.drop_unrelated.push_ms(run("drop table unrelated"));
        database::until_quiet(session);
        let before = Statistics::read(session);
        session.exec("select pgtrickle.alter_stream_table('s_1', schedule => '1s')");
        database::until_quiet(session);
        let reading = Statistics::read(session).since(&before).reading_us;
        times.reading.push(reading / 1000.0);
    }
    times
}
