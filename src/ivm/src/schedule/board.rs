//! The board: every stream table with what decides whether it has to be refreshed now.
//!
//! Due means due *and* dirty: nothing is run for a stream table whose sources have not changed. What is refreshed at a
//! time is a unit: the members of a consistency group, at one snapshot or not at all, or a single stream table. A unit
//! waits for the units it reads while one of them is being refreshed or is due itself, and for nothing else: there are no
//! waves, and one slow unit delays only its own readers.
//!
//! A wake-up costs in proportion to what is due and what became dirty, whatever the number of stream tables: due times
//! are kept in a heap, and only dirty units are in it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use super::Schedule;
use super::tier::{self, Tier};

/// A stream table on the board.
#[derive(Clone, Debug)]
pub struct Entry {
    pub schedule: Schedule,
    /// Stream tables it reads.
    pub upstream: Vec<i64>,
    /// May be refreshed at all (not suspended, in error, gated).
    pub active: bool,
    /// Refreshed at every due time, dirty or not: its sources cannot be watched.
    pub always: bool,
    pub tier: Tier,
    /// When it was refreshed last, as far as the catalog knows.
    pub last_refreshed: Option<i64>,
}

/// Whose schedule a group follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Due when any member is.
    #[default]
    Fastest,
    /// Due when every member is.
    Slowest,
}

/// Stream tables that are refreshed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub members: Vec<i64>,
    pub policy: Policy,
}

/// What holds for every stream table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Milliseconds between refreshes of a `calculated` stream table that nobody reads.
    pub default_interval: u64,
    /// Refreshes that take as long as their interval stretch it.
    pub backoff: bool,
}

#[derive(Clone, Debug)]
struct Standing {
    entry: Entry,
    unit: usize,
    /// How often its readers want it, if it is `calculated`.
    demand: Demand,
    /// When it became dirty.
    dirty_since: Option<i64>,
    running: bool,
    /// When the last refresh began.
    last_started: i64,
    /// Not before this, after a failure.
    not_before: i64,
    failures: u32,
    /// Its interval is this many times longer, because refreshes took as long as the interval.
    stretch: u32,
}

#[derive(Clone, Debug, Default)]
struct Unit {
    members: Vec<i64>,
    policy: Policy,
    upstream: Vec<usize>,
    /// The due time under which it is in the heap.
    queued: Option<i64>,
    /// The due time under which it is in `ready`.
    ready: Option<i64>,
}

/// See the module's documentation. Times are milliseconds since the epoch.
#[derive(Clone, Debug)]
pub struct Board {
    rules: Rules,
    standings: HashMap<i64, Standing>,
    units: Vec<Unit>,
    /// Dirty units whose time has not come, by due time; entries that do not agree with their unit are outdated.
    waiting: BinaryHeap<Reverse<(i64, usize)>>,
    /// Dirty units whose time has come.
    ready: BTreeSet<(i64, usize)>,
    /// Members of the units being refreshed, by the unit's key when it was started.
    running: HashMap<i64, Vec<i64>>,
}

/// What to do now and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The keys of the units to start, in order: the smallest member of each.
    pub start: Vec<i64>,
    /// The next moment at which something becomes due by the clock.
    pub wake_at: Option<i64>,
    /// Units that are due, those to start included.
    pub due: usize,
}

impl Board {
    pub fn new(rules: Rules) -> Board {
        Board {
            rules,
            standings: HashMap::new(),
            units: vec![],
            waiting: BinaryHeap::new(),
            ready: BTreeSet::new(),
            running: HashMap::new(),
        }
    }

    /// Replaces the entries and groups, keeping what is known of the stream tables that stay. New ones are dirty: nobody
    /// knows otherwise. Groups must not overlap; members that are no entries are left out.
    pub fn replace(&mut self, entries: BTreeMap<i64, Entry>, groups: &[Group], now: i64) {
        let mut before = std::mem::take(&mut self.standings);
        for (id, entry) in entries {
            let standing = match before.remove(&id) {
                Some(known) => {
                    let reactivated = entry.active && !known.entry.active;
                    Standing {
                        dirty_since: if reactivated {
                            known.dirty_since.or(Some(now))
                        } else {
                            known.dirty_since
                        },
                        not_before: if reactivated { 0 } else { known.not_before },
                        failures: if reactivated { 0 } else { known.failures },
                        entry,
                        ..known
                    }
                }
                None => Standing {
                    unit: 0,
                    demand: Demand::None,
                    last_started: entry.last_refreshed.unwrap_or(0),
                    entry,
                    dirty_since: Some(now),
                    running: false,
                    not_before: 0,
                    failures: 0,
                    stretch: 1,
                },
            };
            self.standings.insert(id, standing);
        }
        self.assign_demands();
        self.build_units(groups);
    }

    /// Changes what holds for every stream table.
    pub fn set_rules(&mut self, rules: Rules) {
        if self.rules != rules {
            self.rules = rules;
            for unit in 0..self.units.len() {
                self.queue(unit);
            }
        }
    }

    fn build_units(&mut self, groups: &[Group]) {
        self.units.clear();
        self.waiting.clear();
        self.ready.clear();
        let mut grouped: BTreeSet<i64> = BTreeSet::new();
        for group in groups {
            let members: Vec<i64> = group
                .members
                .iter()
                .copied()
                .filter(|id| self.standings.contains_key(id) && grouped.insert(*id))
                .collect();
            self.add_unit(members, group.policy);
        }
        let mut singles: Vec<i64> = self
            .standings
            .keys()
            .copied()
            .filter(|id| !grouped.contains(id))
            .collect();
        singles.sort_unstable();
        for id in singles {
            self.add_unit(vec![id], Policy::Fastest);
        }
        for unit in 0..self.units.len() {
            let upstream: BTreeSet<usize> = self.units[unit]
                .members
                .iter()
                .flat_map(|member| &self.standings[member].entry.upstream)
                .filter_map(|id| self.standings.get(id))
                .map(|standing| standing.unit)
                .filter(|upstream| *upstream != unit)
                .collect();
            self.units[unit].upstream = upstream.into_iter().collect();
            self.queue(unit);
        }
    }

    fn add_unit(&mut self, mut members: Vec<i64>, policy: Policy) {
        if members.is_empty() {
            return;
        }
        members.sort_unstable();
        let number = self.units.len();
        for member in &members {
            if let Some(standing) = self.standings.get_mut(member) {
                standing.unit = number;
            }
        }
        self.units.push(Unit {
            members,
            policy,
            ..Unit::default()
        });
    }

    /// Puts the unit where it belongs now: nowhere, into the heap, or (once due) into `ready`.
    fn queue(&mut self, number: usize) {
        let due = self.due(number);
        let unit = &mut self.units[number];
        if let Some(at) = unit.ready {
            if due.is_some_and(|due| due <= at) {
                return;
            }
            self.ready.remove(&(at, number));
            unit.ready = None;
        }
        if unit.queued == due {
            return;
        }
        unit.queued = due;
        if let Some(due) = due {
            self.waiting.push(Reverse((due, number)));
        }
    }

    /// When the unit has to be refreshed; none while it is clean, inactive or being refreshed.
    fn due(&self, number: usize) -> Option<i64> {
        let unit = &self.units[number];
        let mut dirty_since: Option<i64> = None;
        let mut not_before = 0;
        for member in &unit.members {
            let standing = &self.standings[member];
            if standing.running || !standing.entry.active || standing.entry.tier.factor().is_none()
            {
                return None;
            }
            let since = standing.dirty_since.or(standing.entry.always.then_some(0));
            dirty_since = match (dirty_since, since) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            not_before = not_before.max(standing.not_before);
        }
        let dirty_since = dirty_since?;
        let times = unit
            .members
            .iter()
            .map(|member| self.due_at(&self.standings[member], dirty_since));
        // A schedule without a next time holds a slowest group back for good, and does nothing for a fastest one.
        let due = match unit.policy {
            Policy::Fastest => times.flatten().min(),
            Policy::Slowest => times.max_by_key(|at| at.unwrap_or(i64::MAX)).flatten(),
        }?;
        Some(due.max(not_before))
    }

    fn due_at(&self, standing: &Standing, dirty_since: i64) -> Option<i64> {
        let times = standing.entry.tier.factor().unwrap_or(1);
        match &standing.entry.schedule {
            Schedule::Cron(cron) => {
                let mut at = standing.last_started;
                for _ in 0..times {
                    at = super::next_cron_ms(cron, at)?;
                }
                Some(at)
            }
            _ => match self.interval(standing) {
                None => Some(dirty_since),
                Some(interval) => Some(standing.last_started.saturating_add(interval)),
            },
        }
    }

    /// Milliseconds between refreshes, with tier and stretching; none for at once.
    fn interval(&self, standing: &Standing) -> Option<i64> {
        let interval = match (&standing.entry.schedule, standing.demand) {
            (Schedule::Every(interval), _) => *interval,
            (Schedule::Calculated, Demand::Every(interval)) => interval,
            (Schedule::Calculated, Demand::None) => self.rules.default_interval,
            _ => return None,
        };
        let factor = u64::from(standing.entry.tier.factor().unwrap_or(1))
            * u64::from(if self.rules.backoff {
                standing.stretch
            } else {
                1
            });
        Some(interval.saturating_mul(factor).min(i64::MAX as u64) as i64)
    }

    pub fn mark_dirty(&mut self, id: i64, now: i64) {
        let Some(standing) = self.standings.get_mut(&id) else {
            return;
        };
        if standing.dirty_since.is_none() {
            standing.dirty_since = Some(now);
            let unit = standing.unit;
            self.queue(unit);
        }
    }

    pub fn mark_all_dirty(&mut self, now: i64) {
        for standing in self.standings.values_mut() {
            standing.dirty_since.get_or_insert(now);
        }
        for unit in 0..self.units.len() {
            self.queue(unit);
        }
    }

    /// The members of the unit with this key, in ascending order.
    pub fn members(&self, key: i64) -> &[i64] {
        self.standings
            .get(&key)
            .map_or(&[], |standing| self.units[standing.unit].members.as_slice())
    }

    /// A refresh of a unit begins: changes from now on make it dirty again.
    pub fn started(&mut self, key: i64, now: i64) {
        let members = self.members(key).to_vec();
        for member in &members {
            if let Some(standing) = self.standings.get_mut(member) {
                standing.running = true;
                standing.dirty_since = None;
                standing.last_started = now;
            }
        }
        if let Some(standing) = self.standings.get(&key) {
            let unit = standing.unit;
            self.queue(unit);
        }
        self.running.insert(key, members);
    }

    /// A refresh ended well after `took` ms.
    pub fn succeeded(&mut self, key: i64, took: f64) {
        let backoff = self.rules.backoff;
        let default_interval = self.rules.default_interval;
        self.ended(key, |standing| {
            standing.failures = 0;
            standing.not_before = 0;
            let interval = match (&standing.entry.schedule, standing.demand) {
                (Schedule::Every(interval), _) => *interval,
                (Schedule::Calculated, Demand::Every(interval)) => interval,
                (Schedule::Calculated, Demand::None) => default_interval,
                _ => return,
            };
            if backoff {
                let interval =
                    interval as f64 * f64::from(standing.entry.tier.factor().unwrap_or(1));
                standing.stretch = tier::stretch(standing.stretch, interval, took);
            }
        });
    }

    /// A refresh failed and may be tried again at `retry_at`.
    pub fn failed(&mut self, key: i64, retry_at: i64, now: i64) {
        self.ended(key, |standing| {
            standing.dirty_since = Some(now);
            standing.failures += 1;
            standing.not_before = retry_at;
        });
    }

    /// It had to wait and is looked at again at `retry_at`; no failure.
    pub fn postponed(&mut self, key: i64, retry_at: i64, now: i64) {
        self.ended(key, |standing| {
            standing.dirty_since = Some(now);
            standing.not_before = retry_at;
        });
    }

    /// Its worker died: try again at once.
    pub fn lost(&mut self, key: i64, now: i64) {
        self.ended(key, |standing| standing.dirty_since = Some(now));
    }

    fn ended(&mut self, key: i64, mut change: impl FnMut(&mut Standing)) {
        let mut units = BTreeSet::new();
        for member in self.running.remove(&key).unwrap_or_default() {
            if let Some(standing) = self.standings.get_mut(&member) {
                standing.running = false;
                change(standing);
                units.insert(standing.unit);
            }
        }
        for unit in units {
            self.queue(unit);
        }
    }

    /// Failures in a row of the unit's refreshes.
    pub fn failures(&self, key: i64) -> u32 {
        self.standings
            .get(&key)
            .map_or(0, |standing| standing.failures)
    }

    /// Units being refreshed.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Stream tables on the board.
    pub fn len(&self) -> usize {
        self.standings.len()
    }

    pub fn is_empty(&self) -> bool {
        self.standings.is_empty()
    }

    pub fn contains(&self, id: i64) -> bool {
        self.standings.contains_key(&id)
    }

    /// What is due at `now`, of that at most `capacity` units to start.
    pub fn decide(&mut self, now: i64, capacity: usize) -> Decision {
        while let Some(Reverse((due, number))) = self.waiting.peek().copied() {
            if self.units[number].queued != Some(due) {
                self.waiting.pop();
                continue;
            }
            if due > now {
                break;
            }
            self.waiting.pop();
            let unit = &mut self.units[number];
            unit.queued = None;
            unit.ready = Some(due);
            self.ready.insert((due, number));
        }
        Decision {
            start: self
                .ready
                .iter()
                .filter(|(_, number)| self.may_start(*number))
                .take(capacity)
                .map(|(_, number)| self.units[*number].members[0])
                .collect(),
            wake_at: self.waiting.peek().map(|Reverse((due, _))| *due),
            due: self.ready.len(),
        }
    }

    fn may_start(&self, number: usize) -> bool {
        self.units[number].upstream.iter().all(|upstream| {
            let unit = &self.units[*upstream];
            unit.ready.is_none()
                && !unit
                    .members
                    .iter()
                    .any(|member| self.standings[member].running)
        })
    }

    /// How often the readers of each `calculated` stream table want it fresh.
    fn assign_demands(&mut self) {
        let mut demands: HashMap<i64, Demand> = HashMap::new();
        let mut open: Vec<(i64, Demand)> = Vec::new();
        for standing in self.standings.values() {
            let Some(factor) = standing.entry.tier.factor() else {
                continue;
            };
            let own = match &standing.entry.schedule {
                Schedule::Continuous => Demand::AtOnce,
                Schedule::Every(interval) => {
                    Demand::Every(interval.saturating_mul(u64::from(factor)))
                }
                // A reader at fixed times needs it at those times; its own refresh asks often enough before.
                Schedule::Cron(_) => Demand::Every(self.rules.default_interval),
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
        for (id, standing) in &mut self.standings {
            standing.demand = demands.get(id).copied().unwrap_or(Demand::None);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Demand {
    AtOnce,
    Every(u64),
    None,
}

#[cfg(test)]
mod tests;
