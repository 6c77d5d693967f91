//! A control plane as plain processes.

mod commands;

use crate::{
    access::{Access, Credential},
    certificates::{self, Authority, Certified},
    folder::Folder,
    relay::Relay,
};
use anyhow::{Context as _, Result, bail};
use child_process::{Process, free_port};
use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use kubernetes_binaries::Kubernetes;
use rustix::process::Signal;
use std::{
    fs,
    future::Future,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

/// How long an API server may take to become ready. It takes four seconds on two idle cores.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long one answer may take while something starts.
const ANSWER: Duration = Duration::from_secs(5);

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(50);

/// Log lines that a failure shows.
const TAIL: usize = 20;

/// What a control plane has beyond etcd, API server and controller manager.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Runs a scheduler as well.
    pub scheduler: bool,
    /// More arguments for the API server, after ours.
    pub api_server: Vec<String>,
    /// More arguments for the controller manager, after ours.
    pub controller_manager: Vec<String>,
}

/// A control plane on loopback. Its processes end with this value, and with this program at the
/// latest; its folder with certificates, data and logs goes with it unless the thread panics.
///
/// Authorization is by node and RBAC with `NodeRestriction`, certificates are signed, bootstrap tokens
/// work and expire: as kubeadm sets a control plane up. No aggregation, and no nodes.
#[derive(Debug)]
pub struct ControlPlane {
    kubernetes: Kubernetes,
    options: Options,
    authority: Authority,
    admin: Access,
    ports: Ports,
    relay: Relay,
    // In this order they are killed: the API server ends before its etcd.
    others: Vec<Process>,
    api_server: Option<Process>,
    etcd: Process,
    folder: Folder,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    api: u16,
    etcd: u16,
    etcd_peer: u16,
}

impl ControlPlane {
    /// Starts a control plane and waits until the API server is ready and the controller manager has
    /// made the first ServiceAccount.
    ///
    /// # Errors
    /// If a program does not start or does not become ready; its log stays and the message names it.
    pub fn start(kubernetes: &Kubernetes, options: Options) -> Result<Self> {
        let folder = Folder::create("control-plane", |_| {})?;
        let dir = folder.path().to_owned();
        let authority = Authority::new()?;
        let ports = Ports {
            api: free_port()?,
            etcd: free_port()?,
            etcd_peer: free_port()?,
        };
        let relay = Relay::to(ports.etcd)?;
        let certified = authority.client("kubernetes-admin", Some("system:masters"))?;
        let admin = Access {
            server: format!("https://127.0.0.1:{}", ports.api),
            ca_pem: authority.pem(),
            ca_der: authority.der(),
            credential: Credential::Certificate {
                certificate: certified.certificate,
                key: certified.key,
            },
        };
        write_certificates(&dir, &authority, &admin)?;
        let etcd = commands::etcd(kubernetes, &dir, ports);
        let mut control_plane = Self {
            etcd: spawn("etcd", etcd, &dir)?,
            kubernetes: kubernetes.clone(),
            options,
            authority,
            admin,
            ports,
            relay,
            others: Vec::new(),
            api_server: None,
            folder,
        };
        control_plane.start_api_server()?;
        control_plane.start_others()?;
        Ok(control_plane)
    }

    /// Where the API server listens.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.api).into()
    }

    /// The certificate of the cluster's authority, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.admin.ca_pem
    }

    /// The administrator's way in, a member of `system:masters`.
    #[must_use]
    pub fn admin(&self) -> &Access {
        &self.admin
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> String {
        self.admin.kubeconfig()
    }

    /// The administrator's client; call it inside a tokio runtime.
    ///
    /// # Errors
    /// If the client cannot be made.
    pub fn kube_client(&self) -> Result<Client> {
        self.admin.client()
    }

    /// The way in of a user who is in `groups` (and, as everybody, in `system:authenticated`). With one
    /// group or none it has a client certificate; with more an administrator impersonates it, which
    /// authorization does not tell apart.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub fn access_as(&self, user: &str, groups: &[&str]) -> Result<Access> {
        let credential = match (groups, &self.admin.credential) {
            ([_, _, ..], Credential::Certificate { certificate, key }) => {
                Credential::Impersonation {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    user: user.to_owned(),
                    groups: groups.iter().map(|&group| group.to_owned()).collect(),
                }
            }
            _ => {
                let certified = self.authority.client(user, groups.first().copied())?;
                Credential::Certificate {
                    certificate: certified.certificate,
                    key: certified.key,
                }
            }
        };
        Ok(self.access(credential))
    }

    /// A client of a user, as [`ControlPlane::access_as`].
    ///
    /// # Errors
    /// If the client cannot be made.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        self.access_as(user, groups)?.client()
    }

    /// The way in with a bearer token, such as a bootstrap token.
    #[must_use]
    pub fn access_with_token(&self, token: &str) -> Access {
        self.access(Credential::Token(token.to_owned()))
    }

    /// The way in of somebody unknown.
    #[must_use]
    pub fn anonymous(&self) -> Access {
        self.access(Credential::Anonymous)
    }

    /// A token of a ServiceAccount, as its pods get one; the account is made if there is none. Its
    /// namespace has to be there.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.kube_client()?, namespace);
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name.to_owned());
        let apply = PatchParams::apply("native-kubernetes");
        accounts
            .patch(name, &apply, &Patch::Apply(&account))
            .await
            .with_context(|| format!("make ServiceAccount `{namespace}/{name}`"))?;
        let request = TokenRequest::default();
        let granted = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("a token for `{namespace}/{name}`"))?;
        let status = granted.status.context("a token request without status")?;
        Ok(status.token)
    }

    /// The way in of a ServiceAccount, as [`ControlPlane::service_account_token`].
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<Access> {
        let token = self.service_account_token(namespace, name).await?;
        Ok(self.access_with_token(&token))
    }

    /// A client of a ServiceAccount, as [`ControlPlane::service_account_token`].
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn service_account_client(&self, namespace: &str, name: &str) -> Result<Client> {
        self.service_account(namespace, name).await?.client()
    }

    /// `kubectl` as the administrator.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let path = self.dir().join("admin.kubeconfig");
        let mut command = Command::new(self.kubernetes.program("kubectl"));
        command.arg("--kubeconfig").arg(path);
        // Its cache of what the server offers would go to the user's home.
        command.arg("--cache-dir").arg(self.dir().join("kubectl"));
        command
    }

    /// The folder of logs (`<program>.log`), data and certificates.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Kills the API server at once.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn kill_api_server(&mut self) -> Result<()> {
        match self.api_server.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts the API server where it was before, and waits until it is ready.
    ///
    /// # Errors
    /// If it runs, or does not become ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        if self.api_server.is_some() {
            bail!("the API server runs");
        }
        let dir = self.dir().to_owned();
        let mut command = commands::api_server(&self.kubernetes, &dir, self.ports.api, &self.relay);
        command.args(&self.options.api_server);
        self.api_server = Some(spawn("kube-apiserver", command, &dir)?);
        self.wait_for("the API server's `/readyz`", |client| async move {
            let request = http::Request::get("/readyz").body(Vec::new());
            match request {
                Ok(request) => client.request_text(request).await.is_ok(),
                Err(_) => false,
            }
        })
    }

    /// Stops the API server's process where it is: connections stay open and nothing answers.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause_api_server(&self) -> Result<()> {
        self.signal_api_server(Signal::STOP)
    }

    /// Lets a paused API server go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume_api_server(&self) -> Result<()> {
        self.signal_api_server(Signal::CONT)
    }

    /// Lets each piece of data between the API server and etcd take this long, both ways.
    pub fn delay_etcd(&self, delay: Duration) {
        self.relay.set_delay(delay);
    }

    fn access(&self, credential: Credential) -> Access {
        Access {
            credential,
            ..self.admin.clone()
        }
    }

    fn signal_api_server(&self, signal: Signal) -> Result<()> {
        let process = self.api_server.as_ref();
        process
            .context("the API server does not run")?
            .signal(signal)
    }

    fn start_others(&mut self) -> Result<()> {
        let dir = self.dir().to_owned();
        let mut command = commands::controller_manager(&self.kubernetes, &dir);
        command.args(&self.options.controller_manager);
        self.others
            .push(spawn("kube-controller-manager", command, &dir)?);
        if self.options.scheduler {
            let command = commands::scheduler(&self.kubernetes, &dir);
            self.others.push(spawn("kube-scheduler", command, &dir)?);
        }
        self.wait_for("the first ServiceAccount", |client| async move {
            let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
            accounts.get("default").await.is_ok()
        })
    }

    /// Asks again and again, until the answer is yes or a program has ended.
    fn wait_for<F: Future<Output = bool> + Send>(
        &mut self,
        what: &str,
        ask: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !once(&self.admin, &ask)? {
            if let Some((status, log)) = self.ended()? {
                let tail = self.keep_and_read(&log);
                bail!(
                    "{what}: a program ended with {status}, log {}\n{tail}",
                    log.display()
                );
            }
            if Instant::now() >= end {
                let log = self.dir().join("kube-apiserver.log");
                let tail = self.keep_and_read(&log);
                bail!(
                    "no {what} after {PATIENCE:?}, log {}\n{tail}",
                    log.display()
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// A program that ended by itself, and its log.
    fn ended(&mut self) -> Result<Option<(ExitStatus, PathBuf)>> {
        let all = self.others.iter_mut().chain(&mut self.api_server);
        for process in all.chain([&mut self.etcd]) {
            if let Some(status) = process.exit_status()? {
                return Ok(Some((status, process.log().to_owned())));
            }
        }
        Ok(None)
    }

    /// Keeps the folder and gives the last lines of a log in it.
    fn keep_and_read(&mut self, log: &Path) -> String {
        self.folder.keep();
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

/// Asks once, on a thread of its own: the caller may be inside a runtime already.
fn once<F: Future<Output = bool> + Send>(
    access: &Access,
    ask: impl Fn(Client) -> F + Send + Sync,
) -> Result<bool> {
    let ask = || -> Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let answer = tokio::time::timeout(ANSWER, ask(access.client()?)).await;
            Ok(answer.unwrap_or(false))
        })
    };
    let answer = thread::scope(|scope| scope.spawn(ask).join());
    answer.unwrap_or_else(|_| bail!("the thread that asked the API server panicked"))
}

fn spawn(name: &str, command: Command, dir: &Path) -> Result<Process> {
    Process::spawn_lasting(name, command, &dir.join(format!("{name}.log")))
}

/// What [`commands`] names: everything that the programs read.
fn write_certificates(dir: &Path, authority: &Authority, admin: &Access) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(text.as_bytes())
            .with_context(|| format!("write {}", path.display()))
    };
    write("ca.crt", &authority.pem())?;
    write("ca.key", &authority.key_pem())?;
    let [private, public] = certificates::signing_key()?;
    write("sa.key", &private)?;
    write("sa.pub", &public)?;
    let server = authority.server()?;
    write("apiserver.crt", &server.certificate)?;
    write("apiserver.key", &server.key)?;
    let kubelet_client =
        authority.client("kube-apiserver-kubelet-client", Some("system:masters"))?;
    write("kubelet-client.crt", &kubelet_client.certificate)?;
    write("kubelet-client.key", &kubelet_client.key)?;
    write("admin.kubeconfig", &admin.kubeconfig())?;
    for name in ["kube-controller-manager", "kube-scheduler"] {
        let Certified { certificate, key } = authority.client(&format!("system:{name}"), None)?;
        let credential = Credential::Certificate { certificate, key };
        let access = Access {
            credential,
            ..admin.clone()
        };
        write(&format!("{name}.kubeconfig"), &access.kubeconfig())?;
    }
    Ok(())
}
