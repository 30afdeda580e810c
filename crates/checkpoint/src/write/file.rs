//! One file of tensors, streamed to a temporary name beside its own and renamed when complete. What stands
//! before the tensors and where each begins is the format's business ([`Layout`]).

use super::plan::{Layout, Placed};
use super::space;
use crate::{Dtype, Error, Result};
use fathom_numeric::{bf16, f16};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What a file is called until it is complete. A crash may leave one behind; the next writer replaces it.
pub(crate) const PARTIAL: &str = ".partial";

const BUFFER_BYTES: usize = 1 << 20;

/// Writes one file, tensor after tensor in the order of the plan. Dropped before [`FileWriter::finish`], it
/// leaves nothing behind.
#[derive(Debug)]
pub(crate) struct FileWriter {
    path: PathBuf,
    partial: PathBuf,
    /// `None` once the file is closed.
    out: Option<BufWriter<File>>,
    tensors: Vec<Placed>,
    /// The tensor being written is `tensors[begun - 1]`.
    begun: usize,
    /// Bytes of it written so far.
    written: u64,
    /// Where in the file the next byte goes.
    position: u64,
    /// Bytes of the file not yet written, for the message when the disk is full.
    remaining: u64,
    /// Length of the whole file, padding at its end included.
    file_bytes: u64,
}

impl FileWriter {
    /// Begins `path` (or where a symbolic link of that name leads). A file already there stays until
    /// [`FileWriter::finish`] replaces it.
    pub(crate) fn create(path: &Path, layout: Layout) -> Result<Self> {
        let path = destination(path)?;
        space::require(directory_of(&path), layout.file_bytes)?;
        Self::start(&path, layout)
    }

    /// The same where path and space have been checked.
    pub(crate) fn start(path: &Path, layout: Layout) -> Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(Error::io(&partial, "create"))?;
        let mut writer = Self {
            path: path.to_owned(),
            partial,
            out: Some(BufWriter::with_capacity(BUFFER_BYTES, file)),
            tensors: layout.tensors,
            begun: 0,
            written: 0,
            position: 0,
            remaining: layout.file_bytes,
            file_bytes: layout.file_bytes,
        };
        writer.put(&layout.header)?;
        Ok(writer)
    }

    /// Begins the next tensor of the plan, which must be `name`.
    ///
    /// # Errors
    /// [`Error::WriteLength`] if the one before is incomplete, [`Error::WriteOrder`] if another is next.
    pub(crate) fn begin(&mut self, name: &str) -> Result<()> {
        self.expect_complete()?;
        let next = self.tensors.get(self.begun);
        let Some(next) = next.filter(|next| next.name == name) else {
            return Err(Error::WriteOrder {
                path: self.path.clone(),
                expected: next.map_or_else(|| "no further tensor".to_owned(), |next| next.name.clone()),
                got: name.to_owned(),
            });
        };
        let start = next.start;
        self.begun += 1;
        self.written = 0;
        // Seeking empties the buffer, so not where the order of the plan is that of the file.
        if self.position != start {
            self.attempt(|out| out.seek(SeekFrom::Start(start)).map(|_| ()))?;
            self.position = start;
        }
        Ok(())
    }

    /// Appends `bytes` to the tensor begun last.
    ///
    /// # Errors
    /// [`Error::WriteLength`] if they are more than planned, [`Error::NoSpace`], or I/O.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.written + bytes.len() as u64;
        let planned = self.current().map_or(0, |tensor| tensor.length);
        if written > planned {
            return Err(self.wrong_length(written));
        }
        self.put(bytes)?;
        self.written = written;
        Ok(())
    }

    /// Appends `values`, rounded to the planned dtype (F32, F16 or BF16; to nearest, ties to even).
    ///
    /// # Errors
    /// As [`FileWriter::write`]; [`Error::WrongDtype`] for a tensor planned as anything else.
    pub(crate) fn write_f32(&mut self, values: &[f32]) -> Result<()> {
        // On the stack, so that streaming a model allocates nothing.
        const CHUNK: usize = 1024;
        let mut bytes = [0; CHUNK * 4];
        let dtype = self.current().map_or(Dtype::F32, |tensor| tensor.dtype);
        for values in values.chunks(CHUNK) {
            let bytes = &mut bytes[..values.len() * dtype.size()];
            match dtype {
                Dtype::F32 => encode(values, bytes, f32::to_le_bytes),
                Dtype::F16 => encode(values, bytes, |value| f16::from_f32(value).to_le_bytes()),
                Dtype::BF16 => encode(values, bytes, |value| bf16::from_f32(value).to_le_bytes()),
                got => {
                    let tensor = self.current().map_or_else(String::new, |tensor| tensor.name.clone());
                    return Err(Error::WrongDtype {
                        file: self.path.clone(),
                        tensor,
                        expected: "F32, F16 or BF16",
                        got,
                    });
                }
            }
            self.write(bytes)?;
        }
        Ok(())
    }

    /// Completes the file and puts it under its name.
    ///
    /// # Errors
    /// [`Error::WriteLength`] or [`Error::WriteOrder`] if a tensor is incomplete or missing, [`Error::NoSpace`],
    /// or I/O.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.close()?;
        self.publish()
    }

    /// Checks that everything was written, and waits until it is on the disk.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.expect_complete()?;
        if let Some(next) = self.tensors.get(self.begun) {
            let (expected, got) = (next.name.clone(), "the end".to_owned());
            return Err(Error::WriteOrder { path: self.path.clone(), expected, got });
        }
        let file_bytes = self.file_bytes;
        self.attempt(|out| {
            out.flush()?;
            out.get_ref().set_len(file_bytes)?;
            out.get_ref().sync_all()
        })?;
        self.out = None;
        Ok(())
    }

    /// Renames a closed file to its own name.
    pub(crate) fn publish(self) -> Result<()> {
        debug_assert!(self.out.is_none(), "only a closed file is complete");
        // If the rename fails, dropping `self` removes the partial file.
        fs::rename(&self.partial, &self.path)
            .map_err(Error::io(&self.path, "rename the finished file to"))?;
        sync_directory(directory_of(&self.path))
    }

    /// Whether every tensor of the plan has been begun.
    pub(crate) fn is_full(&self) -> bool {
        self.begun == self.tensors.len()
    }

    fn current(&self) -> Option<&Placed> {
        self.begun.checked_sub(1).map(|current| &self.tensors[current])
    }

    fn expect_complete(&self) -> Result<()> {
        match self.current() {
            Some(tensor) if tensor.length != self.written => Err(self.wrong_length(self.written)),
            _ => Ok(()),
        }
    }

    fn wrong_length(&self, got: u64) -> Error {
        let (tensor, expected) =
            self.current().map_or_else(|| (String::new(), 0), |tensor| (tensor.name.clone(), tensor.length));
        Error::WriteLength { path: self.path.clone(), tensor, expected, got }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.attempt(|out| out.write_all(bytes))?;
        self.position += bytes.len() as u64;
        self.remaining -= bytes.len() as u64;
        Ok(())
    }

    fn attempt(&mut self, act: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
        let out = self.out.as_mut().expect("closed only by `close`, after which nothing is written");
        act(out).map_err(|source| space::write_error(&self.path, self.remaining.max(1), source))
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // Into parts first: dropping the BufWriter itself would write its buffer to the disk once more.
        if let Some(out) = self.out.take() {
            let _ = out.into_parts();
        }
        // After `publish` there is nothing of this name.
        let _ = fs::remove_file(&self.partial);
    }
}

fn encode<const N: usize>(values: &[f32], bytes: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
    for (bytes, &value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *bytes = encode(value);
    }
}

/// The file that writing to `path` makes or replaces: `path`, or where a symbolic link of that name leads.
///
/// For everything that is written beside its place and renamed: a rename puts a file in the place of a
/// link, a device or a FIFO just as well, where writing would have gone through it.
///
/// # Errors
/// [`Error::NotRegular`] if something is there that is no regular file; I/O.
pub fn destination(path: &Path) -> Result<PathBuf> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(Error::NotRegular { path: path.to_owned() }),
        Ok(_) if path.is_symlink() => {
            return fs::canonicalize(path).map_err(Error::io(path, "follow the link"));
        }
        Ok(_) => return Ok(path.to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(path, "write")(error)),
        Err(_) => {}
    }
    // Nothing is there, or links that lead to nothing yet; a circle of them has been an error above.
    let mut path = path.to_owned();
    while let Ok(target) = fs::read_link(&path) {
        path = directory_of(&path).join(target);
    }
    Ok(path)
}

/// The directory that a file of this path is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits until the directory's entries are on the disk; a rename is lost in a power cut otherwise.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io(directory, "sync the directory"))?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SafetensorsWriter, TensorPlan};

    #[test]
    #[cfg(unix)]
    fn what_is_no_regular_file_is_not_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let write = |name: &str| {
            let mut writer =
                SafetensorsWriter::create(&at(name), vec![TensorPlan::new("a", Dtype::U8, [1])])?;
            writer.begin("a")?;
            writer.write(&[7])?;
            writer.finish()
        };
        fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink("fifo", at("to-fifo")).unwrap();
        for name in ["directory", "fifo", "to-fifo"] {
            let error = write(name).unwrap_err();
            assert!(matches!(&error, Error::NotRegular { path } if *path == at(name)), "{name}: {error}");
            assert!(error.to_string().ends_with("is not a regular file; give another name"), "{error}");
        }
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        assert!(matches!(write("circle"), Err(Error::Io { .. })));

        // Through a link, to a file that is there or not yet; the link stays.
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/old"), "old").unwrap();
        for name in ["old", "new"] {
            std::os::unix::fs::symlink(Path::new("elsewhere").join(name), at(name)).unwrap();
            write(name).unwrap();
            assert!(at(name).is_symlink(), "{name}");
            let target = at("elsewhere").join(name);
            assert_eq!(fs::read(target).unwrap().last(), Some(&7), "{name}");
        }
        assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 2, "nothing partial is left");
    }

    /// `/dev/full` accepts an open and refuses every byte, as a disk that fills up while it is written.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_disk_that_fills_up_is_no_space() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x.safetensors");
        std::os::unix::fs::symlink("/dev/full", scratch.path().join("x.safetensors.partial")).unwrap();
        let mut writer =
            SafetensorsWriter::create(&path, vec![TensorPlan::new("a", Dtype::U8, [3 << 20])]).unwrap();
        writer.begin("a").unwrap();
        let error = writer.write(&vec![1; 3 << 20]).unwrap_err();
        assert!(matches!(&error, Error::NoSpace { needed, .. } if *needed >= 3 << 20), "{error}");
        assert!(error.to_string().contains("x.safetensors"), "{error}");
        drop(writer);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
