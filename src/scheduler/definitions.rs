//! What a scheduler knows of the stream tables of its database, read in pieces so that refreshes go on meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map};

use pgrx::pg_sys;
use pgt_ivm::schedule::{Board, Entry, Group, Policy, Schedule, Tier};

use crate::catalog::{self, SourceType};
use crate::config::{SchedulePolicy, SchedulerSettings};
use crate::pg::spi::{self, Value};

/// Stream tables read at a time.
const PAGE: i64 = 500;

/// A stream table with the captured relations it reads.
#[derive(Clone, Debug)]
struct Known {
    entry: Entry,
    sources: Vec<pg_sys::Oid>,
}

/// Everything the board is made of.
#[derive(Default)]
pub(super) struct Definitions {
    known: BTreeMap<i64, Known>,
    groups: Vec<Group>,
    readers: HashMap<u32, Vec<i64>>,
    /// Stream tables that may read something else than before.
    changed: Vec<i64>,
}

/// A reading of all definitions under way: what has been read, and up to which id.
pub(super) struct Reading {
    /// Changes of definitions that were announced before it began.
    pub upto: u64,
    found: BTreeMap<i64, Known>,
    last: i64,
}

impl Reading {
    pub fn new(upto: u64) -> Reading {
        Reading {
            upto,
            found: BTreeMap::new(),
            last: 0,
        }
    }
}

impl Definitions {
    /// Puts what is known on the board.
    pub fn put_on(&self, board: &mut Board, now: i64) {
        let entries = self
            .known
            .iter()
            .map(|(id, known)| (*id, known.entry.clone()))
            .collect();
        board.replace(entries, &self.groups, now);
    }

    /// The stream tables that may read something else than when this was asked last.
    pub fn take_changed(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.changed)
    }

    /// Who reads `source`.
    pub fn readers(&self, source: pg_sys::Oid) -> &[i64] {
        self.readers
            .get(&source.to_u32())
            .map_or(&[], Vec::as_slice)
    }

    /// What `id` reads.
    pub fn sources(&self, id: i64) -> &[pg_sys::Oid] {
        self.known
            .get(&id)
            .map_or(&[], |known| known.sources.as_slice())
    }

    pub fn is_watched(&self, source: pg_sys::Oid) -> bool {
        self.readers.contains_key(&source.to_u32())
    }

    /// Reads the next piece; true when that was the last. In a transaction.
    pub fn read_on(&mut self, reading: &mut Reading, settings: &SchedulerSettings) -> bool {
        let page = read("st.pgt_id > $1", Value::Int(reading.last), PAGE, settings);
        let complete = (page.len() as i64) < PAGE;
        if let Some((last, _)) = page.last_key_value() {
            reading.last = *last;
        }
        reading.found.extend(page);
        if complete {
            let before = std::mem::replace(&mut self.known, std::mem::take(&mut reading.found));
            let same = |id: &i64, known: &Known| {
                before
                    .get(id)
                    .is_some_and(|before| before.sources == known.sources)
            };
            self.changed.extend(
                self.known
                    .iter()
                    .filter(|(id, known)| !same(id, known))
                    .map(|(id, _)| *id),
            );
            self.finish();
        }
        complete
    }

    /// Reads these stream tables again. In a transaction.
    pub fn read_some(&mut self, ids: &[i64], settings: &SchedulerSettings) {
        let found = read(
            "st.pgt_id = ANY ($1)",
            Value::IntArray(ids.to_vec()),
            i64::MAX,
            settings,
        );
        for id in ids {
            self.known.remove(id);
        }
        self.changed.extend(found.keys());
        self.known.extend(found);
        self.finish();
    }

    fn finish(&mut self) {
        self.readers.clear();
        for (id, known) in &self.known {
            for source in &known.sources {
                self.readers.entry(source.to_u32()).or_default().push(*id);
            }
        }
        self.groups = catalog::groups()
            .into_iter()
            .filter(|group| group.atomic)
            .map(|group| Group {
                members: group.members.into_iter().map(|(id, _)| id).collect(),
                policy: match group.policy {
                    SchedulePolicy::Fastest => Policy::Fastest,
                    SchedulePolicy::Slowest => Policy::Slowest,
                },
            })
            .collect();
    }
}

fn read(
    condition: &'static str,
    value: Value,
    limit: i64,
    settings: &SchedulerSettings,
) -> BTreeMap<i64, Known> {
    let rows = spi::run(
        &format!(
            "WITH st AS MATERIALIZED (SELECT * FROM pgtrickle.pgt_stream_tables st WHERE st.stage_query IS NULL \
             AND {condition} ORDER BY st.pgt_id LIMIT $2) \
             SELECT st.pgt_id, st.schedule, st.tier, \
             st.status IN ('ACTIVE', 'INITIALIZING') AND st.effective_refresh_mode <> 'IMMEDIATE' AND NOT EXISTS (SELECT FROM pgtrickle.pgt_held h WHERE h.pgt_id = st.pgt_id), \
             (EXTRACT(epoch FROM s.last_refresh_at) * 1000)::pg_catalog.int8, d.source::pg_catalog.oid, d.source_type, \
             up.pgt_id, st.moves FROM st LEFT JOIN pgtrickle.pgt_refresh_state s USING (pgt_id) \
             LEFT JOIN LATERAL (SELECT d.* FROM pgtrickle.pgt_dependencies d WHERE d.pgt_id = st.pgt_id UNION ALL \
             SELECT d.* FROM pgtrickle.pgt_stages u JOIN pgtrickle.pgt_dependencies d ON d.pgt_id = u.stage \
             WHERE u.pgt_id = st.pgt_id) d ON true \
             LEFT JOIN pgtrickle.pgt_stream_tables up ON up.pgt_relid = d.source AND d.source_type = 'stream_table'"
        ),
        &[value, Value::Int(limit)],
    );
    let mut found: BTreeMap<i64, Known> = BTreeMap::new();
    let mut unknown: HashSet<i64> = HashSet::new();
    for row in rows {
        let id = row.int(0);
        if unknown.contains(&id) {
            continue;
        }
        let known = match found.entry(id) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(free) => {
                let Ok(schedule) = Schedule::parse(&row.text(1)) else {
                    unknown.insert(id);
                    continue;
                };
                let tier = if settings.tiers {
                    Tier::parse(&row.text(2)).unwrap_or_default()
                } else {
                    Tier::Hot
                };
                free.insert(Known {
                    entry: Entry {
                        schedule,
                        upstream: vec![],
                        active: row.bool(3),
                        always: row.bool(8),
                        tier,
                        last_refreshed: row.optional_int(4),
                    },
                    sources: vec![],
                })
            }
        };
        if row.is_null(5) {
            continue;
        }
        match SourceType::parse(&row.text(6)) {
            SourceType::Uncaptured => known.entry.always = true,
            SourceType::Stage => {}
            SourceType::Table | SourceType::StreamTable => {
                let source = row.oid(5);
                if !known.sources.contains(&source) {
                    known.sources.push(source);
                }
            }
        }
        if let Some(upstream) = row.optional_int(7)
            && upstream != id
            && !known.entry.upstream.contains(&upstream)
        {
            known.entry.upstream.push(upstream);
        }
    }
    found
}
