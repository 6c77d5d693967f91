//! Replays a schedule that a property test wrote: every event, what it caused, the broken invariant.
#![allow(
    dead_code,
    reason = "the simulator has helpers that only the property tests use"
)]

#[path = "../tests/simulator/simulator.rs"]
mod simulator;

use simulator::{Scenario, World};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: replay FILE");
        return ExitCode::from(2);
    };
    let scenario = match read(&path) {
        Ok(scenario) => scenario,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    };
    replay(&scenario)
}

fn read(path: &str) -> Result<Scenario, Box<dyn std::error::Error>> {
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

fn replay(scenario: &Scenario) -> ExitCode {
    let mut world = World::new(scenario);
    let mut shown = 0;
    for op in &scenario.ops {
        let outcome = world.apply(op);
        for line in &world.log[shown..] {
            println!("{line}");
        }
        shown = world.log.len();
        if let Err(violation) = outcome {
            println!("broken: {}: {}", violation.invariant, violation.detail);
            return ExitCode::FAILURE;
        }
    }
    println!("no invariant broken");
    ExitCode::SUCCESS
}
