//! Diamonds: stream tables that read the same thing along more than one way.
//!
//! A stream table is a *convergence node* if two of the relations it reads (its branches) share something: one contains
//! the other, or both depend on the same table or stream table. Whoever reads such a stream table together with its
//! branches expects all of them to be at one moment. Its diamond consists of itself and of the stream tables on its
//! branches between it and what is shared: those that depend on something shared and are not shared themselves.
//!
//! Diamonds, and groups somebody has asked for, are merged where they overlap, and where refreshing one would have to
//! wait for the other and the other for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::unionfind::UnionFind;

/// What a stream table reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    Stream(i64),
    /// A table, by its oid.
    Table(u32),
}

/// What every stream table reads, directly or through its stages.
pub type Reads = BTreeMap<i64, BTreeSet<Node>>;

/// A convergence node with its diamond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diamond {
    pub convergence: i64,
    /// The convergence node included.
    pub members: BTreeSet<i64>,
}

/// Stream tables that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub members: BTreeSet<i64>,
    pub convergences: BTreeSet<i64>,
}

/// The node and everything it depends on.
fn closure(reads: &Reads, start: Node) -> HashSet<Node> {
    let mut seen = HashSet::new();
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        if !seen.insert(node) {
            continue;
        }
        if let Node::Stream(id) = node {
            open.extend(reads.get(&id).into_iter().flatten());
        }
    }
    seen
}

/// Every diamond, by the id of its convergence node.
pub fn diamonds(reads: &Reads) -> Vec<Diamond> {
    reads
        .iter()
        .filter_map(|(id, branches)| diamond(reads, *id, branches))
        .collect()
}

fn diamond(reads: &Reads, convergence: i64, branches: &BTreeSet<Node>) -> Option<Diamond> {
    let streams = branches
        .iter()
        .filter(|node| matches!(node, Node::Stream(_)))
        .count();
    if branches.len() < 2 || streams == 0 {
        return None;
    }
    let closures: Vec<HashSet<Node>> = branches
        .iter()
        .map(|branch| closure(reads, *branch))
        .collect();
    let mut times: HashMap<Node, usize> = HashMap::new();
    for node in closures.iter().flatten() {
        *times.entry(*node).or_default() += 1;
    }
    let shared = |node: &Node| times.get(node).is_some_and(|times| *times > 1);
    if !times.keys().any(shared) {
        return None;
    }
    let members = times
        .keys()
        .filter(|node| !shared(node))
        .filter_map(|node| match node {
            Node::Stream(id) => Some(*id),
            Node::Table(_) => None,
        })
        .filter(|id| closure(reads, Node::Stream(*id)).iter().any(shared))
        .chain([convergence])
        .collect::<BTreeSet<i64>>();
    (members.len() > 1).then_some(Diamond {
        convergence,
        members,
    })
}

/// Diamonds and wanted sets of stream tables, merged into groups that do not overlap and do not wait for each other.
pub fn groups(reads: &Reads, diamonds: &[Diamond], wanted: &[BTreeSet<i64>]) -> Vec<Group> {
    let ids: Vec<i64> = reads.keys().copied().collect();
    let position: HashMap<i64, usize> = ids.iter().enumerate().map(|(n, id)| (*id, n)).collect();
    let mut merged: UnionFind<usize> = UnionFind::new(ids.len());
    let sets = diamonds
        .iter()
        .map(|diamond| &diamond.members)
        .chain(wanted);
    for set in sets {
        let mut known = set.iter().filter_map(|id| position.get(id));
        if let Some(first) = known.next() {
            for other in known {
                merged.union(*first, *other);
            }
        }
    }
    // Merging units that read each other in a circle may close another circle; each round merges at least one pair.
    while let Some(circles) = circles(reads, &ids, &position, &merged) {
        for (a, b) in circles {
            merged.union(a, b);
        }
    }
    let mut by_root: BTreeMap<usize, BTreeSet<i64>> = BTreeMap::new();
    for (number, id) in ids.iter().enumerate() {
        by_root.entry(merged.find(number)).or_default().insert(*id);
    }
    let converging: BTreeSet<i64> = diamonds.iter().map(|diamond| diamond.convergence).collect();
    let mut groups: Vec<Group> = by_root
        .into_values()
        .filter(|members| members.len() > 1)
        .map(|members| Group {
            convergences: members.intersection(&converging).copied().collect(),
            members,
        })
        .collect();
    groups.sort_by_key(|group| group.members.first().copied());
    groups
}

/// Pairs of nodes whose units wait for each other; none if there are no such.
fn circles(
    reads: &Reads,
    ids: &[i64],
    position: &HashMap<i64, usize>,
    merged: &UnionFind<usize>,
) -> Option<Vec<(usize, usize)>> {
    let mut graph: DiGraph<usize, ()> = DiGraph::new();
    let mut index: HashMap<usize, NodeIndex> = HashMap::new();
    for number in 0..ids.len() {
        let root = merged.find(number);
        index.entry(root).or_insert_with(|| graph.add_node(root));
    }
    for (reader, branches) in reads {
        let to = index[&merged.find(position[reader])];
        for branch in branches {
            if let Node::Stream(read) = branch
                && let Some(read) = position.get(read)
            {
                let from = index[&merged.find(*read)];
                if from != to {
                    graph.update_edge(from, to, ());
                }
            }
        }
    }
    let pairs: Vec<(usize, usize)> = petgraph::algo::tarjan_scc(&graph)
        .into_iter()
        .filter(|component| component.len() > 1)
        .flat_map(|component| {
            let roots: Vec<usize> = component.into_iter().map(|node| graph[node]).collect();
            roots
                .windows(2)
                .map(|pair| (pair[0], pair[1]))
                .collect::<Vec<_>>()
        })
        .collect();
    (!pairs.is_empty()).then_some(pairs)
}

#[cfg(test)]
mod tests {
    use super::Node::{Stream, Table};
    use super::*;

    fn reads(list: &[(i64, &[Node])]) -> Reads {
        list.iter()
            .map(|(id, branches)| (*id, branches.iter().copied().collect()))
            .collect()
    }

    fn members(reads: &Reads) -> Vec<(Vec<i64>, Vec<i64>)> {
        groups(reads, &diamonds(reads), &[])
            .into_iter()
            .map(|group| {
                (
                    group.members.into_iter().collect(),
                    group.convergences.into_iter().collect(),
                )
            })
            .collect()
    }

    #[test]
    fn two_branches_over_one_table_are_a_diamond() {
        let reads = reads(&[
            (2, &[Table(1)]),
            (3, &[Table(1)]),
            (4, &[Stream(2), Stream(3)]),
        ]);
        assert_eq!(members(&reads), [(vec![2, 3, 4], vec![4])]);
    }

    #[test]
    fn the_stream_table_both_branches_read_is_not_a_member() {
        let reads = reads(&[
            (1, &[Table(1)]),
            (2, &[Stream(1)]),
            (3, &[Stream(1)]),
            (4, &[Stream(2), Stream(3)]),
        ]);
        assert_eq!(members(&reads), [(vec![2, 3, 4], vec![4])]);
    }

    #[test]
    fn long_branches_belong_to_it_and_unrelated_ones_do_not() {
        let reads = reads(&[
            (1, &[Table(1)]),
            (2, &[Stream(1)]),
            (3, &[Table(1)]),
            (5, &[Table(2)]),
            (4, &[Stream(2), Stream(3), Stream(5)]),
        ]);
        assert_eq!(members(&reads), [(vec![1, 2, 3, 4], vec![4])]);
    }

    #[test]
    fn a_branch_may_be_the_table_itself() {
        let reads = reads(&[(2, &[Table(1)]), (4, &[Stream(2), Table(1)])]);
        assert_eq!(members(&reads), [(vec![2, 4], vec![4])]);
    }

    #[test]
    fn a_branch_may_contain_the_other() {
        let reads = reads(&[
            (1, &[Table(1)]),
            (2, &[Stream(1)]),
            (3, &[Stream(1), Stream(2)]),
        ]);
        assert_eq!(members(&reads), [(vec![2, 3], vec![3])]);
    }

    #[test]
    fn independent_fan_in_and_chains_are_none() {
        let reads = reads(&[
            (1, &[Table(1)]),
            (2, &[Table(2)]),
            (3, &[Stream(1), Stream(2)]),
            (4, &[Stream(3)]),
        ]);
        assert!(members(&reads).is_empty());
    }

    #[test]
    fn nested_diamonds_are_one_group_where_they_overlap() {
        // 4 converges 2 and 3; 6 converges 4 and 5, all over one table.
        let reads = reads(&[
            (2, &[Table(1)]),
            (3, &[Table(1)]),
            (4, &[Stream(2), Stream(3)]),
            (5, &[Table(1)]),
            (6, &[Stream(4), Stream(5)]),
        ]);
        assert_eq!(members(&reads), [(vec![2, 3, 4, 5, 6], vec![4, 6])]);
    }

    #[test]
    fn diamonds_that_share_a_branch_merge_and_others_stay_apart() {
        let reads = reads(&[
            (2, &[Table(1)]),
            (3, &[Table(1)]),
            (4, &[Table(1)]),
            (5, &[Stream(2), Stream(3)]),
            (6, &[Stream(3), Stream(4)]),
            (12, &[Table(7)]),
            (13, &[Table(7)]),
            (14, &[Stream(12), Stream(13)]),
        ]);
        assert_eq!(
            members(&reads),
            [
                (vec![2, 3, 4, 5, 6], vec![5, 6]),
                (vec![12, 13, 14], vec![14])
            ]
        );
    }

    #[test]
    fn what_lies_between_members_joins_them() {
        let reads = reads(&[(1, &[Table(1)]), (2, &[Stream(1)]), (3, &[Stream(2)])]);
        let wanted = [BTreeSet::from([1, 3])];
        let found = groups(&reads, &[], &wanted);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].members, BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn groups_that_would_wait_for_each_other_are_one() {
        let reads = reads(&[
            (1, &[Table(1)]),
            (2, &[Table(2)]),
            (3, &[Stream(1)]),
            (4, &[Stream(2)]),
        ]);
        let wanted = [BTreeSet::from([1, 4]), BTreeSet::from([2, 3])];
        let found = groups(&reads, &[], &wanted);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].members, BTreeSet::from([1, 2, 3, 4]));
    }
}
