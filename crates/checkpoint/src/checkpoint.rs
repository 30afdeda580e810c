//! An open checkpoint: the table from tensor names to mapped bytes.

use crate::gguf::{self, Metadata};
use crate::index::Index;
use crate::locate::{Found, locate};
use crate::mapping::Mapping;
use crate::matrix::ScaleSource;
use crate::{Dtype, Error, Matrix, Plan, Result, TensorView, header, names};
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Rows and columns of one FP8 scale block unless the configuration says otherwise.
const FP8_BLOCK: [usize; 2] = [fathom_numeric::fp8::BLOCK; 2];

/// All tensors of a checkpoint, mapped read-only. Opening reads headers; data is read when it is touched.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mapping>,
    tensors: BTreeMap<String, Place>,
    fp8_block: [usize; 2],
    block_formats: Plan,
    gguf: Option<Metadata>,
}

/// Where a tensor is; checked against its file when the header was read.
#[derive(Debug)]
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Checkpoint {
    /// Opens the checkpoint at `path`: a directory with `model.safetensors` or with
    /// `model.safetensors.index.json` and its shards, a `.safetensors` file, an index, or a `.gguf` file of the
    /// `deepseek2` architecture (any part of it, if it has several).
    ///
    /// # Errors
    /// A path without a checkpoint, another format, a missing shard, an index and shards that disagree, and
    /// every malformation of a header each have their [`Error`].
    pub fn open(path: &Path) -> Result<Self> {
        let mut checkpoint = Self {
            path: path.to_owned(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            fp8_block: FP8_BLOCK,
            block_formats: Plan::default(),
            gguf: None,
        };
        match locate(path)? {
            Found::Single(file) => checkpoint.add(Mapping::open(&file)?)?,
            Found::Index(index) => checkpoint.add_shards(&Index::read(&index)?)?,
            Found::Gguf(file) => {
                let (metadata, parts) = gguf::open_all(&file)?;
                checkpoint.gguf = Some(metadata);
                for (mapping, entries) in parts {
                    checkpoint.insert(mapping, entries)?;
                }
            }
        }
        Ok(checkpoint)
    }

    /// Sets the rows and columns of one FP8 scale block (`quantization_config.weight_block_size`); 128 × 128
    /// unless set.
    ///
    /// # Errors
    /// [`Error::Fp8Block`] if either is zero.
    pub fn set_fp8_block(&mut self, block: [usize; 2]) -> Result<()> {
        if block.contains(&0) {
            return Err(Error::Fp8Block { got: block });
        }
        self.fp8_block = block;
        Ok(())
    }

    /// Says which tensors are stored in blocks (`quantization_config.rules` of our own quantized checkpoints);
    /// none unless set. GGUF files say it themselves.
    pub fn set_block_formats(&mut self, plan: Plan) {
        self.block_formats = plan;
    }

    /// The metadata of a GGUF file; `None` for any other checkpoint.
    pub fn gguf(&self) -> Option<&Metadata> {
        self.gguf.as_ref()
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files with tensors in them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(Mapping::path)
    }

    /// Bytes of all tensors together (headers not counted).
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|place| place.range.len() as u64).sum()
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|(name, place)| self.view(name, place))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get_key_value(name).map(|(name, place)| self.view(name, place))
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] with up to three similar names.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.find(name).ok_or_else(|| Error::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            similar: names::similar(name, self.names()),
        })
    }

    /// The weight `name` as a matrix of `shape`, with its block scales if it is FP8, in blocks if it is
    /// quantized.
    ///
    /// # Errors
    /// The tensor is missing, has another shape or a dtype that is no weight format, or lacks its scales.
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Matrix<'_>> {
        let format = match self.block_formats.format_of(name) {
            Some(Dtype::Block(format)) => Some(format),
            _ => None,
        };
        Matrix::new(self.tensor(name)?, shape, format, || {
            let name = names::scale_name(name);
            ScaleSource { view: self.find(&name), name, block: self.fp8_block }
        })
    }

    /// A norm weight or a bias of `len` elements, as `f32`.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, is not F32, F16 or BF16, or holds a NaN or infinity (whose
    /// place is given as a column of row 0).
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let view = self.tensor(name)?;
        view.expect_shape(&[len])?;
        if matches!(view.dtype, Dtype::F8E4M3 | Dtype::Block(_)) {
            return Err(view.wrong_dtype("F32, F16 or BF16"));
        }
        let values = view.to_f32()?;
        view.expect_finite(&values, 0, len)?;
        Ok(values)
    }

    /// Tells the kernel that the files will be read front to back: larger read-ahead, earlier eviction.
    pub fn read_sequentially(&self) {
        self.files.iter().for_each(Mapping::read_sequentially);
    }

    fn view<'a>(&'a self, name: &'a str, place: &'a Place) -> TensorView<'a> {
        let mapping = &self.files[place.file];
        TensorView {
            name,
            dtype: place.dtype,
            shape: &place.shape,
            bytes: &mapping.bytes()[place.range.clone()],
            file: mapping.path(),
            mapping,
            start: place.range.start,
        }
    }

    fn add(&mut self, mapping: Mapping) -> Result<()> {
        let entries = header::parse(mapping.path(), mapping.bytes())?;
        self.insert(mapping, entries)
    }

    fn insert(&mut self, mapping: Mapping, entries: Vec<header::Entry>) -> Result<()> {
        let file = self.files.len();
        for header::Entry { name, dtype, shape, range } in entries {
            match self.tensors.entry(name) {
                btree_map::Entry::Vacant(slot) => {
                    slot.insert(Place { file, dtype, shape, range });
                }
                btree_map::Entry::Occupied(slot) => {
                    return Err(Error::DuplicateTensor {
                        tensor: slot.key().clone(),
                        // Not yet among the files if it is this very one.
                        first: self.files.get(slot.get().file).unwrap_or(&mapping).path().to_owned(),
                        second: mapping.path().to_owned(),
                    });
                }
            }
        }
        self.files.push(mapping);
        Ok(())
    }

    fn add_shards(&mut self, index: &Index) -> Result<()> {
        let directory = index.path.parent().unwrap_or(Path::new(""));
        for shard in index.shards() {
            let path = directory.join(shard);
            if !path.exists() {
                return Err(Error::MissingShard { index: index.path.clone(), shard: shard.to_owned() });
            }
            self.add(Mapping::open(&path)?)?;
        }
        self.reject_disagreement(index)
    }

    /// Both ways: what the index lists is where it says, and nothing else is there.
    fn reject_disagreement(&self, index: &Index) -> Result<()> {
        for (tensor, shard) in &index.weight_map {
            let file = self.tensors.get(tensor).map(|place| self.files[place.file].path());
            if file.and_then(Path::file_name) != Some(shard.as_ref()) {
                return Err(Error::NotInShard {
                    index: index.path.clone(),
                    tensor: tensor.clone(),
                    expected: shard.clone(),
                    got: file.map(Path::to_owned),
                });
            }
        }
        match self.tensors.iter().find(|(tensor, _)| !index.weight_map.contains_key(*tensor)) {
            None => Ok(()),
            Some((tensor, place)) => Err(Error::NotInIndex {
                index: index.path.clone(),
                file: self.files[place.file].path().to_owned(),
                tensor: tensor.clone(),
            }),
        }
    }
}
