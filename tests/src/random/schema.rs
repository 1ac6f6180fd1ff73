//! Tables with and without keys, and values from small domains, so that duplicates and matches are frequent.

use fastrand::Rng;

/// What an expression can be. Columns of one type may be declared differently, as `numeric` and `numeric(10,2)` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Int,
    BigInt,
    Numeric,
    Float,
    Text,
    Date,
    Timestamp,
    Bool,
    Json,
}

impl Type {
    pub const ALL: [Self; 9] = [
        Self::Int,
        Self::BigInt,
        Self::Numeric,
        Self::Float,
        Self::Text,
        Self::Date,
        Self::Timestamp,
        Self::Bool,
        Self::Json,
    ];

    pub fn sql(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::BigInt => "bigint",
            Self::Numeric => "numeric",
            Self::Float => "float8",
            Self::Text => "text",
            Self::Date => "date",
            Self::Timestamp => "timestamptz",
            Self::Bool => "bool",
            Self::Json => "jsonb",
        }
    }

    /// Whether equal values look the same.
    pub fn is_exact(self) -> bool {
        !matches!(self, Self::Numeric | Self::Float | Self::Json)
    }

    fn declarations(self) -> &'static [&'static str] {
        match self {
            Self::Numeric => &["numeric", "numeric(10,2)"],
            Self::Text => &["text", "varchar(12)"],
            _ => &[],
        }
    }

    /// A value as SQL that can stand in an expression.
    pub fn literal(self, rng: &mut Rng) -> String {
        let pick = |rng: &mut Rng, values: &[&str]| values[rng.usize(..values.len())].to_string();
        let value = match self {
            Self::Int | Self::BigInt => {
                let n = if rng.u8(..12) == 0 {
                    997
                } else {
                    rng.i32(-2..9)
                };
                format!("'{n}'")
            }
            // Equal values of different scale, and what has no ordinary sum.
            Self::Numeric => {
                let special = rng.u8(..16) == 0;
                let values: &[&str] = if special {
                    &["NaN", "Infinity", "-Infinity"]
                } else {
                    &[
                        "0", "0.00", "1", "1.0", "1.00", "2.5", "-3.25", "100.125", "7",
                    ]
                };
                format!("'{}'", pick(rng, values))
            }
            // Multiples of a quarter: their sums are exact in whatever order they are added.
            Self::Float => match rng.u8(..20) {
                0 => format!("'{}'", pick(rng, &["NaN", "Infinity", "-Infinity"])),
                1 => "'-0'".into(),
                _ => format!("'{}'", f64::from(rng.i32(-8..30)) * 0.25),
            },
            Self::Text => format!(
                "'{}'",
                pick(rng, &["a", "b", "c", "ab", "A", "", "é", "a''b", "$1"])
            ),
            Self::Date => format!("'2024-02-{:02}'", rng.u8(26..30)),
            Self::Timestamp => format!("'2024-02-28 {:02}:00+00'", rng.u8(20..24)),
            Self::Bool => format!("'{}'", rng.bool()),
            Self::Json => format!(
                "'{}'",
                pick(
                    rng,
                    &[
                        "{}",
                        "{\"a\": 1}",
                        "{\"a\": 2, \"b\": \"x\"}",
                        "[1, 2]",
                        "null",
                        "{\"b\": null}"
                    ]
                )
            ),
        };
        format!("{value}::{}", self.sql())
    }
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub ty: Type,
    pub declared: String,
    pub nullable: bool,
}

/// A base table. Key columns, if any, are the first ones, of type int.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub key: usize,
    /// How the key is declared.
    pub constraint: &'static str,
    pub parts: Parts,
}

/// Other tables that hold its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    None,
    /// Two partitions, by the first column: the key, or what joins are made on.
    Partitions,
    /// Two that inherit from it, one of them with a column of its own.
    Children,
}

impl Table {
    pub fn random(name: &str, rng: &mut Rng) -> Self {
        let key = [0, 1, 1, 1, 2][rng.usize(..5)];
        let constraint = ["primary key", "unique"][rng.usize(..2)];
        let mut columns: Vec<Column> = (0..key)
            .map(|i| Column {
                name: format!("k{i}"),
                ty: Type::Int,
                declared: "int".into(),
                nullable: false,
            })
            .collect();
        // Every table has an int to join on and two more.
        columns.push(Column {
            name: "j".into(),
            ty: Type::Int,
            declared: "int".into(),
            nullable: rng.u8(..3) > 0,
        });
        for i in 0..rng.usize(2..5) {
            let ty = Type::ALL[rng.usize(..Type::ALL.len())];
            let declared = match ty.declarations() {
                [] => ty.sql(),
                choices => choices[rng.usize(..choices.len())],
            };
            columns.push(Column {
                name: format!("x{i}"),
                ty,
                declared: declared.into(),
                nullable: rng.u8(..4) > 0,
            });
        }
        let parts = match rng.u8(..5) {
            0 => Parts::Partitions,
            // No key holds in all of them.
            1 | 2 if key == 0 => Parts::Children,
            _ => Parts::None,
        };
        Self {
            name: name.into(),
            columns,
            key,
            constraint,
            parts,
        }
    }

    pub fn definition(&self) -> String {
        let mut parts: Vec<String> = self
            .columns
            .iter()
            .map(|c| {
                format!(
                    "{} {}{}",
                    c.name,
                    c.declared,
                    if c.nullable { "" } else { " not null" }
                )
            })
            .collect();
        if self.key > 0 {
            let key: Vec<&str> = self.columns[..self.key]
                .iter()
                .map(|c| c.name.as_str())
                .collect();
            parts.push(format!("{} ({})", self.constraint, key.join(", ")));
        }
        let (name, columns) = (&self.name, parts.join(", "));
        let [low, rest] = self.part_names();
        match self.parts {
            Parts::None => format!("create table {name} ({columns})"),
            Parts::Partitions => format!(
                "create table {name} ({columns}) partition by range ({});
                 create table {low} partition of {name} for values from (minvalue) to (4);
                 create table {rest} partition of {name} default",
                self.columns[0].name
            ),
            Parts::Children => format!(
                "create table {name} ({columns});
                 create table {low} (own int) inherits ({name});
                 create table {rest} () inherits ({name}, {low})"
            ),
        }
    }

    /// The table, and its parts if it has any.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let parts = (self.parts != Parts::None).then(|| self.part_names());
        std::iter::once(self.name.clone()).chain(parts.into_iter().flatten())
    }

    fn part_names(&self) -> [String; 2] {
        ["low", "rest"].map(|part| format!("{}_{part}", self.name))
    }

    /// The table, or one of its parts: a name for statements that may go to either.
    pub fn target(&self, rng: &mut Rng) -> String {
        if self.parts != Parts::None && rng.u8(..3) == 0 {
            self.part_names()[rng.usize(..2)].clone()
        } else {
            self.name.clone()
        }
    }

    /// Where rows of any value may be put.
    pub fn room(&self, rng: &mut Rng) -> String {
        if self.parts == Parts::Children {
            self.target(rng)
        } else {
            self.name.clone()
        }
    }

    /// A value that fits column `i`.
    pub fn value(&self, i: usize, rng: &mut Rng) -> String {
        let column = &self.columns[i];
        if i < self.key {
            return rng.i32(0..30).to_string();
        }
        if column.nullable && rng.u8(..5) == 0 {
            return "null".into();
        }
        loop {
            let literal = column.ty.literal(rng);
            // numeric(10,2) has no infinity.
            if !(column.declared.contains('(') && literal.contains("Infinity")) {
                return literal;
            }
        }
    }

    /// One row as a VALUES item.
    pub fn row(&self, rng: &mut Rng) -> String {
        let values: Vec<String> = (0..self.columns.len())
            .map(|i| self.value(i, rng))
            .collect();
        format!("({})", values.join(", "))
    }
}
