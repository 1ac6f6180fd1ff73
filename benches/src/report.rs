//! A section of the report: text, tables and goals, printed as markdown.

use std::fmt;

use crate::machine;

/// One benchmark's results.
pub struct Section {
    title: String,
    blocks: Vec<String>,
    goals: Vec<Goal>,
    load_before: String,
}

/// What was hoped for and what was measured; lower is better unless `at_least`.
#[derive(Clone, Debug)]
pub struct Goal {
    pub what: String,
    pub limit: f64,
    pub measured: f64,
    pub unit: &'static str,
    pub at_least: bool,
}

impl Goal {
    pub fn at_most(what: impl Into<String>, limit: f64, measured: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            limit,
            measured,
            unit,
            at_least: false,
        }
    }

    pub fn at_least(
        what: impl Into<String>,
        limit: f64,
        measured: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            at_least: true,
            ..Self::at_most(what, limit, measured, unit)
        }
    }

    pub fn met(&self) -> bool {
        if self.at_least {
            self.measured >= self.limit
        } else {
            self.measured <= self.limit
        }
    }
}

impl Section {
    pub fn new(title: &str) -> Self {
        Self {
            title: title.into(),
            blocks: Vec::new(),
            goals: Vec::new(),
            load_before: machine::load(),
        }
    }

    pub fn title(&self) -> &str {
        &self.title
    }

    pub fn text(&mut self, text: impl Into<String>) {
        self.blocks.push(text.into());
    }

    /// A table; the first column is left-aligned, the others are numbers.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let mut lines = vec![
            format!("| {} |", head.join(" | ")),
            format!("|---|{}", "---:|".repeat(head.len() - 1)),
        ];
        lines.extend(rows.iter().map(|row| format!("| {} |", row.join(" | "))));
        self.blocks.push(lines.join("\n"));
    }

    pub fn goal(&mut self, goal: Goal) {
        self.goals.push(goal);
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n", self.title)?;
        for block in &self.blocks {
            writeln!(f, "{block}\n")?;
        }
        if !self.goals.is_empty() {
            writeln!(f, "| goal | wanted | measured | |\n|---|---:|---:|---|")?;
            for goal in &self.goals {
                let Goal {
                    what,
                    limit,
                    measured,
                    unit,
                    ..
                } = goal;
                let bound = if goal.at_least { "at least" } else { "at most" };
                let verdict = if goal.met() { "met" } else { "**missed**" };
                let measured = number(*measured);
                writeln!(
                    f,
                    "| {what} | {bound} {limit} {unit} | {measured} {unit} | {verdict} |"
                )?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "On {}. Load average before {}, after {}.",
            machine::processor(),
            self.load_before,
            machine::load()
        )
    }
}

/// A number with about three significant digits.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v.is_nan() => return "-".into(),
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}
