//! The board: every stream table with what decides whether it has to be refreshed now.
//!
//! Due means due *and* dirty: nothing is run for a stream table whose sources have not changed. A stream table waits for
//! the stream tables it reads while one of them is being refreshed or is due itself, and for nothing else: there are no
//! waves, and one slow stream table delays only its own readers.

use std::collections::{BTreeMap, BTreeSet};

use super::Schedule;

/// A stream table on the board.
#[derive(Clone, Debug)]
pub struct Entry {
    pub schedule: Schedule,
    /// Stream tables it reads.
    pub upstream: Vec<i64>,
    /// May be refreshed at all (not suspended, not in error).
    pub active: bool,
    /// Refreshed at every due time, dirty or not: its sources cannot be watched.
    pub always: bool,
    /// When it was refreshed last, as far as the catalog knows.
    pub last_refreshed: Option<i64>,
}

#[derive(Clone, Debug)]
struct Standing {
    entry: Entry,
    dirty: bool,
    running: bool,
    /// When the last refresh began, in milliseconds since the epoch.
    last_started: i64,
    /// Not before this, after a failure.
    not_before: i64,
    failures: u32,
}

/// See the module's documentation. Times are milliseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub struct Board {
    standings: BTreeMap<i64, Standing>,
    default_interval: u64,
}

/// What to do now and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In the order in which they should be started.
    pub start: Vec<i64>,
    /// The next moment at which something becomes due by the clock.
    pub wake_at: Option<i64>,
}

impl Board {
    pub fn new(default_interval: u64) -> Board {
        Board {
            standings: BTreeMap::new(),
            default_interval,
        }
    }

    /// Replaces the entries, keeping what is known of those that stay. New ones are dirty: nobody knows otherwise.
    pub fn replace(&mut self, entries: BTreeMap<i64, Entry>, default_interval: u64) {
        self.default_interval = default_interval;
        let mut before = std::mem::take(&mut self.standings);
        for (id, entry) in entries {
            let standing = match before.remove(&id) {
                Some(known) => {
                    let reactivated = entry.active && !known.entry.active;
                    Standing {
                        dirty: known.dirty || reactivated,
                        not_before: if reactivated { 0 } else { known.not_before },
                        failures: if reactivated { 0 } else { known.failures },
                        entry,
                        ..known
                    }
                }
                None => Standing {
                    last_started: entry.last_refreshed.unwrap_or(0),
                    entry,
                    dirty: true,
                    running: false,
                    not_before: 0,
                    failures: 0,
                },
            };
            self.standings.insert(id, standing);
        }
    }

    pub fn mark_dirty(&mut self, id: i64) {
        if let Some(standing) = self.standings.get_mut(&id) {
            standing.dirty = true;
        }
    }

    /// A change of its sources would make a difference to the board.
    pub fn is_clean(&self, id: i64) -> bool {
        self.standings
            .get(&id)
            .is_some_and(|standing| !standing.dirty)
    }

    pub fn mark_all_dirty(&mut self) {
        for standing in self.standings.values_mut() {
            standing.dirty = true;
        }
    }

    /// A refresh begins: changes from now on make it dirty again.
    pub fn started(&mut self, id: i64, now: i64) {
        if let Some(standing) = self.standings.get_mut(&id) {
            standing.running = true;
            standing.dirty = false;
            standing.last_started = now;
        }
    }

    /// A refresh ended well.
    pub fn succeeded(&mut self, id: i64) {
        if let Some(standing) = self.standings.get_mut(&id) {
            standing.running = false;
            standing.failures = 0;
            standing.not_before = 0;
        }
    }

    /// A refresh failed and may be tried again at `retry_at`. Returns the failures in a row.
    pub fn failed(&mut self, id: i64, retry_at: i64) -> u32 {
        let Some(standing) = self.standings.get_mut(&id) else {
            return 0;
        };
        standing.running = false;
        standing.dirty = true;
        standing.failures += 1;
        standing.not_before = retry_at;
        standing.failures
    }

    /// Its worker died: try again at once.
    pub fn lost(&mut self, id: i64) {
        if let Some(standing) = self.standings.get_mut(&id) {
            standing.running = false;
            standing.dirty = true;
        }
    }

    pub fn running(&self) -> usize {
        self.standings
            .values()
            .filter(|standing| standing.running)
            .count()
    }

    pub fn len(&self) -> usize {
        self.standings.len()
    }

    pub fn is_empty(&self) -> bool {
        self.standings.is_empty()
    }

    /// What is due at `now`.
    pub fn decide(&self, now: i64) -> Decision {
        let demands = self.demands();
        let mut decision = Decision::default();
        let mut due: BTreeSet<i64> = BTreeSet::new();
        for (id, standing) in &self.standings {
            if !standing.entry.active
                || standing.running
                || !(standing.dirty || standing.entry.always)
            {
                continue;
            }
            let Some(at) = self.due_at(*id, standing, &demands) else {
                continue;
            };
            let at = at.max(standing.not_before);
            if at <= now {
                due.insert(*id);
            } else {
                decision.wake_at = Some(decision.wake_at.map_or(at, |known: i64| known.min(at)));
            }
        }
        decision.start = due
            .iter()
            .copied()
            .filter(|id| {
                self.standings[id].entry.upstream.iter().all(|upstream| {
                    !due.contains(upstream)
                        && self
                            .standings
                            .get(upstream)
                            .is_none_or(|standing| !standing.running)
                })
            })
            .collect();
        decision
    }

    fn due_at(&self, id: i64, standing: &Standing, demands: &BTreeMap<i64, Demand>) -> Option<i64> {
        match &standing.entry.schedule {
            Schedule::Calculated => match demands.get(&id) {
                Some(Demand::AtOnce) => Some(0),
                Some(Demand::Every(interval)) => {
                    Some(standing.last_started.saturating_add(*interval as i64))
                }
                None => Some(
                    standing
                        .last_started
                        .saturating_add(self.default_interval as i64),
                ),
            },
            Schedule::Continuous => Some(0),
            fixed => fixed.next_due_ms(standing.last_started),
        }
    }

    /// How often the readers of each stream table want it fresh.
    fn demands(&self) -> BTreeMap<i64, Demand> {
        let mut demands: BTreeMap<i64, Demand> = BTreeMap::new();
        if !self
            .standings
            .values()
            .any(|standing| standing.entry.schedule == Schedule::Calculated)
        {
            return demands;
        }
        let mut open: Vec<(i64, Demand)> = Vec::new();
        for standing in self.standings.values() {
            let own = match &standing.entry.schedule {
                Schedule::Continuous => Demand::AtOnce,
                Schedule::Every(interval) => Demand::Every(*interval),
                // A reader at fixed times needs it at those times; its own refresh asks often enough before.
                Schedule::Cron(_) => Demand::Every(self.default_interval),
                Schedule::Calculated => continue,
            };
            open.extend(
                standing
                    .entry
                    .upstream
                    .iter()
                    .map(|upstream| (*upstream, own)),
            );
        }
        while let Some((id, demand)) = open.pop() {
            let tighter = demands.get(&id).is_none_or(|known| demand < *known);
            if !tighter {
                continue;
            }
            demands.insert(id, demand);
            if let Some(standing) = self.standings.get(&id)
                && standing.entry.schedule == Schedule::Calculated
            {
                open.extend(
                    standing
                        .entry
                        .upstream
                        .iter()
                        .map(|upstream| (*upstream, demand)),
                );
            }
        }
        demands
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Demand {
    AtOnce,
    Every(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(entries: &[(i64, &str, &[i64])]) -> Board {
        let mut board = Board::new(1_000);
        let entries = entries
            .iter()
            .map(|(id, schedule, upstream)| {
                let Ok(schedule) = Schedule::parse(schedule) else {
                    panic!("schedule")
                };
                (
                    *id,
                    Entry {
                        schedule,
                        upstream: upstream.to_vec(),
                        active: true,
                        always: false,
                        last_refreshed: None,
                    },
                )
            })
            .collect();
        board.replace(entries, 1_000);
        board
    }

    fn settle(board: &mut Board, now: i64) {
        loop {
            let start = board.decide(now).start;
            if start.is_empty() {
                return;
            }
            for id in start {
                board.started(id, now);
                board.succeeded(id);
            }
        }
    }

    #[test]
    fn a_clean_stream_table_is_never_due() {
        let mut board = board(&[(1, "1s", &[])]);
        settle(&mut board, 10_000);
        assert_eq!(board.decide(99_000), Decision::default());
    }

    #[test]
    fn a_dirty_one_waits_for_its_time() {
        let mut board = board(&[(1, "5s", &[])]);
        settle(&mut board, 10_000);
        board.mark_dirty(1);
        assert_eq!(
            board.decide(11_000),
            Decision {
                start: vec![],
                wake_at: Some(15_000)
            }
        );
        assert_eq!(board.decide(15_000).start, vec![1]);
    }

    #[test]
    fn a_reader_waits_for_what_it_reads() {
        let mut board = board(&[(1, "continuous", &[]), (2, "continuous", &[1])]);
        assert_eq!(board.decide(1).start, vec![1]);
        board.started(1, 1);
        assert_eq!(board.decide(1).start, Vec::<i64>::new());
        board.succeeded(1);
        assert_eq!(board.decide(1).start, vec![2]);
    }

    #[test]
    fn one_slow_stream_table_delays_nobody_else() {
        let mut board = board(&[(1, "continuous", &[]), (2, "continuous", &[])]);
        board.started(1, 1);
        assert_eq!(board.decide(2).start, vec![2]);
    }

    #[test]
    fn calculated_follows_its_readers_through_a_chain() {
        let mut board = board(&[
            (1, "calculated", &[]),
            (2, "calculated", &[1]),
            (3, "5s", &[2]),
        ]);
        settle(&mut board, 10_000);
        board.mark_dirty(1);
        assert_eq!(board.decide(14_999).wake_at, Some(15_000));
    }

    #[test]
    fn calculated_alone_takes_the_default() {
        let mut board = board(&[(1, "calculated", &[])]);
        settle(&mut board, 10_000);
        board.mark_dirty(1);
        assert_eq!(board.decide(10_500).wake_at, Some(11_000));
    }

    #[test]
    fn a_failure_waits_for_its_retry() {
        let mut board = board(&[(1, "continuous", &[])]);
        board.started(1, 1_000);
        assert_eq!(board.failed(1, 3_000), 1);
        assert_eq!(
            board.decide(2_000),
            Decision {
                start: vec![],
                wake_at: Some(3_000)
            }
        );
        assert_eq!(board.decide(3_000).start, vec![1]);
    }

    #[test]
    fn changes_during_a_refresh_are_not_forgotten() {
        let mut board = board(&[(1, "continuous", &[])]);
        board.started(1, 1);
        board.mark_dirty(1);
        board.succeeded(1);
        assert_eq!(board.decide(2).start, vec![1]);
    }
}
