//! Blocks of latents that outlive the process, one file each.
//!
//! A file is named by its block's name and lies in a directory named by the model's fingerprint; what it
//! holds is checked by a checksum when it is read, and whatever does not fit is deleted and computed again.
//! All reading and writing is done on a thread of its own. Latents tell much about the text they were
//! computed from: files and directories are for the owner only.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::SystemTime;

use twox_hash::XxHash3_64;

use super::blocks::BlockName;
use super::options::DiskCache;
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"fathomB1";
/// Magic, length of the payload, its checksum.
const HEADER_BYTES: usize = 24;
/// Blocks that may wait to be written; more are not kept.
const BACKLOG_MAX: usize = 64;
const ENDING: &str = "latents";

/// What the disk has to say.
#[derive(Debug)]
pub(super) enum FromDisk {
    /// The blocks that a sequence waits for, as far as they could be read, in order.
    Read { id: u64, blocks: Vec<(u32, BlockName, Vec<u8>)> },
    /// A block was written.
    Stored(BlockName),
    /// A block is there no more.
    Dropped(BlockName),
}

enum ToDisk {
    Read { id: u64, blocks: Vec<(u32, BlockName)> },
    Write(BlockName, Vec<u8>),
}

/// The thread's mailbox. It ends when this is dropped, after what was sent before.
pub(super) struct Disk {
    sender: Option<Sender<ToDisk>>,
    backlog: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Disk {
    /// Opens `options.directory/fingerprint` and tells `report` every block that is there.
    ///
    /// # Errors
    /// If the directory cannot be made or listed.
    pub(super) fn open(
        options: &DiskCache,
        fingerprint: &str,
        mut report: impl FnMut(FromDisk) -> bool + Send + 'static,
    ) -> Result<Self> {
        let directory = options.directory.join(fingerprint);
        let io = |source| Error::Io { what: format!("{}: the disk cache", directory.display()), source };
        make_private_directory(&directory).map_err(io)?;
        let mut files = Files::list(&directory, options.bytes).map_err(io)?;
        for name in files.entries.keys() {
            report(FromDisk::Stored(*name));
        }
        let (sender, inbox) = channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&backlog);
        let thread = std::thread::Builder::new()
            .name("latents".to_owned())
            .spawn(move || files.serve(&inbox, &waiting, &mut report))
            .map_err(|source| Error::Io { what: "a thread for the disk cache".to_owned(), source })?;
        Ok(Self { sender: Some(sender), backlog, thread: Some(thread) })
    }

    pub(super) fn read(&self, id: u64, blocks: Vec<(u32, BlockName)>) {
        self.send(ToDisk::Read { id, blocks });
    }

    /// Whether one more block may be sent to be written: a slow disk must not fill the memory.
    pub(super) fn takes_more(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) < BACKLOG_MAX
    }

    pub(super) fn write(&self, name: BlockName, bytes: Vec<u8>) {
        self.backlog.fetch_add(1, Ordering::Relaxed);
        self.send(ToDisk::Write(name, bytes));
    }

    fn send(&self, message: ToDisk) {
        let sender = self.sender.as_ref().expect("it is taken in drop only");
        sender.send(message).expect("the thread lives as long as its mailbox");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported; what was cached is computed again.
            let _ = thread.join();
        }
    }
}

struct Entry {
    used: u64,
    bytes: u64,
}

struct Files {
    directory: PathBuf,
    bytes_max: u64,
    bytes: u64,
    entries: HashMap<BlockName, Entry>,
    by_use: BTreeMap<u64, BlockName>,
    clock: u64,
}

impl Files {
    fn list(directory: &Path, bytes_max: u64) -> std::io::Result<Self> {
        let mut found: Vec<(SystemTime, BlockName, u64)> = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            let name = path.file_stem().and_then(|stem| BlockName::from_hex(stem.to_str()?));
            match name.filter(|_| path.extension().is_some_and(|ending| ending == ENDING)) {
                Some(name) => {
                    let metadata = entry.metadata()?;
                    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((used, name, metadata.len()));
                }
                // Half a file of a process that was killed.
                None if path.extension().is_some_and(|ending| ending == "partial") => {
                    let _ = fs::remove_file(&path);
                }
                None => {}
            }
        }
        found.sort_by_key(|(used, ..)| *used);
        let mut files = Self {
            directory: directory.to_owned(),
            bytes_max,
            bytes: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
        };
        found.into_iter().for_each(|(_, name, bytes)| files.insert(name, bytes));
        while files.bytes > files.bytes_max && files.drop_oldest().is_some() {}
        Ok(files)
    }

    fn serve(
        &mut self,
        inbox: &Receiver<ToDisk>,
        waiting: &AtomicUsize,
        report: &mut impl FnMut(FromDisk) -> bool,
    ) {
        let mut warned = false;
        for message in inbox {
            match message {
                ToDisk::Read { id, blocks } => {
                    let mut read = Vec::new();
                    for (block, name) in blocks {
                        match self.read(&name) {
                            Some(bytes) => read.push((block, name, bytes)),
                            None => {
                                self.remove(&name);
                                report(FromDisk::Dropped(name));
                                break;
                            }
                        }
                    }
                    report(FromDisk::Read { id, blocks: read });
                }
                ToDisk::Write(name, bytes) => {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    match self.write(&name, &bytes) {
                        Ok(()) => {
                            report(FromDisk::Stored(name));
                        }
                        Err(error) if !warned => {
                            warned = true;
                            let directory = self.directory.display();
                            tracing::warn!("{directory}: latents cannot be kept: {error}");
                        }
                        Err(_) => {}
                    }
                    while self.bytes > self.bytes_max {
                        let Some(dropped) = self.drop_oldest() else { break };
                        report(FromDisk::Dropped(dropped));
                    }
                }
            }
        }
    }

    fn path(&self, name: &BlockName) -> PathBuf {
        self.directory.join(format!("{}.{ENDING}", name.hex()))
    }

    fn read(&mut self, name: &BlockName) -> Option<Vec<u8>> {
        let path = self.path(name);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
        if header != header_of(payload) {
            tracing::warn!("{}: damaged, computed again", path.display());
            return None;
        }
        // The order of use, for the next start.
        let _ = file.set_modified(SystemTime::now());
        let length = bytes.len() as u64;
        self.remove_entry(name);
        self.insert(*name, length);
        Some(bytes.split_off(HEADER_BYTES))
    }

    fn write(&mut self, name: &BlockName, payload: &[u8]) -> std::io::Result<()> {
        if self.entries.contains_key(name) {
            return Ok(());
        }
        let path = self.path(name);
        let partial = path.with_extension("partial");
        let mut file = create_private_file(&partial)?;
        let written = file.write_all(&header_of(payload)).and_then(|()| file.write_all(payload));
        if let Err(error) = written.and_then(|()| fs::rename(&partial, &path)) {
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        self.insert(*name, (HEADER_BYTES + payload.len()) as u64);
        Ok(())
    }

    fn insert(&mut self, name: BlockName, bytes: u64) {
        self.clock += 1;
        self.by_use.insert(self.clock, name);
        self.entries.insert(name, Entry { used: self.clock, bytes });
        self.bytes += bytes;
    }

    fn remove_entry(&mut self, name: &BlockName) {
        if let Some(entry) = self.entries.remove(name) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }

    fn remove(&mut self, name: &BlockName) {
        self.remove_entry(name);
        let _ = fs::remove_file(self.path(name));
    }

    fn drop_oldest(&mut self) -> Option<BlockName> {
        let (_, &name) = self.by_use.first_key_value()?;
        self.remove(&name);
        Some(name)
    }
}

fn header_of(payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[16..].copy_from_slice(&XxHash3_64::oneshot(payload).to_le_bytes());
    header
}

#[cfg(unix)]
fn make_private_directory(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(not(unix))]
fn make_private_directory(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)
}

#[cfg(unix)]
fn create_private_file(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn create_private_file(path: &Path) -> std::io::Result<File> {
    File::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> BlockName {
        BlockName::root("disk").next(&[n])
    }

    /// Writes, waits for the thread and tells what it reported.
    fn run(directory: &Path, bytes: u64, work: impl FnOnce(&Disk)) -> Vec<FromDisk> {
        let (sender, reports) = channel();
        let options = DiskCache { directory: directory.to_owned(), bytes };
        let disk = Disk::open(&options, "model", move |report| sender.send(report).is_ok()).expect("opens");
        work(&disk);
        drop(disk);
        reports.into_iter().collect()
    }

    fn read(reports: &[FromDisk]) -> Vec<Vec<u8>> {
        let read = reports.iter().find_map(|report| match report {
            FromDisk::Read { blocks, .. } => Some(blocks.iter().map(|(.., bytes)| bytes.clone()).collect()),
            _ => None,
        });
        read.expect("an answer")
    }

    #[test]
    fn blocks_survive_a_restart_and_damage_is_noticed() {
        let scratch = tempfile::tempdir().expect("a directory");
        let blocks: Vec<Vec<u8>> = (0..3u8).map(|n| vec![n; 100]).collect();
        run(scratch.path(), 10_000, |disk| {
            blocks.iter().enumerate().for_each(|(n, bytes)| disk.write(name(n as u32), bytes.clone()));
        });
        let wanted: Vec<(u32, BlockName)> = (0..3).map(|n| (n, name(n))).collect();
        let reports = run(scratch.path(), 10_000, |disk| disk.read(1, wanted.clone()));
        assert_eq!(read(&reports), blocks);
        assert_eq!(reports.iter().filter(|report| matches!(report, FromDisk::Stored(_))).count(), 3);

        let path = scratch.path().join("model").join(format!("{}.{ENDING}", name(1).hex()));
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[50] ^= 1;
        fs::write(&path, bytes).expect("it can be damaged");
        fs::write(path.with_extension("partial"), "half").expect("a leftover");
        let reports = run(scratch.path(), 10_000, |disk| disk.read(1, wanted));
        assert_eq!(read(&reports), blocks[..1]);
        assert!(reports.iter().any(|report| matches!(report, FromDisk::Dropped(n) if *n == name(1))));
        assert_eq!(fs::read_dir(scratch.path().join("model")).expect("lists").count(), 2);
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let scratch = tempfile::tempdir().expect("a directory");
        let room_for_two = 2 * (100 + HEADER_BYTES as u64);
        let reports = run(scratch.path(), room_for_two, |disk| {
            disk.write(name(0), vec![0; 100]);
            disk.write(name(1), vec![1; 100]);
            disk.read(7, vec![(0, name(0))]);
            disk.write(name(2), vec![2; 100]);
        });
        let dropped: Vec<&BlockName> = reports
            .iter()
            .filter_map(|report| if let FromDisk::Dropped(name) = report { Some(name) } else { None })
            .collect();
        assert_eq!(dropped, [&name(1)]);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_them() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().expect("a directory");
        run(scratch.path(), 1000, |disk| disk.write(name(0), vec![0; 10]));
        let directory = scratch.path().join("model");
        let file = directory.join(format!("{}.{ENDING}", name(0).hex()));
        for (path, mode) in [(directory, 0o700), (file, 0o600)] {
            assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, mode);
        }
    }
}
