//! Any bytes at all: opening never panics, never takes memory that the file does not justify, and never
//! accepts what the reference implementation of the format refuses.
//!
//! 256 cases each; `PROPTEST_CASES=20000` digs deeper.

use fathom_checkpoint::{Checkpoint, Dtype, OutTensor, write_safetensors};
use proptest::prelude::*;
use proptest::sample::Index;
use safetensors::SafeTensors;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// What a valid file becomes.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Delete(Index, usize),
    Insert(Index, Vec<u8>),
    Truncate(Index),
    /// The number that begins at the first digit at or after the place becomes another.
    Number(Index, u64),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Self::Set(place, value) => bytes[place.index(length)] = *value,
            Self::Flip(place, bit) => bytes[place.index(length)] ^= 1 << (bit % 8),
            Self::Delete(place, count) => {
                let start = place.index(length);
                bytes.drain(start..(start + count).min(length));
            }
            Self::Insert(place, new) => {
                let start = place.index(length);
                bytes.splice(start..start, new.iter().copied());
            }
            Self::Truncate(place) => bytes.truncate(place.index(length)),
            Self::Number(place, number) => {
                let start = place.index(length);
                let Some(start) = (start..length).find(|&at| bytes[at].is_ascii_digit()) else { return };
                let end = (start..length).find(|&at| !bytes[at].is_ascii_digit()).unwrap_or(length);
                bytes.splice(start..end, number.to_string().into_bytes());
            }
        }
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..40u64,
        Just(1 << 31),
        Just(1 << 32),
        Just(1 << 40),
        Just(1 << 62),
        Just(u64::MAX),
        any::<u64>()
    ]
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let one = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(place, value)| Mutation::Set(place, value)),
        (any::<Index>(), any::<u8>()).prop_map(|(place, bit)| Mutation::Flip(place, bit)),
        (any::<Index>(), 1..40usize).prop_map(|(place, count)| Mutation::Delete(place, count)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(place, new)| Mutation::Insert(place, new)),
        any::<Index>().prop_map(Mutation::Truncate),
        (any::<Index>(), number()).prop_map(|(place, number)| Mutation::Number(place, number)),
    ];
    prop::collection::vec(one, 1..5)
}

/// Largest address space the process ever had. Not the resident size: memory that is asked for and not
/// touched counts too.
#[cfg(target_os = "linux")]
fn peak_address_space() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[cfg(not(target_os = "linux"))]
fn peak_address_space() -> usize {
    0
}

/// Name, shape, bytes.
type Tensor = (String, Vec<usize>, Vec<u8>);

/// Opens `path` and decodes everything that opens. Returns the tensors.
fn exercise(path: &Path) -> Option<Vec<Tensor>> {
    let before = peak_address_space();
    let opened = Checkpoint::open(path);
    if let Err(error) = &opened {
        assert!(error.to_string().len() < 8192, "an error message must stay readable");
    }
    let checkpoint = opened.ok()?;
    let mut out = Vec::new();
    for view in checkpoint.tensors() {
        if let [rows, cols] = *view.shape
            && let Ok(matrix) = checkpoint.matrix(view.name, [rows, cols])
        {
            out.resize(rows * cols, 0.0);
            let _ = matrix.rows_f32(0..rows, &mut out);
            matrix.release();
        }
        if let [len] = *view.shape {
            let _ = checkpoint.vector(view.name, len);
        }
        let _ = (view.to_f32(), view.to_i64());
    }
    let grown = peak_address_space() - before;
    assert!(grown < 128 << 20, "a file of a kilobyte made the process ask for {grown} bytes");
    Some(checkpoint.tensors().map(|v| (v.name.to_owned(), v.shape.to_vec(), v.bytes.to_vec())).collect())
}

/// A small file with something of everything. Written once: the writer waits for the disk.
static VALID_FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("valid.safetensors");
    let bytes = [1u8; 64];
    let tensor = |name: &str, dtype: Dtype, shape: &[usize]| OutTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.into(),
        bytes: &bytes[..dtype.byte_len(shape).unwrap()],
    };
    let tensors = [
        tensor("w.weight", Dtype::F8E4M3, &[3, 5]),
        tensor("w.weight_scale_inv", Dtype::F32, &[1, 1]),
        tensor("v.weight", Dtype::BF16, &[4, 2]),
        tensor("norm.weight", Dtype::F32, &[7]),
        tensor("ids", Dtype::I64, &[2]),
        tensor("empty", Dtype::F16, &[0, 3]),
        tensor("scalar", Dtype::U8, &[]),
    ];
    write_safetensors(&path, &tensors).unwrap();
    fs::read(path).unwrap()
});

/// What we accept, the reference accepts, with the same content.
fn check_against_reference(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let Some(ours) = exercise(path) else { return };
    let reference = SafeTensors::deserialize(bytes).expect("we accepted what the reference refuses");
    assert_eq!(ours.len(), reference.len());
    for (name, shape, data) in ours {
        let tensor = reference.tensor(&name).unwrap();
        assert_eq!((tensor.shape(), tensor.data()), (&shape[..], &data[..]));
    }
}

#[test]
fn the_unmutated_file_opens() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.safetensors");
    fs::write(&path, &*VALID_FILE).unwrap();
    assert_eq!(exercise(&path).expect("it is valid").len(), 7);
}

proptest! {
    #[test]
    fn mutated_files(mutations in mutations()) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("model.safetensors");
        let mut bytes = VALID_FILE.clone();
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
        check_against_reference(&path, &bytes);
    }

    /// Headers of the right form and the wrong numbers, which random bytes rarely reach.
    #[test]
    fn invented_headers(
        tensors in prop::collection::vec(
            (0..4usize, prop::collection::vec(number(), 0..4), prop::option::of((number(), number()))),
            0..5,
        ),
        data in 0..80usize,
    ) {
        let dtypes = [("F32", 4u64), ("BF16", 2), ("F8_E4M3", 1), ("F4", 1)];
        let mut end = 0;
        let entries: Vec<String> = tensors
            .into_iter()
            .enumerate()
            .map(|(number, (dtype, shape, offsets))| {
                let (dtype, size) = dtypes[dtype];
                let bytes = shape.iter().fold(size, |bytes, &dim| bytes.wrapping_mul(dim));
                let (begin, stop) = offsets.unwrap_or((end, end.wrapping_add(bytes)));
                end = stop;
                format!(r#""t{number}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{stop}]}}"#)
            })
            .collect();
        let json = format!("{{{}}}", entries.join(","));
        // Often exactly as long as the header says.
        let data = if end < 4096 && data % 2 == 0 { end as usize } else { data };
        let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat();
        let scratch = tempfile::tempdir().unwrap();
        check_against_reference(&scratch.path().join("model.safetensors"), &bytes);
    }

    #[test]
    fn mutated_indexes(mutations in mutations()) {
        let scratch = tempfile::tempdir().unwrap();
        let shard = scratch.path().join("model-00001-of-00001.safetensors");
        fs::write(&shard, &*VALID_FILE).unwrap();
        let names: Vec<String> = Checkpoint::open(&shard).unwrap().names().map(str::to_owned).collect();
        let map: Vec<String> =
            names.iter().map(|name| format!(r#""{name}":"model-00001-of-00001.safetensors""#)).collect();
        let valid = format!(r#"{{"metadata":{{"total_size":92}},"weight_map":{{{}}}}}"#, map.join(","));
        let index = scratch.path().join("model.safetensors.index.json");
        let mut bytes = valid.into_bytes();
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
        fs::write(&index, &bytes).unwrap();
        if let Some(tensors) = exercise(scratch.path()) {
            prop_assert_eq!(tensors.len(), names.len());
        }
    }
}
