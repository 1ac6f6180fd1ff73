//! The tables that are refreshed from, and changes to them.

use pgt_tests::Session;

const CUSTOMERS: i64 = 10_000;

/// `facts` with a block of live ids: rows are deleted at its low end, inserted at its high end, updated all over.
pub struct Facts {
    low: i64,
    high: i64,
    round: i64,
}

/// The values of a fact as expressions over its id `i`.
const VALUES: &str = "i, i % 1000, (i * 7919) % 100000, 1 + (i * 104729) % 10000, \
    ((i * 31) % 1000000) / 100.0, (i * 17) % 1000, 'note ' || i";

impl Facts {
    /// Makes and fills `facts` with `rows` rows, its two dimensions and a change table kept by a trigger.
    pub fn create(session: &mut Session, rows: i64) -> Self {
        session.exec(&format!(
            "create table region (id int primary key, name text not null);
             create table customer (id int primary key, region_id int not null, segment text not null);
             create table facts (id bigint primary key, k int not null, h int not null, customer_id int not null,
                 amount numeric(15,2) not null, n int not null, note text not null);
             insert into region select i, 'region ' || i from generate_series(1, 25) i;
             insert into customer select i, 1 + i % 25, 'segment ' || (i / 25) % 5 from generate_series(1, {CUSTOMERS}) i;
             insert into facts select {VALUES} from generate_series(1, {rows}::bigint) i;
             create index on facts (k);
             create index on facts (h);
             create index on facts (customer_id);
             create table change_table (pos bigserial primary key, w smallint not null, id bigint not null, k int not null,
                 h int not null, customer_id int not null, amount numeric(15,2) not null, n int not null);
             create function remember() returns trigger language plpgsql as $$
             begin
                 if tg_op <> 'INSERT' then
                     insert into change_table (w, id, k, h, customer_id, amount, n)
                     values (-1, old.id, old.k, old.h, old.customer_id, old.amount, old.n);
                 end if;
                 if tg_op <> 'DELETE' then
                     insert into change_table (w, id, k, h, customer_id, amount, n)
                     values (1, new.id, new.k, new.h, new.customer_id, new.amount, new.n);
                 end if;
                 return null;
             end $$;
             create trigger remember after insert or update or delete on facts for each row execute function remember();"
        ));
        Self {
            low: 1,
            high: rows,
            round: 0,
        }
    }

    /// Changes `rows` rows in one transaction: one update, or 80 % updates, 10 % inserts and 10 % deletes.
    pub fn change(&mut self, session: &mut Session, rows: i64) {
        self.round += 1;
        let ends = rows / 10;
        if ends > 0 {
            let Self { low, high, .. } = *self;
            self.low += ends;
            self.high += ends;
            session.exec(&format!(
                "begin; delete from facts where id between {low} and {};
                 insert into facts select {VALUES} from generate_series({}::bigint, {}) i;",
                low + ends - 1,
                high + 1,
                high + ends
            ));
        }
        let updates = rows - 2 * ends;
        let (low, count, start) = (self.low, self.high - self.low + 1, self.round * 104_729);
        session.exec(&format!(
            "update facts set amount = amount + 1, n = (n + 7) % 1000 where id = any (array(
                 select {low} + (i * 7919 + {start}) % {count} from generate_series(1, {updates}::bigint) i));
             commit;"
        ));
    }
}

/// The position behind everything in the change table.
pub fn last_position(session: &mut Session) -> i64 {
    session.number("select coalesce(max(pos), 0) from change_table")
}
