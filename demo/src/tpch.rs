//! TPC-H: the tables the demo reads, filled by COPY from the generator.

use std::fmt::Display;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use postgres::Client;
use tpchgen::csv::{CustomerCsv, LineItemCsv, NationCsv, OrderCsv};
use tpchgen::generators::{CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator};

use crate::Result;

const TABLES: &str = "
    CREATE TABLE nation (
        n_nationkey bigint PRIMARY KEY,
        n_name text NOT NULL,
        n_regionkey bigint NOT NULL,
        n_comment text
    );
    CREATE TABLE customer (
        c_custkey bigint PRIMARY KEY,
        c_name text NOT NULL,
        c_address text NOT NULL,
        c_nationkey bigint NOT NULL,
        c_phone text NOT NULL,
        c_acctbal numeric(15,2) NOT NULL,
        c_mktsegment text NOT NULL,
        c_comment text NOT NULL
    );
    CREATE TABLE orders (
        o_orderkey bigint PRIMARY KEY,
        o_custkey bigint NOT NULL,
        o_orderstatus text NOT NULL,
        o_totalprice numeric(15,2) NOT NULL,
        o_orderdate date NOT NULL,
        o_orderpriority text NOT NULL,
        o_clerk text NOT NULL,
        o_shippriority integer NOT NULL,
        o_comment text NOT NULL
    );
    CREATE TABLE lineitem (
        l_orderkey bigint NOT NULL,
        l_partkey bigint NOT NULL,
        l_suppkey bigint NOT NULL,
        l_linenumber integer NOT NULL,
        l_quantity numeric(15,2) NOT NULL,
        l_extendedprice numeric(15,2) NOT NULL,
        l_discount numeric(15,2) NOT NULL,
        l_tax numeric(15,2) NOT NULL,
        l_returnflag text NOT NULL,
        l_linestatus text NOT NULL,
        l_shipdate date NOT NULL,
        l_commitdate date NOT NULL,
        l_receiptdate date NOT NULL,
        l_shipinstruct text NOT NULL,
        l_shipmode text NOT NULL,
        l_comment text NOT NULL,
        PRIMARY KEY (l_orderkey, l_linenumber)
    )";

/// What a user of these tables would have anyway: indexes on the foreign keys.
const INDEXES: &str = "
    CREATE INDEX ON orders (o_custkey);
    CREATE INDEX ON lineitem (l_partkey);
    CREATE INDEX ON lineitem (l_suppkey)";

pub struct Loaded {
    pub rows: u64,
    pub elapsed: Duration,
}

/// Creates and fills the tables at the scale factor `scale`.
pub fn load(client: &mut Client, scale: f64) -> Result<Loaded> {
    let started = Instant::now();
    client.batch_execute(TABLES)?;
    let nations = NationGenerator::new(scale, 1, 1);
    let customers = CustomerGenerator::new(scale, 1, 1);
    let orders = OrderGenerator::new(scale, 1, 1);
    let items = LineItemGenerator::new(scale, 1, 1);
    let rows = copy(client, "nation", nations.iter().map(NationCsv::new))?
        + copy(client, "customer", customers.iter().map(CustomerCsv::new))?
        + copy(client, "orders", orders.iter().map(OrderCsv::new))?
        + copy(client, "lineitem", items.iter().map(LineItemCsv::new))?;
    client.batch_execute(INDEXES)?;
    client.batch_execute("VACUUM ANALYZE nation, customer, orders, lineitem")?;
    Ok(Loaded {
        rows,
        elapsed: started.elapsed(),
    })
}

fn copy(
    client: &mut Client,
    table: &str,
    lines: impl Iterator<Item = impl Display>,
) -> Result<u64> {
    let statement = format!("COPY {table} FROM STDIN (FORMAT csv)");
    let mut sink = BufWriter::with_capacity(1 << 16, client.copy_in(&statement)?);
    for line in lines {
        writeln!(sink, "{line}")?;
    }
    let sink = sink.into_inner().map_err(|error| error.into_error())?;
    Ok(sink.finish()?)
}
