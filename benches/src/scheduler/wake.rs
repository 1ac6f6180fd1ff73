//! From a commit to the last of many stream tables that read what it changed, and the wake-ups in between.

use std::time::Duration;

use pgt_tests::Session;

use super::database;
use super::many::{create_sources, create_streams, source, stream, until_known};
use super::statistics::Statistics;
use crate::options::Options;
use crate::report::{Section, number};
use crate::sample::Sample;

/// Dependents of one source.
const DEPENDENTS: usize = 1000;

/// Wake-ups while some of the stream tables are dirty, until they are not.
pub struct Wake {
    pub dirty: usize,
    /// From the commit to the last of them, in milliseconds.
    pub lag: Sample,
    /// The same in the first round, in which the workers compile.
    pub first_lag: f64,
    pub wakeups: Sample,
    pub mean_ms: Sample,
    pub busy_ms: Sample,
}

/// Inserts a row into the first `touched` sources in one transaction, again and again.
pub fn wake_ups(
    session: &mut Session,
    sources: usize,
    touched: usize,
    count: usize,
    (warm_up, rounds): (usize, usize),
) -> Wake {
    let readers: Vec<String> = (0..count)
        .filter(|number| number % sources < touched)
        .map(|number| format!("s_{number}"))
        .collect();
    let mut wake = Wake {
        dirty: readers.len(),
        lag: Sample::default(),
        first_lag: f64::NAN,
        wakeups: Sample::default(),
        mean_ms: Sample::default(),
        busy_ms: Sample::default(),
    };
    eprintln!("scheduler: {} of {count} dirty ..", readers.len());
    for round in 0..warm_up + rounds {
        let before = Statistics::read(session);
        let k = touch(session, touched);
        database::until_quiet(session);
        let during = Statistics::read(session).since(&before);
        let lag = database::wait_lag_ms(session, "src_0", &readers, k, Duration::from_millis(5));
        if round == 0 {
            wake.first_lag = lag;
        }
        if round >= warm_up {
            wake.lag.push(lag);
            wake.wakeups.push(during.wakeups);
            wake.mean_ms.push(during.mean_ms());
            wake.busy_ms.push(during.busy_us / 1000.0);
        }
    }
    wake
}

/// One more row in each of these sources; its key.
pub fn touch(session: &mut Session, touched: usize) -> i64 {
    let k = session.number("select max(k) + 1 from src_0");
    let inserts: Vec<String> = (0..touched)
        .map(|number| format!("insert into {} values ({k}, 1000000)", source(number)))
        .collect();
    // Texts of many statements are one transaction.
    session.exec(&inserts.join(";"));
    k
}

/// One change, many readers of its table.
pub fn fan_out(options: &Options, section: &mut Section) {
    let count = options.amount(DEPENDENTS, 100);
    let (warm_up, rounds) = (options.amount(15, 2), options.amount(10, 3));
    let server = database::start();
    let mut session = database::create(&server, "many");
    create_sources(&mut session, 1);
    session.exec(&stream(0, 1));
    create_streams(&server, count, 1);
    until_known(&mut session, count);
    session.exec("vacuum analyze");
    let wake = wake_ups(&mut session, 1, 1, count, (warm_up, rounds));
    section.text(format!(
        "One row inserted into one table of which {count} stream tables are dependents: after {:.0} ms (median of {rounds}; largest
{:.0} ms, the first time, when workers compile, {:.0} ms) the last of them has been refreshed, with {:.0} wake-ups of {} ms.",
        wake.lag.median(),
        wake.lag.largest(),
        wake.first_lag,
        wake.wakeups.median(),
        number(wake.mean_ms.median()),
    ));
}
