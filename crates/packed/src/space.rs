//! Free space on the disk, asked before writing, and the one error for having run out of it.

use crate::Error;
use crate::partial::directory_of;
use std::io;
use std::path::Path;

/// Bytes that an unprivileged process may still write beneath `directory`; `None` where the system does
/// not say.
#[cfg(unix)]
pub(crate) fn available(directory: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(directory).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(not(unix))]
pub(crate) fn available(_directory: &Path) -> Option<u64> {
    None
}

/// The error for a failed write to `path`, of which `needed` bytes were still to come.
pub(crate) fn write_error(path: &Path, needed: u64, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let directory = directory_of(path);
            // A quota leaves the file system's own count untouched.
            let available = available(directory).filter(|&available| available < needed).unwrap_or(0);
            Error::NoSpace { path: path.to_owned(), needed, available }
        }
        _ => Error::io(path, "write")(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_full_disk_and_a_quota_are_no_space() {
        let check = |errno: rustix::io::Errno, no_space: bool| {
            let error = write_error(Path::new("x.packed"), 7, errno.into());
            let got = matches!(error, Error::NoSpace { needed: 7, .. });
            assert_eq!(got, no_space, "{errno:?}: {error}");
        };
        check(rustix::io::Errno::NOSPC, true);
        check(rustix::io::Errno::DQUOT, true);
        check(rustix::io::Errno::IO, false);
    }
}
