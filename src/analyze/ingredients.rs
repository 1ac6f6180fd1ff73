//! What a query is made of besides the rows of relations: functions, types, operators, text search configurations, and
//! which partitions and inheritance children a table has.
//!
//! PostgreSQL locks relations while they are used and none of these. Somebody may replace a function or attach a partition
//! between two statements of a refresh, or while a stream table is created that the event trigger cannot see yet; or a
//! session has not heard of it although its snapshot shows it. So whoever uses ingredients locks them as readers do, and
//! DDL that may change what a query means locks them as writers do, until it is committed and every session knows. A table
//! stands for those that may come to inherit from it; those that do are locked as relations, which keeps them in place.

use pgrx::pg_sys;

use crate::catalog;
use crate::pg::lock::{self, Ingredients, Used};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Under, Value};

/// From a view down to what it is made of, by the dependencies that `ddl` follows up. Objects of initdb do not change.
const MADE_OF: &str = "WITH RECURSIVE made_of(class, object) AS (\
     SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, $1::pg_catalog.oid UNION \
     SELECT part.class, part.object FROM made_of m CROSS JOIN LATERAL (\
     SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend d WHERE d.classid = m.class AND d.objid = m.object UNION ALL \
     SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d \
     ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid \
     WHERE m.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND r.ev_class = m.object UNION ALL \
     SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, t.typrelid FROM pg_catalog.pg_type t \
     WHERE m.class = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = m.object AND t.typrelid <> 0) part(class, object) \
     WHERE part.object >= 16384 AND part.class IN ('pg_catalog.pg_class'::pg_catalog.regclass, \
     'pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass, \
     'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_ts_config'::pg_catalog.regclass, \
     'pg_catalog.pg_ts_dict'::pg_catalog.regclass)) \
     SELECT object FROM made_of m WHERE class <> 'pg_catalog.pg_class'::pg_catalog.regclass \
     OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = m.object AND (c.relkind = 'p' OR c.relkind = 'r' \
     AND NOT EXISTS (SELECT FROM pgtrickle.pgt_stream_tables st WHERE st.pgt_relid = c.oid)))";

/// Keeps what `view` is made of as it is until the transaction ends; waits for DDL that is changing it.
pub fn hold(view: pg_sys::Oid) -> Ingredients {
    let Some(catalog_oid) = catalog::catalog_oid() else {
        return Ingredients::new();
    };
    if lock::is_standby() {
        // Nobody refreshes here, and no such lock can be had.
        return of(view);
    }
    let mut held = Ingredients::new();
    loop {
        let found = of(view);
        if found.is_subset(&held) {
            return found;
        }
        // Those waited for may be made of something else now.
        for ingredient in &found {
            Used::Ingredient(*ingredient).lock(catalog_oid);
        }
        held.extend(found);
    }
}

fn of(view: pg_sys::Oid) -> Ingredients {
    let latest = Snapshot::latest();
    spi::run_under(MADE_OF, &[Value::Oid(view)], Under::Snapshot(&latest))
        .iter()
        .map(|row| lock::ingredient(row.oid(0)))
        .collect()
}
