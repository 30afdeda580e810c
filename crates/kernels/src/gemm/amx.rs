//! Tile product on the AMX bf16 unit.

use super::Tile;

pub(crate) fn available() -> bool {
    false
}

pub(super) fn multiply(_tile: &Tile<'_>, _block: &mut [f32]) {
    unreachable!("not available")
}
