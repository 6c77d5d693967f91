//! Running a program of the verified root from outside of it.

use std::{
    ffi::CString,
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

/// A command that runs `program` with `root` as its root directory: its libraries, its
/// configuration, an empty environment and no input.
///
/// # Errors
/// `root` contains a NUL byte.
pub fn command(root: &Path, program: &str) -> io::Result<Command> {
    let root = CString::new(root.as_os_str().as_bytes())?;
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    let enter = move || {
        rustix::process::chroot(root.as_c_str())?;
        rustix::process::chdir(c"/")?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls on memory that was
    // allocated before, which is all that pre_exec allows.
    unsafe { command.pre_exec(enter) };
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_one_inside_of_the_root() {
        let empty = tempfile::tempdir().unwrap();
        let error = command(empty.path(), "/bin/true").unwrap().status();
        assert!(error.is_err(), "ran a program of the outer root");
    }
}
