//! One query level: FROM and WHERE, grouping, the select list, DISTINCT, set operations.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::rel::{
    self, Body, ColId, OutputColumn, PartitionInput, Query as RelQuery, Rel, SortKey,
};
use pgt_ivm::scalar::{Scalar, Type};

use super::NotIncremental;
use super::condition::conjunction;
use super::context::is_null_over_nothing;
use crate::pg::node::{Expr, Query, Rte, VarRef};
use crate::pg::xact;

pub(super) type Result<T> = std::result::Result<T, NotIncremental>;

/// A column known at some level, with what expressions need of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub id: ColId,
    pub ty: Type,
    pub nullable: bool,
    /// Every value has this many decimals.
    pub scale: Option<i32>,
}

impl Known {
    /// The column as an expression.
    pub(super) fn scalar(&self) -> Scalar {
        Scalar::column(self.id, self.ty.clone(), self.nullable)
    }
}

/// A column of a level's result.
#[derive(Clone, Debug)]
pub(super) struct Produced {
    pub name: String,
    pub known: Known,
}

/// Gives out column and instance numbers while a query is read.
#[derive(Default)]
pub(super) struct Analyzer {
    /// Who is to read what the query reads.
    pub reader: pg_sys::Oid,
    next_column: u32,
    next_instance: u32,
    /// Why the query leaves open which of several results is right: rows that are equal under an ORDER BY, and nothing
    /// tells whether there are any.
    pub(super) ties: Option<String>,
    /// The same, where the tree has the operators that leave it open.
    pub(super) open: Option<String>,
    /// What is being read is a term of a recursive query.
    pub recursing: bool,
    /// The current time may stand in the expression being read.
    pub clock_allowed: bool,
}

/// A view as a tree, and why its result is not determined, see [`Analyzer`].
pub(super) struct Tree {
    pub query: RelQuery,
    pub ties: Option<String>,
    pub open: Option<String>,
}

/// What is visible at one query level.
pub(super) struct Level<'q, 'a> {
    pub query: Query<'q>,
    pub range_table: Vec<Rte<'q>>,
    /// Columns of this level that are read anywhere in it.
    pub used: BTreeSet<VarRef>,
    pub known: BTreeMap<(usize, i16), Known>,
    /// Calls and sub-selects that have become columns: aggregates, GROUPING, window functions, sub-links.
    pub computed: Vec<(Expr<'q>, Known)>,
    /// The columns of the sub-select that a sub-link under analysis compares with.
    pub sublink_columns: Vec<Known>,
    /// Columns of the query around this one, by the references to them, as columns of this one.
    pub context: Vec<(VarRef, Known)>,
    /// What the context is made of.
    pub around: Option<Around>,
    /// Types of which the context has the texts, by the references to the values.
    pub restored: BTreeMap<VarRef, String>,
    /// What tells apart equal values of this level's columns for the sub-query that is looked at, by its references.
    pub images: BTreeMap<VarRef, Known>,
    /// The level around this one, for common table expressions.
    pub outer: Option<&'a Level<'q, 'a>>,
}

/// The rows around a sub-query and the columns of them it refers to.
#[derive(Clone)]
pub(super) struct Around {
    pub rel: Rel,
    pub columns: Vec<(VarRef, Known)>,
}

/// What a sub-query may refer to.
pub(super) struct Context<'a> {
    /// The rows around it.
    pub rel: &'a Rel,
    /// The columns of those rows it refers to, as it refers to them.
    pub columns: Vec<(VarRef, Known)>,
    /// Types of which these columns are the texts.
    pub restored: BTreeMap<VarRef, String>,
    /// Only whether there is a row matters.
    pub exists: bool,
    /// The order of the rows matters.
    pub ordered: bool,
}

/// A query level as a tree.
pub(super) struct Answer {
    pub rel: Rel,
    pub produced: Vec<Produced>,
    /// The counterparts of the context's columns beside the result, in the same order.
    pub context: Vec<Known>,
    /// An aggregate without GROUP BY has a row also over nothing: its values then, over the context's own columns.
    pub empty: Option<Vec<Scalar>>,
    /// Those values are null.
    pub null_over_nothing: bool,
    /// Its HAVING, where that has not been applied: a column, and its value over nothing.
    pub shown: Option<(Known, Scalar)>,
    /// The order of the rows, where it was asked for.
    pub order: Vec<SortKey>,
}

impl<'q, 'a> Level<'q, 'a> {
    pub(super) fn new(query: Query<'q>, outer: Option<&'a Level<'q, 'a>>) -> Self {
        Level {
            query,
            range_table: query.range_table(),
            used: query.vars(),
            known: BTreeMap::new(),
            computed: vec![],
            sublink_columns: vec![],
            context: vec![],
            around: None,
            restored: BTreeMap::new(),
            images: BTreeMap::new(),
            outer,
        }
    }

    /// The columns of the context as expressions.
    pub(super) fn context_keys(&self) -> Vec<Scalar> {
        self.context
            .iter()
            .map(|(_, known)| known.scalar())
            .collect()
    }

    /// The references of a sub-query of this level, seen from inside it, with the columns they mean.
    pub(super) fn references_of(&self, query: Query<'q>) -> Result<Vec<(VarRef, Known)>> {
        query
            .vars()
            .into_iter()
            .filter(|var| var.levels_up > 0)
            .map(|var| {
                let here = VarRef {
                    levels_up: var.levels_up - 1,
                    ..var
                };
                Ok((var, self.known(here)?.clone()))
            })
            .collect()
    }
}

/// The numbers of a copied tree.
struct Fresh<'a> {
    analyzer: &'a mut Analyzer,
    columns: BTreeMap<ColId, ColId>,
    instances: BTreeMap<u32, u32>,
}

impl rel::Numbers for Fresh<'_> {
    fn column(&mut self, id: ColId) -> ColId {
        *self
            .columns
            .entry(id)
            .or_insert_with(|| self.analyzer.column())
    }

    fn instance(&mut self, instance: u32) -> u32 {
        *self
            .instances
            .entry(instance)
            .or_insert_with(|| self.analyzer.instance())
    }
}

impl Analyzer {
    pub(super) fn of(reader: pg_sys::Oid) -> Analyzer {
        Analyzer {
            reader,
            ..Analyzer::default()
        }
    }

    pub(super) fn column(&mut self) -> ColId {
        self.next_column += 1;
        ColId(self.next_column)
    }

    pub(super) fn instance(&mut self) -> u32 {
        self.next_instance += 1;
        self.next_instance
    }

    /// `rel` under an operator whose result falls apart by `keys`.
    pub(super) fn partitioned(&mut self, rel: Rel, keys: Vec<Scalar>, body: Body) -> Rel {
        Rel::Partitioned {
            keys: keys
                .iter()
                .map(|key| (self.column(), key.clone()))
                .collect(),
            inputs: vec![PartitionInput { rel, keys }],
            body,
        }
    }

    /// A copy of a tree with columns of its own, and which column has become which.
    pub(super) fn fresh(&mut self, rel: &Rel) -> (Rel, BTreeMap<ColId, ColId>) {
        xact::answer_interrupts();
        let mut numbers = Fresh {
            analyzer: self,
            columns: BTreeMap::new(),
            instances: BTreeMap::new(),
        };
        let copy = rel::copy(rel, &mut numbers);
        (copy, numbers.columns)
    }

    /// A whole view.
    pub(super) fn view<'q>(mut self, query: Query<'q>) -> Result<Tree> {
        let (root, produced) = self.query(query, None)?;
        let output = produced
            .into_iter()
            .map(|column| OutputColumn {
                id: column.known.id,
                name: column.name,
                ty: column.known.ty,
            })
            .collect();
        Ok(Tree {
            query: RelQuery { root, output },
            ties: self.ties,
            open: self.open,
        })
    }

    /// A query level that refers to nothing around it.
    pub(super) fn query<'q>(
        &mut self,
        query: Query<'q>,
        outer: Option<&Level<'q, '_>>,
    ) -> Result<(Rel, Vec<Produced>)> {
        let answer = self.answer(query, outer, None)?;
        Ok((answer.rel, answer.produced))
    }

    /// A query level and its result columns.
    pub(super) fn answer<'q>(
        &mut self,
        query: Query<'q>,
        outer: Option<&Level<'q, '_>>,
        context: Option<Context<'_>>,
    ) -> Result<Answer> {
        xact::answer_interrupts();
        refuse_unsupported(&query)?;
        let mut level = Level::new(query, outer);
        let bound = |var: &VarRef| {
            var.levels_up == 0
                || context
                    .as_ref()
                    .is_some_and(|context| context.columns.iter().any(|(known, _)| known == var))
        };
        if !level.used.iter().all(bound) {
            return Err(NotIncremental::new(
                "a sub-query refers to the query around it",
                "Rewrite the lateral reference as a join.",
            ));
        }
        let exists = context.as_ref().is_some_and(|context| context.exists);
        let ordered = context.as_ref().is_some_and(|context| context.ordered);
        let context = context.filter(|context| !context.columns.is_empty());
        let Some(operation) = query.set_operation() else {
            return self.plain(level, context, exists, ordered);
        };
        let (mut rel, mut produced) =
            self.set_operation(&operation, &mut level, context.as_ref())?;
        // What ties it to the query around it stands behind its own columns.
        let own = produced.len() - context.as_ref().map_or(0, |context| context.columns.len());
        let beside: Vec<Known> = produced
            .split_off(own)
            .into_iter()
            .map(|column| column.known)
            .collect();
        if let Some(context) = &context {
            level.context = context
                .columns
                .iter()
                .zip(&beside)
                .map(|((var, _), known)| (*var, known.clone()))
                .collect();
        }
        if query.limit().is_some() && !exists {
            let sorted: BTreeMap<u32, Known> = query
                .targets()
                .iter()
                .zip(&produced)
                .map(|(target, column)| (target.reference, column.known.clone()))
                .collect();
            rel = self.limit(rel, &sorted, &produced, &mut level)?;
        }
        Ok(Answer {
            rel,
            produced,
            context: beside,
            empty: None,
            null_over_nothing: false,
            shown: None,
            order: vec![],
        })
    }

    /// A level without set operations.
    fn plain<'q>(
        &mut self,
        mut level: Level<'q, '_>,
        context: Option<Context<'_>>,
        exists: bool,
        ordered: bool,
    ) -> Result<Answer> {
        let query = level.query;
        let mut rel = self.read_from(&mut level, context.as_ref())?;
        let targets: Vec<_> = query.targets();
        let mut after: Vec<Expr<'q>> = targets.iter().map(|target| target.expr).collect();
        after.extend(query.having());
        let grouped = query.has_aggregates()
            || query.has_group_by()
            || query.has_grouping_sets()
            || query.having().is_some();
        if grouped {
            rel = self.lift_below_aggregates(rel, &after, &mut level)?;
            rel = self.group(rel, &targets, &mut level)?;
            for (var, call) in query.aggregates_below() {
                if let Some(known) = level.computed(&call).cloned() {
                    level.known.insert((var.range, var.attnum), known);
                }
            }
        }
        let single = grouped && !query.has_group_by() && !query.has_grouping_sets();
        rel = self.lift(rel, &after, &mut level)?;
        let mut shown = None;
        if let Some(having) = query.having() {
            let conditions = self.conditions(having, &level)?;
            if single && context.is_some() {
                // A group that is hidden has to be told from one that has no row.
                shown = Some(conjunction(&conditions));
            } else {
                rel = Rel::Filter {
                    input: Box::new(rel),
                    conditions,
                };
            }
        }
        if query.has_windows() {
            rel = self.windows(rel, &targets, &mut level)?;
        }

        let mut columns = Vec::new();
        let mut produced = Vec::new();
        let mut sorted: BTreeMap<u32, Known> = BTreeMap::new();
        // A set-returning function in ORDER BY multiplies rows like one in the select list.
        let multiplied = targets.iter().any(|target| target.expr.returns_set());
        if multiplied && single && context.is_some() {
            return Err(NotIncremental::new(
                "a sub-query that aggregates what the query around it picks returns a set",
                "Move the function into FROM.",
            ));
        }
        let single = single && !multiplied;
        let sorting = ordered || query.limit().is_some() || query.has_distinct_on() || multiplied;
        for target in &targets {
            if target.junk && !(sorting && target.reference > 0) {
                continue;
            }
            let (scalar, scale) = self.target(target.expr, &level)?;
            let id = self.column();
            let known = Known {
                id,
                ty: scalar.ty.clone(),
                nullable: scalar.nullable,
                scale,
            };
            sorted.insert(target.reference, known.clone());
            if !target.junk {
                produced.push(Produced {
                    name: target.name.clone(),
                    known,
                });
            }
            columns.push((id, scalar));
        }
        if columns.is_empty() && !exists {
            return Err(NotIncremental::new(
                "the query has no columns",
                "Select at least one column.",
            ));
        }
        let empty = match &context {
            Some(context) if single => {
                Some(self.over_nothing(&columns, &produced, context, &level)?)
            }
            _ => None,
        };
        let empty = empty.or_else(|| single.then(Vec::new));
        let mut shown_column = None;
        if let (Some(value), Some(context)) = (shown, &context) {
            if query.has_distinct() || query.has_distinct_on() {
                return Err(NotIncremental::new(
                    "a sub-query with DISTINCT and HAVING over what the query around it picks",
                    "Leave DISTINCT out.",
                ));
            }
            let known = Known {
                id: self.column(),
                ty: value.ty.clone(),
                nullable: true,
                scale: None,
            };
            columns.push((known.id, value));
            let column = [Produced {
                name: String::new(),
                known: known.clone(),
            }];
            let over_nothing = self.over_nothing(&columns, &column, context, &level)?;
            shown_column = over_nothing.into_iter().next().map(|value| (known, value));
        }
        let mut beside = Vec::new();
        for (_, known) in &mut level.context {
            let id = self.column();
            columns.push((id, known.scalar()));
            known.id = id;
            beside.push(known.clone());
        }
        rel = if multiplied {
            Rel::ProjectSet {
                input: Box::new(rel),
                columns,
            }
        } else {
            Rel::Project {
                input: Box::new(rel),
                columns,
            }
        };
        if query.has_distinct_on() {
            rel = self.first(rel, &sorted, &produced, &level)?;
        } else if query.has_distinct() {
            let width = produced.len();
            let context = beside.into_iter().map(|known| Produced {
                name: String::new(),
                known,
            });
            let all = produced.iter().cloned().chain(context).collect();
            let (distinct, mut columns) = self.distinct(rel, all)?;
            rel = distinct;
            beside = columns
                .split_off(width)
                .into_iter()
                .map(|column| column.known)
                .collect();
            for ((_, known), new) in level.context.iter_mut().zip(&beside) {
                *known = new.clone();
            }
            for known in sorted.values_mut() {
                if let Some(position) = produced.iter().position(|old| old.known.id == known.id) {
                    *known = columns[position].known.clone();
                }
            }
            produced = columns;
        }
        let mut empty = empty;
        if let Some(limit) = query.limit() {
            let from_the_first = limit
                .offset
                .is_none_or(|offset| offset.integer_constant() == Some(0));
            // Of one row, or where only its existence matters, a limit leaves everything as it is.
            let harmless =
                (exists || empty.is_some()) && from_the_first && is_positive(limit.count);
            if !harmless {
                if empty.is_some() && context.is_some() {
                    return Err(NotIncremental::new(
                        "a sub-query that aggregates what the query around it picks has a LIMIT",
                        "Compute it in a sub-query in FROM and join it.",
                    ));
                }
                rel = self.limit(rel, &sorted, &produced, &mut level)?;
                empty = None;
            }
        }
        if query.having().is_some() && shown_column.is_none() {
            empty = None;
        }
        let order = if ordered {
            super::order::sort_keys(&query.sort_items(), &sorted)?
        } else {
            vec![]
        };
        Ok(Answer {
            rel,
            produced,
            context: beside,
            empty,
            null_over_nothing: targets
                .iter()
                .filter(|target| !target.junk)
                .all(|target| is_null_over_nothing(&target.expr)),
            shown: shown_column,
            order,
        })
    }

    /// DISTINCT: a grouping by every column, without aggregates.
    pub(super) fn distinct(
        &mut self,
        input: Rel,
        produced: Vec<Produced>,
    ) -> Result<(Rel, Vec<Produced>)> {
        let mut keys = Vec::new();
        let mut distinct = Vec::new();
        for column in produced {
            let known = column.known;
            if known.ty.equality.is_none() {
                return Err(NotIncremental::new(
                    format!("type {} has no equality", known.ty.name),
                    "DISTINCT and UNION need types that can be compared.",
                ));
            }
            let id = self.column();
            keys.push((id, known.scalar()));
            distinct.push(Produced {
                name: column.name,
                known: Known { id, ..known },
            });
        }
        Ok((
            Rel::Aggregate {
                input: Box::new(input),
                keys,
                calls: vec![],
            },
            distinct,
        ))
    }
}

/// A constant that is known to be at least one.
fn is_positive(count: Option<Expr<'_>>) -> bool {
    count.is_none_or(|count| count.integer_constant().is_some_and(|number| number > 0))
}

pub(super) fn refuse_unsupported(query: &Query<'_>) -> Result<()> {
    let refuse = |what: &str| {
        Err(NotIncremental::new(
            format!("{what} is not incremental yet"),
            "The stream table is refreshed fully.",
        ))
    };
    if !query.is_plain_select() {
        return refuse("a statement that is not a SELECT");
    }
    Ok(())
}
