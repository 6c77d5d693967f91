//! Property tests over the simulator: thousands of schedules, invariants after every event.
//! A failing schedule is written as JSON; `cargo run -p admission --example replay FILE` replays it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test, helpers included"
)]

#[path = "simulator/simulator.rs"]
mod simulator;

use identity::Role;
use proptest::prelude::*;
use simulator::{Forgery, Op, Scenario, Violation, World};

/// What a power grid and a network do.
fn natural(machines: u8) -> impl Strategy<Value = Op> {
    let m = 0..machines;
    prop_oneof![
        3 => m.clone().prop_map(Op::PowerOn),
        1 => m.clone().prop_map(Op::PowerCut),
        1 => (m.clone(), any::<bool>()).prop_map(|(machine, cleartext)| Op::TornCut { machine, cleartext }),
        20 => m.clone().prop_map(Op::Step),
        1 => m.prop_map(Op::Timeout),
        30 => any::<u8>().prop_map(Op::Advance),
        1 => any::<u8>().prop_map(Op::Drop),
        1 => any::<u8>().prop_map(Op::Duplicate),
        1 => (0..10u8).prop_map(Op::Wait),
    ]
}

/// What a host, a node in its hands and a hasty operator do.
fn hostile() -> impl Strategy<Value = Op> {
    let m = 0..4u8;
    let d = any::<u8>();
    let forgery = prop_oneof![
        Just(Forgery::Join),
        Just(Forgery::Rejoin),
        Just(Forgery::Commit)
    ];
    prop_oneof![
        1 => m.clone().prop_map(Op::Blank),
        1 => m.clone().prop_map(Op::Save),
        1 => m.clone().prop_map(Op::Restore),
        1 => (m.clone(), m.clone()).prop_map(|(from, to)| Op::CopyDisk { from, to }),
        1 => (m.clone(), m.clone()).prop_map(|(machine, name)| Op::Rename { machine, name }),
        1 => m.clone().prop_map(Op::SwapRole),
        1 => m.clone().prop_map(Op::Push),
        4 => (m.clone(), forgery, d, 0..8u8).prop_map(|(machine, request, disk, generation)| Op::Forge {
            machine, request, disk, generation
        }),
        1 => d.prop_map(Op::Renew),
        1 => m.clone().prop_map(Op::Forget),
        1 => m.clone().prop_map(Op::OpenControlPlane),
        1 => m.clone().prop_map(Op::Adopt),
        1 => (d, m.clone()).prop_map(|(disk, machine)| Op::Rebind { disk, machine }),
        1 => (d, 0..8u8).prop_map(|(disk, generation)| Op::AcceptGeneration { disk, generation }),
        1 => m.prop_map(Op::FinishInit),
        1 => Just(Op::SyncCli),
    ]
}

fn scenario(op: impl Strategy<Value = Op>, length: usize) -> impl Strategy<Value = Scenario> {
    (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(op, 1..length),
    )
        .prop_map(|(transactions, sev_snp, ops)| Scenario {
            transactions,
            sev_snp,
            ops,
        })
}

fn check(scenario: &Scenario, outcome: Result<World, Violation>) -> World {
    outcome.unwrap_or_else(|violation| {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("admission-failure.json");
        std::fs::write(&path, serde_json::to_string_pretty(scenario).unwrap()).unwrap();
        let tail = violation.log.iter().rev().take(12).rev();
        panic!(
            "{}: {}\n{}\nreplay with `cargo run -p admission --example replay {}`",
            violation.invariant,
            violation.detail,
            tail.cloned().collect::<Vec<_>>().join("\n"),
            path.display()
        );
    })
}

/// Every machine unlocks its disk once nothing goes wrong any more, whatever went wrong before.
fn comes_up(world: &mut World, machines: u8) -> Result<Result<(), String>, Violation> {
    for m in 0..machines {
        let mut up = false;
        for _ in 0..4 {
            world.apply(&Op::PowerCut(m))?;
            world.apply(&Op::Wait(200))?;
            world.apply(&Op::PowerOn(m))?;
            for _ in 0..120 {
                world.apply(&Op::Step(m))?;
                for j in (0..world.jobs.len()).rev() {
                    let newest = u8::try_from(j).unwrap();
                    if world.jobs[j].machine == m
                        && world.running(m).and_then(|b| b.awaiting) == Some(world.jobs[j].id)
                    {
                        world.apply(&Op::Advance(newest))?;
                        break;
                    }
                }
                if world.running(m).is_none_or(|boot| boot.handed_off) {
                    break;
                }
            }
            up = world.running(m).is_some_and(|boot| boot.handed_off);
            if up {
                break;
            }
        }
        if !up {
            return Ok(Err(format!(
                "machine {m} is locked out: {:?}",
                world.machine(m).exits
            )));
        }
    }
    Ok(Ok(()))
}

/// All jobs that are still in flight end now, in some order.
fn drain(world: &mut World) -> Result<(), Violation> {
    while !world.jobs.is_empty() {
        world.apply(&Op::Advance(0))?;
    }
    Ok(())
}

fn heals(scenario: &Scenario) -> Result<World, Violation> {
    let mut world = World::new(scenario);
    world.machine(0).role = Role::ControlPlane;
    world.apply(&Op::OpenControlPlane(0))?;
    for op in &scenario.ops {
        world.apply(op)?;
    }
    // Requests of earlier boots may still be in flight while the machines come up, and end after.
    for _ in 0..2 {
        if let Err(detail) = comes_up(&mut world, 3)? {
            return Err(Violation {
                invariant: "no crash schedule locks a legitimate node out",
                detail,
                log: world.log,
            });
        }
        drain(&mut world)?;
    }
    Ok(world)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// No power cut, torn write, lost, repeated or delayed message needs an operator.
    #[test]
    fn every_crash_schedule_heals(scenario in scenario(natural(3), 250)) {
        check(&scenario, heals(&scenario));
    }

    /// Nothing that host, nodes and operators do in any order breaks an invariant.
    #[test]
    fn invariants_hold_under_attack(scenario in scenario(prop_oneof![3 => natural(4), 1 => hostile()], 400)) {
        check(&scenario, simulator::run(&scenario));
    }
}

/// A whole init with a power cut after every sub-step heals by retrying the same disk id.
#[test]
fn init_heals_after_a_cut_at_every_step() {
    for cut in 0..60 {
        for torn in [None, Some(false), Some(true)] {
            let mut world = World::new(&Scenario {
                transactions: false,
                sev_snp: false,
                ops: Vec::new(),
            });
            world.machine(0).role = Role::ControlPlane;
            init_steps(&mut world, cut).unwrap();
            let op = torn.map_or(Op::PowerCut(0), |cleartext| Op::TornCut {
                machine: 0,
                cleartext,
            });
            world.apply(&op).unwrap();
            init_steps(&mut world, 200).unwrap();
            assert!(
                world.running(0).is_some_and(|b| b.handed_off),
                "cut {cut} {torn:?}: {:#?}",
                world.log
            );
            world.apply(&Op::FinishInit(0)).unwrap();
            assert_eq!(world.cli.records().count(), 1, "one disk id");
            assert!(
                comes_up(&mut world, 1).unwrap().is_ok(),
                "the first node rejoins"
            );
        }
    }
}

/// After yesterday's store is restored every node that it knows still boots: headers are ahead of
/// their records, boot claims are missing.
#[test]
fn a_restored_store_locks_nobody_out() {
    for transactions in [false, true] {
        let mut world = World::new(&Scenario {
            transactions,
            sev_snp: false,
            ops: Vec::new(),
        });
        let mut backups = vec![world.services.clone()];
        for _ in 0..3 {
            assert!(comes_up(&mut world, 3).unwrap().is_ok());
            backups.push(world.services.clone());
        }
        for backup in backups.into_iter().skip(1) {
            world.services = backup;
            assert!(comes_up(&mut world, 3).unwrap().is_ok());
        }
    }
}

/// A request of an earlier boot that ends in the middle of a later boot's join, at every pair of
/// sub-steps: at worst it costs a boot, never the node.
#[test]
fn late_requests_of_an_earlier_boot_lock_nobody_out() {
    for first in 0..45 {
        for second in 0..50 {
            let mut world = World::new(&Scenario {
                transactions: false,
                sev_snp: false,
                ops: Vec::new(),
            });
            join_steps(&mut world, first).unwrap();
            world.apply(&Op::PowerCut(0)).unwrap();
            join_steps(&mut world, second).unwrap();
            let drained = drain(&mut world);
            let up = drained.and_then(|()| comes_up(&mut world, 1));
            match up {
                Ok(Ok(())) => {}
                other => panic!("{first} {second}: {other:?}\n{}", world.log.join("\n")),
            }
        }
    }
}

/// Steps of machine 0; jobs of its earlier boots stay where they are.
fn join_steps(world: &mut World, steps: usize) -> Result<(), Violation> {
    world.apply(&Op::PowerOn(0))?;
    for _ in 0..steps {
        let awaiting = world.running(0).and_then(|boot| boot.awaiting);
        let job = world.jobs.iter().position(|job| Some(job.id) == awaiting);
        let op = job.map_or(Op::Step(0), |j| Op::Advance(u8::try_from(j).unwrap()));
        world.apply(&op)?;
    }
    Ok(())
}

fn init_steps(world: &mut World, steps: usize) -> Result<(), Violation> {
    world.jobs.clear();
    world.apply(&Op::PowerOn(0))?;
    for _ in 0..steps {
        if world.running(0).is_some_and(|boot| boot.handed_off) {
            break;
        }
        world.apply(&Op::Push(0))?;
        let op = if world.jobs.is_empty() {
            Op::Step(0)
        } else {
            Op::Advance(0)
        };
        world.apply(&op)?;
    }
    Ok(())
}
