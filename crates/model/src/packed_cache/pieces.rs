//! An entry of the cache: pieces one behind the other, each from a multiple of 64, and the list of them.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;

use fathom_kernels::gemm::{PackedMatrix, WeightFormat, packed_bytes};
use fathom_kernels::{SharedBytes, WeightBytes};
use fathom_packed::{Entry, Packed, Reason, Writer};
use serde::{Deserialize, Serialize};

use crate::weights::{Embedding, table_row_bytes};

/// Pieces begin on multiples of this: a cache line.
const LINE: usize = 64;

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Panels of a packed matrix; with a bias, that many f32 behind them.
    Matrix,
    /// Rows of the embedding.
    Table,
    /// Numbers in f32; `rows` is 1.
    Vector,
}

/// A piece: `[kind, format, rows, cols, bias, offset, length]` in JSON. Offsets count from the entry's start.
#[derive(Debug, Serialize, Deserialize)]
struct Piece(Kind, String, usize, usize, bool, usize, usize);

/// An entry to be written.
pub(super) struct Parts<'a> {
    name: String,
    pieces: Vec<Piece>,
    /// Of each piece: what it is made of.
    bytes: Vec<[Cow<'a, [u8]>; 2]>,
    end: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn new(name: String) -> Self {
        Self { name, pieces: Vec::new(), bytes: Vec::new(), end: 0 }
    }

    pub(super) fn matrix(&mut self, matrix: &'a PackedMatrix) {
        let bias = matrix.bias_values();
        let bytes = [matrix.data_bytes().into(), bias.map_or(Cow::Borrowed(&[][..]), in_bytes)];
        self.push(Kind::Matrix, matrix.format(), [matrix.rows(), matrix.cols()], bias.is_some(), bytes);
    }

    pub(super) fn vector(&mut self, values: &[f32]) {
        let bytes = [in_bytes(values), Cow::Borrowed(&[][..])];
        self.push(Kind::Vector, WeightFormat::F32, [1, values.len()], false, bytes);
    }

    /// The rows of the embedding; nothing if they are those of the head.
    pub(super) fn embedding(&mut self, embedding: &'a Embedding, shape: [usize; 2]) {
        if let Embedding::Rows(format, rows) = embedding {
            let bytes = [rows.as_slice().into(), Cow::Borrowed(&[][..])];
            self.push(Kind::Table, *format, shape, false, bytes);
        }
    }

    fn push(
        &mut self,
        kind: Kind,
        format: WeightFormat,
        [rows, cols]: [usize; 2],
        bias: bool,
        bytes: [Cow<'a, [u8]>; 2],
    ) {
        let (offset, length) = (self.end.next_multiple_of(LINE), bytes.iter().map(|bytes| bytes.len()).sum());
        self.pieces.push(Piece(kind, format.name().to_owned(), rows, cols, bias, offset, length));
        self.bytes.push(bytes);
        self.end = offset + length;
    }

    /// Bytes of the entry.
    pub(super) fn len(&self) -> usize {
        self.end
    }

    pub(super) fn write(&self, writer: &mut Writer) -> fathom_packed::Result<()> {
        writer.begin(&self.name, &self.pieces)?;
        let mut end = 0;
        for (piece, bytes) in self.pieces.iter().zip(&self.bytes) {
            let Piece(.., offset, length) = piece;
            writer.write(&[0; LINE][..offset - end])?;
            bytes.iter().try_for_each(|bytes| writer.write(bytes))?;
            end = offset + length;
        }
        Ok(())
    }
}

/// An entry being read: pieces in the order they were written, each of the shape that the configuration asks for.
pub(super) struct Pieces<'a> {
    packed: &'a Packed,
    entry: &'a Entry,
    owner: SharedBytes,
    pieces: std::vec::IntoIter<Piece>,
}

impl<'a> Pieces<'a> {
    pub(super) fn of(packed: &'a Packed, name: &str) -> Result<Self, Reason> {
        let missing = || Reason::Entry { name: name.to_owned(), problem: "it is missing".to_owned() };
        let entry = packed.entry(name).ok_or_else(missing)?;
        let pieces: Vec<Piece> = entry.meta()?;
        let owner: SharedBytes = Arc::clone(packed.mapping()) as SharedBytes;
        Ok(Self { packed, entry, owner, pieces: pieces.into_iter() })
    }

    /// A matrix of `shape`, with a bias or without.
    pub(super) fn matrix(&mut self, [rows, cols]: [usize; 2], bias: bool) -> Result<PackedMatrix, Reason> {
        self.matrix_of_cols(rows, cols..=cols, bias)
    }

    /// A matrix of `rows` rows whose columns are as many as one of `widths`.
    pub(super) fn matrix_of_cols(
        &mut self,
        rows: usize,
        widths: RangeInclusive<usize>,
        bias: bool,
    ) -> Result<PackedMatrix, Reason> {
        let piece = self.next(Kind::Matrix, rows, widths, bias)?;
        let (format, Piece(_, _, rows, cols, _, offset, length)) = (self.format(&piece)?, piece);
        // Behind the panels.
        let numbers = if bias { rows } else { 0 };
        let panels = numbers.checked_mul(size_of::<f32>()).and_then(|bias| length.checked_sub(bias));
        let panels =
            panels.filter(|_| cols <= length).filter(|&len| len == packed_bytes(format, [rows, cols]));
        let Some(panels) = panels else {
            return Err(self.wrong(format!("{format} [{rows}, {cols}] in {length} bytes")));
        };
        let bias = bias.then(|| in_floats(&self.bytes()[offset + panels..offset + length]));
        let start = self.entry.range().start + offset;
        let range = start..start + panels;
        PackedMatrix::from_mapped(format, [rows, cols], bias, self.owner.clone(), range)
            .ok_or_else(|| self.wrong(format!("{format} [{rows}, {cols}] from byte {offset} on")))
    }

    /// `len` numbers.
    pub(super) fn vector(&mut self, len: usize) -> Result<Vec<f32>, Reason> {
        let piece = self.next(Kind::Vector, 1, len..=len, false)?;
        let (format, Piece(.., offset, length)) = (self.format(&piece)?, piece);
        if format != WeightFormat::F32 || Some(length) != len.checked_mul(size_of::<f32>()) {
            return Err(self.wrong(format!("{len} numbers of {format} in {length} bytes")));
        }
        Ok(in_floats(&self.bytes()[offset..offset + length]))
    }

    /// The embedding `[vocab_size, hidden_size]`.
    pub(super) fn embedding(&mut self, [rows, cols]: [usize; 2]) -> Result<Embedding, Reason> {
        let piece = self.next(Kind::Table, rows, cols..=cols, false)?;
        let (format, Piece(.., offset, length)) = (self.format(&piece)?, piece);
        let start = self.entry.range().start + offset;
        let bytes = WeightBytes::mapped(self.owner.clone(), start..start + length);
        let fits = table_row_bytes(format, cols).checked_mul(rows) == Some(length);
        match bytes {
            Some(bytes) if fits => Ok(Embedding::Rows(format, bytes)),
            _ => Err(self.wrong(format!("{format} rows [{rows}, {cols}] in {length} bytes"))),
        }
    }

    /// That nothing is left.
    pub(super) fn end(mut self) -> Result<(), Reason> {
        match self.pieces.next() {
            None => Ok(()),
            Some(piece) => Err(self.wrong(format!("{piece:?}, where it should end"))),
        }
    }

    /// Why this entry is of no use.
    pub(super) fn wrong(&self, got: impl std::fmt::Display) -> Reason {
        Reason::Entry { name: self.entry.name().to_owned(), problem: format!("it has {got}") }
    }

    /// The piece that comes next, which lies within the entry and is what is expected.
    fn next(
        &mut self,
        kind: Kind,
        rows: usize,
        widths: RangeInclusive<usize>,
        bias: bool,
    ) -> Result<Piece, Reason> {
        let expected = || format!("where a {kind:?} [{rows}, {widths:?}] should be (bias: {bias})");
        let Some(piece) = self.pieces.next() else {
            return Err(self.wrong(format!("nothing, {}", expected())));
        };
        let Piece(its_kind, _, its_rows, cols, its_bias, offset, length) = &piece;
        let as_expected =
            *its_kind == kind && *its_rows == rows && widths.contains(cols) && *its_bias == bias;
        let within = offset.checked_add(*length).is_some_and(|end| end <= self.entry.range().len());
        match as_expected && within {
            true => Ok(piece),
            false => Err(self.wrong(format!("{piece:?}, {}", expected()))),
        }
    }

    fn format(&self, piece: &Piece) -> Result<WeightFormat, Reason> {
        WeightFormat::from_name(&piece.1)
            .ok_or_else(|| self.wrong(format!("{:?}, which is no format", piece.1)))
    }

    fn bytes(&self) -> &'a [u8] {
        self.packed.bytes(self.entry)
    }
}

fn in_bytes<'a>(values: &[f32]) -> Cow<'a, [u8]> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn in_floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks();
    values.iter().map(|&value| f32::from_le_bytes(value)).collect()
}
