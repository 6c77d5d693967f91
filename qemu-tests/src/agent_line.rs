//! The agent's console lines: `agent: <seconds> <step> key=value…`.

use std::time::Duration;

/// One step that the agent reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentStep {
    /// The agent's own clock.
    pub at: Duration,
    /// The step's name.
    pub name: String,
    /// What it said about the step, in order.
    pub fields: Vec<(String, String)>,
}

/// The agent's last line in a failed boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentExit {
    /// The number from the table of exit reasons.
    pub code: u32,
    /// Its name.
    pub reason: String,
    /// `power-off` or `reboot`.
    pub action: String,
}

impl AgentStep {
    /// Reads one console line; anything that is not an agent line is `None`.
    pub fn parse(line: &str) -> Option<Self> {
        // The kernel's log may put its own time stamp in front.
        let (_, rest) = line.split_once("agent: ")?;
        let mut words = rest.split_ascii_whitespace();
        let at = parse_seconds(words.next()?)?;
        let name = words.next()?.to_owned();
        let fields = words
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Some(Self { at, name, fields })
    }

    /// The value of a field.
    pub fn field(&self, key: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The exit that this step reports, if it is one.
    pub fn exit(&self) -> Option<AgentExit> {
        if self.name != "exit" {
            return None;
        }
        Some(AgentExit {
            code: self.field("code")?.parse().ok()?,
            reason: self.field("reason")?.to_owned(),
            action: self.field("action")?.to_owned(),
        })
    }
}

/// Reads `<seconds>.<three digits>`.
fn parse_seconds(word: &str) -> Option<Duration> {
    let (seconds, millis) = word.split_once('.')?;
    if millis.len() != 3 {
        return None;
    }
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_millis(millis.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_time_name_and_fields() {
        let step =
            AgentStep::parse("[    2.1] agent: 2.104 network address=169.254.169.15/24 via=dhcp")
                .unwrap();
        assert_eq!(step.at, Duration::from_millis(2104));
        assert_eq!(step.name, "network");
        assert_eq!(step.field("via"), Some("dhcp"));
        assert_eq!(step.exit(), None);
    }

    #[test]
    fn an_exit_carries_code_reason_and_action() {
        let step =
            AgentStep::parse("agent: 9.000 exit code=31 reason=refused action=power-off").unwrap();
        let exit = step.exit().unwrap();
        assert_eq!(
            (exit.code, exit.reason.as_str(), exit.action.as_str()),
            (31, "refused", "power-off")
        );
    }

    #[test]
    fn other_lines_and_half_lines_are_no_steps() {
        for line in [
            "",
            "agent:",
            "agent: x",
            "agent: 1.2 step",
            "agent: 1.234",
            "kernel: agent 1.234 x",
        ] {
            assert_eq!(AgentStep::parse(line), None, "{line}");
        }
        let step = AgentStep::parse("agent: 1.000 exit code=many reason=x action=y").unwrap();
        assert_eq!(step.exit(), None);
    }
}
