//! The graph of stream tables: an edge from what is read to what reads it.

mod diamond;

use std::collections::BTreeMap;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

pub use diamond::{Diamond, Group, Node, Reads, diamonds, groups};

/// Stream tables by id.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    graph: DiGraph<i64, ()>,
    index: BTreeMap<i64, NodeIndex>,
}

/// Ids that read each other in a circle, in reading order; the first is repeated at the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream tables read each other in a circle")]
pub struct Cycle(pub Vec<i64>);

impl Graph {
    pub fn new() -> Graph {
        Graph::default()
    }

    pub fn add_node(&mut self, id: i64) -> NodeIndex {
        let graph = &mut self.graph;
        *self.index.entry(id).or_insert_with(|| graph.add_node(id))
    }

    /// `reader` reads `read`.
    pub fn add_edge(&mut self, read: i64, reader: i64) {
        let (from, to) = (self.add_node(read), self.add_node(reader));
        self.graph.update_edge(from, to, ());
    }

    /// All ids, each after everything it reads; among equals the smaller first.
    pub fn sorted(&self) -> Result<Vec<i64>, Cycle> {
        let mut waiting: BTreeMap<i64, usize> = self
            .index
            .iter()
            .map(|(id, node)| {
                (
                    *id,
                    self.graph
                        .neighbors_directed(*node, Direction::Incoming)
                        .count(),
                )
            })
            .collect();
        let mut sorted = Vec::with_capacity(waiting.len());
        let mut ready: std::collections::BTreeSet<i64> = waiting
            .iter()
            .filter(|(_, count)| **count == 0)
            .map(|(id, _)| *id)
            .collect();
        while let Some(id) = ready.pop_first() {
            waiting.remove(&id);
            sorted.push(id);
            for reader in self
                .graph
                .neighbors_directed(self.index[&id], Direction::Outgoing)
            {
                let reader = self.graph[reader];
                if let Some(count) = waiting.get_mut(&reader) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(reader);
                    }
                }
            }
        }
        match waiting.keys().next() {
            None => Ok(sorted),
            Some(_) => Err(self.cycle()),
        }
    }

    /// What `id` reads directly.
    pub fn upstream(&self, id: i64) -> Vec<i64> {
        self.neighbours(id, Direction::Incoming)
    }

    /// What reads `id` directly.
    pub fn downstream(&self, id: i64) -> Vec<i64> {
        self.neighbours(id, Direction::Outgoing)
    }

    /// A path from `from` to `to` along edges, both included, if there is one.
    pub fn path(&self, from: i64, to: i64) -> Option<Vec<i64>> {
        let (start, goal) = (*self.index.get(&from)?, *self.index.get(&to)?);
        let (_, path) =
            petgraph::algo::astar(&self.graph, start, |node| node == goal, |_| 1u32, |_| 0)?;
        Some(path.into_iter().map(|node| self.graph[node]).collect())
    }

    fn neighbours(&self, id: i64, direction: Direction) -> Vec<i64> {
        let Some(node) = self.index.get(&id) else {
            return vec![];
        };
        let mut found: Vec<i64> = self
            .graph
            .neighbors_directed(*node, direction)
            .map(|node| self.graph[node])
            .collect();
        found.sort_unstable();
        found
    }

    fn cycle(&self) -> Cycle {
        for component in petgraph::algo::tarjan_scc(&self.graph) {
            let looped = component.len() > 1
                || component
                    .iter()
                    .any(|node| self.graph.find_edge(*node, *node).is_some());
            if let (true, Some(first)) = (looped, component.first()) {
                let first = self.graph[*first];
                for next in self.downstream(first) {
                    if let Some(mut path) = self.path(next, first) {
                        path.insert(0, first);
                        return Cycle(path);
                    }
                }
            }
        }
        Cycle(vec![])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_come_after_what_they_read() {
        let mut graph = Graph::new();
        graph.add_edge(3, 1);
        graph.add_edge(1, 2);
        graph.add_edge(3, 2);
        graph.add_node(0);
        assert_eq!(graph.sorted(), Ok(vec![0, 3, 1, 2]));
    }

    #[test]
    fn a_circle_is_named() {
        let mut graph = Graph::new();
        graph.add_edge(1, 2);
        graph.add_edge(2, 3);
        graph.add_edge(3, 1);
        let Err(Cycle(path)) = graph.sorted() else {
            panic!("no cycle found")
        };
        assert_eq!(path.len(), 4);
        assert_eq!(path.first(), path.last());
    }
}
