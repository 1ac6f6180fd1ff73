//! Query -> Rel: reads a view's analyzed, rewritten tree and says what it means, or why it cannot be maintained
//! incrementally. It never guesses: what it does not know it refuses, with a reason and a hint.

mod aggregate;
mod build;
mod condition;
mod context;
mod from;
mod functions;
mod ingredients;
mod moving;
mod order;
mod quantified;
mod query;
mod range;
mod recursion;
mod scalar;
mod set_operation;
mod source;
mod subquery;
mod window;

pub use ingredients::hold as hold_ingredients;
pub use source::capturable;

use std::collections::BTreeSet;

use pgrx::pg_sys;
use pgt_ivm::apply::Layout;
use pgt_ivm::rel::Query;
use pgt_ivm::rewrite::{self, Ties};

use crate::error::{Error, Kind, Result};
use crate::pg::lock::Ingredients;
use crate::pg::node::{self, ReadRelation};
use crate::pg::session::{Kept, Scope};
use crate::pg::{relation, xact};
use query::Tree;

/// Why a query is not maintained incrementally, and what the user can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotIncremental {
    pub reason: String,
    pub hint: String,
}

impl NotIncremental {
    fn new(reason: impl Into<String>, hint: impl Into<String>) -> NotIncremental {
        NotIncremental {
            reason: reason.into(),
            hint: hint.into(),
        }
    }
}

/// What a defining query is.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// The tree, or why there is none.
    pub query: std::result::Result<Query, NotIncremental>,
    /// Why several results can be right, if nothing tells whether they are: rows are picked among equals.
    pub ties: Option<String>,
    /// The result can change while no source does: with the time, the session, or whatever a function looks at.
    pub restless: bool,
    /// Every relation read, for capture and dependency tracking.
    pub relations: BTreeSet<ReadRelation>,
    /// The query calls volatile functions: only FULL refresh can mean anything.
    pub volatile: Option<String>,
    /// What it is made of besides relations.
    pub ingredients: Ingredients,
}

/// Analyzes the query of view `view`. Fails for what cannot be a stream table in any mode. What the query is made of stays
/// as it is until the transaction ends.
pub fn analyze(view: pg_sys::Oid, settings: &Kept) -> Result<Analysis> {
    let ingredients = ingredients::hold(view);
    let _scope = Scope::pinned(settings);
    let reader = relation::owner(view);
    node::with_view_query(view, |root| {
        let relations = root.relations();
        reject_unusable(&relations)?;
        if root.has_modifying_cte() {
            return Err(Error::new(
                Kind::NotIncremental,
                "a defining query cannot modify data",
            ));
        }
        if root.has_row_marks() {
            return Err(
                Error::new(Kind::NotIncremental, "a defining query cannot lock rows")
                    .hint("Leave out FOR UPDATE or FOR SHARE."),
            );
        }
        let functions = root.mutable_functions();
        let volatile = functions
            .iter()
            .find(|function| function.volatile)
            .map(|function| function.name.clone());
        let restless = functions::check(&functions, settings).is_err()
            || functions.iter().any(|function| function.clock);
        let (query, ties) = match functions::check(&functions, settings)
            .and_then(|()| read(root, reader))
            .and_then(|tree| storable(&tree.query, Ties::Any).map(|()| tree))
            .and_then(|tree| match tree.query.validate() {
                Ok(()) => Ok(tree),
                Err(malformed) => Err(NotIncremental::new(
                    format!("the query has a form that is not incremental yet ({malformed})"),
                    "The stream table is refreshed fully.",
                )),
            }) {
            Ok(tree) => {
                let unwatched = tree.open.filter(|_| !can_be_watched(&tree.query));
                (Ok(tree.query), tree.ties.or(unwatched))
            }
            Err(refusal) => (Err(refusal), None),
        };
        Ok(Analysis {
            query,
            ties,
            restless,
            relations,
            volatile,
            ingredients,
        })
    })
}

/// Whether it can be watched if rows that are equal decide. The rows of the view have to be storable as they are, and for as
/// long as nothing else changes they must be the same.
fn can_be_watched(query: &Query) -> bool {
    let result = rewrite::cut(query, Ties::Watched).query;
    !query.root.moves()
        && storable(query, Ties::Watched).is_ok()
        && Layout::of(&result).shown().is_some()
}

/// Every value kept between refreshes has a type that a table can have.
fn storable(query: &Query, ties: Ties) -> std::result::Result<(), NotIncremental> {
    let planned = rewrite::cut(query, ties);
    let anonymous = planned
        .stages
        .iter()
        .map(|stage| &stage.query)
        .chain([&planned.query])
        .flat_map(|query| Layout::of(query).columns)
        .any(|column| !column.ty.is_storable());
    if anonymous {
        return Err(NotIncremental::new(
            "an intermediate result would hold rows without a named type",
            "Use the columns instead of ROW(..), or cast to a named row type.",
        ));
    }
    Ok(())
}

/// The tree of a query. What PostgreSQL cannot print cannot be maintained from its text.
fn read(root: node::Query<'_>, reader: pg_sys::Oid) -> std::result::Result<Tree, NotIncremental> {
    match xact::attempt(|| query::Analyzer::of(reader).view(root)) {
        Ok(found) => found,
        Err(failure) if failure.may_be_the_query() => Err(NotIncremental::new(
            format!("a part of the query cannot be read ({})", failure.message),
            "The stream table is refreshed fully.",
        )),
        Err(failure) => failure.raise(),
    }
}

/// Temporary tables and system catalogs cannot be sources.
fn reject_unusable(relations: &BTreeSet<ReadRelation>) -> Result<()> {
    for relation in relations {
        if let Some(problem) = source::unusable(relation.relid) {
            return Err(problem);
        }
    }
    Ok(())
}
