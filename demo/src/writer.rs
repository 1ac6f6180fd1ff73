//! The writer: places, ships, amends and cancels orders, as a shop would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use pgt_tests::Session;
use postgres::{Client, Statement, Transaction};

use crate::Result;

/// A thread with a connection of its own.
pub struct Writer {
    thread: JoinHandle<Result<()>>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Counters {
    transactions: AtomicU64,
    rows: AtomicU64,
}

/// What has been committed so far.
#[derive(Clone, Copy)]
pub struct Written {
    pub transactions: u64,
    pub rows: u64,
}

impl Writer {
    /// Writes about `rate` rows per second (0: no limit) until `stop` is set.
    pub fn start(
        mut session: Session,
        rate: u32,
        seed: u64,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let mut shop = Shop::open(session.client(), seed)?;
        let thread = {
            let (counters, stop) = (Arc::clone(&counters), Arc::clone(stop));
            std::thread::Builder::new()
                .name("writer".to_owned())
                .spawn(move || {
                    let pace = Pace::new(rate);
                    while !stop.load(Ordering::Relaxed) {
                        let rows = shop.trade(session.client())?;
                        counters.transactions.fetch_add(1, Ordering::Relaxed);
                        let total = counters.rows.fetch_add(rows, Ordering::Relaxed) + rows;
                        pace.wait(total, &stop);
                    }
                    Ok(())
                })?
        };
        Ok(Self {
            thread,
            counters,
            stop: Arc::clone(stop),
        })
    }

    pub fn written(&self) -> Written {
        Written {
            transactions: self.counters.transactions.load(Ordering::Relaxed),
            rows: self.counters.rows.load(Ordering::Relaxed),
        }
    }

    /// False once it has stopped, be it because of an error.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Stops it; an error of the writer comes out here.
    pub fn finish(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let written = Arc::clone(&self.counters);
        self.thread.join().map_err(|_| "the writer panicked")??;
        Ok(Written {
            transactions: written.transactions.load(Ordering::Relaxed),
            rows: written.rows.load(Ordering::Relaxed),
        })
    }
}

/// Holds the writer to a number of rows per second.
struct Pace {
    started: Instant,
    rate: u32,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self {
            started: Instant::now(),
            rate,
        }
    }

    fn wait(&self, rows: u64, stop: &AtomicBool) {
        if self.rate == 0 {
            return;
        }
        let due = Duration::from_secs_f64(rows as f64 / f64::from(self.rate));
        while !stop.load(Ordering::Relaxed) {
            let ahead = due.saturating_sub(self.started.elapsed());
            if ahead.is_zero() {
                return;
            }
            std::thread::sleep(ahead.min(Duration::from_millis(100)));
        }
    }
}

const PRIORITIES: [&str; 5] = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"];
const STATUSES: [&str; 3] = ["O", "P", "F"];
const MODES: [&str; 7] = ["REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"];
const RETURN_FLAGS: [&str; 2] = ["R", "A"];

/// Days after 1992-01-01 on which TPC-H orders are placed.
const ORDER_DAYS: i32 = 2406;

/// Knows which orders exist; nobody else changes them.
struct Shop {
    rng: Rng,
    orders: Vec<i64>,
    next_order: i64,
    customers: i64,
    parts: i64,
    suppliers: i64,
    statements: Statements,
}

struct Statements {
    insert_order: Statement,
    insert_item: Statement,
    ship: Statement,
    amend_item: Statement,
    amend_order: Statement,
    annotate: Statement,
    delete_items: Statement,
    delete_order: Statement,
}

impl Shop {
    fn open(client: &mut Client, seed: u64) -> Result<Self> {
        let orders: Vec<i64> = client
            .query("SELECT o_orderkey FROM orders ORDER BY o_orderkey", &[])?
            .iter()
            .map(|row| row.get(0))
            .collect();
        let largest = |client: &mut Client, column: &str, table: &str| -> Result<i64> {
            let row = client.query_one(&format!("SELECT max({column}) FROM {table}"), &[])?;
            Ok(row.get(0))
        };
        Ok(Self {
            rng: Rng::with_seed(seed),
            next_order: orders.last().map_or(1, |key| key + 1),
            orders,
            customers: largest(client, "c_custkey", "customer")?,
            parts: largest(client, "l_partkey", "lineitem")?,
            suppliers: largest(client, "l_suppkey", "lineitem")?,
            statements: Statements::prepare(client)?,
        })
    }

    /// One committed transaction; returns the number of rows it changed.
    fn trade(&mut self, client: &mut Client) -> Result<u64> {
        let mut transaction = client.transaction()?;
        let rows = match self.rng.u32(0..100) {
            0..30 => self.place(&mut transaction)?,
            30..55 => self.ship(&mut transaction)?,
            55..70 => self.amend(&mut transaction)?,
            70..80 => self.annotate(&mut transaction)?,
            _ => self.cancel(&mut transaction)?,
        };
        transaction.commit()?;
        Ok(rows)
    }

    fn place(&mut self, transaction: &mut Transaction) -> Result<u64> {
        let order = self.next_order;
        let day = self.rng.i32(0..ORDER_DAYS);
        let mut total = 0;
        let mut rows = 0;
        for line in 1..=self.rng.i32(1..=7) {
            let part = self.rng.i64(1..=self.parts);
            let supplier = self.rng.i64(1..=self.suppliers);
            let quantity = self.rng.i64(1..=50);
            let price = quantity * retail_price(part);
            let discount = self.rng.i64(0..=10);
            let tax = self.rng.i64(0..=8);
            let shipped = day + self.rng.i32(1..=121);
            let promised = day + self.rng.i32(30..=90);
            let received = shipped + self.rng.i32(1..=30);
            let mode = self.pick(&MODES);
            total += price * (100 - discount) / 100 * (100 + tax) / 100;
            rows += transaction.execute(
                &self.statements.insert_item,
                &[
                    &order, &part, &supplier, &line, &quantity, &price, &discount, &tax, &shipped,
                    &promised, &received, &mode,
                ],
            )?;
        }
        let customer = self.rng.i64(1..=self.customers);
        let priority = self.pick(&PRIORITIES);
        rows += transaction.execute(
            &self.statements.insert_order,
            &[&order, &customer, &total, &day, &priority],
        )?;
        self.next_order += 1;
        self.orders.push(order);
        Ok(rows)
    }

    /// All items of an order arrive, some are sent back.
    fn ship(&mut self, transaction: &mut Transaction) -> Result<u64> {
        let (order, flag) = (self.any_order(), self.pick(&RETURN_FLAGS));
        let delay = self.rng.i32(-5..=10);
        Ok(transaction.execute(&self.statements.ship, &[&order, &flag, &delay])?)
    }

    fn amend(&mut self, transaction: &mut Transaction) -> Result<u64> {
        let (order, status) = (self.any_order(), self.pick(&STATUSES));
        let priority = self.pick(&PRIORITIES);
        let quantity = self.rng.i64(1..=50);
        let surcharge = self.rng.i64(-50_000..=50_000);
        Ok(
            transaction.execute(&self.statements.amend_item, &[&order, &quantity])?
                + transaction.execute(
                    &self.statements.amend_order,
                    &[&order, &status, &priority, &surcharge],
                )?,
        )
    }

    /// Changes columns that no stream table reads, which must cost nothing downstream.
    fn annotate(&mut self, transaction: &mut Transaction) -> Result<u64> {
        let (order, clerk) = (self.any_order(), self.rng.i32(1..1000));
        Ok(transaction.execute(&self.statements.annotate, &[&order, &clerk])?)
    }

    fn cancel(&mut self, transaction: &mut Transaction) -> Result<u64> {
        if self.orders.len() < 2 {
            return Ok(0);
        }
        let index = self.rng.usize(..self.orders.len());
        let order = self.orders.swap_remove(index);
        Ok(
            transaction.execute(&self.statements.delete_items, &[&order])?
                + transaction.execute(&self.statements.delete_order, &[&order])?,
        )
    }

    fn any_order(&mut self) -> i64 {
        self.orders[self.rng.usize(..self.orders.len())]
    }

    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.rng.usize(..choices.len())]
    }
}

/// In cents; the formula of the TPC-H specification, 4.2.3.
fn retail_price(part: i64) -> i64 {
    90_000 + (part / 10) % 20_001 + 100 * (part % 1_000)
}

impl Statements {
    /// Money travels in cents, dates as days after 1992-01-01.
    fn prepare(client: &mut Client) -> Result<Self> {
        let mut prepare = |sql: &str| client.prepare(sql);
        Ok(Self {
            insert_order: prepare(
                "INSERT INTO orders VALUES ($1, $2, 'O', $3::bigint / 100.0, date '1992-01-01' + $4::integer,
                     $5, 'Clerk#000000001', 0, 'placed by the demo')",
            )?,
            insert_item: prepare(
                "INSERT INTO lineitem VALUES ($1, $2, $3, $4, $5::bigint, $6::bigint / 100.0, $7::bigint / 100.0,
                     $8::bigint / 100.0, 'N', 'O', date '1992-01-01' + $9::integer,
                     date '1992-01-01' + $10::integer, date '1992-01-01' + $11::integer,
                     'NONE', $12, 'placed by the demo')",
            )?,
            ship: prepare(
                "UPDATE lineitem SET l_linestatus = 'F', l_returnflag = $2, l_receiptdate = l_receiptdate + $3::integer
                 WHERE l_orderkey = $1",
            )?,
            amend_item: prepare(
                "UPDATE lineitem SET l_quantity = $2::bigint, l_extendedprice = l_extendedprice / l_quantity * $2::bigint
                 WHERE l_orderkey = $1 AND l_linenumber = 1",
            )?,
            amend_order: prepare(
                "UPDATE orders SET o_orderstatus = $2, o_orderpriority = $3,
                     o_totalprice = o_totalprice + $4::bigint / 100.0
                 WHERE o_orderkey = $1",
            )?,
            annotate: prepare(
                "UPDATE orders SET o_clerk = 'Clerk#' || lpad($2::integer::text, 9, '0'), o_comment = 'seen'
                 WHERE o_orderkey = $1",
            )?,
            delete_items: prepare("DELETE FROM lineitem WHERE l_orderkey = $1")?,
            delete_order: prepare("DELETE FROM orders WHERE o_orderkey = $1")?,
        })
    }
}
