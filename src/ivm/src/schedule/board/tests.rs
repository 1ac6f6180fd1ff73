use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    default_interval: 1_000,
    backoff: true,
};

fn entry(schedule: &str, upstream: &[i64]) -> Entry {
    let Ok(schedule) = Schedule::parse(schedule) else {
        panic!("schedule")
    };
    Entry {
        schedule,
        upstream: upstream.to_vec(),
        active: true,
        always: false,
        tier: Tier::Hot,
        last_refreshed: None,
    }
}

fn entries(list: &[(i64, &str, &[i64])]) -> BTreeMap<i64, Entry> {
    list.iter()
        .map(|(id, schedule, upstream)| (*id, entry(schedule, upstream)))
        .collect()
}

fn board(list: &[(i64, &str, &[i64])]) -> Board {
    grouped(list, &[])
}

fn grouped(list: &[(i64, &str, &[i64])], groups: &[(&[i64], Policy)]) -> Board {
    let groups: Vec<Group> = groups
        .iter()
        .map(|(members, policy)| Group {
            members: members.to_vec(),
            policy: *policy,
        })
        .collect();
    let mut board = Board::new(RULES);
    board.replace(entries(list), &groups, 0);
    board
}

fn start(board: &mut Board, now: i64) -> Vec<i64> {
    board.decide(now, usize::MAX).start
}

fn settle(board: &mut Board, now: i64) {
    loop {
        let keys = start(board, now);
        if keys.is_empty() {
            return;
        }
        for key in keys {
            board.started(key, now);
            board.succeeded(key, 1.0);
        }
    }
}

#[test]
fn a_clean_stream_table_is_never_due() {
    let mut board = board(&[(1, "1s", &[])]);
    settle(&mut board, 10_000);
    assert_eq!(board.decide(99_000, 10), Decision::default());
}

#[test]
fn a_dirty_one_waits_for_its_time() {
    let mut board = board(&[(1, "5s", &[])]);
    settle(&mut board, 10_000);
    board.mark_dirty(1, 10_500);
    assert_eq!(
        board.decide(11_000, 10),
        Decision {
            start: vec![],
            wake_at: Some(15_000),
            due: 0
        }
    );
    assert_eq!(start(&mut board, 15_000), vec![1]);
}

#[test]
fn a_reader_waits_for_what_it_reads() {
    let mut board = board(&[(1, "continuous", &[]), (2, "continuous", &[1])]);
    assert_eq!(start(&mut board, 1), vec![1]);
    board.started(1, 1);
    assert_eq!(start(&mut board, 1), Vec::<i64>::new());
    board.succeeded(1, 1.0);
    assert_eq!(start(&mut board, 1), vec![2]);
}

#[test]
fn one_slow_stream_table_delays_nobody_else() {
    let mut board = board(&[(1, "continuous", &[]), (2, "continuous", &[])]);
    board.started(1, 1);
    assert_eq!(start(&mut board, 2), vec![2]);
}

#[test]
fn calculated_follows_its_readers_through_a_chain() {
    let mut board = board(&[
        (1, "calculated", &[]),
        (2, "calculated", &[1]),
        (3, "5s", &[2]),
    ]);
    settle(&mut board, 10_000);
    board.mark_dirty(1, 10_001);
    assert_eq!(board.decide(14_999, 10).wake_at, Some(15_000));
}

#[test]
fn calculated_alone_takes_the_default() {
    let mut board = board(&[(1, "calculated", &[])]);
    settle(&mut board, 10_000);
    board.mark_dirty(1, 10_100);
    assert_eq!(board.decide(10_500, 10).wake_at, Some(11_000));
}

#[test]
fn a_failure_waits_for_its_retry() {
    let mut board = board(&[(1, "continuous", &[])]);
    board.started(1, 1_000);
    board.failed(1, 3_000, 1_500);
    assert_eq!(board.failures(1), 1);
    assert_eq!(board.decide(2_000, 10).wake_at, Some(3_000));
    assert_eq!(start(&mut board, 3_000), vec![1]);
}

#[test]
fn changes_during_a_refresh_are_not_forgotten() {
    let mut board = board(&[(1, "continuous", &[])]);
    board.started(1, 1);
    board.mark_dirty(1, 1);
    board.succeeded(1, 1.0);
    assert_eq!(start(&mut board, 2), vec![1]);
}

#[test]
fn a_group_is_one_unit() {
    let mut board = grouped(
        &[
            (2, "continuous", &[]),
            (3, "continuous", &[]),
            (4, "continuous", &[2, 3]),
            (5, "continuous", &[4]),
        ],
        &[(&[2, 3, 4], Policy::Fastest)],
    );
    assert_eq!(start(&mut board, 1), vec![2]);
    assert_eq!(board.members(2), [2, 3, 4]);
    board.started(2, 1);
    assert!(start(&mut board, 1).is_empty(), "5 waits for the group");
    board.succeeded(2, 1.0);
    assert_eq!(start(&mut board, 1), vec![5]);
    settle(&mut board, 2);
    board.mark_dirty(3, 3);
    assert_eq!(start(&mut board, 3), vec![2], "any member makes it dirty");
}

#[test]
fn a_fastest_group_follows_the_first_and_a_slowest_the_last_of_its_members() {
    for (policy, due) in [(Policy::Fastest, 11_000), (Policy::Slowest, 15_000)] {
        let mut board = grouped(&[(1, "1s", &[]), (2, "5s", &[1])], &[(&[1, 2], policy)]);
        settle(&mut board, 10_000);
        board.mark_dirty(1, 10_001);
        assert_eq!(board.decide(10_002, 10).wake_at, Some(due));
    }
}

#[test]
fn a_group_with_an_inactive_member_is_not_refreshed() {
    let mut list = entries(&[(1, "continuous", &[]), (2, "continuous", &[1])]);
    let group = Group {
        members: vec![1, 2],
        policy: Policy::Fastest,
    };
    let mut board = Board::new(RULES);
    if let Some(entry) = list.get_mut(&1) {
        entry.active = false;
    }
    board.replace(list.clone(), std::slice::from_ref(&group), 0);
    assert!(start(&mut board, 1).is_empty());
    if let Some(entry) = list.get_mut(&1) {
        entry.active = true;
    }
    board.replace(list, &[group], 2);
    assert_eq!(start(&mut board, 3), vec![1]);
}

#[test]
fn a_group_that_dissolves_while_it_is_refreshed_ends_for_all_its_members() {
    let list = entries(&[(1, "continuous", &[]), (2, "continuous", &[1])]);
    let mut board = Board::new(RULES);
    board.replace(
        list.clone(),
        &[Group {
            members: vec![1, 2],
            policy: Policy::Fastest,
        }],
        0,
    );
    assert_eq!(start(&mut board, 1), vec![1]);
    board.started(1, 1);
    board.replace(list, &[], 2);
    board.mark_dirty(2, 2);
    assert!(start(&mut board, 3).is_empty(), "both are being refreshed");
    board.succeeded(1, 1.0);
    assert_eq!(start(&mut board, 4), vec![2]);
    assert_eq!(board.running(), 0);
}

#[test]
fn tiers_stretch_the_interval_and_frozen_is_never_due() {
    for (tier, due) in [
        (Tier::Warm, Some(12_000)),
        (Tier::Cold, Some(20_000)),
        (Tier::Frozen, None),
    ] {
        let mut list = entries(&[(1, "1s", &[])]);
        let mut board = Board::new(RULES);
        board.replace(list.clone(), &[], 0);
        settle(&mut board, 10_000);
        if let Some(entry) = list.get_mut(&1) {
            entry.tier = tier;
        }
        board.replace(list, &[], 10_001);
        board.mark_dirty(1, 10_002);
        assert_eq!(board.decide(10_003, 10).wake_at, due);
    }
}

#[test]
fn a_refresh_as_long_as_its_interval_stretches_it() {
    let mut board = board(&[(1, "1s", &[])]);
    board.started(1, 10_000);
    board.succeeded(1, 980.0);
    board.mark_dirty(1, 11_000);
    assert_eq!(board.decide(11_000, 10).wake_at, Some(12_000));
    board.started(1, 12_000);
    board.succeeded(1, 100.0);
    board.mark_dirty(1, 12_200);
    assert_eq!(board.decide(12_200, 10).wake_at, Some(13_000));
}

#[test]
fn no_more_than_the_capacity_is_started_and_the_longest_due_first() {
    let mut board = board(&[
        (1, "continuous", &[]),
        (2, "continuous", &[]),
        (3, "continuous", &[]),
    ]);
    settle(&mut board, 10);
    for (id, at) in [(3, 11), (1, 12), (2, 13)] {
        board.mark_dirty(id, at);
    }
    let decision = board.decide(20, 2);
    assert_eq!((decision.start, decision.due), (vec![3, 1], 3));
}

/// What happens to a board in the random test.
#[derive(Clone, Debug)]
enum Event {
    Dirty(i64),
    Finish(usize, bool),
    Pass(i64),
    Replace,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..12i64).prop_map(Event::Dirty),
        (0..4usize, any::<bool>()).prop_map(|(which, well)| Event::Finish(which, well)),
        (1..2_000i64).prop_map(Event::Pass),
        Just(Event::Replace),
    ]
}

/// What is due by definition: looked at one by one, without heap.
fn due_by_definition(board: &Board, now: i64) -> BTreeSet<usize> {
    (0..board.units.len())
        .filter(|number| board.due(*number).is_some_and(|due| due <= now))
        .collect()
}

proptest! {
    #[test]
    fn heap_and_definition_agree(
        reads in proptest::collection::vec((0..12i64, 0..12i64), 0..20),
        schedules in proptest::collection::vec(0..4usize, 12),
        groups in proptest::collection::vec(0..5usize, 12),
        slowest in any::<bool>(),
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let kinds = ["continuous", "1s", "calculated", "300ms"];
        let list: BTreeMap<i64, Entry> = (0..12i64)
            .map(|id| {
                let upstream: Vec<i64> =
                    reads.iter().filter(|(a, b)| *b == id && a < b).map(|(a, _)| *a).collect();
                (id, entry(kinds[schedules[id as usize]], &upstream))
            })
            .collect();
        // Members next to each other, so that units do not read each other in a circle.
        let sets: Vec<Group> = (1..3usize)
            .map(|number| Group {
                members: (0..12i64)
                    .filter(|id| groups[*id as usize] == number && *id / 6 == number as i64 - 1)
                    .collect(),
                policy: if slowest { Policy::Slowest } else { Policy::Fastest },
            })
            .collect();
        let mut board = Board::new(RULES);
        board.replace(list.clone(), &sets, 0);
        let mut now = 1_000_000;
        let mut at_work: Vec<i64> = vec![];
        for event in events {
            match event {
                Event::Dirty(id) => board.mark_dirty(id, now),
                Event::Finish(which, well) if !at_work.is_empty() => {
                    let key = at_work.remove(which % at_work.len());
                    if well {
                        board.succeeded(key, 400.0);
                    } else {
                        board.failed(key, now + 700, now);
                    }
                }
                Event::Finish(..) => {}
                Event::Pass(time) => now += time,
                Event::Replace => board.replace(list.clone(), &sets, now),
            }
            let decision = board.decide(now, usize::MAX);
            let due = due_by_definition(&board, now);
            let ready: BTreeSet<usize> = board.ready.iter().map(|(_, number)| *number).collect();
            prop_assert_eq!(&due, &ready);
            let next = (0..board.units.len())
                .filter_map(|number| board.due(number))
                .filter(|due| *due > now)
                .min();
            prop_assert_eq!(decision.wake_at, next);
            for key in &decision.start {
                let members = board.members(*key).to_vec();
                for member in &members {
                    for read in &list[member].upstream {
                        prop_assert!(
                            members.contains(read)
                                || (!at_work.iter().any(|other| board.members(*other).contains(read))
                                    && !due.contains(&board.standings[read].unit))
                        );
                    }
                }
            }
            // Something that is due can start, or something is at work: nothing waits for ever.
            prop_assert!(decision.due == 0 || !decision.start.is_empty() || !at_work.is_empty()
                || sets.iter().any(|set| set.members.len() > 1));
            if let Some(key) = decision.start.first() {
                board.started(*key, now);
                at_work.push(*key);
            }
        }
    }
}
