//! Changes to TPC-H data: the same ones in every run, and such that every query has something to notice.

use crate::session::Session;

/// What a batch of changes does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// New orders with their items.
    Placed,
    /// Deleted orders with their items.
    Cancelled,
    /// Other prices, quantities, dates, keys and statuses of orders and items.
    Corrected,
    /// Other suppliers, parts, customers, nations.
    Dimensions,
    /// Other costs and stocks; parts offered by suppliers that did not offer them, and no longer by others.
    Supplies,
}

/// Which rows are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taste {
    /// None: as the standard's own new orders.
    Even,
    /// Those that queries look for, so that little data and few changes are enough for every query to notice.
    Picky,
}

/// Knows how far the changes to one database have come.
pub struct Changes {
    taste: Taste,
    round: i64,
    parts: i64,
    suppliers: i64,
    customers: i64,
    last_order: i64,
}

/// Parts that many items are of, where there is a taste for some, and suppliers that have them.
const POPULAR_PARTS: i64 = 4;
const POPULAR_SUPPLIERS: i64 = 6;

/// A number from 0 up to `below`, which looks random and depends on `i` and `salt` only.
const DRAW: &str = "create function draw(i bigint, salt bigint, below bigint) returns bigint
    language sql immutable parallel safe
    return (hashint8extended(i, salt) & 9223372036854775807) % below";

impl Changes {
    /// Makes the function that changes draw numbers from.
    pub fn open(session: &mut Session, taste: Taste) -> Self {
        session.exec(DRAW);
        let mut largest = |column: &str, table: &str| {
            session.number(&format!("select max({column}) from {table}"))
        };
        Self {
            taste,
            round: 0,
            parts: largest("p_partkey", "part"),
            suppliers: largest("s_suppkey", "supplier"),
            customers: largest("c_custkey", "customer"),
            last_order: largest("o_orderkey", "orders"),
        }
    }

    /// Changes about `rows` rows in one transaction and returns how many it were.
    pub fn apply(&mut self, session: &mut Session, kind: Kind, rows: i64) -> u64 {
        self.round += 1;
        let statements = match kind {
            Kind::Placed => self.place((rows / 6).max(1)),
            Kind::Cancelled => self.cancel((rows / 5).max(1)),
            Kind::Corrected => self.correct((rows / 5).max(1)),
            Kind::Dimensions => self.dimensions(rows / 5),
            Kind::Supplies => self.supplies((rows / 4).max(1)),
        };
        let mut transaction = session.client().transaction().expect("begin");
        let mut changed = 0;
        for sql in &statements {
            changed += transaction
                .execute(sql, &[])
                .unwrap_or_else(|e| panic!("{e:?}\nin: {sql}"));
        }
        transaction.commit().expect("commit");
        changed
    }

    /// Where there is a taste, every fifth order is one of seven items in large quantities, and every third item is of a
    /// popular part.
    fn place(&mut self, orders: i64) -> Vec<String> {
        let (first, salt, parts) = (self.last_order + 1, self.round * 100, self.parts);
        self.last_order += orders;
        let (last, customers) = (self.last_order, self.customers);
        let (large, popular) = match self.taste {
            Taste::Even => ("false", "false"),
            Taste::Picky => ("o % 5 = 0", "id % 3 = 0"),
        };
        let items = format!(
            "insert into lineitem
             select o, p_partkey, ps_suppkey, line, quantity, quantity * p_retailprice,
                 draw(id, {salt} + 1, 11) / 100.0, draw(id, {salt} + 2, 9) / 100.0,
                 case when received > date '1995-06-17' then 'N' when draw(id, {salt} + 3, 2) = 0 then 'R' else 'A' end,
                 case when shipped > date '1995-06-17' then 'O' else 'F' end,
                 shipped, ordered + 30 + draw(id, {salt} + 4, 61)::int, received,
                 (array['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'])[1 + draw(id, {salt} + 5, 4)],
                 (array['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'])[1 + draw(id, {salt} + 6, 7)],
                 'placed'
             from generate_series({first}::bigint, {last}) o
             cross join lateral generate_series(1, case when {large} then 7 else 1 + draw(o, {salt} + 7, 7) end) line
             cross join lateral (select o * 8 + line as id, {ordered} as ordered) i
             cross join lateral (
                 select ordered + 1 + draw(id, {salt} + 8, 121)::int as shipped,
                     case when {large} then 44 else 1 end
                         + draw(id, {salt} + 9, case when {large} then 7 else 50 end) as quantity) s
             cross join lateral (select shipped + 1 + draw(id, {salt} + 10, 30)::int as received) r
             join part on p_partkey = 1 + draw(id, {salt} + 11, case when {popular} then {POPULAR_PARTS} else {parts} end)
             cross join lateral (
                 select ps_suppkey from partsupp where ps_partkey = p_partkey
                 order by case when {popular} then 0 else draw(ps_suppkey, id, 1000) end, ps_suppkey limit 1) ps",
            ordered = self.order_date(salt),
        );
        let orders = format!(
            "insert into orders
             select o, 1 + draw(o, {salt} + 20, {customers}),
                 case when ordered < date '1995-02-15' then 'F' when ordered > date '1995-06-17' then 'O' else 'P' end,
                 total, ordered,
                 (array['1-URGENT', '2-HIGH', '3-MEDIUM', '4-NOT SPECIFIED', '5-LOW'])[1 + draw(o, {salt} + 21, 5)],
                 'Clerk#000000001', 0,
                 case when draw(o, {salt} + 22, 3) = 0 then 'some special and urgent requests' else 'placed' end
             from generate_series({first}::bigint, {last}) o
             cross join lateral (select {ordered} as ordered) i
             cross join lateral (
                 select coalesce(sum(l_extendedprice * (1 + l_tax) * (1 - l_discount)), 0) as total
                 from lineitem where l_orderkey = o) t",
            ordered = self.order_date(salt),
        );
        vec![items, orders]
    }

    /// The date of order `o`: any, or every other one from the weeks that queries ask for.
    fn order_date(&self, salt: i64) -> String {
        let any = format!("date '1992-01-01' + draw(o, {salt} + 30, 2406)::int");
        match self.taste {
            Taste::Even => any,
            Taste::Picky => format!(
                "case o % 2 when 0 then {any} else draw(o, {salt} + 31, 28)::int
                     + (array[date '1993-08-01', '1993-11-01', '1994-05-01', '1995-02-15', '1995-08-10', '1996-01-01'])
                           [1 + draw(o, {salt} + 32, 6)] end"
            ),
        }
    }

    /// Orders that exist, as many as wanted or a few less, as a sub-query.
    fn some_orders(&self, orders: i64, salt: i64) -> String {
        format!(
            "select o_orderkey from generate_series(1, {orders}) i
             cross join lateral (
                 select o_orderkey from orders where o_orderkey >= 1 + draw(i, {salt}, {})
                 order by o_orderkey limit 1) o",
            self.last_order
        )
    }

    fn cancel(&self, orders: i64) -> Vec<String> {
        // What is chosen must not depend on what has been deleted.
        let chosen = format!(
            "create temporary table chosen on commit drop as {}",
            self.some_orders(orders, self.round * 100)
        );
        vec![
            chosen,
            "delete from lineitem where l_orderkey in (select o_orderkey from chosen)".into(),
            "delete from orders where o_orderkey in (select o_orderkey from chosen)".into(),
        ]
    }

    /// Each of the five changes is made to about `rows` rows.
    fn correct(&self, rows: i64) -> Vec<String> {
        let salt = self.round * 100;
        let (parts, customers, round) = (self.parts, self.customers, self.round);
        // About half of the items of as many orders.
        let items = |salt: i64| {
            format!(
                "l_orderkey in ({}) and draw(l_orderkey * 8 + l_linenumber, {salt}, 2) = 0",
                self.some_orders((rows + 1) / 2, salt)
            )
        };
        let id = "l_orderkey * 8 + l_linenumber";
        let amounts = format!(
            "update lineitem set l_quantity = q, l_extendedprice = round(l_extendedprice / l_quantity * q, 2),
                 l_discount = draw({id}, {salt} + 1, 11) / 100.0
             from generate_series(1, 50) q where q = 1 + draw({id}, {salt} + 2, 50) and {}",
            items(salt + 3)
        );
        let shipping = format!(
            "update lineitem set l_shipdate = l_shipdate + d, l_commitdate = l_commitdate - d % 20, l_receiptdate = l_receiptdate + d,
                 l_shipmode = (array['AIR', 'MAIL', 'SHIP', 'RAIL'])[1 + draw({id}, {salt} + 4, 4)],
                 l_shipinstruct = (array['DELIVER IN PERSON', 'NONE'])[1 + draw({id}, {salt} + 5, 2)],
                 l_returnflag = (array['R', 'A', 'N'])[1 + draw({id}, {salt} + 6, 3)],
                 l_linestatus = (array['F', 'O'])[1 + draw({id}, {salt} + 7, 2)]
             from generate_series(-100, 100) d where d = draw({id}, {salt} + 8, 201) - 100 and {}",
            items(salt + 9)
        );
        let products = format!(
            "update lineitem set l_partkey = ps_partkey, l_suppkey = ps_suppkey
             from (select distinct on (ps_partkey) ps_partkey, ps_suppkey from partsupp
                   order by ps_partkey, draw(ps_suppkey, {salt} + 10, 1000), ps_suppkey) p
             where ps_partkey = 1 + draw({id}, {salt} + 11, {parts}) and {}",
            items(salt + 12)
        );
        let owners = format!(
            "update lineitem set l_orderkey = o.o_orderkey, l_linenumber = 1000 * {round} + number
             from (select l_orderkey as k, l_linenumber as n, row_number() over (order by l_orderkey, l_linenumber)::int as number
                   from lineitem where {}) m
             join lateral (select o_orderkey from orders where o_orderkey > k order by o_orderkey limit 1) o on true
             where l_orderkey = k and l_linenumber = n",
            items(salt + 13)
        );
        let orders = format!(
            "update orders set o_orderstatus = (array['F', 'O', 'P'])[1 + draw(o_orderkey, {salt} + 14, 3)],
                 o_totalprice = o_totalprice + draw(o_orderkey, {salt} + 15, 10000) / 100.0,
                 o_orderdate = o_orderdate + draw(o_orderkey, {salt} + 16, 200)::int - 100,
                 o_orderpriority = (array['1-URGENT', '5-LOW'])[1 + draw(o_orderkey, {salt} + 17, 2)],
                 o_custkey = case when draw(o_orderkey, {salt} + 18, 2) = 0 then o_custkey
                     else 1 + draw(o_orderkey, {salt} + 19, {customers}) end
             where o_orderkey in ({})",
            self.some_orders(rows, salt + 20)
        );
        vec![amounts, shipping, products, owners, orders]
    }

    /// One table after the other in the first rounds of this kind, then all of them at once; of each about `rows` rows.
    fn dimensions(&self, rows: i64) -> Vec<String> {
        let salt = self.round * 100;
        let Self {
            customers, round, ..
        } = self;
        let some = |salt: i64, below: i64, rows: i64| {
            format!("(select 1 + draw(i, {salt}, {below}) from generate_series(1, {rows}) i)")
        };
        // One half becomes what queries look for, the other half anything.
        let part = format!(
            "update part set
                 p_brand = case kind when 0 then 'Brand#12' when 1 then 'Brand#23' when 2 then 'Brand#34'
                     else 'Brand#' || 11 + 10 * draw(p_partkey, {salt} + 1, 5) + draw(p_partkey, {salt} + 2, 5) end,
                 p_container = case kind when 0 then 'SM BOX' when 1 then 'MED BOX' when 2 then 'LG BOX' else 'JUMBO JAR' end,
                 p_size = case kind when 3 then 15 when 4 then 49 else 1 + draw(p_partkey, {salt} + 3, 5) end,
                 p_type = case kind when 3 then 'STANDARD PLATED BRASS' when 4 then 'ECONOMY ANODIZED STEEL'
                     when 5 then 'PROMO BURNISHED TIN' else 'MEDIUM POLISHED NICKEL' end,
                 p_name = case kind when 2 then 'forest green' when 5 then 'forest linen' when 4 then 'dark green' else 'linen' end,
                 p_retailprice = p_retailprice + 1
             from generate_series(0, 9) kind
             where kind = draw(p_partkey, {salt} + 4, 10) and p_partkey in {}",
            some(salt + 5, 6 * POPULAR_PARTS, rows.max(5))
        );
        let supplier = format!(
            "update supplier set s_acctbal = s_acctbal + 10, s_nationkey = draw(s_suppkey, {salt} + 6, 25), s_address = 'moved',
                 s_comment = case draw(s_suppkey, {salt} + 7, 3) when 0 then 'some Customer or other Complaints' else 'fine' end
             where s_suppkey in {}",
            some(salt + 8, POPULAR_SUPPLIERS, (rows / 3).max(2))
        );
        let customer = format!(
            "update customer set c_acctbal = c_acctbal + draw(c_custkey, {salt} + 9, 400000) / 100.0 - 2000,
                 c_nationkey = draw(c_custkey, {salt} + 10, 25), c_name = c_name || '.',
                 c_phone = 10 + draw(c_custkey, {salt} + 11, 25) || substr(c_phone, 3),
                 c_mktsegment = (array['BUILDING', 'MACHINERY'])[1 + draw(c_custkey, {salt} + 12, 2)]
             where length(c_name) < 24 and c_custkey in {}",
            some(salt + 13, *customers, rows.max(5))
        );
        let newcomers = format!(
            "insert into customer
             select {customers} + {round} * 10 + i, 'newcomer', 'here', i, (array['13', '31', '40'])[i] || '-555', 5000 + i,
                 'BUILDING', 'new'
             from generate_series(1, 3) i"
        );
        let leavers = format!(
            "delete from customer where c_custkey in (
                 select c_custkey from customer where not exists (select from orders where o_custkey = c_custkey)
                 order by draw(c_custkey, {salt} + 14, 1000000), c_custkey limit 2)"
        );
        // Two nations change names, a third one moves.
        let nation = format!(
            "update nation set
                 n_name = case n_name when x then y when y then x else n_name end,
                 n_regionkey = case n_nationkey when draw(0, {salt} + 15, 25) then (n_regionkey + 1) % 5 else n_regionkey end
             from (select (array['FRANCE', 'GERMANY', 'BRAZIL', 'CANADA', 'SAUDI ARABIA'])[1 + draw(0, {salt} + 16, 5)] as x,
                       (array['INDIA', 'JAPAN', 'PERU', 'KENYA', 'GERMANY'])[1 + draw(0, {salt} + 17, 5)] as y) names
             where n_name in (x, y) or n_nationkey = draw(0, {salt} + 15, 25)"
        );
        match round / 4 % 10 {
            1 => vec![part],
            2 => vec![supplier],
            3 => vec![customer, newcomers, leavers],
            4 => vec![nation],
            5 => self.supplies(rows.max(4)),
            _ => {
                let mut all = vec![part, supplier, customer, newcomers, leavers, nation];
                all.extend(self.supplies(rows.max(4)));
                all
            }
        }
    }

    /// Each of the four changes is made to about `rows` rows.
    fn supplies(&self, rows: i64) -> Vec<String> {
        let salt = self.round * 100 + 50;
        let Self {
            parts, suppliers, ..
        } = self;
        let some = |salt: i64| {
            format!(
                "(select ps_partkey, ps_suppkey from generate_series(1, {rows}) i
                  cross join lateral (
                      select ps_partkey, ps_suppkey from partsupp where ps_partkey = 1 + draw(i, {salt}, {parts})
                      order by draw(ps_suppkey, {salt}, 1000), ps_suppkey limit 1) p)"
            )
        };
        let costs = format!(
            "update partsupp set ps_supplycost = 1 + draw(ps_partkey, {salt} + 1, 99900) / 100.0
             where (ps_partkey, ps_suppkey) in {}",
            some(salt + 2)
        );
        let stocks = format!(
            "update partsupp set ps_availqty = 1 + draw(ps_partkey, {salt} + 3, 40)
             where (ps_partkey, ps_suppkey) in {}",
            some(salt + 4)
        );
        let dropped = format!(
            "delete from partsupp where (ps_partkey, ps_suppkey) in {}",
            some(salt + 5)
        );
        let offered = format!(
            "insert into partsupp
             select 1 + draw(i, {salt} + 6, {parts}), 1 + draw(i, {salt} + 7, {suppliers}), 1 + draw(i, {salt} + 8, 9999),
                 1 + draw(i, {salt} + 9, 99900) / 100.0, 'offered'
             from generate_series(1, {rows}) i
             on conflict do nothing"
        );
        vec![costs, stocks, dropped, offered]
    }
}
