//! What capturing changes costs the writer: backend CPU and WAL per row, beside no trigger and a trigger in PL/pgSQL.

use pgt_tests::{Server, Session};

use crate::options::Options;
use crate::process::cpu_of;
use crate::report::{Goal, Section, number};
use crate::sample::Sample;
use crate::server::{self, without_waiting_for_disk};

/// How changes of a table are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Nothing,
    Captured,
    PlPgSql,
}

/// Transactions of one row measured together.
const BLOCK: i64 = 1000;

const VARIANTS: [Variant; 3] = [Variant::Nothing, Variant::Captured, Variant::PlPgSql];

impl Variant {
    fn table(self) -> &'static str {
        match self {
            Variant::Nothing => "t_nothing",
            Variant::Captured => "t_captured",
            Variant::PlPgSql => "t_plpgsql",
        }
    }
}

/// What is done to every row of a table, in one statement or one transaction per row.
struct Operation {
    title: &'static str,
    bulk: &'static str,
    single: &'static str,
}

/// `{table}` is the table, `{first}` and `{last}` the range of ids, `id_` the id.
const OPERATIONS: [Operation; 4] = [
    Operation {
        title: "INSERT",
        bulk:
            "insert into {table} select i, i % 1000, (i % 100000) / 100.0, i % 777, 'note ' || i, 0
            from generate_series({first}::bigint, {last}) i",
        single: "insert into {table} values (id_, 7, 7.77, 7, 'note', 0)",
    },
    Operation {
        title: "UPDATE of a used column",
        bulk: "update {table} set amount = amount + 1 where id between {first} and {last}",
        single: "update {table} set amount = amount + 1 where id = id_",
    },
    Operation {
        title: "UPDATE of an unused column",
        bulk: "update {table} set unused = unused + 1 where id between {first} and {last}",
        single: "update {table} set unused = unused + 1 where id = id_",
    },
    Operation {
        title: "DELETE",
        bulk: "delete from {table} where id between {first} and {last}",
        single: "delete from {table} where id = id_",
    },
];

/// CPU (microseconds) and WAL (bytes) per row.
#[derive(Default)]
struct Cost {
    cpu: Sample,
    wal: Sample,
}

impl Cost {
    /// What `self` costs more than `other`.
    fn beyond(&self, other: &Cost) -> (f64, f64) {
        let cpu = self.cpu.median() - other.cpu.median();
        (cpu, self.wal.median() - other.wal.median())
    }
}

/// Costs by operation, then variant.
type Costs = Vec<[Cost; 3]>;

pub fn run(options: &Options) -> Section {
    let section = Section::new("Capture");
    let amounts = Amounts {
        bulk: options.amount(200_000, 10_000) as i64,
        single: options.amount(4_000, 1_000) as i64,
    };
    let rounds = options.amount(7, 2);
    let server = server::start();
    let empty = || OPERATIONS.iter().map(|_| Default::default()).collect();
    let mut results = Results {
        bulk: empty(),
        single: empty(),
        ..Results::default()
    };
    for round in 0..rounds {
        eprintln!("capture: round {} of {rounds} ..", round + 1);
        measure(&server, &amounts, round, &mut results);
    }
    report(section, &amounts, rounds, &results)
}

struct Amounts {
    bulk: i64,
    single: i64,
}

#[derive(Default)]
struct Results {
    bulk: Costs,
    single: Costs,
    /// Writing the same log rows without and with the index on xid.
    heap: Cost,
    indexed: Cost,
    /// Bytes of a row of the log with its header, and of the logged values alone.
    stored: Sample,
    values: Sample,
    /// Log rows written by updates of the unused column.
    needless: i64,
}

/// One round in a fresh database; every table has its own session.
fn measure(server: &Server, amounts: &Amounts, round: usize, results: &mut Results) {
    let mut watcher = server.connect("postgres");
    let name = format!("capture_{round}");
    watcher.exec(&format!("create database {name}"));
    let mut watcher = server.connect(&name);
    create(&mut watcher);
    let mut sessions: Vec<Session> = VARIANTS
        .iter()
        .map(|variant| {
            let mut session = server.connect(&name);
            without_waiting_for_disk(&mut session);
            warm_up(&mut session, variant.table());
            session
        })
        .collect();
    for (number, operation) in OPERATIONS.iter().enumerate() {
        let before = log_rows(&mut watcher);
        for turn in 0..VARIANTS.len() {
            let which = (turn + round) % VARIANTS.len();
            let (session, table) = (&mut sessions[which], VARIANTS[which].table());
            let pid = session.pid();
            let cost = &mut results.bulk[number][which];
            per_row(&mut watcher, pid, amounts.bulk, cost, || {
                session.exec(&fill(operation.bulk, table, 1, amounts.bulk));
            });
        }
        one_row_each(
            &mut watcher,
            &mut sessions,
            operation,
            amounts,
            &mut results.single[number],
        );
        if operation.title == "UPDATE of an unused column" {
            results.needless += log_rows(&mut watcher) - before;
        }
        if operation.title == "INSERT" {
            measure_log_row(&mut watcher, results);
        }
    }
    copy_log(&mut watcher, &mut sessions[0], amounts, round, results);
    drop(sessions);
    drop(watcher);
    server
        .connect("postgres")
        .exec(&format!("drop database {name} with (force)"));
}

/// Transactions of one row, in blocks that alternate between the variants, so that whatever else the machine does hits all.
/// The server itself goes from one to the next: waking up for a client's message costs more than the transaction, and
/// differently each time.
fn one_row_each(
    watcher: &mut Session,
    sessions: &mut [Session],
    operation: &Operation,
    amounts: &Amounts,
    costs: &mut [Cost; 3],
) {
    let mut next = amounts.bulk + 1;
    for block in 0..(amounts.single / BLOCK) as usize {
        for turn in 0..VARIANTS.len() {
            let which = (turn + block) % VARIANTS.len();
            let session = &mut sessions[which];
            let pid = session.pid();
            let statement = fill(operation.single, VARIANTS[which].table(), 0, 0);
            let transactions = format!(
                "do $$ begin for id_ in {next}..{} loop {statement}; commit; end loop; end $$",
                next + BLOCK - 1
            );
            per_row(watcher, pid, BLOCK, &mut costs[which], || {
                session.exec(&transactions);
            });
        }
        next += BLOCK;
    }
}

fn create(session: &mut Session) {
    session.exec("create extension pg_trickle");
    for variant in VARIANTS {
        session.exec(&format!(
            "create table {} (id bigint primary key, k int not null, amount numeric(15,2) not null, n int not null,
                 note text not null, unused int not null)",
            variant.table()
        ));
    }
    session.exec(
        "create table changes (xid xid8 not null, w smallint not null, k int, amount numeric(15,2), n int);
         create index on changes (xid);
         create function remember() returns trigger language plpgsql as $$
         begin
             if tg_op = 'UPDATE' and (old.k, old.amount, old.n) is not distinct from (new.k, new.amount, new.n) then
                 return null;
             end if;
             if tg_op <> 'INSERT' then
                 insert into changes values (pg_current_xact_id(), -1, old.k, old.amount, old.n);
             end if;
             if tg_op <> 'DELETE' then
                 insert into changes values (pg_current_xact_id(), 1, new.k, new.amount, new.n);
             end if;
             return null;
         end $$;
         create trigger remember after insert or update or delete on t_plpgsql
             for each row execute function remember();",
    );
    session.stream_table(
        "s",
        "select k, count(*) as c, sum(amount) as a, sum(n) as n from t_captured group by k",
    );
}

fn fill(text: &str, table: &str, first: i64, last: i64) -> String {
    text.replace("{table}", table)
        .replace("{first}", &first.to_string())
        .replace("{last}", &last.to_string())
}

/// Every operation on ids that are used nowhere else, so that nothing is done for the first time later.
fn warm_up(session: &mut Session, table: &str) {
    for operation in OPERATIONS {
        session.exec(&fill(operation.bulk, table, -100, -1));
    }
}

/// Measures `work`, which handles `rows` rows in the backend `pid`.
fn per_row(watcher: &mut Session, pid: i32, rows: i64, cost: &mut Cost, work: impl FnOnce()) {
    let written =
        |watcher: &mut Session| watcher.number("select pg_current_wal_insert_lsn() - '0/0'");
    let before = written(watcher);
    let (cpu, ()) = cpu_of(pid, work);
    let wal = written(watcher) - before;
    cost.cpu.push(cpu * 1e6 / rows as f64);
    cost.wal.push(wal as f64 / rows as f64);
}

fn log_table(session: &mut Session) -> String {
    session.value(
        "select relid::regclass::text from pgtrickle.pgt_change_segments join pgtrickle.pgt_change_sources
         using (source, layout) where source = 't_captured'::regclass and segment = cur_segment",
    )
}

/// The size of a row of the log as it is stored, and of the logged values in it.
fn measure_log_row(session: &mut Session, results: &mut Results) {
    let log = log_table(session);
    let mut average = |what: &str| -> f64 {
        let sql = format!("select avg({what}) from (select * from {log} limit 1000) l");
        session.value(&sql).parse().expect("size of a log row")
    };
    results.stored.push(average("pg_column_size(l.*)"));
    results.values.push(average(
        "pg_column_size(a2) + pg_column_size(a3) + pg_column_size(a4)",
    ));
}

/// Rows in the whole log, whichever segments they are in.
fn log_rows(session: &mut Session) -> i64 {
    let segments = session.rows(
        "select relid::regclass::text from pgtrickle.pgt_change_segments where source = 't_captured'::regclass",
    );
    let counts = segments.iter().map(|row| {
        let segment = row[0].as_deref().unwrap_or_default();
        session.number(&format!("select count(*) from {segment}"))
    });
    counts.collect::<Vec<_>>().iter().sum()
}

/// The price of the index on xid: log rows copied into a table without and into one with the index.
fn copy_log(
    watcher: &mut Session,
    session: &mut Session,
    amounts: &Amounts,
    round: usize,
    results: &mut Results,
) {
    let log = log_table(watcher);
    watcher.exec(&format!(
        "create table copied_heap (like {log}); create table copied_indexed (like {log});
         create index on copied_indexed (xid);
         create table some_log as select * from {log} limit {}; analyze some_log",
        amounts.bulk
    ));
    let rows = watcher.number("select count(*) from some_log");
    for turn in 0..2 {
        let (table, cost) = match (turn + round) % 2 {
            0 => ("copied_heap", &mut results.heap),
            _ => ("copied_indexed", &mut results.indexed),
        };
        let pid = session.pid();
        per_row(watcher, pid, rows, cost, || {
            session.exec(&format!("insert into {table} select * from some_log"));
        });
    }
}

fn report(mut section: Section, amounts: &Amounts, rounds: usize, results: &Results) -> Section {
    section.text(format!(
        "Three tables of the same shape (bigint key, int, numeric(15,2), int, text, int): without trigger, read by a stream
table that uses three of the six columns, and with a PL/pgSQL trigger that writes the same change rows into a table
with the same index. {} rows in one statement, then {} transactions of one row each, in blocks of {BLOCK} that a
procedure commits one by one; {rounds} rounds in fresh databases, in rotating order; medians. CPU is that of the writing backend alone, in microseconds per row or
transaction; WAL in bytes. Nobody waits for the disk at commit. The columns with a sign are what is added to the
table without trigger.",
        amounts.bulk, amounts.single
    ));
    let mut rows = Vec::new();
    for (kind, costs) in [("bulk", &results.bulk), ("one row", &results.single)] {
        for (operation, [nothing, captured, plpgsql]) in OPERATIONS.iter().zip(costs) {
            let (cpu, wal) = captured.beyond(nothing);
            let (other_cpu, other_wal) = plpgsql.beyond(nothing);
            rows.push(vec![
                format!("{}, {kind}", operation.title),
                number(nothing.cpu.median()),
                signed(cpu),
                signed(other_cpu),
                number(nothing.wal.median()),
                signed(wal),
                signed(other_wal),
            ]);
        }
    }
    section.table(
        &[
            "operation",
            "CPU, no trigger",
            "pg_trickle",
            "PL/pgSQL",
            "WAL, no trigger",
            "pg_trickle",
            "PL/pgSQL",
        ],
        &rows,
    );
    let [nothing, captured, _] = &results.bulk[0];
    let (_, inserted_wal) = captured.beyond(nothing);
    let (cpu, wal) = results.indexed.beyond(&results.heap);
    section.text(format!(
        "A row of the log is {} bytes long with its header, {} of them logged values; beyond the values alone, a bulk INSERT adds
{} bytes of WAL per row. The index on xid costs {} us of CPU and {} bytes of WAL per log row, measured by copying {} log
rows with INSERT .. SELECT into a table with and one without it. Updates of the unused column wrote {} log rows.",
        number(results.stored.median()),
        number(results.values.median()),
        number(inserted_wal - results.values.median()),
        number(cpu),
        number(wal),
        amounts.bulk,
        results.needless
    ));
    goals(&mut section, results);
    section
}

fn goals(section: &mut Section, results: &Results) {
    let added = |costs: &Costs, operation: usize| {
        let [nothing, captured, _] = &costs[operation];
        captured.beyond(nothing)
    };
    let (cpu, wal) = added(&results.bulk, 0);
    section.goal(Goal::at_most(
        "bulk INSERT: CPU added per row",
        2.5,
        cpu,
        "us",
    ));
    section.goal(Goal::at_most(
        "bulk INSERT: WAL added per row, beyond the row of the log",
        110.0,
        wal - results.stored.median(),
        "bytes",
    ));
    for (number, operation) in OPERATIONS.iter().enumerate() {
        let (cpu, _) = added(&results.single, number);
        let unused = operation.title == "UPDATE of an unused column";
        let limit = if unused { 1.0 } else { 5.0 };
        let what = format!("{}, one row: CPU added", operation.title);
        section.goal(Goal::at_most(what, limit, cpu, "us"));
        if unused {
            let (cpu, _) = added(&results.bulk, number);
            let what = format!("{}, bulk: CPU added per row", operation.title);
            section.goal(Goal::at_most(what, 1.0, cpu, "us"));
            let rows = results.needless as f64;
            section.goal(Goal::at_most(
                format!("{}: log rows", operation.title),
                0.0,
                rows,
                "rows",
            ));
        }
    }
}

fn signed(value: f64) -> String {
    let sign = if value >= 0.0 { "+" } else { "" };
    format!("{sign}{}", number(value))
}
