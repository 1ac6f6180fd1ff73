//! Random changes: the statements of transactions of several sessions, mixed.

use super::case::Event;
use super::schema::Table;
use fastrand::Rng;

/// Makes transactions over the tables.
pub struct Changes<'a> {
    pub tables: &'a [Table],
    pub rng: &'a mut Rng,
    /// Key values that nobody has used yet.
    pub fresh: i32,
    pub prepared: usize,
    /// What the statements do for the time being.
    pub tide: Tide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tide {
    /// Anything.
    Both,
    /// Rows come.
    In,
    /// Rows go.
    Out,
}

impl Changes<'_> {
    /// The first rows of a table.
    pub fn fill(&mut self, table: &Table) -> String {
        self.insert(table, 25)
    }

    /// Statements of one transaction, from begin to end.
    pub fn transaction(&mut self) -> Vec<String> {
        if self.rng.u8(..3) == 0 {
            return vec![self.statement()];
        }
        let level = [
            "read committed",
            "read committed",
            "repeatable read",
            "serializable",
        ][self.rng.usize(..4)];
        let mut steps = vec![format!("begin isolation level {level}")];
        for _ in 0..self.rng.usize(1..5) {
            self.step(&mut steps, 2);
        }
        match self.rng.u8(..10) {
            0 | 1 => steps.push("rollback".into()),
            2 => {
                self.prepared += 1;
                let gid = format!("$db_g{}", self.prepared);
                let end = if self.rng.u8(..3) == 0 {
                    "rollback"
                } else {
                    "commit"
                };
                steps.push(format!("prepare transaction '{gid}'"));
                steps.push(format!("{end} prepared '{gid}'"));
            }
            _ => steps.push("commit".into()),
        }
        steps
    }

    fn step(&mut self, steps: &mut Vec<String>, depth: usize) {
        if depth == 0 || self.rng.u8(..4) > 0 {
            return steps.push(self.statement());
        }
        steps.push(format!("savepoint s{depth}"));
        for _ in 0..self.rng.usize(1..3) {
            self.step(steps, depth - 1);
        }
        let end = if self.rng.bool() {
            "rollback to"
        } else {
            "release"
        };
        steps.push(format!("{end} s{depth}"));
    }

    fn statement(&mut self) -> String {
        let tables = self.tables;
        let table = &tables[self.rng.usize(..tables.len())];
        let rows = self.rng.usize(1..5);
        let what = match self.tide {
            Tide::Both => self.rng.u8(..24),
            Tide::In => 0,
            Tide::Out => 13,
        };
        match what {
            0..=6 => self.insert(table, rows),
            7..=10 => self.update(table),
            11 => self.key_change(table),
            12 => format!(
                "update {} set {} where {}",
                table.name,
                self.same(table),
                self.some_rows(table)
            ),
            13..=16 => format!(
                "delete from {} where {}",
                table.target(self.rng),
                self.some_rows(table)
            ),
            // Away and back again within one statement list.
            17 => {
                let rows = self.some_rows(table);
                format!(
                    "with d as (delete from {0} where {rows} returning *) select * from d; {1}",
                    table.name,
                    self.insert(table, 2)
                )
            }
            18 => format!(
                "insert into {0} select * from {0} where {1} limit 5{2}",
                table.name,
                self.some_rows(table),
                nothing_on_conflict(table)
            ),
            19 if self.rng.u8(..4) == 0 => format!("delete from {}", table.name),
            19 | 20 if self.rng.u8(..4) == 0 => format!("truncate {}", table.target(self.rng)),
            21 => self.upsert(table),
            _ => self.update(table),
        }
    }

    fn insert(&mut self, table: &Table, rows: usize) -> String {
        let mut values: Vec<String> = (0..rows).map(|_| table.row(self.rng)).collect();
        if table.key == 0 && self.rng.bool() {
            let twin = values[0].clone();
            values.push(twin);
        }
        format!(
            "insert into {} values {}{}",
            table.room(self.rng),
            values.join(", "),
            nothing_on_conflict(table)
        )
    }

    fn upsert(&mut self, table: &Table) -> String {
        if table.key == 0 {
            return self.insert(table, 2);
        }
        let key: Vec<&str> = table.columns[..table.key]
            .iter()
            .map(|c| c.name.as_str())
            .collect();
        let i = self.rng.usize(table.key..table.columns.len());
        let column = &table.columns[i].name;
        format!(
            "insert into {} values {} on conflict ({}) do update set {column} = excluded.{column}",
            table.name,
            table.row(self.rng),
            key.join(", ")
        )
    }

    fn update(&mut self, table: &Table) -> String {
        let mut sets = Vec::new();
        for i in table.key..table.columns.len() {
            if sets.is_empty() && i == table.columns.len() - 1 || self.rng.u8(..3) == 0 {
                sets.push(format!(
                    "{} = {}",
                    table.columns[i].name,
                    table.value(i, self.rng)
                ));
            }
        }
        format!(
            "update {} set {} where {}",
            // A row that has to leave its partition can only be updated through the root.
            if table.key > 0 {
                table.target(self.rng)
            } else {
                table.name.clone()
            },
            sets.join(", "),
            self.some_rows(table)
        )
    }

    fn key_change(&mut self, table: &Table) -> String {
        if table.key == 0 {
            return self.update(table);
        }
        self.fresh += 1;
        let key = &table.columns[0].name;
        let other: Vec<String> = table.columns[..table.key]
            .iter()
            .map(|c| c.name.clone())
            .collect();
        let n = self.rng.usize(..10);
        format!(
            "update {0} set {key} = {1} where ({2}) = (select {2} from {0} order by {2} offset {n} limit 1)",
            table.name,
            self.fresh,
            other.join(", ")
        )
    }

    /// An assignment of every column to itself.
    fn same(&mut self, table: &Table) -> String {
        let sets: Vec<String> = table
            .columns
            .iter()
            .map(|c| format!("{0} = {0}", c.name))
            .collect();
        sets.join(", ")
    }

    /// A condition true for few rows.
    fn some_rows(&mut self, table: &Table) -> String {
        let name = &table.name;
        match self.rng.u8(..6) {
            0 => format!(
                "ctid = (select ctid from {name} {name}_ order by {name}_::text, ctid limit 1 offset {})",
                self.rng.usize(..12)
            ),
            1 => format!(
                "ctid in (select ctid from {name} {name}_ order by {name}_::text desc, ctid limit {})",
                self.rng.usize(1..6)
            ),
            2 => "j is null".into(),
            3 if table.key > 0 => format!("k0 % 7 = {}", self.rng.u8(..7)),
            4 if table.key > 0 => format!("k0 = {}", self.rng.u8(..30)),
            _ => format!("j = {}", self.rng.i32(-2..9)),
        }
    }
}

fn nothing_on_conflict(table: &Table) -> &'static str {
    if table.key > 0 {
        " on conflict do nothing"
    } else {
        ""
    }
}

/// Transactions of several sessions, each in its own order, mixed with refreshes of `streams` stream tables
/// and rotations of the logs of `relations`.
pub fn mixed(
    sessions: Vec<Vec<String>>,
    streams: usize,
    relations: &[String],
    rng: &mut Rng,
) -> Vec<Event> {
    let mut queues: Vec<std::collections::VecDeque<String>> =
        sessions.into_iter().map(Into::into).collect();
    let mut events = Vec::new();
    while queues.iter().any(|q| !q.is_empty()) {
        let session = rng.usize(..queues.len());
        for _ in 0..rng.usize(1..4) {
            if let Some(sql) = queues[session].pop_front() {
                events.push(Event::Statement { session, sql });
            }
        }
        if rng.u8(..4) == 0 {
            events.push(Event::Refresh {
                stream: rng.usize(..streams),
            });
        }
        if rng.u8(..8) == 0 {
            events.push(Event::Rotate {
                relation: relations[rng.usize(..relations.len())].clone(),
            });
        }
    }
    events
}
