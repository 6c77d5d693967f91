//! `constellation mini`: a whole cluster of virtual machines on this computer, to try things out.
//!
//! Everything is in one folder, the owner key and its passphrase among it: never for secrets that
//! matter. The cluster itself is made by the verbs that an operator uses, which this program calls.

mod cluster;
mod folder;
mod guests;
mod images;
mod progress;
mod report;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};

use crate::output::{OutputFormat, WithHint as _};
use cluster::Operator;
use folder::{Folder, Plan};
use guests::Guests;
use progress::Progress;
use report::Report;

/// Machines of a cluster unless told otherwise: a control plane and a worker.
const NODES: u8 = 2;

/// A cluster of virtual machines on this computer, to try things out.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make the cluster, or go on where it was interrupted or switched off
    Up(Box<Up>),
    /// Show machines, ports and the cluster
    Status(Status),
    /// Switch one machine off and on again, with another image if one is given
    Restart(Restart),
    /// Switch all machines off
    Down(Down),
    /// Carry frames between machines, until ended
    #[command(hide = true)]
    Switch(Switch),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::Up(up) => output.print(&up.run()?),
            Self::Status(status) => output.print(&status.run()?),
            Self::Restart(restart) => output.print(&restart.run()?),
            Self::Down(down) => output.print(&down.run()?),
            Self::Switch(switch) => vm::switch::run(&switch.socket),
        }
    }
}

/// Where it is.
#[derive(Args, Debug)]
struct Place {
    /// Folder of the cluster [default: `constellation/mini` in the user's state folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Make the cluster, or go on where it was interrupted or switched off.
///
/// The first machine becomes the control plane, the others workers. What is done already is not
/// repeated; a cluster that was switched off is recovered. The machines run on when this ends.
#[derive(Args, Debug)]
pub(crate) struct Up {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    plan: PlanArgs,
    /// Where to stop
    #[arg(long, value_enum, value_name = "POINT", default_value_t)]
    until: Until,
}

/// What is fixed when the folder is made.
#[derive(Args, Debug)]
struct PlanArgs {
    /// Folder of the image; needed the first time
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// Folder of the image that shows what the firmware measures [default: `probe` beside the image's]
    #[arg(long, value_name = "DIR")]
    probe: Option<PathBuf>,
    /// Machines: one control plane, the others workers [default: 2]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: Option<u8>,
    /// Memory of each, MiB [default: 3072]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(512..=1_048_576))]
    memory: Option<u32>,
    /// QEMU [default: `qemu-system-x86_64` in the search path]
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
}

/// A point of the way up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, ValueEnum)]
enum Until {
    /// The machines boot and have their addresses
    Started,
    /// The first machine is attested and has its disk
    Admitted,
    /// All nodes are ready and verified
    #[default]
    Ready,
}

impl Up {
    fn run(self) -> Result<Report> {
        let progress = Progress::start();
        let folder = Folder::make(self.place.dir)?;
        let _lock = folder.lock()?;
        let plan = self.plan.merge(&folder)?;
        let guests = Guests::new(&folder, plan, &progress)?;
        let operator = Operator::new(&folder, &progress)?;
        operator.make_owner()?;
        let authority = guests.make_tpms()?;
        guests.prepare_images(&operator, &authority)?;
        guests.start_network()?;
        guests.start_all()?;
        let first = guests.first()?;
        if self.until >= Until::Admitted {
            if operator.has_cluster() {
                if !guests.is_unlocked(first)? {
                    operator.recover(first)?;
                }
            } else {
                operator.init(first, self.until == Until::Ready)?;
            }
        }
        if self.until == Until::Ready {
            operator.write_kubeconfig(first)?;
            operator.wait_ready(&guests.boots()?)?;
            operator.verify(guests.nodes())?;
        }
        progress.say("done");
        Report::of(&folder)
    }
}

impl PlanArgs {
    /// The plan of the folder, or a new one. Machines that exist keep what they were made with.
    fn merge(self, folder: &Folder) -> Result<Plan> {
        let absolute = |path: PathBuf| {
            let shown = path.display().to_string();
            path.canonicalize()
                .map_err(|error| anyhow!("`{shown}`: {error}"))
        };
        let image = self.image.map(absolute).transpose()?;
        let qemu = self.qemu.unwrap_or_else(|| "qemu-system-x86_64".into());
        let mut plan = match folder.plan()? {
            Some(plan) => plan,
            None => {
                let Some(image) = image.clone() else {
                    return Err(anyhow!("which image?"))
                        .hint("give `--image DIR`, the folder that `make cluster` wrote, `target/image/os`");
                };
                let probe = self.probe.unwrap_or_else(|| image.join("../probe"));
                let program = guests::find_qemu(&qemu)?;
                Plan::new(image, absolute(probe)?, program)
            }
        };
        if image.is_some_and(|image| image != plan.image) {
            return Err(anyhow!("this cluster was made with another image"))
                .hint("`constellation mini restart NODE --image DIR` gives a node another one");
        }
        match self.nodes {
            Some(nodes) => {
                if usize::from(nodes) > plan.nodes.len() && guests::has_network(folder) {
                    return Err(anyhow!("the cluster is up with {} machines", plan.nodes.len()))
                        .hint("`constellation mini down` first: the network learns of new ones when it starts");
                }
                plan.set_nodes(nodes)?;
            }
            None if plan.nodes.is_empty() => plan.set_nodes(NODES)?,
            None => {}
        }
        plan.memory_mib = self.memory.unwrap_or(plan.memory_mib);
        folder.store(&plan)?;
        Ok(plan)
    }
}

/// Show machines, ports and the cluster.
#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    place: Place,
}

impl Status {
    fn run(self) -> Result<Report> {
        let folder = Folder::open(self.place.dir)?;
        Ok(Report::of(&folder)?.with_cluster(&Operator::new(&folder, &Progress::start())?))
    }
}

/// Switch one machine off and on again, with another image if one is given.
///
/// Whether the cluster accepts the image is not this command's business: `constellation upgrade add`
/// says so to it. The image's measurements are in `images/NAME/measurements.json` of the folder.
#[derive(Args, Debug)]
pub(crate) struct Restart {
    /// The node
    node: String,
    /// Folder of another image
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    patience: Patience,
}

impl Restart {
    fn run(self) -> Result<Report> {
        let progress = Progress::start();
        let folder = Folder::open(self.place.dir)?;
        let _lock = folder.lock()?;
        let plan = folder.existing_plan()?;
        let mut guests = Guests::new(&folder, plan, &progress)?;
        let operator = Operator::new(&folder, &progress)?;
        if let Some(image) = &self.image {
            guests.change_image(&self.node, image, &operator)?;
        }
        let node = guests.node(&self.node)?.clone();
        let cut = guests.power_off(&[&node], self.patience.duration())?;
        guests.start_network()?;
        guests.start(&node)?;
        Ok(Report::of(&folder)?.with_power_cut(cut))
    }
}

/// Switch all machines off.
#[derive(Args, Debug)]
pub(crate) struct Down {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    patience: Patience,
    /// Delete the folder: keys, disks, everything
    #[arg(long)]
    delete: bool,
}

impl Down {
    fn run(self) -> Result<Report> {
        let progress = Progress::start();
        let folder = Folder::open(self.place.dir)?;
        let lock = folder.lock()?;
        let guests = Guests::new(&folder, folder.existing_plan()?, &progress)?;
        let nodes: Vec<_> = guests.nodes().iter().rev().collect();
        let cut = guests.power_off(&nodes, self.patience.duration())?;
        guests.stop_network()?;
        let report = Report::of(&folder)?.with_power_cut(cut);
        drop(lock);
        if self.delete {
            folder.delete()?;
            progress.say("the folder is deleted");
        }
        Ok(report)
    }
}

/// How long a machine gets.
#[derive(Args, Debug)]
struct Patience {
    /// Seconds to shut down in, before the power is cut
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

impl Patience {
    const fn duration(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Carry frames between machines, until ended.
#[derive(Args, Debug)]
pub(crate) struct Switch {
    /// Where QEMU connects
    socket: PathBuf,
}
