//! The AMX tile unit in software, so that its code is tested where no such unit exists.
//!
//! Each instruction is decoded from its bytes ([`crate::illegal`] says how it gets here) as the manual (Intel SDM,
//! volume 2) writes them, and executed on a [`Machine`] of the thread, whose storage is constant-initialised and has no
//! destructor. Every rule whose violation faults on hardware ends the process with a message.

use std::cell::RefCell;

/// Tiles of palette 1, rows of a tile, and bytes of a row.
const TILES: usize = 8;
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

thread_local! {
    static MACHINE: RefCell<Machine> = const { RefCell::new(Machine::RESET) };
}

/// Executes the instruction at `pointer`, if it is one of the unit's; its length, or the rule that it breaks.
pub(crate) fn step(
    pointer: u64,
    byte: impl Fn(u64) -> u8,
    register: impl Fn(usize) -> u64,
) -> Option<Result<u64, &'static str>> {
    let (instruction, len) = decode(pointer, byte, register)?;
    // SAFETY: the program promises that the addresses it hands to the unit are good.
    Some(MACHINE.with_borrow_mut(|machine| unsafe { machine.execute(instruction) }).map(|()| len))
}

/// Rows of a tile in memory: the first one's address, and the distance between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: u64,
    stride: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    /// The address of the shape.
    Configure(u64),
    Release,
    Zero(usize),
    Load(usize, Place),
    Store(usize, Place),
    /// Tiles of sums, left and right operand.
    Multiply(Numbers, [usize; 3]),
}

/// What a product takes its operands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    /// Pairs of bf16, summed in f32.
    Bf16,
    /// Fours of bytes, summed in i32; whether the left and the right ones have a sign.
    Bytes { signed: [bool; 2] },
}

/// The instruction at `pointer` and its length, if it is one of ours in a form that is legal.
fn decode(
    pointer: u64,
    byte: impl Fn(u64) -> u8,
    register: impl Fn(usize) -> u64,
) -> Option<(Instruction, u64)> {
    // C4 | R̄ X̄ B̄ 00010 (map 0F38) | W=0 v̄v̄v̄v̄ L=0 pp | opcode | ModRM. R must not extend a tile.
    if byte(0) != 0xc4 || byte(1) & 0x9f != 0x82 || byte(2) & 0x84 != 0 {
        return None;
    }
    let (index_high, base_high) = (usize::from(!byte(1) >> 6 & 1) << 3, usize::from(!byte(1) >> 5 & 1) << 3);
    let (v, prefix, opcode) = (usize::from(!byte(2) >> 3 & 15), byte(2) & 3, byte(3));
    let modrm = byte(4);
    let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    const NONE: u8 = 0;
    const P66: u8 = 1;
    const F3: u8 = 2;
    const F2: u8 = 3;
    let memory = || operand(pointer, &byte, &register, index_high, base_high);
    Some(match (opcode, prefix, mode) {
        (0x49, NONE, 3) if v == 0 && modrm == 0xc0 => (Instruction::Release, 5),
        (0x49, NONE, 0..=2) if v == 0 && reg == 0 => {
            let (place, len) = memory();
            (Instruction::Configure(place.address.wrapping_add(place.stride)), len)
        }
        (0x49, F2, 3) if v == 0 && rm == 0 => (Instruction::Zero(reg), 5),
        // Only with a SIB byte: its index is the stride.
        (0x4b, F2, 0..=2) if v == 0 && rm == 4 => {
            let (from, len) = memory();
            (Instruction::Load(reg, from), len)
        }
        (0x4b, F3, 0..=2) if v == 0 && rm == 4 => {
            let (to, len) = memory();
            (Instruction::Store(reg, to), len)
        }
        (0x5c, F3, 3) if v < TILES && base_high == 0 => {
            (Instruction::Multiply(Numbers::Bf16, [reg, rm, v]), 5)
        }
        (0x5e, _, 3) if v < TILES && base_high == 0 => {
            let signed = match prefix {
                NONE => [false, false],
                P66 => [false, true],
                F3 => [true, false],
                _ => [true, true],
            };
            (Instruction::Multiply(Numbers::Bytes { signed }, [reg, rm, v]), 5)
        }
        _ => return None,
    })
}

/// The memory operand behind the opcode, its scaled index kept apart, and the instruction's length.
fn operand(
    pointer: u64,
    byte: impl Fn(u64) -> u8,
    register: impl Fn(usize) -> u64,
    index_high: usize,
    base_high: usize,
) -> (Place, u64) {
    let (mode, rm) = (byte(4) >> 6, byte(4) & 7);
    let (sib, mut len) = if rm == 4 { (Some(byte(5)), 6) } else { (None, 5) };
    let low_base = sib.map_or(rm, |sib| sib & 7);
    let no_base = mode == 0 && low_base == 5;
    let displacement_bytes = match mode {
        0 if no_base => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    let displacement = match displacement_bytes {
        0 => 0,
        1 => i64::from(byte(len) as i8),
        _ => i64::from(i32::from_le_bytes([0, 1, 2, 3].map(|i| byte(len + i)))),
    };
    len += displacement_bytes;
    let base = match (no_base, sib) {
        (false, _) => register(base_high | usize::from(low_base)),
        (true, Some(_)) => 0,
        (true, None) => pointer + len,
    };
    let stride = sib.map_or(0, |sib| match index_high | usize::from(sib >> 3 & 7) {
        4 => 0,
        index => register(index) << (sib >> 6),
    });
    (Place { address: base.wrapping_add_signed(displacement), stride }, len)
}

/// The state of the unit.
struct Machine {
    configured: bool,
    rows: [usize; TILES],
    row_bytes: [usize; TILES],
    tiles: [[[u8; ROW_BYTES]; ROWS]; TILES],
}

type Outcome = Result<(), &'static str>;

impl Machine {
    const RESET: Self = Self {
        configured: false,
        rows: [0; TILES],
        row_bytes: [0; TILES],
        tiles: [[[0; ROW_BYTES]; ROWS]; TILES],
    };

    /// # Safety
    /// The instruction's addresses must be good for the rows and bytes of its tile.
    unsafe fn execute(&mut self, instruction: Instruction) -> Outcome {
        match instruction {
            Instruction::Configure(address) => {
                // SAFETY: this function's contract; the operand has 64 bytes.
                self.configure(unsafe { &*(address as *const [u8; 64]) })
            }
            Instruction::Release => {
                *self = Self::RESET;
                Ok(())
            }
            Instruction::Zero(tile) => {
                self.usable(tile)?;
                self.tiles[tile] = [[0; ROW_BYTES]; ROWS];
                Ok(())
            }
            Instruction::Load(tile, from) => {
                self.usable(tile)?;
                self.tiles[tile] = [[0; ROW_BYTES]; ROWS];
                for row in 0..self.rows[tile] {
                    let at = from.address.wrapping_add(from.stride.wrapping_mul(row as u64)) as *const u8;
                    let target = self.tiles[tile][row].as_mut_ptr();
                    // SAFETY: this function's contract; a row has at most 64 bytes.
                    unsafe { target.copy_from_nonoverlapping(at, self.row_bytes[tile]) };
                }
                Ok(())
            }
            Instruction::Store(tile, to) => {
                self.usable(tile)?;
                for row in 0..self.rows[tile] {
                    let at = to.address.wrapping_add(to.stride.wrapping_mul(row as u64)) as *mut u8;
                    let source = self.tiles[tile][row].as_ptr();
                    // SAFETY: as above.
                    unsafe { at.copy_from_nonoverlapping(source, self.row_bytes[tile]) };
                }
                Ok(())
            }
            Instruction::Multiply(numbers, tiles) => self.multiply(numbers, tiles),
        }
    }

    fn configure(&mut self, bytes: &[u8; 64]) -> Outcome {
        let rule = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(rule) };
        rule(bytes[0] <= 1, "ldtilecfg: the palette is 0 or 1")?;
        *self = Self::RESET;
        if bytes[0] == 0 {
            return Ok(());
        }
        rule(bytes[1] == 0, "ldtilecfg: a kernel begins at row 0")?;
        rule(bytes[2..16].iter().all(|&b| b == 0), "ldtilecfg: reserved bytes are 0")?;
        rule(bytes[32..48].iter().chain(&bytes[56..]).all(|&b| b == 0), "ldtilecfg: there are eight tiles")?;
        for tile in 0..TILES {
            let row_bytes = u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]).into();
            let rows = bytes[48 + tile].into();
            rule(rows <= ROWS, "ldtilecfg: a tile has at most 16 rows")?;
            rule(row_bytes <= ROW_BYTES, "ldtilecfg: a row has at most 64 bytes")?;
            rule(
                (rows == 0) == (row_bytes == 0),
                "ldtilecfg: rows without columns, or columns without rows",
            )?;
            (self.rows[tile], self.row_bytes[tile]) = (rows, row_bytes);
        }
        self.configured = true;
        Ok(())
    }

    fn usable(&self, tile: usize) -> Outcome {
        match (self.configured, self.rows[tile]) {
            (false, _) => Err("tile instruction without a configuration"),
            (true, 0) => Err("the tile has no rows in this configuration"),
            (true, _) => Ok(()),
        }
    }

    fn multiply(&mut self, numbers: Numbers, [sums, left, right]: [usize; 3]) -> Outcome {
        for tile in [sums, left, right] {
            self.usable(tile)?;
            if !self.row_bytes[tile].is_multiple_of(4) {
                return Err("tile product: rows are whole groups of 4 bytes");
            }
        }
        if sums == left || sums == right || left == right {
            return Err("tile product: three different tiles");
        }
        if self.rows[sums] != self.rows[left] {
            return Err("tile product: as many rows of sums as of the left operand");
        }
        if self.row_bytes[sums] != self.row_bytes[right] {
            return Err("tile product: as many columns of sums as of the right operand");
        }
        if self.row_bytes[left] != 4 * self.rows[right] {
            return Err(
                "tile product: as many groups of 4 bytes in the left operand as rows in the right one",
            );
        }
        match numbers {
            Numbers::Bf16 => self.multiply_bf16([sums, left, right]),
            Numbers::Bytes { signed } => self.multiply_bytes(signed, [sums, left, right]),
        }
        self.tiles[sums][self.rows[sums]..].fill([0; ROW_BYTES]);
        Ok(())
    }

    /// Even and odd columns are summed apart, then added to each other, then to the old sum;
    /// denormals are zero before and after every step. (Products of bf16 are exact in f32, so a
    /// product and a sum are what the unit's fused step is.)
    fn multiply_bf16(&mut self, [sums, left, right]: [usize; 3]) {
        let (left_tile, right_tile) = (self.tiles[left], self.tiles[right]);
        for (row, left_row) in left_tile.iter().enumerate().take(self.rows[sums]) {
            let mut halves = [[0.0f32; ROWS]; 2];
            for (pair, right_row) in right_tile.iter().enumerate().take(self.rows[right]) {
                for (odd, halves) in halves.iter_mut().enumerate() {
                    let x = half(left_row, 2 * pair + odd);
                    for (n, sum) in halves.iter_mut().enumerate() {
                        *sum = flush(*sum + x * half(right_row, 2 * n + odd));
                    }
                }
            }
            let out = &mut self.tiles[sums][row];
            for n in 0..self.row_bytes[sums] / 4 {
                let bytes = &mut out[4 * n..4 * n + 4];
                let old = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                let sum = flush(flush(old) + flush(halves[0][n] + halves[1][n]));
                bytes.copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    /// Sums wrap around.
    fn multiply_bytes(&mut self, [left_signed, right_signed]: [bool; 2], [sums, left, right]: [usize; 3]) {
        let (left_tile, right_tile) = (self.tiles[left], self.tiles[right]);
        let number = |byte: u8, signed: bool| if signed { i32::from(byte as i8) } else { i32::from(byte) };
        for (row, left_row) in left_tile.iter().enumerate().take(self.rows[sums]) {
            let mut added = [0i32; ROWS];
            for (four, right_row) in right_tile.iter().enumerate().take(self.rows[right]) {
                for i in 0..4 {
                    let x = number(left_row[4 * four + i], left_signed);
                    for (n, sum) in added.iter_mut().enumerate() {
                        *sum = sum.wrapping_add(x * number(right_row[4 * n + i], right_signed));
                    }
                }
            }
            let (fours, _) = self.tiles[sums][row].as_chunks_mut::<4>();
            for (bytes, added) in fours.iter_mut().zip(added).take(self.row_bytes[sums] / 4) {
                *bytes = i32::from_le_bytes(*bytes).wrapping_add(added).to_le_bytes();
            }
        }
    }
}

/// Number `index` of a row of bf16.
#[inline(always)]
fn half(row: &[u8; ROW_BYTES], index: usize) -> f32 {
    flush(f32::from_bits(u32::from(u16::from_le_bytes([row[2 * index], row[2 * index + 1]])) << 16))
}

#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as the manual writes them, not as an assembler does.
    #[test]
    fn encodings_of_the_manual_are_decoded() {
        let place = |address, stride| Place { address, stride };
        let bytes = |left, right| Numbers::Bytes { signed: [left, right] };
        let rows: [(&[u8], Option<Instruction>); 18] = [
            (&[0xc4, 0xe2, 0x78, 0x49, 0xc0], Some(Instruction::Release)),
            (&[0xc4, 0xe2, 0x78, 0x49, 0x01], Some(Instruction::Configure(101))),
            // r12 as a base needs a SIB byte; no base in mode 0 is relative to the next instruction.
            (&[0xc4, 0xc2, 0x78, 0x49, 0x04, 0x24], Some(Instruction::Configure(112))),
            (&[0xc4, 0xe2, 0x78, 0x49, 0x05, 0x10, 0, 0, 0], Some(Instruction::Configure(5000 + 9 + 16))),
            (&[0xc4, 0xe2, 0x7b, 0x49, 0xd8], Some(Instruction::Zero(3))),
            (&[0xc4, 0xe2, 0x7b, 0x4b, 0x3c, 0x17], Some(Instruction::Load(7, place(107, 102)))),
            // [r9 + 8·r11 - 64]
            (&[0xc4, 0x82, 0x7b, 0x4b, 0x4c, 0xd9, 0xc0], Some(Instruction::Load(1, place(45, 888)))),
            (&[0xc4, 0xe2, 0x7a, 0x4b, 0x84, 0x21, 0, 1, 0, 0], Some(Instruction::Store(0, place(357, 0)))),
            (&[0xc4, 0xe2, 0x4a, 0x5c, 0xc4], Some(Instruction::Multiply(Numbers::Bf16, [0, 4, 6]))),
            (&[0xc4, 0xe2, 0x4b, 0x5e, 0xc4], Some(Instruction::Multiply(bytes(true, true), [0, 4, 6]))),
            (&[0xc4, 0xe2, 0x42, 0x5e, 0xca], Some(Instruction::Multiply(bytes(true, false), [1, 2, 7]))),
            (&[0xc4, 0xe2, 0x49, 0x5e, 0xdd], Some(Instruction::Multiply(bytes(false, true), [3, 5, 6]))),
            (&[0xc4, 0xe2, 0x48, 0x5e, 0xc4], Some(Instruction::Multiply(bytes(false, false), [0, 4, 6]))),
            // A tile 8, a load without SIB, W = 1, another instruction.
            (&[0xc4, 0x62, 0x7b, 0x49, 0xd8], None),
            (&[0xc4, 0xe2, 0x7b, 0x4b, 0x3f], None),
            (&[0xc4, 0xe2, 0xca, 0x5c, 0xc4], None),
            (&[0xc4, 0xe2, 0x0b, 0x5e, 0xc4], None),
            (&[0x0f, 0x0b], None),
        ];
        for (bytes, expected) in rows {
            // Register r holds 100 + r.
            let decoded = decode(5000, |i| bytes.get(i as usize).copied().unwrap_or(0), |r| 100 + r as u64);
            let expected = expected.map(|instruction| (instruction, bytes.len() as u64));
            assert_eq!(decoded, expected, "{bytes:02x?}");
        }
    }

    /// Bytes with the highest bit tell the four products apart.
    #[test]
    fn bytes_have_the_signs_of_the_instruction() {
        let cases = [
            ([true, true], -3 * -2),
            ([true, false], -3 * 254),
            ([false, true], 253 * -2),
            ([false, false], 253 * 254),
        ];
        for (signed, product) in cases {
            let mut machine = configured(&[(2, 12), (2, 8), (2, 12)]).expect("a legal shape");
            machine.tiles[1][1][..8].fill(-3i8 as u8);
            machine.tiles[2][0][4..8].fill(-2i8 as u8);
            machine.tiles[2][1][4..6].fill(-2i8 as u8);
            machine.tiles[0][1][4..8].copy_from_slice(&100i32.to_le_bytes());
            machine.multiply(Numbers::Bytes { signed }, [0, 1, 2]).expect("legal");
            let mut expected = [0; ROW_BYTES];
            expected[4..8].copy_from_slice(&(100i32 + 6 * product).to_le_bytes());
            assert_eq!(machine.tiles[0][1], expected, "{signed:?}");
            assert_eq!(machine.tiles[0][0], [0; ROW_BYTES], "{signed:?}");
        }
    }

    fn configured(shapes: &[(u8, u8)]) -> Result<Machine, &'static str> {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (tile, &(rows, row_bytes)) in shapes.iter().enumerate() {
            (bytes[48 + tile], bytes[16 + 2 * tile]) = (rows, row_bytes);
        }
        let mut machine = Machine::RESET;
        machine.configure(&bytes).map(|()| machine)
    }

    #[test]
    fn what_faults_on_hardware_is_refused() {
        let refused = |shapes: &[(u8, u8)], tiles: [usize; 3]| {
            let both = [Numbers::Bf16, Numbers::Bytes { signed: [true, false] }].map(|numbers| {
                let outcome = configured(shapes).and_then(|mut machine| machine.multiply(numbers, tiles));
                outcome.expect_err("refused")
            });
            assert_eq!(both[0], both[1]);
            both[0]
        };
        type Row<'a> = (&'a [(u8, u8)], [usize; 3], &'a str);
        let rows: [Row<'_>; 10] = [
            (&[(17, 64)], [0, 1, 2], "at most 16 rows"),
            (&[(16, 65)], [0, 1, 2], "at most 64 bytes"),
            (&[(16, 0)], [0, 1, 2], "rows without columns"),
            (&[(16, 64); 9], [0, 1, 2], "eight tiles"),
            (&[(16, 64); 3], [0, 1, 1], "three different tiles"),
            (&[(16, 64); 3], [0, 1, 3], "no rows"),
            (&[(5, 64), (6, 64), (16, 64)], [0, 1, 2], "rows of sums"),
            (&[(5, 32), (5, 64), (16, 64)], [0, 1, 2], "columns of sums"),
            (&[(5, 64), (5, 60), (16, 64)], [0, 1, 2], "groups of 4 bytes in the left"),
            (&[(5, 64), (5, 30), (8, 64)], [0, 1, 2], "whole groups of 4 bytes"),
        ];
        for (shapes, tiles, message) in rows {
            assert!(refused(shapes, tiles).contains(message), "{shapes:?} {tiles:?}");
        }
        let mut machine = Machine::RESET;
        assert!(
            machine
                .multiply(Numbers::Bf16, [0, 1, 2])
                .expect_err("refused")
                .contains("without a configuration")
        );
    }
}
