//! The eight tables with the standard's types, filled by COPY from the generator.

use postgres::Client;
use std::error::Error;
use std::fmt::Display;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};
use tpchgen::csv::{
    CustomerCsv, LineItemCsv, NationCsv, OrderCsv, PartCsv, PartSuppCsv, RegionCsv, SupplierCsv,
};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

const TABLES: &str = "
    CREATE TABLE region (
        r_regionkey bigint PRIMARY KEY,
        r_name char(25) NOT NULL,
        r_comment varchar(152)
    );
    CREATE TABLE nation (
        n_nationkey bigint PRIMARY KEY,
        n_name char(25) NOT NULL,
        n_regionkey bigint NOT NULL,
        n_comment varchar(152)
    );
    CREATE TABLE part (
        p_partkey bigint PRIMARY KEY,
        p_name varchar(55) NOT NULL,
        p_mfgr char(25) NOT NULL,
        p_brand char(10) NOT NULL,
        p_type varchar(25) NOT NULL,
        p_size integer NOT NULL,
        p_container char(10) NOT NULL,
        p_retailprice numeric(15,2) NOT NULL,
        p_comment varchar(23) NOT NULL
    );
    CREATE TABLE supplier (
        s_suppkey bigint PRIMARY KEY,
        s_name char(25) NOT NULL,
        s_address varchar(40) NOT NULL,
        s_nationkey bigint NOT NULL,
        s_phone char(15) NOT NULL,
        s_acctbal numeric(15,2) NOT NULL,
        s_comment varchar(101) NOT NULL
    );
    CREATE TABLE partsupp (
        ps_partkey bigint NOT NULL,
        ps_suppkey bigint NOT NULL,
        ps_availqty integer NOT NULL,
        ps_supplycost numeric(15,2) NOT NULL,
        ps_comment varchar(199) NOT NULL,
        PRIMARY KEY (ps_partkey, ps_suppkey)
    );
    CREATE TABLE customer (
        c_custkey bigint PRIMARY KEY,
        c_name varchar(25) NOT NULL,
        c_address varchar(40) NOT NULL,
        c_nationkey bigint NOT NULL,
        c_phone char(15) NOT NULL,
        c_acctbal numeric(15,2) NOT NULL,
        c_mktsegment char(10) NOT NULL,
        c_comment varchar(117) NOT NULL
    );
    CREATE TABLE orders (
        o_orderkey bigint PRIMARY KEY,
        o_custkey bigint NOT NULL,
        o_orderstatus char(1) NOT NULL,
        o_totalprice numeric(15,2) NOT NULL,
        o_orderdate date NOT NULL,
        o_orderpriority char(15) NOT NULL,
        o_clerk char(15) NOT NULL,
        o_shippriority integer NOT NULL,
        o_comment varchar(79) NOT NULL
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
        l_returnflag char(1) NOT NULL,
        l_linestatus char(1) NOT NULL,
        l_shipdate date NOT NULL,
        l_commitdate date NOT NULL,
        l_receiptdate date NOT NULL,
        l_shipinstruct char(25) NOT NULL,
        l_shipmode char(10) NOT NULL,
        l_comment varchar(44) NOT NULL,
        PRIMARY KEY (l_orderkey, l_linenumber)
    )";

/// What a user of these tables would have anyway: indexes on the foreign keys.
const INDEXES: &str = "
    CREATE INDEX ON nation (n_regionkey);
    CREATE INDEX ON supplier (s_nationkey);
    CREATE INDEX ON partsupp (ps_suppkey);
    CREATE INDEX ON customer (c_nationkey);
    CREATE INDEX ON orders (o_custkey);
    CREATE INDEX ON lineitem (l_partkey, l_suppkey);
    CREATE INDEX ON lineitem (l_suppkey)";

pub struct Loaded {
    pub rows: u64,
    pub elapsed: Duration,
}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Creates and fills the tables at the scale factor `scale`.
pub fn load(client: &mut Client, scale: f64) -> Result<Loaded> {
    let started = Instant::now();
    client.batch_execute(TABLES)?;
    let regions = RegionGenerator::new(scale, 1, 1);
    let nations = NationGenerator::new(scale, 1, 1);
    let parts = PartGenerator::new(scale, 1, 1);
    let suppliers = SupplierGenerator::new(scale, 1, 1);
    let supplies = PartSuppGenerator::new(scale, 1, 1);
    let customers = CustomerGenerator::new(scale, 1, 1);
    let orders = OrderGenerator::new(scale, 1, 1);
    let items = LineItemGenerator::new(scale, 1, 1);
    let rows = copy(client, "region", regions.iter().map(RegionCsv::new))?
        + copy(client, "nation", nations.iter().map(NationCsv::new))?
        + copy(client, "part", parts.iter().map(PartCsv::new))?
        + copy(client, "supplier", suppliers.iter().map(SupplierCsv::new))?
        + copy(client, "partsupp", supplies.iter().map(PartSuppCsv::new))?
        + copy(client, "customer", customers.iter().map(CustomerCsv::new))?
        + copy(client, "orders", orders.iter().map(OrderCsv::new))?
        + copy(client, "lineitem", items.iter().map(LineItemCsv::new))?;
    client.batch_execute(INDEXES)?;
    client.batch_execute("VACUUM ANALYZE")?;
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
