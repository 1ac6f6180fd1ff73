//! What every test ends with: a stream table equals its query, and its refresh ran as it should.

use crate::database::DEADLINE;
use crate::session::{Session, SqlError, quote};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A stream table and the query it was defined with.
#[derive(Clone, Debug)]
pub struct StreamTable {
    name: String,
    query: String,
}

impl StreamTable {
    pub fn new(name: &str, query: &str) -> Self {
        Self {
            name: name.into(),
            query: query.into(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn query(&self) -> &str {
        &self.query
    }

    #[track_caller]
    pub fn refresh(&self, session: &mut Session) {
        session.exec(&format!(
            "select pgtrickle.refresh_stream_table({})",
            quote(&self.name)
        ));
    }

    /// Refreshes, and all is well: contents equal, and the last refresh was differential.
    #[track_caller]
    pub fn follows(&self, session: &mut Session) {
        self.refresh(session);
        self.assert_fresh(session);
        self.assert_mode(session, "DIFFERENTIAL");
    }

    /// Refreshes, and the contents are right, in whatever mode.
    #[track_caller]
    pub fn follows_somehow(&self, session: &mut Session) {
        self.refresh(session);
        self.assert_fresh(session);
    }

    /// The verifier says so, and so does a comparison that shares nothing with it.
    #[track_caller]
    pub fn assert_fresh(&self, session: &mut Session) {
        self.assert_verified(session);
        self.assert_equal(session);
    }

    /// `verify_stream_table` finds no difference.
    #[track_caller]
    pub fn assert_verified(&self, session: &mut Session) {
        let sql = format!(
            "select ok, missing, surplus from pgtrickle.verify_stream_table({})",
            quote(&self.name)
        );
        let line = session.lines(&sql).join("");
        assert_eq!(
            line, "t|0|0",
            "verify_stream_table({}) says ok|missing|surplus",
            self.name
        );
    }

    /// The query's rows and the table's are the same multiset; values are equal under their type's `=`, or as texts
    /// where the type has none.
    #[track_caller]
    pub fn assert_equal(&self, session: &mut Session) {
        self.assert_none(&self.difference(session));
    }

    /// The same, but values are compared as texts, so that 1.0 is not 1.00.
    #[track_caller]
    pub fn assert_same_text(&self, session: &mut Session) {
        self.assert_none(&self.difference_as_text(session));
    }

    /// The same as [`Self::difference`] with an error where it would panic, values as texts if they have to be identical.
    pub fn try_difference(
        &self,
        session: &mut Session,
        identical: bool,
    ) -> Result<Vec<String>, SqlError> {
        let columns = self.columns(session)?;
        let mut list = Vec::new();
        for (name, oid) in columns {
            let column = quote_ident(&name);
            let typed = !identical && comparable(session, oid);
            list.push(if typed {
                column
            } else {
                format!("{column}::text")
            });
        }
        let list = list.join(", ");
        let side = |sign: &str, a: &str, b: &str| {
            format!("(select '{sign}' as side, d::text from ({a} except all {b}) d limit 10)")
        };
        let stored = format!("select {list} from {}", self.name);
        let wanted = format!("select {list} from ({}) q", self.query);
        let (surplus, missing) = (
            side("surplus", &stored, &wanted),
            side("missing", &wanted, &stored),
        );
        let rows = session.try_rows(&format!("{surplus} union all {missing}"))?;
        let text = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".into());
        Ok(rows
            .iter()
            .map(|r| r.iter().map(text).collect::<Vec<_>>().join(" "))
            .collect())
    }

    /// Some of the rows by which the contents differ from the query, each with its side.
    #[track_caller]
    pub fn difference(&self, session: &mut Session) -> Vec<String> {
        self.try_difference(session, false)
            .unwrap_or_else(|e| panic!("{e}\nin: {}", self.query))
    }

    /// The same, values compared as texts.
    #[track_caller]
    pub fn difference_as_text(&self, session: &mut Session) -> Vec<String> {
        self.try_difference(session, true)
            .unwrap_or_else(|e| panic!("{e}\nin: {}", self.query))
    }

    /// Waits until the contents equal the query without anybody asking for a refresh.
    #[track_caller]
    pub fn catches_up(&self, session: &mut Session) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let difference = self.difference(session);
            if difference.is_empty() {
                return self.assert_verified(session);
            }
            if Instant::now() > deadline {
                self.assert_none(&difference);
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The action of the last entry in the refresh history.
    #[track_caller]
    pub fn assert_mode(&self, session: &mut Session, mode: &str) {
        let (action, reason) = self.last_refresh(session);
        assert_eq!(
            action, mode,
            "action of the last refresh of {} (reason {reason:?})",
            self.name
        );
    }

    /// Action and reason of the last entry in the refresh history.
    #[track_caller]
    pub fn last_refresh(&self, session: &mut Session) -> (String, Option<String>) {
        let sql = format!(
            "select action, reason from pgtrickle.get_refresh_history({}, 1)",
            quote(&self.name)
        );
        let rows = session.rows(&sql);
        assert!(
            rows.len() == 1,
            "expected one entry in the history of {}, got {rows:?}",
            self.name
        );
        (rows[0][0].clone().unwrap_or_default(), rows[0][1].clone())
    }

    #[track_caller]
    fn assert_none(&self, difference: &[String]) {
        let Self { name, query } = self;
        assert!(
            difference.is_empty(),
            "{name} differs from its query:\n  {}\n  query: {query}",
            difference.join("\n  ")
        );
    }

    /// Names and types of the query's columns.
    fn columns(&self, session: &mut Session) -> Result<Vec<(String, u32)>, SqlError> {
        let statement = session
            .client()
            .prepare(&format!("select * from ({}) q", self.query))?;
        Ok(statement
            .columns()
            .iter()
            .map(|c| (c.name().into(), c.type_().oid()))
            .collect())
    }
}

/// Whether rows with a column of this type can be compared by EXCEPT.
fn comparable(session: &mut Session, oid: u32) -> bool {
    let t = type_name(session, oid);
    session
        .try_rows(&format!("select null::{t} intersect select null::{t}"))
        .is_ok()
}

fn type_name(session: &mut Session, oid: u32) -> String {
    session.value(&format!("select format_type({oid}, null)"))
}

fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
