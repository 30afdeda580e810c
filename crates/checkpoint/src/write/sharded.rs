//! A checkpoint in the form that transformers writes: `model.safetensors`, or shards
//! `model-00001-of-0000N.safetensors` and an index.

use super::file::{FileWriter, PARTIAL, destination, sync_directory};
use super::plan::{self, Layout, TensorPlan};
use super::space;
use crate::locate::{INDEX, SINGLE};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// How [`ShardedWriter`] lays out a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// Bytes of tensors after which a new shard begins; a larger tensor has a shard to itself.
    pub max_shard_bytes: u64,
    /// Whether a checkpoint already in the directory may be replaced.
    pub overwrite: bool,
}

impl Default for WriteOptions {
    /// Shards of 5 GB, nothing overwritten.
    fn default() -> Self {
        Self { max_shard_bytes: 5_000_000_000, overwrite: false }
    }
}

/// Streams a checkpoint to a directory. The directory is one writer's at a time.
///
/// Until [`ShardedWriter::finish`] there are only temporary files, which vanish if it is dropped; an older
/// checkpoint in the directory stays whole until then.
#[derive(Debug)]
pub struct ShardedWriter {
    dir: PathBuf,
    pending: VecDeque<(String, Layout)>,
    current: Option<FileWriter>,
    closed: Vec<FileWriter>,
    /// File names of all shards.
    shards: Vec<String>,
    /// `None` for a single file.
    index: Option<String>,
}

impl ShardedWriter {
    /// Plans the whole checkpoint and begins its first file. `plan` is in the order of writing.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::NotRegular`], [`Error::NoSpace`], [`Error::BadPlan`], or I/O.
    pub fn create(dir: &Path, plan: Vec<TensorPlan>, options: &WriteOptions) -> Result<Self> {
        let lengths = plan::lengths(dir, &plan)?;
        fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
        let existing = checkpoint_files(dir)?;
        if let Some(path) = existing.iter().find(|_| !options.overwrite) {
            return Err(Error::AlreadyExists { path: path.clone() });
        }
        // They are removed at the end; what cannot be is said before hours of writing.
        for path in &existing {
            destination(path)?;
        }

        let groups = group(plan, &lengths, options.max_shard_bytes);
        let count = groups.len();
        let mut index = Map::new();
        let mut pending = VecDeque::with_capacity(count);
        for (number, (tensors, lengths)) in groups.into_iter().enumerate() {
            let shard = match count {
                1 => SINGLE.to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            for tensor in &tensors {
                index.insert(tensor.name.clone(), Value::String(shard.clone()));
            }
            pending.push_back((shard, plan::lay_out(tensors, &lengths)));
        }
        index.sort_keys();
        let total_size: u64 = lengths.iter().sum();
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": index });
        let index = (count > 1).then(|| format!("{index:#}\n"));

        let index_bytes = index.as_ref().map_or(0, |text| text.len() as u64);
        let needed =
            pending.iter().fold(index_bytes, |sum, (_, layout)| sum.saturating_add(layout.file_bytes));
        space::require(dir, needed)?;
        let shards = pending.iter().map(|(shard, _)| shard.clone()).collect();
        let mut writer =
            Self { dir: dir.to_owned(), pending, current: None, closed: Vec::new(), shards, index };
        writer.next_shard()?;
        Ok(writer)
    }

    /// Begins the next tensor of the plan, which must be `name`.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::begin`](crate::SafetensorsWriter::begin).
    pub fn begin(&mut self, name: &str) -> Result<()> {
        while self.current()?.is_full() && !self.pending.is_empty() {
            self.next_shard()?;
        }
        self.current()?.begin(name)
    }

    /// Appends `bytes` to the tensor begun last.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::write`](crate::SafetensorsWriter::write).
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.current()?.write(bytes)
    }

    /// Appends `values`, rounded to the planned dtype.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::write_f32`](crate::SafetensorsWriter::write_f32).
    pub fn write_f32(&mut self, values: &[f32]) -> Result<()> {
        self.current()?.write_f32(values)
    }

    /// Puts all files under their names, the index last, and returns their paths.
    ///
    /// # Errors
    /// A planned tensor is incomplete or missing, [`Error::NoSpace`], or I/O.
    pub fn finish(mut self) -> Result<Vec<PathBuf>> {
        self.close_current()?;
        if let Some((_, layout)) = self.pending.front() {
            let expected = layout.tensors.first().map_or_else(String::new, |tensor| tensor.name.clone());
            return Err(Error::WriteOrder { path: self.dir.clone(), expected, got: "the end".to_owned() });
        }
        let index = self.index.take().map(|text| write_index(&self.dir, &text)).transpose()?;
        // From here on an older checkpoint is lost. Its index goes first: half of it must not look whole.
        for path in checkpoint_files(&self.dir)? {
            fs::remove_file(&path).map_err(Error::io(&path, "remove the old"))?;
        }
        for shard in self.closed.drain(..) {
            shard.publish()?;
        }
        let mut files: Vec<PathBuf> = self.shards.iter().map(|shard| self.dir.join(shard)).collect();
        if let Some(index) = index {
            files.push(index.publish()?);
        }
        sync_directory(&self.dir)?;
        Ok(files)
    }

    /// The open shard. There is one from `create` to `finish`, unless closing it or opening the next failed.
    fn current(&mut self) -> Result<&mut FileWriter> {
        self.current.as_mut().ok_or_else(|| Error::WriteOrder {
            path: self.dir.clone(),
            expected: "nothing more after an error".to_owned(),
            got: "another tensor".to_owned(),
        })
    }

    fn close_current(&mut self) -> Result<()> {
        if let Some(mut shard) = self.current.take() {
            shard.close()?;
            self.closed.push(shard);
        }
        Ok(())
    }

    fn next_shard(&mut self) -> Result<()> {
        self.close_current()?;
        let (shard, layout) = self.pending.pop_front().expect("asked for only while there is one");
        self.current = Some(FileWriter::start(&self.dir.join(shard), layout)?);
        Ok(())
    }
}

/// Splits the plan, in its order, into shards of at most `max_bytes`. At least one, even of nothing.
fn group(plan: Vec<TensorPlan>, lengths: &[u64], max_bytes: u64) -> Vec<(Vec<TensorPlan>, Vec<u64>)> {
    let mut groups = vec![(Vec::new(), Vec::new())];
    let mut filled = 0u64;
    for (tensor, &length) in plan.into_iter().zip(lengths) {
        if filled > 0 && filled.saturating_add(length) > max_bytes {
            groups.push((Vec::new(), Vec::new()));
            filled = 0;
        }
        let (tensors, lengths) = groups.last_mut().expect("there is always a group");
        tensors.push(tensor);
        lengths.push(length);
        filled += length;
    }
    groups
}

/// The files of the checkpoint in `dir`, its index first; leftovers of an interrupted writer are not counted.
fn checkpoint_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let name = entry.map_err(Error::io(dir, "list"))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == INDEX {
            files.insert(0, dir.join(name));
        } else if name == SINGLE || is_shard(name) {
            files.push(dir.join(name));
        }
    }
    Ok(files)
}

/// Whether `name` is `model-<digits>-of-<digits>.safetensors`.
fn is_shard(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix("model-")
        .and_then(|name| name.strip_suffix(".safetensors"))
        .and_then(|name| name.split_once("-of-"))
        .is_some_and(|(number, count)| digits(number) && digits(count))
}

/// The index under its temporary name; removed if it is dropped before it is published.
struct PartialIndex {
    path: PathBuf,
    partial: PathBuf,
}

fn write_index(dir: &Path, text: &str) -> Result<PartialIndex> {
    let index = PartialIndex { path: dir.join(INDEX), partial: dir.join(format!("{INDEX}{PARTIAL}")) };
    File::create(&index.partial)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|source| space::write_error(&index.path, text.len() as u64, source))?;
    Ok(index)
}

impl PartialIndex {
    fn publish(self) -> Result<PathBuf> {
        fs::rename(&self.partial, &self.path)
            .map_err(Error::io(&self.path, "rename the finished file to"))?;
        Ok(self.path.clone())
    }
}

impl Drop for PartialIndex {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[test]
    fn shards_fill_in_order() {
        let check = |lengths: &[u64], max: u64, want: &[usize]| {
            let plan =
                lengths.iter().map(|&n| TensorPlan::new(n.to_string(), Dtype::U8, [n as usize])).collect();
            let got: Vec<usize> =
                group(plan, lengths, max).iter().map(|(tensors, _)| tensors.len()).collect();
            assert_eq!(got, want, "{lengths:?} in {max}");
        };
        check(&[], 10, &[0]);
        check(&[4, 6], 10, &[2]);
        check(&[4, 7], 10, &[1, 1]);
        check(&[99, 1, 99], 10, &[1, 1, 1]);
        check(&[0, 99, 0, 0], 10, &[2, 2]);
        check(&[3, 3, 3, 3, 3], 6, &[2, 2, 1]);
    }

    #[test]
    fn knows_its_own_files() {
        let check = |name: &str, want: bool| assert_eq!(is_shard(name), want, "{name}");
        check("model-00001-of-00002.safetensors", true);
        check("model-of-.safetensors", false);
        check("model-x-of-2.safetensors", false);
        check("model-00001-of-00002.safetensors.partial", false);
        check("golden.safetensors", false);
    }
}
