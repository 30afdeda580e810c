//! `model.safetensors.index.json`: which shard each tensor is in.

use crate::header::MAX_HEADER_BYTES;
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// An index whose shard names are known to stay in its own directory.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) path: PathBuf,
    /// Shard file name by tensor name.
    pub(crate) weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads and checks the index at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let mut text = Vec::new();
        // One byte more than allowed, so that a file of any length is refused after reading that much.
        file.take(MAX_HEADER_BYTES + 1).read_to_end(&mut text).map_err(Error::io(path, "read"))?;
        if text.len() as u64 > MAX_HEADER_BYTES {
            let reason = format!("it is expected to have at most {MAX_HEADER_BYTES} bytes");
            return Err(Error::MalformedIndex { index: path.to_owned(), reason });
        }
        Self::parse(path, &text)
    }

    /// The same from bytes.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self> {
        let malformed = |reason: String| Error::MalformedIndex { index: path.to_owned(), reason };
        let RawIndex { weight_map: WeightMap(weight_map) } =
            serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
        if weight_map.is_empty() {
            return Err(malformed("weight_map is expected to name tensors, got none".to_owned()));
        }
        if let Some((tensor, shard)) = weight_map.iter().find(|(_, shard)| !is_plain_shard(shard)) {
            let (tensor, shard) = (tensor.clone(), shard.clone());
            return Err(Error::BadShardName { index: path.to_owned(), tensor, shard });
        }
        Ok(Self { path: path.to_owned(), weight_map })
    }

    /// The shards, each once, sorted.
    pub(crate) fn shards(&self) -> Vec<&str> {
        let mut shards: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

/// Whether `name` is a file name and nothing more: no directory, no parent, no drive, on any system.
fn is_plain_shard(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains(['/', '\\', ':', '\0'])
        && name.ends_with(".safetensors")
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: WeightMap,
}

/// `weight_map` with repeated names refused.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Shards;
        impl<'de> Visitor<'de> for Shards {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("weight_map: an object from tensor name to shard file name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
                let mut shards = BTreeMap::new();
                while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
                    if shards.contains_key(&tensor) {
                        return Err(A::Error::custom(format!("weight_map names tensor {tensor:?} twice")));
                    }
                    shards.insert(tensor, shard);
                }
                Ok(WeightMap(shards))
            }
        }
        deserializer.deserialize_map(Shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_stay_in_the_directory() {
        let check = |name: &str, plain: bool| assert_eq!(is_plain_shard(name), plain, "{name:?}");
        check("model-00001-of-00002.safetensors", true);
        check("a b.safetensors", true);
        check("../x.safetensors", false);
        check("/etc/x.safetensors", false);
        check("sub/x.safetensors", false);
        check("./x.safetensors", false);
        check("x.safetensors/", false);
        check("..\\x.safetensors", false);
        check("C:x.safetensors", false);
        check("x\0.safetensors", false);
        check("x.bin", false);
        check("..", false);
        check("", false);
    }
}
