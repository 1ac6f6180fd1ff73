//! Rows without a key: those that go are found by the hash of their image, as many as the weights say.

use super::super::outcome::{from_cte, modify, value};
use super::super::{Layout, Target};
use super::NET;
use crate::sql;
use crate::sql::ast::{Cte, CteBody, Expr, From, JoinKind, Name, Select};

/// `gone`: as many stored rows of each vanishing image as its weight says; `come`: new rows.
pub(super) fn by_image(layout: &Layout, target: &Target) -> Vec<Cte> {
    let stored: Vec<Expr> = layout
        .columns
        .iter()
        .map(|column| Expr::column("s", &*column.name))
        .collect();
    let image = Expr::column("n", "image");
    let matching = Expr::and(vec![
        sql::image_hash(stored.clone()).infix("=", Expr::column("n", "hash")),
        sql::image(stored).infix("=", image.clone()),
    ]);
    let net_values = (0..layout.columns.len())
        .map(|position| Expr::column("x", value(position)))
        .collect();
    let vanishing = Select {
        items: vec![
            (sql::image_hash(net_values), "hash".into()),
            (Expr::column("x", "image"), "image".into()),
            (Expr::column("x", "w"), "w".into()),
        ],
        from: vec![from_cte(NET, "x")],
        conditions: vec![Expr::column("x", "w").infix("<", Expr::Integer(0))],
        ..Select::default()
    };
    let candidates = Select {
        items: vec![
            (Expr::column("s", "ctid"), "tid".into()),
            (
                Expr::Window(Name::new("pg_catalog", "row_number"), vec![image]),
                "nth".into(),
            ),
            (Expr::column("n", "w"), "w".into()),
        ],
        from: vec![From::Join {
            left: Box::new(From::Select {
                query: Box::new(vanishing.into()),
                alias: "n".into(),
                lateral: false,
            }),
            kind: JoinKind::Inner,
            right: Box::new(From::Table {
                name: target.table.clone(),
                alias: "s".into(),
                only: true,
            }),
            on: matching,
        }],
        ..Select::default()
    };
    let tids = Select {
        items: vec![(Expr::column("c", "tid"), "tid".into())],
        from: vec![From::Select {
            query: Box::new(candidates.into()),
            alias: "c".into(),
            lateral: false,
        }],
        conditions: vec![
            Expr::column("c", "nth").infix("<=", Expr::Negate(Box::new(Expr::column("c", "w")))),
        ],
        ..Select::default()
    };
    let one = || vec![(Expr::Integer(1), "one".to_owned())];
    let gone = CteBody::DeleteByTid {
        table: target.table.clone(),
        alias: "s".into(),
        tids: Expr::Array(Box::new(tids)),
        returning: one(),
    };
    let copies = From::Function {
        function: Name::new("pg_catalog", "generate_series"),
        arguments: vec![Expr::Integer(1), Expr::column("x", "w")],
        alias: "copies".into(),
        column: "nth".into(),
    };
    let come = CteBody::Insert {
        table: target.table.clone(),
        columns: layout
            .columns
            .iter()
            .map(|column| column.name.clone())
            .collect(),
        query: Select {
            items: (0..layout.columns.len())
                .map(|position| (Expr::column("x", value(position)), value(position)))
                .collect(),
            from: vec![from_cte(NET, "x"), copies],
            conditions: vec![Expr::column("x", "w").infix(">", Expr::Integer(0))],
            ..Select::default()
        }
        .into(),
        returning: one(),
    };
    vec![modify("gone", gone), modify("come", come)]
}
