use super::{
    Forgery, Op,
    disk::Disk,
    job::Job,
    world::{World, node_name},
};
use admission::{Request, SealingKeyHash};
use evidence::AdmissionPath;
use identity::{Generation, KeyVersion, Role};

impl World {
    /// What the host, or a node in its hands, does.
    pub(crate) fn tamper(&mut self, op: &Op) {
        match *op {
            Op::Blank(m) => self.machine(m).disk = Disk::BLANK,
            Op::Save(m) => self.machine(m).saved = Some(self.machine(m).disk),
            Op::Restore(m) => {
                if let Some(saved) = self.machine(m).saved {
                    self.machine(m).disk = saved;
                }
            }
            Op::CopyDisk { from, to } => self.machine(to).disk = self.machine(from).disk,
            Op::Rename { machine, name } => self.machine(machine).name = node_name(name),
            Op::SwapRole(m) => {
                let machine = self.machine(m);
                machine.role = match machine.role {
                    Role::ControlPlane => Role::Worker,
                    Role::Worker => Role::ControlPlane,
                };
            }
            Op::Forge {
                machine,
                request,
                disk,
                generation,
            } => self.forge(machine, request, disk, generation),
            _ => {}
        }
    }

    fn forge(&mut self, m: u8, forgery: Forgery, disk: u8, generation: u8) {
        let (Some(mut peer), Some(disk)) = (self.peer(m), self.minted_disk(disk)) else {
            return;
        };
        if self.sev_snp {
            // Nothing keeps root in the guest from getting a report; the sealing key is the agent's.
            peer.sealing_key = SealingKeyHash::of(&[0xee; 32]);
        }
        let machine = self.machine(m);
        if machine.boot.as_ref().is_some_and(|boot| boot.latched) {
            return;
        }
        let (path, request) = match forgery {
            Forgery::Join => (
                AdmissionPath::Join,
                Request::IssueJoinTicket {
                    disk,
                    node: machine.name.clone(),
                    role: machine.role,
                },
            ),
            Forgery::Rejoin => (
                AdmissionPath::Rejoin,
                Request::IssueRejoinTicket {
                    disk,
                    key_version: KeyVersion::FIRST,
                },
            ),
            Forgery::Commit => (
                AdmissionPath::Rejoin,
                Request::Commit {
                    disk,
                    generation: Generation(generation.into()),
                },
            ),
        };
        peer.path = path;
        self.next_job += 1;
        self.jobs.push(Job::new(self.next_job, m, request, peer));
    }
}
