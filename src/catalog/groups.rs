//! `pgt_consistency_groups`, `pgt_group_members`: what is refreshed together.

use std::collections::{BTreeMap, BTreeSet};

use pgt_ivm::graph::{self, Node, Reads};

use super::Status;
use crate::config::{self, Consistency, SchedulePolicy};
use crate::pg::direct;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Row, Under, Value};

/// A group of stream tables that are refreshed together if it is atomic.
#[derive(Clone, Debug)]
pub struct Group {
    pub id: i64,
    /// With their status, in ascending order.
    pub members: Vec<(i64, Status)>,
    pub atomic: bool,
    pub policy: SchedulePolicy,
}

fn read(rows: &[Row]) -> Vec<Group> {
    let (consistency, policy) = config::diamond_defaults();
    let mut groups: BTreeMap<i64, Group> = BTreeMap::new();
    for row in rows {
        let group = groups.entry(row.int(0)).or_insert_with(|| Group {
            id: row.int(0),
            members: vec![],
            atomic: false,
            policy: SchedulePolicy::Fastest,
        });
        group
            .members
            .push((row.int(1), Status::parse(&row.text(2))));
        let converging = row.bool(3);
        let own = |column| row.optional_text(column);
        let atomic = own(5)
            .and_then(|text| Consistency::parse(&text))
            .unwrap_or(consistency)
            == Consistency::Atomic;
        group.atomic |= row.bool(4) || (converging && atomic);
        let policy = own(6)
            .and_then(|text| SchedulePolicy::parse(&text))
            .unwrap_or(policy);
        if converging && policy == SchedulePolicy::Slowest {
            group.policy = SchedulePolicy::Slowest;
        }
    }
    groups.into_values().collect()
}

const GROUPS: &str = "SELECT m.group_id, m.pgt_id, st.status, m.is_convergence, m.is_wanted, st.diamond_consistency, \
     st.diamond_schedule_policy FROM pgtrickle.pgt_group_members m JOIN pgtrickle.pgt_stream_tables st USING (pgt_id)";

/// Every group.
pub fn groups() -> Vec<Group> {
    read(&spi::run(&format!("{GROUPS} ORDER BY 1, 2"), &[]))
}

pub fn group(id: i64) -> Option<Group> {
    read(&spi::run(
        &format!("{GROUPS} WHERE m.group_id = $1 ORDER BY 2"),
        &[Value::Int(id)],
    ))
    .pop()
}

/// The group has been refreshed and something changed.
pub fn advance_epoch(group: i64) {
    spi::run(
        "UPDATE pgtrickle.pgt_consistency_groups SET epoch = epoch + 1 WHERE group_id = $1",
        &[Value::Int(group)],
    );
}

/// What every stream table reads, directly or through its stages.
pub fn all_reads() -> Reads {
    let mut reads: Reads = spi::run(
        "SELECT pgt_id FROM pgtrickle.pgt_stream_tables WHERE stage_query IS NULL",
        &[],
    )
    .iter()
    .map(|row| (row.int(0), BTreeSet::new()))
    .collect();
    let edges = spi::run(
        "SELECT u.pgt_id, d.source::pg_catalog.oid, up.pgt_id \
         FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_units u ON u.unit = d.pgt_id \
         LEFT JOIN pgtrickle.pgt_stream_tables up ON up.pgt_relid = d.source WHERE d.source_type <> 'stage'",
        &[],
    );
    for edge in edges {
        let node = match edge.optional_int(2) {
            Some(upstream) => Node::Stream(upstream),
            None => Node::Table(edge.oid(1).to_u32()),
        };
        reads.entry(edge.int(0)).or_default().insert(node);
    }
    reads
}

/// The sets of stream tables somebody wants to be refreshed together.
pub fn refresh_groups() -> Vec<BTreeSet<i64>> {
    let mut groups: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for row in spi::run(
        "SELECT group_name, pgt_id FROM pgtrickle.pgt_refresh_groups",
        &[],
    ) {
        groups.entry(row.text(0)).or_default().insert(row.int(1));
    }
    groups.into_values().collect()
}

/// Makes `groups` the groups there are. A group keeps the epoch of those it is made of. Returns the stream tables whose
/// group is another one now.
pub fn replace_groups(groups: &[graph::Group], wanted: &[BTreeSet<i64>]) -> Vec<i64> {
    let is_wanted =
        |group: &graph::Group| wanted.iter().any(|set| !set.is_disjoint(&group.members));
    let stored: BTreeMap<i64, (i64, bool, bool)> = spi::run(
        "SELECT pgt_id, group_id, is_convergence, is_wanted FROM pgtrickle.pgt_group_members",
        &[],
    )
    .iter()
    .map(|row| (row.int(0), (row.int(1), row.bool(2), row.bool(3))))
    .collect();
    let mut found: BTreeMap<i64, (i64, bool, bool)> = BTreeMap::new();
    for group in groups {
        let id = group.members.first().copied().unwrap_or(0);
        for member in &group.members {
            let converges = group.convergences.contains(member);
            found.insert(*member, (id, converges, is_wanted(group)));
        }
    }
    if found == stored {
        return vec![];
    }
    // A refresh that has advanced one is waited for.
    let by_group: BTreeMap<i64, i64> = spi::run(
        "SELECT group_id, epoch FROM pgtrickle.pgt_consistency_groups ORDER BY group_id FOR UPDATE",
        &[],
    )
    .iter()
    .map(|row| (row.int(0), row.int(1)))
    .collect();
    let epochs: BTreeMap<i64, i64> = stored
        .iter()
        .filter_map(|(member, (group, _, _))| Some((*member, *by_group.get(group)?)))
        .collect();
    spi::run("DELETE FROM pgtrickle.pgt_consistency_groups", &[]);
    for group in groups {
        let Some(id) = group.members.first().copied() else {
            continue;
        };
        let epoch = group
            .members
            .iter()
            .filter_map(|member| epochs.get(member))
            .max()
            .copied()
            .unwrap_or(0);
        spi::run(
            "INSERT INTO pgtrickle.pgt_consistency_groups (group_id, epoch) VALUES ($1, $2)",
            &[Value::Int(id), Value::Int(epoch)],
        );
        for member in &group.members {
            spi::run(
                "INSERT INTO pgtrickle.pgt_group_members (pgt_id, group_id, is_convergence, is_wanted) \
                 VALUES ($1, $2, $3, $4)",
                &[
                    Value::Int(*member),
                    Value::Int(id),
                    Value::Bool(group.convergences.contains(member)),
                    Value::Bool(is_wanted(group)),
                ],
            );
        }
    }
    spi::run(
        "UPDATE pgtrickle.pgt_stream_tables st SET consistency_group = x.group_id, generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') \
         FROM (SELECT s.pgt_id, m.group_id FROM pgtrickle.pgt_stream_tables s \
         LEFT JOIN pgtrickle.pgt_group_members m USING (pgt_id) WHERE s.stage_query IS NULL) x \
         WHERE x.pgt_id = st.pgt_id AND st.consistency_group IS DISTINCT FROM x.group_id RETURNING st.pgt_id",
        &[],
    )
    .iter()
    .map(|row| row.int(0))
    .collect()
}

/// Why a stream table must not be refreshed now.
pub fn held(id: i64) -> Option<String> {
    direct::read_rare("pgt_held", id, &Snapshot::latest(), |row| row.text(2))?
}

/// Notes for every stream table whether it is held back and why, as of the latest state. Returns those for which that
/// changed.
pub fn renew_holds() -> Vec<i64> {
    let latest = Snapshot::latest();
    spi::run_under(
        "WITH now AS MATERIALIZED (SELECT pgt_id, pg_catalog.string_agg(reason, '; ' ORDER BY reason) AS reason \
         FROM pgtrickle.pgt_holds GROUP BY pgt_id), \
         free AS (DELETE FROM pgtrickle.pgt_held h WHERE NOT EXISTS (SELECT FROM now WHERE now.pgt_id = h.pgt_id) \
         RETURNING h.pgt_id), \
         held AS (INSERT INTO pgtrickle.pgt_held AS h (pgt_id, reason) SELECT pgt_id, reason FROM now \
         ON CONFLICT (pgt_id) DO UPDATE SET reason = EXCLUDED.reason WHERE h.reason <> EXCLUDED.reason RETURNING h.pgt_id) \
         SELECT pgt_id FROM free UNION ALL SELECT pgt_id FROM held",
        &[],
        Under::Snapshot(&latest),
    )
    .iter()
    .map(|row| row.int(0))
    .collect()
}

/// Whether anything can be held back at all.
pub fn may_hold() -> bool {
    spi::first(
        "SELECT 1 WHERE EXISTS (SELECT FROM pgtrickle.pgt_source_gates) \
         OR EXISTS (SELECT FROM pgtrickle.pgt_watermark_groups) \
         OR EXISTS (SELECT FROM pgtrickle.pgt_held)",
        &[],
    )
    .is_some()
}
