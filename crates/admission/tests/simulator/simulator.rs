//! A whole cluster in one thread: machines with disks and power switches, a host that tampers, jobs
//! of any number of service replicas on a linearizable store, and operators. Every step is an
//! [`Op`]; after each, the named invariants of `invariants.rs` are checked.

#![allow(clippy::unwrap_used, reason = "a simulator for tests")]

mod disk;
mod host;
mod invariants;
mod job;
mod machine;
mod op;
mod operator;
mod world;

pub(crate) use op::{Forgery, Op, Scenario};
pub(crate) use world::{Violation, World};

/// Runs a scenario to its end or to the first violation.
///
/// # Errors
/// The invariant that broke, and after which op.
pub(crate) fn run(scenario: &Scenario) -> Result<World, Violation> {
    let mut world = World::new(scenario);
    for op in &scenario.ops {
        world.apply(op)?;
    }
    Ok(world)
}
