//! A table of what took how long.

use std::fmt;
use std::time::{Duration, Instant};

/// Rows of a label, when it ended and how long it took.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    label: String,
    ended: Duration,
    took: Duration,
    note: String,
}

impl Timeline {
    /// Adds a row.
    pub fn push(&mut self, label: &str, ended: Duration, took: Duration, note: &str) {
        self.rows.push(Row {
            label: label.to_owned(),
            ended,
            took,
            note: note.to_owned(),
        });
    }

    /// A timeline of points in time: each row takes as long as since the one before it.
    pub fn from_points<'a>(points: impl IntoIterator<Item = (&'a str, Duration)>) -> Self {
        let mut timeline = Self::default();
        let mut before = Duration::ZERO;
        for (label, at) in points {
            timeline.push(label, at, at.saturating_sub(before), "");
            before = at;
        }
        timeline
    }
}

/// Points of a story, told as they come.
#[derive(Clone, Debug)]
pub struct Chronicle {
    begin: Instant,
    points: Vec<(&'static str, Duration)>,
}

impl Chronicle {
    /// Its clock starts now.
    pub fn begin() -> Self {
        Self {
            begin: Instant::now(),
            points: Vec::new(),
        }
    }

    /// Something has happened.
    pub fn point(&mut self, label: &'static str) {
        let at = self.begin.elapsed();
        println!("{:7.1} s  {label}", at.as_secs_f64());
        self.points.push((label, at));
    }

    /// All of it.
    pub fn timeline(&self) -> Timeline {
        Timeline::from_points(self.points.iter().copied())
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.label.chars().count()).max();
        let width = width.unwrap_or(0).max(4);
        writeln!(f, "{:width$}  {:>8}  {:>8}", "step", "took", "at")?;
        for row in &self.rows {
            let line = format!(
                "{:width$}  {:>8}  {:>8}  {}",
                row.label,
                seconds(row.took),
                seconds(row.ended),
                row.note
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_rows_that_took_the_difference() {
        let at = Duration::from_millis;
        let timeline = Timeline::from_points([("firmware", at(9000)), ("kernel", at(11_500))]);
        let text = timeline.to_string();
        assert_eq!(
            text,
            "step          took        at\n\
             firmware    9.00 s    9.00 s\n\
             kernel      2.50 s   11.50 s\n"
        );
    }
}
