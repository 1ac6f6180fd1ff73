//! Building blocks of trees and expressions that no clause of the query spells out.

use pgt_ivm::rel::{AggregateCall, AggregateKind, ColId, Rel};
use pgt_ivm::scalar::{Piece, Scalar, Shape, Type};

use super::NotIncremental;
use super::query::{Known, Result};

/// Text with columns in it.
#[derive(Default)]
pub(super) struct Writer {
    pieces: Vec<Piece>,
}

impl Writer {
    pub(super) fn text(mut self, text: &str) -> Self {
        self.pieces.push(Piece::Text(text.to_owned()));
        self
    }

    pub(super) fn column(mut self, id: ColId) -> Self {
        self.pieces.push(Piece::Column(id));
        self
    }

    /// An expression in parentheses.
    pub(super) fn scalar(mut self, scalar: &Scalar) -> Self {
        self.pieces.push(Piece::Text("(".into()));
        self.pieces.extend(scalar.pieces.iter().cloned());
        self.pieces.push(Piece::Text(")".into()));
        self
    }

    /// An expression that is never taken for a position in the select list.
    pub(super) fn typed(self, scalar: &Scalar) -> Self {
        let ty = format!("::{}", scalar.ty.name);
        match scalar.as_column() {
            Some(_) => self.scalar(scalar),
            None => self.scalar(scalar).text(&ty),
        }
    }

    /// An expression as it is.
    pub(super) fn bare(mut self, scalar: &Scalar) -> Self {
        self.pieces.extend(scalar.pieces.iter().cloned());
        self
    }

    pub(super) fn parts(mut self, pieces: Vec<Piece>) -> Self {
        self.pieces.extend(pieces);
        self
    }

    pub(super) fn pieces(self) -> Vec<Piece> {
        self.pieces
    }

    pub(super) fn value(self, ty: Type, nullable: bool) -> Scalar {
        Scalar {
            pieces: self.pieces,
            ty,
            nullable,
            shape: Shape::Opaque,
        }
    }
}
pub(super) fn boolean() -> Type {
    builtin("boolean")
}

pub(super) fn bigint() -> Type {
    builtin("bigint")
}

fn builtin(name: &str) -> Type {
    Type {
        name: name.into(),
        collation: None,
        equality: Some("pg_catalog.=".into()),
        hashable: true,
        bitwise: true,
    }
}

pub(super) fn count_star() -> AggregateCall {
    AggregateCall {
        kind: AggregateKind::CountStar,
        argument: None,
        filter: None,
        call: Writer::default()
            .text("pg_catalog.count(*)")
            .value(bigint(), false),
    }
}

pub(super) fn aggregate_of(
    name: &str,
    kind: AggregateKind,
    argument: &Known,
    ty: Type,
) -> AggregateCall {
    let value = argument.scalar();
    AggregateCall {
        call: Writer::default()
            .text(&format!("pg_catalog.{name}"))
            .scalar(&value)
            .value(ty, kind != AggregateKind::Count),
        argument: (kind != AggregateKind::Recompute).then_some(value),
        kind,
        filter: None,
    }
}

/// `a = b`, or both null where that can be.
pub(super) fn same(a: &Known, b: &Known) -> Result<Vec<Scalar>> {
    let Some(equality) = a.ty.equality.clone() else {
        return refuse(
            &format!(
                "a sub-query is tied to its surroundings by type {}, which has no equality",
                a.ty.name
            ),
            "Cast it to a type that can be compared.",
        );
    };
    if !(a.nullable && b.nullable) {
        return Ok(vec![Scalar {
            pieces: Writer::default()
                .column(a.id)
                .text(&format!(" OPERATOR({equality}) "))
                .column(b.id)
                .pieces(),
            ty: boolean(),
            nullable: a.nullable || b.nullable,
            shape: Shape::Equal(a.id, b.id),
        }]);
    }
    let confirmed = Scalar {
        shape: Shape::Same(a.id, b.id),
        ..Writer::default()
            .column(a.id)
            .text(" IS NOT DISTINCT FROM ")
            .column(b.id)
            .value(boolean(), false)
    };
    if !a.ty.hashable {
        return Ok(vec![confirmed]);
    }
    let hashed = Writer::default()
        .text("pgtrickle.row_hash(")
        .column(a.id)
        .text(") = pgtrickle.row_hash(")
        .column(b.id)
        .text(")")
        .value(boolean(), false);
    Ok(vec![hashed, confirmed])
}

/// `rel` with more columns.
pub(super) fn extend(rel: Rel, more: Vec<(ColId, Scalar)>) -> Rel {
    let columns = rel
        .column_types()
        .into_iter()
        .map(|(id, (ty, nullable))| (id, Scalar::column(id, ty, nullable)))
        .chain(more)
        .collect();
    Rel::Project {
        input: Box::new(rel),
        columns,
    }
}

pub(super) fn refuse<T>(reason: &str, hint: &str) -> Result<T> {
    Err(NotIncremental::new(reason, hint))
}
