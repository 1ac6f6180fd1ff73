//! A whole case, made from a seed.

use super::changes::{Changes, Tide, mixed};
use super::queries::{Queries, Source};
use super::query::Query;
use super::schema::Table;
use fastrand::Rng;

#[derive(Clone, Debug)]
pub enum Event {
    /// A statement in one of the writers' sessions. `$db` stands for the database's name.
    Statement { session: usize, sql: String },
    /// A refresh in the reader's session, writers in flight or not, and a comparison.
    Refresh { stream: usize },
    /// A rotation of the relation's change log, if it has one.
    Rotate { relation: String },
    /// A refresh and comparison of every stream table.
    Check,
}

/// What [`super::replay`] carries out.
#[derive(Clone, Debug)]
pub struct Case {
    pub tables: Vec<Table>,
    pub views: Vec<(String, Query)>,
    /// Rows that are there before the stream tables are.
    pub fill: Vec<String>,
    pub streams: Vec<(String, Query)>,
    pub events: Vec<Event>,
    pub sessions: usize,
    /// Changes are applied as large ones are.
    pub large: bool,
    /// Equal rows may decide: the mode is AUTO.
    pub open: bool,
}

impl Case {
    pub fn random(seed: u64) -> Self {
        Self::new(seed, false)
    }

    /// Its queries order rows by less than what tells them apart.
    pub fn open(seed: u64) -> Self {
        Self::new(seed, true)
    }

    fn new(seed: u64, open: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let tables: Vec<Table> = (0..rng.usize(1..4))
            .map(|i| Table::random(&format!("s{i}"), &mut rng))
            .collect();
        let mut relations: Vec<Source> = tables
            .iter()
            .flat_map(|t| t.names().map(move |name| (name, t)))
            .map(|(name, t)| Source {
                name,
                columns: t.columns.iter().map(|c| (c.name.clone(), c.ty)).collect(),
                key: t.columns[..t.key].iter().map(|c| c.name.clone()).collect(),
                base: true,
                loose: false,
                inputs: 1,
            })
            .collect();
        let mut views = Vec::new();
        if rng.u8(..3) == 0 {
            let mut queries = Queries::new(&relations, &mut rng).leaving_open(open);
            let query = queries.top();
            relations.push(Source {
                name: "w0".into(),
                columns: query.columns(),
                key: Vec::new(),
                base: false,
                loose: !query.is_bag(),
                inputs: queries.inputs(&query),
            });
            views.push(("w0".to_string(), query));
        }
        let mut streams = Vec::new();
        for i in 0..rng.usize(2..7) {
            let query = Queries::new(&relations, &mut rng).leaving_open(open).top();
            let name = format!("v{i}");
            // Some of the later ones read it.
            if rng.u8(..2) == 0 {
                relations.push(Source {
                    name: name.clone(),
                    columns: query.columns(),
                    key: Vec::new(),
                    base: false,
                    loose: false,
                    inputs: 1,
                });
            }
            streams.push((name, query));
        }
        // Twins share every intermediate result.
        for twin in 0..rng.usize(..3) {
            let (_, query): &(String, Query) = &streams[rng.usize(..streams.len())];
            streams.push((format!("twin{twin}"), query.clone()));
        }
        let mut changes = Changes {
            tables: &tables,
            rng: &mut rng,
            fresh: 1000,
            prepared: 0,
            tide: Tide::Both,
        };
        let fill = tables.iter().map(|t| changes.fill(t)).collect();
        let logged: Vec<String> = tables
            .iter()
            .map(|t| t.name.clone())
            .chain(streams.iter().map(|(name, _)| name.clone()))
            .collect();
        let sessions = 1 + usize::from(changes.rng.u8(..3) > 0) * 2;
        let mut events = Vec::new();
        for _ in 0..changes.rng.usize(3..8) {
            changes.tide = match changes.rng.u8(..6) {
                0 => Tide::In,
                1 => Tide::Out,
                _ => Tide::Both,
            };
            let transactions = (0..sessions)
                .map(|_| {
                    (0..changes.rng.usize(1..4))
                        .flat_map(|_| changes.transaction())
                        .collect()
                })
                .collect();
            events.extend(mixed(transactions, streams.len(), &logged, changes.rng));
            events.push(Event::Check);
        }
        Self {
            tables,
            views,
            fill,
            streams,
            events,
            sessions,
            large: seed.is_multiple_of(3),
            open,
        }
    }

    /// The statements of each session, for writers that run freely.
    pub fn scripts(&self) -> Vec<Vec<String>> {
        let mut scripts = vec![Vec::new(); self.sessions];
        for event in &self.events {
            if let Event::Statement { session, sql } = event {
                scripts[*session].push(sql.clone());
            }
        }
        scripts
    }

    /// The case as a script for a person to read and run.
    pub fn script(&self) -> String {
        let mut lines: Vec<String> = self
            .tables
            .iter()
            .map(|t| format!("{};", t.definition()))
            .collect();
        lines.extend(
            self.views
                .iter()
                .map(|(name, q)| format!("create view {name} as {};", q.sql())),
        );
        lines.extend(self.fill.iter().map(|sql| format!("{sql};")));
        if self.large {
            lines.push("set pg_trickle.test_break = 'large_changes';".into());
        }
        lines.extend(self.streams.iter().map(|(name, q)| {
            let mode = if self.open { "AUTO" } else { "DIFFERENTIAL" };
            format!("select pgtrickle.create_stream_table('{name}', $q${}$q$, schedule => '1d', refresh_mode => '{mode}');", q.sql())
        }));
        for event in &self.events {
            lines.push(match event {
                Event::Statement { session, sql } => format!("/* session {session} */ {sql};"),
                Event::Refresh { stream } => match self.streams.get(*stream) {
                    Some((name, _)) => format!("select pgtrickle.refresh_stream_table('{name}');"),
                    None => continue,
                },
                Event::Rotate { relation } => {
                    format!("select pgtrickle.rotate_change_buffer('{relation}', force => true);")
                }
                Event::Check => "-- refresh and compare all".into(),
            });
        }
        lines.join("\n")
    }
}
