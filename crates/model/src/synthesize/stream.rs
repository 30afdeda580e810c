//! Values from many threads to one file, in order and in bounded memory.
//!
//! The tensors are cut into units; thread `t` of `n` makes units `t, t + n, …` and hands them over
//! through a channel that holds two, and the caller writes them in turn.

use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use fathom_checkpoint::{ShardedWriter, names};

use super::values::{self, Values};
use crate::Result;

/// Elements of a unit, about: large enough that handing over costs nothing, small enough for a cache.
const UNIT: usize = 1 << 17;

/// A unit, ready to be written.
struct Made {
    bytes: Vec<u8>,
    /// Of an FP8 tensor's row of blocks.
    scales: Vec<f32>,
}

/// Rows of a tensor that are made together: a row of blocks where it is FP8.
fn units(values: &Values) -> impl Iterator<Item = Range<usize>> + use<> {
    let [rows, cols] = values.shape();
    let step = values.block.map_or_else(|| (UNIT / cols.max(1)).max(1), |[block_rows, _]| block_rows);
    (0..rows).step_by(step).map(move |first| first..rows.min(first.saturating_add(step)))
}

/// Makes `all` and writes it; `advance` is told the bytes of every piece.
pub(super) fn write(
    all: &[Values],
    threads: usize,
    writer: &mut ShardedWriter,
    advance: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let threads = threads.max(1);
    std::thread::scope(|scope| {
        let makers: Vec<Receiver<Made>> = (0..threads)
            .map(|thread| {
                let (sender, receiver) = sync_channel(2);
                scope.spawn(move || make(all, thread, threads, &sender));
                receiver
            })
            .collect();
        // Leaving early drops the receivers, at which the threads end.
        let mut next = makers.iter().cycle();
        for values in all {
            writer.begin(&values.spec.name)?;
            let mut scales = Vec::new();
            for _ in units(values) {
                let maker = next.next().expect("there is a thread, and the cycle has no end");
                let made = maker.recv().expect("a thread lives until its last unit is taken");
                writer.write(&made.bytes)?;
                scales.extend(made.scales);
                if advance(made.bytes.len()).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if values.block.is_some() {
                writer.begin(&names::scale_name(&values.spec.name))?;
                writer.write_f32(&scales)?;
                if advance(scales.len() * 4).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Every `threads`-th unit from `thread` on.
fn make(all: &[Values], thread: usize, threads: usize, out: &SyncSender<Made>) {
    let mut numbers = Vec::new();
    let tensors = all.iter().flat_map(|values| units(values).map(move |rows| (values, rows)));
    for (values, rows) in tensors.skip(thread).step_by(threads) {
        let [_, cols] = values.shape();
        numbers.resize(rows.len() * cols, 0.0);
        values.fill((rows.start * cols) as u64, &mut numbers);
        let mut made = Made { bytes: Vec::new(), scales: Vec::new() };
        match values.block {
            None => values::encode(&numbers, values.dtype, &mut made.bytes),
            Some([_, width]) => {
                let (bytes, power_of_two) = (&mut made.bytes, values.power_of_two);
                made.scales = values::quantize_band(&numbers, cols, width, power_of_two, bytes);
            }
        }
        if out.send(made).is_err() {
            return;
        }
    }
}
