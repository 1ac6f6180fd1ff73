//! The 22 queries of the standard with its validation parameters.

/// One query of the standard.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub number: usize,
    text: &'static str,
}

pub const QUERIES: [Query; 22] = [
    Query {
        number: 1,
        text: include_str!("queries/q01.sql"),
    },
    Query {
        number: 2,
        text: include_str!("queries/q02.sql"),
    },
    Query {
        number: 3,
        text: include_str!("queries/q03.sql"),
    },
    Query {
        number: 4,
        text: include_str!("queries/q04.sql"),
    },
    Query {
        number: 5,
        text: include_str!("queries/q05.sql"),
    },
    Query {
        number: 6,
        text: include_str!("queries/q06.sql"),
    },
    Query {
        number: 7,
        text: include_str!("queries/q07.sql"),
    },
    Query {
        number: 8,
        text: include_str!("queries/q08.sql"),
    },
    Query {
        number: 9,
        text: include_str!("queries/q09.sql"),
    },
    Query {
        number: 10,
        text: include_str!("queries/q10.sql"),
    },
    Query {
        number: 11,
        text: include_str!("queries/q11.sql"),
    },
    Query {
        number: 12,
        text: include_str!("queries/q12.sql"),
    },
    Query {
        number: 13,
        text: include_str!("queries/q13.sql"),
    },
    Query {
        number: 14,
        text: include_str!("queries/q14.sql"),
    },
    Query {
        number: 15,
        text: include_str!("queries/q15.sql"),
    },
    Query {
        number: 16,
        text: include_str!("queries/q16.sql"),
    },
    Query {
        number: 17,
        text: include_str!("queries/q17.sql"),
    },
    Query {
        number: 18,
        text: include_str!("queries/q18.sql"),
    },
    Query {
        number: 19,
        text: include_str!("queries/q19.sql"),
    },
    Query {
        number: 20,
        text: include_str!("queries/q20.sql"),
    },
    Query {
        number: 21,
        text: include_str!("queries/q21.sql"),
    },
    Query {
        number: 22,
        text: include_str!("queries/q22.sql"),
    },
];

impl Query {
    /// Its text for data of that scale factor, on which the standard makes one parameter (of query 11) depend.
    pub fn text(&self, scale: f64) -> String {
        self.text
            .trim_end()
            .replace(":fraction", &format!("{:.10}", 0.0001 / scale))
    }

    /// Whether it reads `orders` or `lineitem`; the others are about parts and who supplies them.
    pub fn reads_orders(&self) -> bool {
        ["orders", "lineitem"]
            .iter()
            .any(|table| self.text.contains(table))
    }
}
