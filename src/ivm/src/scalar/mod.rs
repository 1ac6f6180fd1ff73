//! Scalar expressions: text that PostgreSQL's own deparser wrote, with typed holes where columns go.
//!
//! An expression is not re-implemented here. Only the structure that a law needs is kept beside the text ([`Shape`]):
//! whether it is a bare column, a constant, or an equality between columns.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A column of a defining query. Ids are unique in one query, so a join never has to rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ColId(pub u32);

/// What the planner of deltas must know of a PostgreSQL type (together with the collation of the expression).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Type {
    /// The type as SQL text, schema-qualified where needed, with its modifier: `numeric(15,2)`.
    pub name: String,
    /// `COLLATE` clause content (`pg_catalog."C"`) if it is not the type's own collation.
    pub collation: Option<String>,
    /// The type's default equality operator, as `OPERATOR(pg_catalog.=)` would name it: `pg_catalog.=`.
    pub equality: Option<String>,
    /// `row_hash` can hash it such that values equal under `equality` hash alike.
    pub hashable: bool,
    /// Values equal under `equality` have equal images (true for integers, false for numeric and floats).
    pub bitwise: bool,
}

/// What a btree entry can hold, in bytes; PostgreSQL refuses longer ones. A little less than it is.
const BTREE_ENTRY: u32 = 2_600;

impl Type {
    /// The most bytes a value can take; none if that is not known or there is no limit.
    pub fn longest(&self) -> Option<u32> {
        let (name, modifier) = match self.name.split_once('(') {
            None => (&*self.name, None),
            Some((name, rest)) => {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                (name, digits.parse::<u32>().ok())
            }
        };
        const HEADER: u32 = 8;
        const BYTES_PER_CHARACTER: u32 = 4;
        match (name.trim_start_matches("pg_catalog."), modifier) {
            (
                "boolean"
                | "bool"
                | "\"char\""
                | "smallint"
                | "int2"
                | "integer"
                | "int4"
                | "bigint"
                | "int8"
                | "oid"
                | "real"
                | "float4"
                | "double precision"
                | "float8"
                | "money"
                | "date"
                | "time without time zone"
                | "time with time zone"
                | "timestamp without time zone"
                | "timestamp with time zone"
                | "interval"
                | "uuid"
                | "macaddr"
                | "macaddr8",
                _,
            ) => Some(16),
            ("name", _) => Some(64),
            ("numeric", Some(digits)) => Some(digits + HEADER),
            ("character" | "character varying", Some(length)) => {
                Some(length.saturating_mul(BYTES_PER_CHARACTER) + HEADER)
            }
            _ => None,
        }
    }

    /// Two stored values are equal, by PostgreSQL's own `=` and no collation, exactly if they are the same bytes.
    pub fn equals_by_bytes(&self) -> bool {
        let fixed_scale = self.name.starts_with("numeric(") && self.name.ends_with(')');
        self.equality.as_deref() == Some("pg_catalog.=")
            && (fixed_scale || self.bitwise && self.longest() == Some(16))
    }

    /// A btree can hold any combination of values of these types.
    pub fn fit_a_btree<'a>(types: impl IntoIterator<Item = &'a Type>) -> bool {
        types
            .into_iter()
            .try_fold(0_u32, |sum, ty| Some(sum.saturating_add(ty.longest()?)))
            .is_some_and(|sum| sum <= BTREE_ENTRY)
    }

    /// A column of a table can have the type.
    pub fn is_storable(&self) -> bool {
        !["pg_catalog.record", "pg_catalog.record[]"].contains(&&*self.name)
    }
}

/// One piece of an expression's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    Text(String),
    Column(ColId),
    Clock(Clock),
}

/// A moment an expression depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Clock {
    /// That of the refresh, `now()`.
    Now,
    /// That of the refresh before.
    Before,
}

/// The structure of an expression, as far as a law asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    Column(ColId),
    Constant,
    /// `a = b` by the default equality of their type.
    Equal(ColId, ColId),
    /// `a = b` by the default equality of their type, or both null.
    Same(ColId, ColId),
    /// `a = constant`.
    EqualConstant(ColId),
    /// `<`, `<=`, `>=` or `>` of values in an order that a btree can have.
    Ordered(Box<Ordered>),
    Opaque,
}

/// A comparison that is null exactly if one of its sides is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    pub left: Scalar,
    pub right: Scalar,
    /// True where the comparison is false.
    pub negated: Scalar,
}

/// A scalar expression over the columns of its input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scalar {
    pub pieces: Vec<Piece>,
    pub ty: Type,
    pub nullable: bool,
    pub shape: Shape,
}

impl Scalar {
    /// The bare column `id`.
    pub fn column(id: ColId, ty: Type, nullable: bool) -> Self {
        Scalar {
            pieces: vec![Piece::Column(id)],
            ty,
            nullable,
            shape: Shape::Column(id),
        }
    }

    /// The null value of a type.
    pub fn null(ty: Type) -> Self {
        let collation = ty
            .collation
            .as_ref()
            .map_or(String::new(), |name| format!(" COLLATE {name}"));
        Scalar {
            pieces: vec![Piece::Text(format!("(NULL::{}{collation})", ty.name))],
            ty,
            nullable: true,
            shape: Shape::Constant,
        }
    }

    /// The same expression over columns with other ids.
    pub fn rename(&self, to: &mut dyn FnMut(ColId) -> ColId) -> Scalar {
        Scalar {
            pieces: self
                .pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Column(id) => Piece::Column(to(*id)),
                    Piece::Text(_) | Piece::Clock(_) => piece.clone(),
                })
                .collect(),
            ty: self.ty.clone(),
            nullable: self.nullable,
            shape: match &self.shape {
                Shape::Column(id) => Shape::Column(to(*id)),
                Shape::Equal(a, b) => Shape::Equal(to(*a), to(*b)),
                Shape::Same(a, b) => Shape::Same(to(*a), to(*b)),
                Shape::EqualConstant(id) => Shape::EqualConstant(to(*id)),
                Shape::Ordered(ordered) => Shape::Ordered(Box::new(Ordered {
                    left: ordered.left.rename(to),
                    right: ordered.right.rename(to),
                    negated: ordered.negated.rename(to),
                })),
                Shape::Constant => Shape::Constant,
                Shape::Opaque => Shape::Opaque,
            },
        }
    }

    /// The columns the expression reads.
    pub fn columns(&self) -> BTreeSet<ColId> {
        self.pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Column(id) => Some(*id),
                Piece::Text(_) | Piece::Clock(_) => None,
            })
            .collect()
    }

    /// The value depends on the time.
    pub fn has_clock(&self) -> bool {
        self.pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Clock(_)))
    }

    /// The same expression at the time of the refresh before.
    pub fn before(&self) -> Scalar {
        Scalar {
            pieces: self
                .pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Clock(_) => Piece::Clock(Clock::Before),
                    other => other.clone(),
                })
                .collect(),
            ..self.clone()
        }
    }

    /// The column, if the expression is nothing else.
    pub fn as_column(&self) -> Option<ColId> {
        match self.shape {
            Shape::Column(id) => Some(id),
            _ => None,
        }
    }
}
