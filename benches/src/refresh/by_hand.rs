//! Keeping a result by hand: one prepared statement that reads a change table from a position on.
//!
//! It gets every help there is. Each equivalent statement is prepared in each form a careful author might try, the forms
//! race on real changes, and the fastest one is what pg_trickle is compared with.

use std::time::Duration;

use pgt_tests::{Server, Session};
use postgres::Statement;

use super::shapes::Shape;
use crate::sample::{Sample, timed};
use crate::server::without_waiting_for_disk;

/// How the change table is read. The bound that is not needed, or the limit, tells the planner that changes are few.
const READS: [&str; 2] = [
    "(select * from change_table where pos > $1 and pos <= $2)",
    "(select * from change_table where pos > $1 and pos <= $2 order by pos limit {limit})",
];

/// Planner settings of the sessions that race.
const PLANNERS: [&str; 2] = ["set random_page_cost = 4", "set random_page_cost = 1.1"];

/// The statements that keep one result by hand, and how far it has come.
pub struct ByHand {
    candidates: Vec<Candidate>,
    position: i64,
    /// The fastest candidate, once the race is over.
    chosen: Option<usize>,
}

struct Candidate {
    session: usize,
    /// The position is the caller's to remember.
    bare: Statement,
    /// The position is advanced by the same statement.
    durable: Statement,
    times: Sample,
}

/// What the statement includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Bare,
    Durable,
}

/// Sessions for statements by hand, one for each setting of the planner.
pub fn sessions(server: &Server, database: &str) -> Vec<Session> {
    PLANNERS
        .iter()
        .map(|planner| {
            let mut session = server.connect(database);
            without_waiting_for_disk(&mut session);
            session.exec("set plan_cache_mode = force_generic_plan; set jit = off");
            session.exec(planner);
            session
        })
        .collect()
}

/// Makes the tables kept by hand and the table of their positions.
pub fn create(session: &mut Session, shapes: &[Shape]) {
    session.exec("create table hand_position (name text primary key, pos bigint not null)");
    for Shape {
        name, key, by_hand, ..
    } in shapes
    {
        session.exec(&format!(
            "create table h_{name} as {by_hand}; alter table h_{name} add primary key ({key});
             insert into hand_position values ('{name}', 0)"
        ));
    }
}

impl ByHand {
    /// Prepares every form of the statement for up to `rows` changed rows, for changes from `position` on.
    pub fn prepare(shape: &Shape, rows: i64, position: i64, sessions: &mut [Session]) -> Self {
        let limit = (rows * 10).to_string();
        let mut candidates = Vec::new();
        for (number, session) in sessions.iter_mut().enumerate() {
            for read in READS {
                for text in shape.statements {
                    let text = text.replace("{changes}", &read.replace("{limit}", &limit));
                    let durable = format!(
                        "with p as (update hand_position set pos = $2 where name = '{}'), {text}",
                        shape.name
                    );
                    candidates.push(Candidate {
                        session: number,
                        bare: prepare(session, &format!("with {text}")),
                        durable: prepare(session, &durable),
                        times: Sample::default(),
                    });
                }
            }
        }
        Self {
            candidates,
            position,
            chosen: None,
        }
    }

    /// Runs needed before every form has been tried `times` times.
    pub fn race_length(&self, times: usize) -> usize {
        self.candidates.len() * times
    }

    /// Carries the changes up to `last` into the table with form `turn` (of however many there are).
    pub fn race(&mut self, turn: usize, last: i64, sessions: &mut [Session]) {
        let number = turn % self.candidates.len();
        let candidate = &mut self.candidates[number];
        let session = &mut sessions[candidate.session];
        let time = run(session, &candidate.bare, self.position, last);
        self.position = last;
        // The first run of a form makes its plan.
        if turn >= self.candidates.len() {
            self.candidates[number].times.push_ms(time);
        }
        let median = |candidate: &Candidate| candidate.times.median();
        let numbers = 0..self.candidates.len();
        self.chosen = numbers
            .filter(|number| self.candidates[*number].times.count() > 0)
            .min_by(|a, b| median(&self.candidates[*a]).total_cmp(&median(&self.candidates[*b])));
    }

    /// Carries the changes up to `last` into the table in the fastest form.
    pub fn refresh(&mut self, scope: Scope, last: i64, sessions: &mut [Session]) -> Duration {
        let candidate = &self.candidates[self.chosen.expect("a race before measuring")];
        let statement = match scope {
            Scope::Bare => &candidate.bare,
            Scope::Durable => &candidate.durable,
        };
        let time = run(
            &mut sessions[candidate.session],
            statement,
            self.position,
            last,
        );
        self.position = last;
        time
    }
}

fn prepare(session: &mut Session, text: &str) -> Statement {
    session
        .client()
        .prepare(text)
        .unwrap_or_else(|e| panic!("{e}\nin: {text}"))
}

fn run(session: &mut Session, statement: &Statement, from: i64, to: i64) -> Duration {
    let (time, result) = timed(|| session.client().execute(statement, &[&from, &to]));
    result.expect("statement by hand");
    time
}
