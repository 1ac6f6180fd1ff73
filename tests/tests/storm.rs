//! Definitions change at random between and beside changes of rows: `PGT_STORM_SEED=17` for one seed, `PGT_STORM_SEED=17..`
//! with `PGT_STORM_SECONDS` for those from it on.

use pgt_tests::{Database, Running, Session, StreamTable, database};
use std::env;
use std::time::{Duration, Instant};

/// Numbers that look random and are always the same for a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.roll(list.len())]
    }
}

const SCHEMA: &str = "
    create table top (k int not null, n int, x text);
    create table s (v int generated always as (n + 1), primary key (k)) inherits (top);
    alter table s add g int, add w int generated always as (n * 2) stored, add e numeric default 1;
    create table b (k int primary key, g int, x int);
    create table p (k int, g int, x text) partition by range (k);
    create table p1 partition of p for values from (0) to (50);
    create table p2 (x text, gone int, g int, k int); alter table p2 drop gone; alter table p attach partition p2 for values from (50) to (100);
    create table p3 partition of p default;
    create function f(int) returns int language sql immutable as 'select $1 % 7';
    insert into s (k, n, x, g) select i, i % 5, 'x' || i, i % 3 from generate_series(1, 30) i;
    insert into b select i, i % 4, i from generate_series(1, 20) i;
    insert into p select i, i % 6, i from generate_series(1, 120, 4) i";

const QUERIES: [&str; 12] = [
    "select k, n from s",
    "select k, n, g, e from s where n > 1",
    "select g, sum(n) as t, count(*) as c from s group by g",
    "select k, v, w from s",
    "select s.k, b.k as bk, s.n from s join b on s.g = b.g",
    "select s.k, b.k as bk from s left join b on s.n = b.k",
    "select k, g from p",
    "select g, count(*) as c, max(k) as m from p group by g",
    "select p.k, s.n from p join s on s.k = p.g",
    "select k, f(n) as f from s",
    "select k from b where k not in (select g from p where g is not null)",
    "select t, count(*) as c from (select g, sum(n) as t from s group by g) x group by t",
];

const ROWS: [&str; 14] = [
    "insert into s (k, n, g) select max(k) + 1, max(k) % 7, max(k) % 3 from s",
    "update s set n = n + 1 where k % 4 = #",
    "update s set g = (g + 1) % 4 where k % 5 = #",
    "delete from s where k % 11 = #",
    "update top set n = coalesce(n, 0) - 1 where k % 6 = #",
    "insert into b select max(k) + 1, #, # from b",
    "update b set g = g + 1 where k % 3 = #",
    "delete from b where k % 7 = #",
    "insert into p (k, g) select k + 3, # from p where k % 9 = #",
    "update p set k = k + 45 where k % 8 = #",
    "delete from p where k % 10 = #",
    "insert into p1 (k, g) values (#, #); update p2 set g = # where k % 3 = #",
    "truncate b; insert into b select i, i % 4, i from generate_series(#, 20) i",
    "begin; savepoint a; update s set n = n + 100; rollback to a; update s set n = # where k < 4; commit",
];

const SHAPES: [&str; 40] = [
    "alter table s add y# int default 1",
    "alter table s drop y#",
    "alter table s alter y# type text using y#::text || 'a'",
    "alter table s alter y# type int using length(y#::text)",
    "alter table top add z# text default 'z'",
    "alter table top drop z#",
    "alter table top alter z# type int using length(z#)",
    "alter table top alter x type bigint using length(x::text)",
    "alter table top alter x type text using x::text",
    "alter table s alter w set expression as (n * #)",
    "alter table s alter v set expression as (n + #)",
    "alter table s alter g set not null",
    "alter table s alter g drop not null",
    "create unique index s_g on s (k, g)",
    "drop index s_g",
    "create index on s (g)",
    "alter table s drop constraint s_pkey",
    "alter table s add primary key (k)",
    "alter table s rename y# to y1",
    "alter table b drop constraint b_pkey",
    "alter table b add primary key (k)",
    "alter table b alter x type text using x::text",
    "alter table b alter x type int using length(x::text)",
    "alter table b drop x",
    "alter table b add x int default #",
    "alter table b set unlogged",
    "alter table b set logged",
    "alter table p drop x",
    "alter table p add x text default 'p'",
    "alter table p detach partition p1",
    "alter table p attach partition p1 for values from (0) to (50)",
    "alter table p detach partition p2",
    "alter table p attach partition p2 for values from (50) to (100)",
    "alter table p1 disable trigger all",
    "alter table s disable trigger all",
    "create or replace function f(int) returns int language sql immutable as 'select $1 % #'",
    "vacuum full s",
    "cluster p1 using p1_k_idx",
    "create index on p (k)",
    "select pgtrickle.rotate_change_buffer('s'), pgtrickle.rotate_change_buffer('p')",
];

struct Storm<'d> {
    dice: Dice,
    session: Session,
    tables: Vec<StreamTable>,
    made: usize,
    said: Vec<String>,
    db: &'d Database<'d>,
}

impl Storm<'_> {
    fn say(&mut self, sql: &str) -> bool {
        let mut parts = sql.split('#');
        let mut text = parts.next().unwrap_or_default().to_string();
        for part in parts {
            text += &(self.dice.roll(4) + 1).to_string();
            text += part;
        }
        let done = self.session.try_exec(&text).is_ok();
        if !done {
            let _ = self.session.try_exec("rollback");
        }
        self.said
            .push(format!("{}{text};", if done { "" } else { "-- refused: " }));
        done
    }

    fn define(&mut self) {
        if self.tables.len() >= 7 {
            let gone = self.tables.remove(self.dice.roll(self.tables.len()));
            self.say(&format!(
                "select pgtrickle.drop_stream_table('{}')",
                gone.name()
            ));
        }
        let query = self.dice.pick(&QUERIES);
        let mode = self.dice.pick(&["AUTO", "DIFFERENTIAL", "FULL"]);
        self.made += 1;
        let name = format!("v{}", self.made);
        if self.say(&format!(
            "select pgtrickle.create_stream_table('{name}', '{query}', schedule => '1d', refresh_mode => '{mode}')"
        )) {
            self.tables.push(StreamTable::new(&name, query));
        }
    }

    fn check(&mut self) {
        for table in self.tables.clone() {
            let name = table.name().to_string();
            let refreshed = self.say(&format!("select pgtrickle.refresh_stream_table('{name}')"));
            let verdict = self
                .session
                .try_rows(&format!(
                    "select ok::text from pgtrickle.verify_stream_table('{name}')"
                ))
                .map_err(|problem| problem.to_string())
                .and_then(|rows| {
                    let found = table
                        .try_difference(&mut self.session, false)
                        .map_err(|problem| problem.to_string())?;
                    let ok = rows.first().and_then(|row| row[0].clone());
                    Ok((ok == Some("true".into()) && found.is_empty(), found))
                });
            assert!(
                refreshed && verdict.as_ref().is_ok_and(|(right, _)| *right),
                "{name} ({}) is wrong: {verdict:?}\n{}",
                table.query(),
                self.said.join("\n")
            );
        }
    }

    fn rage(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.dice.roll(10) {
                0 => self.define(),
                1..=4 => {
                    let rows = self.dice.pick(&ROWS);
                    self.say(rows);
                }
                5..=7 => {
                    let shape = self.dice.pick(&SHAPES);
                    self.say(shape);
                }
                8 => {
                    if !self.tables.is_empty() {
                        let name = self.tables[self.dice.roll(self.tables.len())]
                            .name()
                            .to_string();
                        let other = self.dice.roll(2) == 0;
                        let sql = format!("select pgtrickle.refresh_stream_table('{name}')");
                        if other {
                            // What it knows is from before.
                            let _ = self.db.connect().try_exec(&sql);
                        } else {
                            self.say(&sql);
                        }
                    }
                }
                _ => self.check(),
            }
        }
        self.check();
    }
}

fn seeds() -> (u64, bool) {
    match env::var("PGT_STORM_SEED") {
        Err(_) => (1, false),
        Ok(text) => match text.strip_suffix("..") {
            Some(first) => (first.parse().expect("a seed"), false),
            None => (text.parse().expect("a seed"), true),
        },
    }
}

#[test]
fn definitions_change_at_random() {
    let (mut seed, only) = seeds();
    let seconds = env::var("PGT_STORM_SECONDS").map_or(20, |text| text.parse().expect("seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        println!("seed {seed}");
        let db = database();
        let mut session = db.connect();
        session.exec(SCHEMA);
        let mut storm = Storm {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            session,
            tables: Vec::new(),
            made: 0,
            said: Vec::new(),
            db: &db,
        };
        for _ in 0..4 {
            storm.define();
        }
        storm.rage(60);
        seed += 1;
        if only || Instant::now() > end {
            return;
        }
    }
}

/// A session that carries out random statements of `list`, each in a transaction of its own, whatever becomes of it.
fn loose(db: &Database<'_>, dice: &mut Dice, list: &[&str], rounds: usize) -> Running {
    let mut body = String::new();
    for _ in 0..rounds {
        let text = dice
            .pick(list)
            .replace("select pgtrickle", "perform pgtrickle")
            .replace('#', &(dice.roll(4) + 1).to_string());
        body += &format!(
            "begin {text}; exception when others then null; end; commit; perform pg_sleep(0.003);"
        );
    }
    let mut session = db.connect();
    session.exec("set lock_timeout = '3s'");
    session.spawn(&format!("do $body$ begin {body} end $body$"))
}

#[test]
fn definitions_change_beside_writers_and_refreshes() {
    let (mut seed, only) = seeds();
    let seconds = env::var("PGT_STORM_SECONDS").map_or(20, |text| text.parse().expect("seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let rows: Vec<&str> = ROWS
        .into_iter()
        .filter(|text| !text.starts_with("begin"))
        .collect();
    let shapes: Vec<&str> = SHAPES
        .into_iter()
        .filter(|text| !text.starts_with("vacuum") && !text.starts_with("cluster"))
        .collect();
    loop {
        println!("seed {seed}");
        let db = database();
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555);
        let mut s = db.connect();
        s.exec(SCHEMA);
        let mut tables = Vec::new();
        for number in 1..=6 {
            let query = dice.pick(&QUERIES);
            let schedule = dice.pick(&["100ms", "1d"]);
            let arguments = format!("schedule => '{schedule}', refresh_mode => 'AUTO'");
            tables.push(s.stream_table_with(&format!("v{number}"), query, &arguments));
        }
        tables.push(s.stream_table_with(
            "over",
            "select count(*) as c, (select count(*) from v2) as d from v1",
            "schedule => '100ms', diamond_consistency => 'atomic'",
        ));
        let refreshes: Vec<String> = tables
            .iter()
            .map(|table| format!("perform pgtrickle.refresh_stream_table('{}')", table.name()))
            .collect();
        let refreshes: Vec<&str> = refreshes.iter().map(String::as_str).collect();
        let running = [
            loose(&db, &mut dice, &rows, 150),
            loose(&db, &mut dice, &rows, 150),
            loose(&db, &mut dice, &refreshes, 60),
            loose(&db, &mut dice, &shapes, 60),
        ];
        for each in running {
            each.join();
        }
        for table in &tables {
            for _ in 0..2 {
                let _ = s.try_exec(&format!(
                    "select pgtrickle.resume_stream_table('{}')",
                    table.name()
                ));
            }
            table.refresh(&mut s);
            table.assert_fresh(&mut s);
        }
        assert_eq!(
            s.lines(
                "select distinct error_sqlstate || ' ' || error_message from pgtrickle.pgt_refresh_history
                 where error_sqlstate like 'XX%' or action = 'REINITIALIZE' and reason = 'stored rows did not match the delta'"
            ),
            [""; 0],
            "seed {seed}: {tables:?}"
        );
        seed += 1;
        if only || Instant::now() > end {
            return;
        }
    }
}
