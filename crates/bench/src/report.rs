//! Figures with their goals, as a table and as JSON.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use std::{fmt, fs, path::Path};

/// All figures of one run, in order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    got: f64,
    goal: Option<Goal>,
    note: String,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Report {
    /// Adds a figure that has a goal.
    pub(crate) fn goal(&mut self, name: &str, got: f64, goal: Goal, note: impl Into<String>) {
        self.push(name, got, Some(goal), note.into());
    }

    /// Adds a figure to know.
    pub(crate) fn figure(&mut self, name: &str, got: f64, note: impl Into<String>) {
        self.push(name, got, None, note.into());
    }

    /// Writes name, figure, goal and whether it is met as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut figures = Map::new();
        for row in &self.rows {
            figures.insert(row.name.clone(), row.json());
        }
        fs::write(path, format!("{:#}\n", Value::Object(figures)))
            .with_context(|| format!("write {}", path.display()))
    }

    fn push(&mut self, name: &str, got: f64, goal: Option<Goal>, note: String) {
        // Seen as it comes: a whole run takes minutes.
        eprintln!("bench: {name} = {}", Number(got));
        self.rows.push(Row {
            name: name.to_owned(),
            got,
            goal,
            note,
        });
    }
}

impl Goal {
    fn is_met(self, got: f64) -> bool {
        match self {
            Self::AtLeast(least) => got >= least,
            Self::AtMost(most) => got <= most,
        }
    }
}

impl Row {
    fn json(&self) -> Value {
        let mut row = json!({ "got": self.got });
        if let Some(goal) = self.goal {
            row["goal"] = goal.to_string().into();
            row["met"] = goal.is_met(self.got).into();
        }
        if !self.note.is_empty() {
            row["note"] = self.note.as_str().into();
        }
        row
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {}", Number(*least)),
            Self::AtMost(most) => write!(f, "<= {}", Number(*most)),
        }
    }
}

/// Whole numbers whole, small ones with two decimals.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0.fract() == 0.0 || self.0.abs() >= 1000.0 {
            0
        } else {
            2
        };
        write!(f, "{:.digits$}", self.0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.len()).max();
        let width = width.unwrap_or(0).max(6);
        writeln!(
            f,
            "{:width$}  {:>12}  {:>12}  {:3}",
            "figure", "got", "goal", "met"
        )?;
        for row in &self.rows {
            let goal = row.goal.map_or_else(String::new, |goal| goal.to_string());
            let met = row
                .goal
                .map_or("", |goal| if goal.is_met(row.got) { "yes" } else { "NO" });
            let got = Number(row.got).to_string();
            let line = format!(
                "{:width$}  {got:>12}  {goal:>12}  {met:3}  {}",
                row.name, row.note
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_says_so_in_both_forms() {
        let mut report = Report::default();
        report.goal("bytes", 5.0, Goal::AtMost(4.0), "");
        report.goal("ratio", 0.5, Goal::AtLeast(0.5), "of two");
        report.figure("rate", 1234.5, "");
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with("<= 4  NO"), "{text}");
        assert!(lines[2].ends_with(">= 0.50  yes  of two"), "{text}");
        assert!(lines[3].ends_with("1234"), "{text}");
        assert_eq!(report.rows[0].json()["met"], false);
        assert_eq!(report.rows[1].json()["met"], true);
        assert_eq!(report.rows[2].json(), json!({ "got": 1234.5 }));
    }
}
