//! Memory nodes: a processor reads its own node's memory faster than another's.

use std::sync::OnceLock;

/// The nodes that have memory, in rising order; one if the system does not say.
pub(super) fn nodes() -> &'static [usize] {
    static NODES: OnceLock<Vec<usize>> = OnceLock::new();
    NODES.get_or_init(|| {
        let list = std::fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
        parse_list(&list).filter(|nodes| !nodes.is_empty()).unwrap_or_else(|| vec![0])
    })
}

/// A kernel's list such as `0-3,8`; `None` if it is no such list, or names more than a thousand.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= 1024 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Asks for the pages of `bytes` that do not exist yet to be taken from `nodes` in turn.
///
/// # Errors
/// The operating system's.
#[cfg(target_os = "linux")]
pub(super) fn interleave(bytes: &[u8], nodes: &[usize]) -> std::io::Result<()> {
    const MPOL_INTERLEAVE: libc::c_ulong = 3;
    const WORD: usize = libc::c_ulong::BITS as usize;
    let mut mask = [0 as libc::c_ulong; 1024 / WORD];
    for &node in nodes.iter().filter(|&&node| node < 1024) {
        mask[node / WORD] |= 1 << (node % WORD);
    }
    // SAFETY: the call reads `mask` (as many bits as it is told, and the kernel does not count the
    // last) and changes where pages of the range will come from, not what is in them.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            bytes.as_ptr(),
            bytes.len() as libc::c_ulong,
            MPOL_INTERLEAVE,
            mask.as_ptr(),
            1024 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    };
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn interleave(_: &[u8], _: &[usize]) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parse_list("0\n"), Some(vec![0]));
        assert_eq!(parse_list("0-2,8"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("\n"), Some(vec![]));
        assert_eq!((parse_list("0-"), parse_list("x"), parse_list("0-99999999999")), (None, None, None));
        assert!(!nodes().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_takes_the_nodes_there_are_and_refuses_others() {
        let pages = memmap2::MmapMut::map_anon(1 << 20).expect("a small mapping");
        match interleave(&pages, nodes()) {
            Ok(()) => assert!(interleave(&pages, &[1000]).is_err(), "there is no node 1000"),
            // A kernel without nodes, or a sandbox.
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)),
                "{error} for nodes {:?}",
                nodes()
            ),
        }
    }
}
