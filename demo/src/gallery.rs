//! The stream tables on show, one per shape.

use postgres::Client;

use crate::Result;

pub struct StreamTable {
    pub name: &'static str,
    pub shape: &'static str,
    pub schedule: &'static str,
    pub query: &'static str,
}

/// In the order of creation: a table comes after those it reads.
pub const STREAM_TABLES: &[StreamTable] = &[
    StreamTable {
        name: "urgent_orders",
        shape: "filter",
        schedule: "continuous",
        query: "
            SELECT o_orderkey, o_custkey, o_orderdate, o_totalprice
            FROM orders
            WHERE o_orderstatus = 'O' AND o_orderpriority = '1-URGENT'",
    },
    StreamTable {
        name: "revenue_by_segment",
        shape: "3-way join, GROUP BY",
        schedule: "1s",
        query: "
            SELECT c_nationkey, c_mktsegment,
                   count(*) AS items,
                   sum(l_extendedprice * (1 - l_discount)) AS revenue
            FROM customer
            JOIN orders ON o_custkey = c_custkey
            JOIN lineitem ON l_orderkey = o_orderkey
            GROUP BY c_nationkey, c_mktsegment",
    },
    StreamTable {
        name: "nation_revenue",
        shape: "over a stream table",
        schedule: "1s",
        query: "
            SELECT n_name, sum(items) AS items, sum(revenue) AS revenue
            FROM revenue_by_segment
            JOIN nation ON n_nationkey = c_nationkey
            GROUP BY n_name",
    },
    StreamTable {
        name: "returning_customers",
        shape: "join, DISTINCT",
        schedule: "1s",
        query: "
            SELECT DISTINCT o_custkey, l_shipmode
            FROM orders
            JOIN lineitem ON l_orderkey = o_orderkey
            WHERE l_returnflag = 'R'",
    },
    StreamTable {
        name: "part_price_range",
        shape: "MIN, MAX",
        schedule: "1s",
        query: "
            SELECT l_partkey,
                   min(l_extendedprice / l_quantity) AS lowest,
                   max(l_extendedprice / l_quantity) AS highest,
                   max(l_shipdate) AS last_shipped
            FROM lineitem
            GROUP BY l_partkey",
    },
    StreamTable {
        name: "big_tickets",
        shape: "UNION ALL",
        schedule: "1s",
        query: "
            SELECT 'order' AS kind, o_orderkey AS orderkey, o_totalprice AS amount
            FROM orders
            WHERE o_totalprice > 350000
            UNION ALL
            SELECT 'item', l_orderkey, l_extendedprice
            FROM lineitem
            WHERE l_extendedprice > 85000",
    },
    StreamTable {
        name: "late_suppliers",
        shape: "FILTER, avg, HAVING",
        schedule: "1s",
        query: "
            SELECT l_suppkey,
                   count(*) FILTER (WHERE l_receiptdate > l_commitdate) AS late,
                   count(*) AS items,
                   avg(l_quantity) AS mean_quantity
            FROM lineitem
            GROUP BY l_suppkey
            HAVING 100 * count(*) FILTER (WHERE l_receiptdate > l_commitdate) > 63 * count(*)",
    },
];

impl StreamTable {
    /// Differential throughout: the demo is about what a differential refresh
    /// costs, so a shape that is not incremental is an error, not a slow row.
    pub fn create(&self, client: &mut Client) -> Result<()> {
        client.execute(
            "SELECT pgtrickle.create_stream_table(
                 name => $1, query => $2, schedule => $3, refresh_mode => 'DIFFERENTIAL')",
            &[&self.name, &self.query, &self.schedule],
        )?;
        Ok(())
    }
}
