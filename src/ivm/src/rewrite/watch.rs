//! Where rows that are equal under an ORDER BY can decide a result, a watch tells whether they do: a stage that nothing
//! reads and that is empty as long as they do not.
//!
//! Two rows next to each other that are equal under the order (the number of the later one is above its rank) can change
//! places. That can be seen if the end of a LIMIT is between them, if they are the first of their values of DISTINCT ON, or
//! if they have something else beside a value that depends on their places. If no two rows are like that, every operator
//! that is `open` has one result only, as far as it is read, whatever the rows' order was; so have those above it, and so
//! has the query. Rows next to each other are enough: in a sequence of equal rows some neighbours differ if any two do.
//!
//! A watch may see more than there is, never less.

use super::bound::{Columns, read, with};
use super::narrow::Fresh;
use crate::rel::{Body, ColId, OpenCall, OutputColumn, PartitionInput, Rel, SortKey};
use crate::scalar::{Piece, Scalar, Shape, Type};

/// `root`, of which `output` is read, and what its watches keep. The first rows of something are taken from one row more,
/// which the watch looks at.
pub(super) fn watched(root: &Rel, output: &[OutputColumn]) -> (Rel, Vec<Rel>) {
    let mut watcher = Watcher {
        fresh: Fresh::above(root),
        watches: vec![],
    };
    let above = Above {
        read: output.iter().map(|column| column.id).collect(),
        conditions: vec![],
    };
    let root = watcher.visit(root, &above);
    (root, watcher.watches)
}

/// What becomes of the rows of an operator.
struct Above {
    /// The columns that are read, but for
    read: Columns,
    /// the conditions they have to satisfy first.
    conditions: Vec<Scalar>,
}

impl Above {
    fn of(read: Columns) -> Above {
        Above {
            read,
            conditions: vec![],
        }
    }

    /// All columns that are read.
    fn all(&self) -> Columns {
        with(&self.read, &self.conditions)
    }

    /// The conditions that are about this column alone, and the columns that all the rest is about.
    fn about(&self, column: ColId) -> (Vec<&Scalar>, Columns) {
        let (own, other): (Vec<_>, Vec<_>) = self.conditions.iter().partition(|condition| {
            condition.columns() == Columns::from([column]) && !condition.has_clock()
        });
        (own, with(&self.read, other))
    }
}

struct Watcher {
    fresh: Fresh,
    watches: Vec<Rel>,
}

impl Watcher {
    fn visit(&mut self, rel: &Rel, above: &Above) -> Rel {
        match rel {
            Rel::Filter { input, conditions } => {
                let below = Above {
                    read: above.read.clone(),
                    conditions: [above.conditions.as_slice(), conditions].concat(),
                };
                Rel::Filter {
                    input: Box::new(self.visit(input, &below)),
                    conditions: conditions.clone(),
                }
            }
            Rel::Project { input, columns } => Rel::Project {
                input: Box::new(self.visit(input, &through(columns, above))),
                columns: columns.clone(),
            },
            // Known as text.
            Rel::Partitioned {
                body: Body::Opaque { .. },
                ..
            } => rel.clone(),
            Rel::Partitioned { keys, body, .. } => {
                let needed = read(rel, &above.all());
                let Rel::Partitioned { inputs, .. } = self.below(rel, &needed) else {
                    return rel.clone();
                };
                let inputs = self.watch(inputs, keys, body, (above, &needed));
                Rel::Partitioned {
                    inputs,
                    keys: keys.clone(),
                    body: body.clone(),
                }
            }
            other => self.below(other, &read(other, &above.all())),
        }
    }

    fn below(&mut self, rel: &Rel, needed: &Columns) -> Rel {
        rel.map_inputs(&mut |input| self.visit(input, &Above::of(needed.clone())))
    }

    /// Watches a partitioned operator that is open. Returns what it is to read; it needs `needed` of it.
    fn watch(
        &mut self,
        mut inputs: Vec<PartitionInput>,
        keys: &[(ColId, Scalar)],
        body: &Body,
        (above, needed): (&Above, &Columns),
    ) -> Vec<PartitionInput> {
        let [input] = &inputs[..] else {
            return inputs;
        };
        let columns = input.rel.columns();
        let mut neighbours = Neighbours::new(&mut self.fresh);
        let ties = match body {
            Body::Window { open, .. } => {
                let shown: Columns = needed.intersection(&columns).copied().collect();
                open.iter()
                    .filter_map(|call| neighbours.exchange(call, above, &shown))
                    .collect()
            }
            Body::First { order, open: true } => {
                let shown: Columns = above.all().intersection(&columns).copied().collect();
                vec![neighbours.first(&over(&input.keys, order), &shown)]
            }
            Body::Limit {
                order,
                count,
                offset,
                ties,
                open: true,
            } => {
                let count = count.as_deref().filter(|_| !ties);
                let first = Rel::Partitioned {
                    keys: order
                        .iter()
                        .map(|key| (neighbours.fresh.next_column(), key.value.clone()))
                        .collect(),
                    body: Body::Limit {
                        order: order.clone(),
                        count: Some(Box::new(one_more(count, offset.as_deref()))),
                        offset: None,
                        ties: false,
                        open: false,
                    },
                    inputs: inputs.clone(),
                };
                let ends = neighbours.ends(&over(&[], order), count, offset.as_deref());
                let first = PartitionInput {
                    rel: first,
                    keys: vec![],
                };
                let watch = neighbours.watch(first.clone(), &[], vec![ends]);
                self.watches.push(watch);
                if count.is_some() {
                    inputs = vec![first];
                }
                return inputs;
            }
            _ => vec![],
        };
        if !ties.is_empty() {
            let watch = neighbours.watch(input.clone(), keys, ties);
            self.watches.push(watch);
        }
        inputs
    }
}

/// What becomes of the rows below a projection. Conditions on what it takes as it is are conditions on those rows.
fn through(columns: &[(ColId, Scalar)], above: &Above) -> Above {
    let from = |id: ColId| {
        let value = columns.iter().find(|(known, _)| *known == id);
        value.and_then(|(_, value)| value.as_column())
    };
    let (taken, other): (Vec<_>, Vec<_>) = above
        .conditions
        .iter()
        .partition(|condition| condition.columns().into_iter().all(|id| from(id).is_some()));
    let wanted = with(&above.read, other);
    let values = columns.iter().filter(|(id, _)| wanted.contains(id));
    Above {
        read: with(&Columns::new(), values.map(|(_, value)| value)),
        conditions: taken
            .into_iter()
            .map(|condition| condition.rename(&mut |id| from(id).unwrap_or(id)))
            .collect(),
    }
}

/// How many rows a LIMIT with an OFFSET looks at, and one more; all of them where there is no end.
fn one_more(count: Option<&Scalar>, offset: Option<&Scalar>) -> Scalar {
    let mut text = Text::of("LEAST(");
    text.sum(count, offset);
    text.add(" + 1, 9223372036854775807)::pg_catalog.int8");
    text.value(bigint())
}

/// `PARTITION BY .. ORDER BY ..`
fn over(keys: &[Scalar], order: &[SortKey]) -> Scalar {
    let mut text = Text::of("");
    for (position, key) in keys.iter().enumerate() {
        text.add(if position > 0 { ", " } else { "PARTITION BY " });
        text.scalar(key);
    }
    for (position, key) in order.iter().enumerate() {
        text.add(if position > 0 { ", " } else { " ORDER BY " });
        text.scalar(&key.value);
        let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
        text.add(&format!(" USING OPERATOR({}) NULLS {nulls}", key.using));
    }
    text.value(boolean())
}

/// Ends a condition on rows that are equal to the one before them.
const END: &str = " ELSE false END";

/// The rows of an operator's input beside those just before them.
struct Neighbours<'a> {
    fresh: &'a mut Fresh,
    columns: Vec<(ColId, Scalar)>,
}

impl<'a> Neighbours<'a> {
    fn new(fresh: &'a mut Fresh) -> Self {
        let columns = vec![];
        Neighbours { fresh, columns }
    }

    /// `call` over a window, as a column.
    fn column(&mut self, mut call: Text, over: &Scalar, ty: Type) -> ColId {
        call.add(" OVER (");
        call.pieces.extend(over.pieces.iter().cloned());
        call.add(")");
        let call = call.value(ty);
        if let Some((id, _)) = self.columns.iter().find(|(_, known)| *known == call) {
            return *id;
        }
        let id = self.fresh.next_column();
        self.columns.push((id, call));
        id
    }

    fn number(&mut self, over: &Scalar) -> ColId {
        self.column(Text::of("pg_catalog.row_number()"), over, bigint())
    }

    /// Begins a condition on rows that are equal to the one before them.
    fn equal(&mut self, over: &Scalar) -> Text {
        let rank = self.column(Text::of("pg_catalog.rank()"), over, bigint());
        let mut text = Text::of("CASE WHEN ");
        text.pieces.push(Piece::Column(rank));
        text.add(" < ");
        text.pieces.push(Piece::Column(self.number(over)));
        text.add(" THEN ");
        text
    }

    /// Goes on: and differ from it in `shown`.
    fn differ(&mut self, text: &mut Text, over: &Scalar, shown: &Columns) {
        let own = image(shown.iter().map(|id| Text::column(*id)).collect());
        let mut call = Text::of("pg_catalog.lag(");
        call.append(own.clone());
        call.add(")");
        let before = self.column(call, over, bytes());
        text.append(own);
        text.add(" IS DISTINCT FROM ");
        text.pieces.push(Piece::Column(before));
    }

    /// A row and the one before it can exchange what `call` gives them, and that can be seen.
    fn exchange(&mut self, call: &OpenCall, above: &Above, shown: &Columns) -> Option<Text> {
        let (own, other) = above.about(call.column);
        let is_read = other.contains(&call.column);
        if own.is_empty() && !is_read {
            return None;
        }
        let mut text = self.equal(&call.over);
        if !call.is_number || own.is_empty() {
            self.differ(&mut text, &call.over, shown);
            text.add(END);
            return Some(text);
        }
        // Whether only one of both is let through, or any of both if the number is shown. No condition is asked of a number
        // that no row has.
        let number = self.number(&call.over);
        let satisfied = |before: bool| {
            let mut all = Text::of("COALESCE(");
            for (position, condition) in own.iter().enumerate() {
                all.add(if position > 0 { " AND (" } else { "(" });
                for piece in &condition.pieces {
                    match piece {
                        Piece::Column(_) if before => {
                            all.add("(");
                            all.pieces.push(Piece::Column(number));
                            all.add(" - 1)");
                        }
                        Piece::Column(_) => all.pieces.push(Piece::Column(number)),
                        other => all.pieces.push(other.clone()),
                    }
                }
                all.add(")");
            }
            all.add(", false)");
            all
        };
        text.append(satisfied(true));
        text.add(if is_read { " OR " } else { " <> " });
        text.append(satisfied(false));
        text.add(END);
        Some(text)
    }

    /// A row and the one before it can both be the first.
    fn first(&mut self, over: &Scalar, shown: &Columns) -> Text {
        let mut text = self.equal(over);
        self.differ(&mut text, over, shown);
        let rank = self.column(Text::of("pg_catalog.rank()"), over, bigint());
        text.add(" AND ");
        text.pieces.push(Piece::Column(rank));
        text.add(" = 1");
        text.add(END);
        text
    }

    /// A row and the one before it are on both sides of an end of a LIMIT.
    fn ends(&mut self, over: &Scalar, count: Option<&Scalar>, offset: Option<&Scalar>) -> Text {
        let mut text = self.equal(over);
        let number = self.number(over);
        let mut separator = "";
        let ends = [(None, offset), (count, offset)];
        let given = [offset.is_some(), count.is_some()];
        for ((count, offset), _) in ends.into_iter().zip(given).filter(|(_, given)| *given) {
            text.add(separator);
            text.pieces.push(Piece::Column(number));
            text.add(" = ");
            text.sum(count, offset);
            text.add(" + 1");
            separator = " OR ";
        }
        text.add(END);
        text
    }

    /// A row for each of the rows for which one of `ties` holds, with nothing but its partition.
    fn watch(self, input: PartitionInput, keys: &[(ColId, Scalar)], ties: Vec<Text>) -> Rel {
        let mut condition = Text::of("");
        for (position, tie) in ties.into_iter().enumerate() {
            condition.add(if position > 0 { " OR " } else { "" });
            condition.append(tie);
        }
        let window = Rel::Partitioned {
            inputs: vec![input],
            keys: keys.to_vec(),
            body: Body::Window {
                columns: self.columns,
                open: vec![],
            },
        };
        Rel::Project {
            input: Box::new(Rel::Filter {
                input: Box::new(window),
                conditions: vec![condition.value(boolean())],
            }),
            columns: vec![(self.fresh.next_column(), Text::of("true").value(boolean()))],
        }
    }
}

/// The text of an expression in the making.
#[derive(Clone)]
struct Text {
    pieces: Vec<Piece>,
}

impl Text {
    fn of(text: &str) -> Text {
        Text {
            pieces: vec![Piece::Text(text.to_owned())],
        }
    }

    fn column(id: ColId) -> Text {
        Text {
            pieces: vec![Piece::Column(id)],
        }
    }

    fn add(&mut self, text: &str) {
        self.pieces.push(Piece::Text(text.to_owned()));
    }

    fn append(&mut self, other: Text) {
        self.pieces.extend(other.pieces);
    }

    /// An expression in parentheses.
    fn scalar(&mut self, scalar: &Scalar) {
        self.add("(");
        self.pieces.extend(scalar.pieces.iter().cloned());
        self.add(")");
    }

    /// A sum that cannot overflow. Without an offset it is zero; without a count there is no sum.
    fn sum(&mut self, count: Option<&Scalar>, offset: Option<&Scalar>) {
        self.add("(COALESCE(");
        match offset {
            Some(offset) => self.scalar(offset),
            None => self.add("0"),
        }
        self.add(", 0)::pg_catalog.numeric");
        if let Some(count) = count {
            self.add(" + ");
            self.scalar(count);
            self.add("::pg_catalog.numeric");
        }
        self.add(")");
    }

    fn value(self, ty: Type) -> Scalar {
        Scalar {
            pieces: self.pieces,
            ty,
            nullable: true,
            shape: Shape::Opaque,
        }
    }
}

/// The bytes of some values. A call takes at most 100 arguments.
fn image(values: Vec<Text>) -> Text {
    const MOST: usize = 90;
    if values.len() > MOST {
        let groups = values.chunks(MOST).map(|group| image(group.to_vec()));
        return image(groups.collect());
    }
    if values.is_empty() {
        return Text::of("pgtrickle.image(''::pg_catalog.text)");
    }
    let mut call = Text::of("pgtrickle.image(");
    for (position, value) in values.into_iter().enumerate() {
        call.add(if position > 0 { ", " } else { "" });
        call.append(value);
    }
    call.add(")");
    call
}

fn boolean() -> Type {
    builtin("boolean")
}

fn bigint() -> Type {
    builtin("bigint")
}

fn bytes() -> Type {
    builtin("bytea")
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

#[cfg(test)]
mod tests {
    use super::super::{Planned, Ties, cut};
    use super::*;
    use crate::rel::{At, Query, Scan, ScanColumn, SourceId};

    const ID: ColId = ColId(1);
    const VALUE: ColId = ColId(2);
    const NUMBER: ColId = ColId(3);

    fn table() -> PartitionInput {
        let column = |id: ColId| ScanColumn {
            id,
            attnum: id.0 as i16,
            name: format!("a{}", id.0),
            ty: bigint(),
            nullable: false,
        };
        PartitionInput {
            rel: Rel::Scan(Scan {
                source: SourceId(1),
                instance: 1,
                at: At::New,
                columns: vec![column(ID), column(VALUE)],
                keys: vec![Columns::from([ID])],
            }),
            keys: vec![],
        }
    }

    fn by_value() -> Vec<SortKey> {
        vec![SortKey {
            value: Scalar::column(VALUE, bigint(), false),
            using: "pg_catalog.<".into(),
            nulls_first: false,
        }]
    }

    fn constant(number: u32) -> Option<Box<Scalar>> {
        Some(Box::new(Text::of(&number.to_string()).value(bigint())))
    }

    fn limit(count: Option<u32>, offset: Option<u32>) -> Rel {
        Rel::Partitioned {
            inputs: vec![table()],
            keys: vec![(ColId(9), Scalar::column(VALUE, bigint(), false))],
            body: Body::Limit {
                order: by_value(),
                count: count.and_then(constant),
                offset: offset.and_then(constant),
                ties: false,
                open: true,
            },
        }
    }

    /// The numbered rows that satisfy `condition`, a text after the number.
    fn numbered(condition: Option<&str>) -> Rel {
        let over = over(&[], &by_value());
        let call = OpenCall {
            column: NUMBER,
            over,
            is_number: true,
        };
        let window = Rel::Partitioned {
            inputs: vec![table()],
            keys: vec![],
            body: Body::Window {
                columns: vec![(NUMBER, Text::of("row_number()").value(bigint()))],
                open: vec![call],
            },
        };
        let Some(condition) = condition else {
            return window;
        };
        let mut text = Text::column(NUMBER);
        text.add(condition);
        Rel::Filter {
            input: Box::new(window),
            conditions: vec![text.value(boolean())],
        }
    }

    fn planned(root: Rel, output: &[ColId]) -> Planned {
        let column = |id: &ColId| OutputColumn {
            id: *id,
            name: format!("a{}", id.0),
            ty: bigint(),
        };
        let output = output.iter().map(column).collect();
        cut(&Query { root, output }, Ties::Watched)
    }

    fn watch(planned: &Planned) -> Option<String> {
        let number = planned.watches.first()?;
        Some(planned.stages[*number].query.text())
    }

    #[test]
    fn a_limit_reads_one_row_more_and_so_does_its_watch() {
        let planned = planned(limit(Some(3), None), &[ID]);
        assert_eq!(planned.stages.len(), 2);
        assert_eq!(Vec::from_iter(planned.watches.clone()), [1]);
        assert!(planned.stages[0].query.text().contains("+ 1, 9223"));
        let read = |query: &Query| query.root.scans()[0].source;
        assert_eq!(read(&planned.query), planned.stages[0].source);
        assert_eq!(read(&planned.stages[1].query), planned.stages[0].source);
    }

    #[test]
    fn rows_behind_an_offset_are_not_in_a_stage() {
        let planned = planned(limit(None, Some(2)), &[ID]);
        assert_eq!(planned.stages.len(), 2);
        assert_eq!(planned.query.root.scans()[0].source, SourceId(1));
    }

    #[test]
    fn a_number_matters_as_far_as_it_is_read() {
        let text = |root: Rel, output: &[ColId]| watch(&planned(root, output));
        assert_eq!(text(numbered(None), &[ID]), None, "nobody reads it");
        let compared = text(numbered(None), &[ID, NUMBER]).unwrap();
        assert!(compared.contains("IS DISTINCT FROM"), "{compared}");
        let cut_off = text(numbered(Some(" <= 3")), &[ID]).unwrap();
        assert!(
            cut_off.contains("- 1) <= 3), false) <> COALESCE"),
            "{cut_off}"
        );
        let shown = text(numbered(Some(" <= 3")), &[ID, NUMBER]).unwrap();
        assert!(shown.contains("- 1) <= 3), false) OR COALESCE"), "{shown}");
    }

    #[test]
    fn any_of_the_equal_rows_needs_no_watch() {
        let query = Query {
            root: limit(Some(3), None),
            output: vec![],
        };
        assert!(cut(&query, Ties::Any).stages.is_empty());
    }
}
