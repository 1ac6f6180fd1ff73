//! How the step of a recursive query finds the stored rows that a change of its sources meets: by an index of the stored
//! column, or, where its values may be too long for an index, by one of its hash, beside the comparison itself.

use std::collections::BTreeMap;

use crate::rel::{ColId, ITSELF, Query, Rel};
use crate::scalar::{Piece, Scalar, Shape, Type};

/// An index that the stored rows of a recursive query need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lookup {
    Value(ColId),
    Hash(ColId),
}

/// The indexes of a recursive query's own rows, by its columns.
pub fn lookups(query: &Query) -> Vec<Lookup> {
    let Some((recursion, columns)) = query.root.recursion() else {
        return vec![];
    };
    let own = own_columns(&recursion.step.rel);
    let mut found = Vec::new();
    look(&recursion.step.rel, &own, &mut |attnum, hashed| {
        let Some((id, _)) = columns.get(attnum as usize - 1) else {
            return;
        };
        let lookup = if hashed {
            Lookup::Hash(*id)
        } else {
            Lookup::Value(*id)
        };
        if !found.contains(&lookup) {
            found.push(lookup);
        }
    });
    found
}

/// The step with comparisons of hashes beside those for which there is an index of the hash.
pub(super) fn hashed(step: &Rel) -> Rel {
    beside(step, &own_columns(step))
}

fn beside(rel: &Rel, own: &BTreeMap<ColId, (i16, Type)>) -> Rel {
    match rel {
        Rel::Join { inputs, conditions } => {
            let types = rel.column_types();
            let more = conditions
                .iter()
                .filter_map(|condition| equated(condition, own, &types))
                .filter(|equated| equated.hashed)
                .map(|equated| same_hash(equated.own, equated.other, &equated.comparison));
            Rel::Join {
                inputs: inputs.iter().map(|input| beside(input, own)).collect(),
                conditions: more.chain(conditions.iter().cloned()).collect(),
            }
        }
        other => other.map_inputs(&mut |input| beside(input, own)),
    }
}

/// `row_hash(own) = row_hash(other)`
fn same_hash(own: ColId, other: ColId, comparison: &Scalar) -> Scalar {
    let text = |text: &str| Piece::Text(text.to_owned());
    Scalar {
        pieces: vec![
            text("pgtrickle.row_hash("),
            Piece::Column(own),
            text(") = pgtrickle.row_hash("),
            Piece::Column(other),
            text(")"),
        ],
        shape: Shape::Opaque,
        ..comparison.clone()
    }
}

/// An equality between a column of the query's own rows and another column.
struct Equated {
    own: ColId,
    attnum: i16,
    other: ColId,
    hashed: bool,
    comparison: Scalar,
}

fn equated(
    condition: &Scalar,
    own: &BTreeMap<ColId, (i16, Type)>,
    types: &BTreeMap<ColId, (Type, bool)>,
) -> Option<Equated> {
    let Shape::Equal(a, b) = condition.shape else {
        return None;
    };
    let (mine, other) = match (own.contains_key(&a), own.contains_key(&b)) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        _ => return None,
    };
    let (attnum, ty) = own.get(&mine)?;
    let short = Type::fit_a_btree([ty]);
    // Hashes of values of one type agree where the values do.
    let hashed = !short && ty.hashable && types.get(&other)?.0 == *ty;
    (short || hashed).then(|| Equated {
        own: mine,
        attnum: *attnum,
        other,
        hashed,
        comparison: condition.clone(),
    })
}

fn own_columns(step: &Rel) -> BTreeMap<ColId, (i16, Type)> {
    step.scans()
        .into_iter()
        .filter(|scan| scan.source == ITSELF)
        .flat_map(|scan| &scan.columns)
        .map(|column| (column.id, (column.attnum, column.ty.clone())))
        .collect()
}

fn look(rel: &Rel, own: &BTreeMap<ColId, (i16, Type)>, note: &mut dyn FnMut(i16, bool)) {
    if let Rel::Join { conditions, .. } = rel {
        let types = rel.column_types();
        for condition in conditions {
            if let Some(equated) = equated(condition, own, &types) {
                note(equated.attnum, equated.hashed);
            }
        }
    }
    for input in rel.inputs() {
        look(input, own, note);
    }
}
