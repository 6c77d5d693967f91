//! Programs that are started: with a time limit, their lines in the log, and no secret in arguments.

use crate::progress::Progress;
use service_runtime::logs::Chain;
use std::{
    collections::VecDeque,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

/// The longest line that is logged; the rest of it is dropped.
const MAX_LINE: usize = 2_000;

/// The longest output of a program whose output is wanted.
const MAX_OUTPUT: u64 = 1 << 20;

/// How many of its last lines a failure shows.
const LAST_LINES: usize = 5;

/// A program that did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It said no.
    #[error("`{program}` ended with {status}: {last}")]
    Failed {
        /// The program with its first arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        last: String,
    },
    /// It wrote something else than text that was expected.
    #[error("`{0}` answered with something unexpected")]
    Output(String),
    /// It cannot be started, or its output not be read.
    #[error("start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("`{program}` took more than {} s", limit.as_secs())]
    TookTooLong {
        /// The program with its first arguments.
        program: String,
        /// What it had.
        limit: Duration,
    },
}

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    path: &'a Path,
    command: Command,
    shown: String,
    limit: Duration,
}

impl<'a> Program<'a> {
    /// A program with its arguments, none of which may be a secret.
    pub fn new<A: AsRef<OsStr>>(
        path: &'a Path,
        arguments: impl IntoIterator<Item = A>,
        limit: Duration,
    ) -> Self {
        let mut command = Command::new(path);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let mut shown = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for argument in arguments {
            shown = format!("{shown} {}", argument.as_ref().to_string_lossy());
            command.arg(argument);
        }
        Self {
            path,
            command,
            shown,
            limit,
        }
    }

    /// Runs it to its end; its lines go to the log and to whoever follows.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub async fn run(mut self, progress: &Progress) -> Result<(), ProgramError> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        tracing::info!(program = %self.shown, "starting");
        let mut child = self.command.spawn().map_err(start(self.path))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (mut last, mut last_errors) = (VecDeque::new(), VecDeque::new());
            let (read, read_errors, status) = tokio::join!(
                follow(stdout, progress, &mut last),
                follow(stderr, progress, &mut last_errors),
                child.wait(),
            );
            read.and(read_errors).and(status).map(|status| {
                // Errors say more.
                (
                    status,
                    if last_errors.is_empty() {
                        last
                    } else {
                        last_errors
                    },
                )
            })
        };
        match timeout(self.limit, work).await {
            Ok(Ok((status, _last))) if status.success() => Ok(()),
            Ok(Ok((status, last))) => Err(ProgramError::Failed {
                program: self.shown,
                status,
                last: Vec::from(last).join("; "),
            }),
            Ok(Err(error)) => Err(start(self.path)(error)),
            Err(_elapsed) => Err(ProgramError::TookTooLong {
                program: self.shown,
                limit: self.limit,
            }),
        }
    }

    /// Runs it to its end and returns what it wrote to standard output.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub async fn output(mut self) -> Result<String, ProgramError> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(start(self.path))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (text, errors, status) = tokio::join!(whole(stdout), whole(stderr), child.wait());
            Ok::<_, io::Error>((text?, errors?, status?))
        };
        let (text, errors, status) = match timeout(self.limit, work).await {
            Ok(done) => done.map_err(start(self.path))?,
            Err(_elapsed) => {
                return Err(ProgramError::TookTooLong {
                    program: self.shown,
                    limit: self.limit,
                });
            }
        };
        if !status.success() {
            let last = String::from_utf8_lossy(&errors).trim().to_owned();
            return Err(ProgramError::Failed {
                program: self.shown,
                status,
                last,
            });
        }
        String::from_utf8(text).map_err(|_not_text| ProgramError::Output(self.shown))
    }
}

fn start(path: &Path) -> impl FnOnce(io::Error) -> ProgramError + use<> {
    let program = path.to_owned();
    move |source| ProgramError::Start { program, source }
}

async fn whole(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT).read_to_end(&mut content).await?;
    }
    Ok(content)
}

async fn follow(
    pipe: Option<impl AsyncRead + Unpin>,
    progress: &Progress,
    last: &mut VecDeque<String>,
) -> io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).await? > 0 {
        let text = String::from_utf8_lossy(line.get(..MAX_LINE).unwrap_or(&line));
        let text = text.trim_end();
        if !text.is_empty() {
            tracing::info!("{text}");
            progress.line(text);
            last.push_back(text.to_owned());
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
        line.clear();
    }
    Ok(())
}

/// Does something again until it succeeds or the limit is over; the last error is logged then.
///
/// # Errors
/// What the last attempt said.
pub async fn until<T, E: std::error::Error + 'static, F>(
    limit: Duration,
    pause: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let end = tokio::time::Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if tokio::time::Instant::now() + pause >= end => return Err(error),
            Err(error) => tracing::debug!(error = %Chain(&error), "not yet"),
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: u64) -> Program<'_> {
        Program::new(
            Path::new("/bin/sh"),
            ["-c", script],
            Duration::from_secs(limit),
        )
    }

    #[tokio::test]
    async fn lines_are_followed_and_a_failure_shows_the_last_ones() {
        let progress = Progress::default();
        shell("echo one; echo two >&2", 10)
            .run(&progress)
            .await
            .unwrap();
        assert_eq!(progress.lines().len(), 2);
        let error = shell("for i in 1 2 3 4 5 6 7; do echo line $i; done; exit 3", 10)
            .run(&progress)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(
            error.contains("line 7") && !error.contains("line 2;"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 60", pid.display());
        let error = shell(&script, 1)
            .run(&Progress::default())
            .await
            .unwrap_err();
        assert!(matches!(error, ProgramError::TookTooLong { .. }), "{error}");
        let pid = std::fs::read_to_string(pid).unwrap();
        let gone = until(Duration::from_secs(5), Duration::from_millis(20), || {
            std::future::ready(
                match std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
                    Ok(stat) if !stat.contains(") Z ") => Err(io::Error::other("it lives")),
                    _gone_or_dead => Ok(()),
                },
            )
        });
        gone.await.unwrap();
    }

    #[tokio::test]
    async fn output_is_returned_and_an_absent_program_named() {
        assert_eq!(shell("echo v1", 10).output().await.unwrap(), "v1\n");
        let none: [&str; 0] = [];
        let absent = Program::new(
            Path::new("/nonexistent/kubeadm"),
            none,
            Duration::from_secs(1),
        );
        assert_eq!(
            absent.output().await.unwrap_err().to_string(),
            "start `/nonexistent/kubeadm`"
        );
    }
}
