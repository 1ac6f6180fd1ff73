//! The launcher: starts a scheduler in every database that has stream tables, as databases come and go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::pg::{shared, worker};

/// A database without scheduler is looked at again after this long, whatever is known of it: stream tables may have been
/// restored without anybody calling our functions.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Time between two looks at the list of databases.
const INTERVAL: Duration = Duration::from_secs(2);

struct Known {
    generation: u64,
    looked_at: Instant,
}

pub(super) fn main() {
    worker::connect(None);
    shared::enter_launcher();
    let mut known: HashMap<u32, Known> = HashMap::new();
    loop {
        worker::report_idle();
        look(&mut known);
        worker::wait(INTERVAL);
    }
}

fn look(known: &mut HashMap<u32, Known>) {
    // Looked at first: one that is created meanwhile is not taken for dropped.
    let mut gone: Vec<_> = shared::databases()
        .into_iter()
        .map(|(oid, _, _)| oid)
        .collect();
    let Ok(databases) = worker::transaction(|| Ok(worker::databases())) else {
        return;
    };
    gone.retain(|oid| databases.iter().all(|database| database.oid != *oid));
    shared::forget_databases(&gone);
    known.retain(|oid, _| {
        databases
            .iter()
            .any(|database| database.oid.to_u32() == *oid)
    });
    let announced = shared::databases();
    for database in databases {
        if shared::is_closed(database.oid) {
            continue;
        }
        let slot = announced.iter().find(|(oid, _, _)| *oid == database.oid);
        let (generation, pid) = slot.map_or((0, 0), |(_, generation, pid)| (*generation, *pid));
        if worker::alive(pid) {
            continue;
        }
        let died = pid != 0;
        let recently = known.get(&database.oid.to_u32()).is_some_and(|known| {
            known.generation == generation && known.looked_at.elapsed() < LOOK_AGAIN
        });
        if recently && !died {
            continue;
        }
        let started = worker::start(
            &format!("pg_trickle scheduler {}", database.name),
            "pg_trickle scheduler",
            "pgt_scheduler_main",
            u64::from(database.oid.to_u32()),
        );
        if started {
            known.insert(
                database.oid.to_u32(),
                Known {
                    generation,
                    looked_at: Instant::now(),
                },
            );
        } else {
            pgrx::warning!(
                "no background worker slot is free for the scheduler of database \"{}\"; raise max_worker_processes",
                database.name
            );
        }
    }
}
