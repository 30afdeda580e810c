//! The state of the code that a run was started from.

use std::path::Path;
use std::process::Command;

use super::record::Git;

impl Git {
    /// State of the repository that holds `dir`; `None` outside of one, or without git.
    pub fn of(dir: &Path) -> Option<Self> {
        let commit = git(dir, &["rev-parse", "--verify", "HEAD"])?;
        let branch = git(dir, &["rev-parse", "--abbrev-ref", "HEAD"])?;
        let changes = git(dir, &["status", "--porcelain", "--untracked-files=no"])?;
        Some(Self { commit, branch, changed: !changes.is_empty() })
    }
}

fn git(dir: &Path, arguments: &[&str]) -> Option<String> {
    // Optional locks would disturb a git command that a person runs meanwhile.
    let output =
        Command::new("git").arg("--no-optional-locks").arg("-C").arg(dir).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_outside_of_a_repository_has_no_state() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Git::of(&dir.path().join("missing")), None);
    }
}
