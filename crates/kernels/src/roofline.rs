//! What the machine allows: bytes read and operations done per second, by the whole pool.
//!
//! A kernel's speed means little beside another's; it means something as a fraction of these.
//! Measure in the same sitting as what is compared: shared machines drift by tens of per cent.
//!
//! Every measurement is one parallel region in which each thread has its own share of the work. It
//! consists of passes; a pass lasts from the first thread's start to the last one's end.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

#[cfg(vector_kernels)]
use crate::gemm::amx_peak::{self, Kind};
use crate::gemm::{Activations, Epilogue, Group, Output, PackedMatrix, Rows, WeightFormat, gemm};
use crate::math::per_isa;
use crate::memory::AlignedBuffer;
use crate::{Compute, Isa};

/// Passes that are measured even if the time is over before.
const PASSES_MIN: usize = 3;

/// Streams that a thread reads at once at most.
const STREAMS: usize = 4;

/// How far ahead of its use a line of one stream, or of each of four, is prefetched, in bytes: what is best on Zen 5
/// and on Sapphire Rapids.
const AHEAD: [usize; 2] = [6144, 1024];

/// 64-bit words of a cache line.
const LINE: usize = 8;

/// How often something happens per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// In the fastest pass: what the machine can do.
    pub best: f64,
    /// In the middle one: what it did while others may have used it too.
    pub median: f64,
}

impl Rate {
    /// The rates of single passes, at least one.
    fn of(mut passes: Vec<f64>) -> Self {
        passes.sort_by(f64::total_cmp);
        Self { best: passes[passes.len() - 1], median: passes[(passes.len() - 1) / 2] }
    }
}

/// Bytes per second that all threads read from memory together, for about `seconds`.
///
/// Reads a buffer of `bytes` (rounded up to whole lines per thread and stream) from start to end
/// again and again, as one stream fetched ahead into the first or the second-level cache and as four, whichever is fastest; each thread allocates and first touches its own share, so that it lies in the
/// thread's memory node. For the bandwidth of DRAM, `bytes` must be many times the last-level
/// cache: 2 GiB, or a quarter of the free memory where there is less.
pub fn read_bandwidth(compute: &Compute, bytes: usize, seconds: f64) -> Rate {
    let words = bytes.div_ceil(size_of::<u64>() * compute.pool.threads());
    let len = words.next_multiple_of(STREAMS * LINE);
    let share = || {
        let mut share = AlignedBuffer::<u64>::zeroed(len);
        share.as_mut_slice().fill(1);
        share
    };
    let rate = |sum: fn(Isa, &[u64]) -> u64| {
        measure(compute, seconds / 3.0, share, |share| {
            black_box(sum(compute.isa, share.as_slice()));
            size_of_val(share.as_slice()) as f64
        })
    };
    let rates = [sum_one, sum_one_outer, sum_four].map(rate);
    rates.into_iter().max_by(|a, b| a.best.total_cmp(&b.best)).expect("there are three")
}

per_isa! {
    /// The sum of all words, in order.
    fn sum_one(words: &[u64]) -> u64 {
        sum::<1, false>([words.as_chunks().0], AHEAD[0])
    }
}

per_isa! {
    /// As [`sum_one`], fetched into the second-level cache: some cores' first one waits for few lines at a time.
    fn sum_one_outer(words: &[u64]) -> u64 {
        sum::<1, true>([words.as_chunks().0], AHEAD[0])
    }
}

per_isa! {
    /// The sum of all words, in four streams, one line of each at a time.
    fn sum_four(words: &[u64]) -> u64 {
        let mut streams = words.chunks_exact(words.len() / STREAMS).map(|stream| stream.as_chunks().0);
        sum::<STREAMS, false>(std::array::from_fn(|_| streams.next().unwrap_or_default()), AHEAD[1])
    }
}

#[inline(always)]
fn sum<const N: usize, const OUTER: bool>(streams: [&[[u64; LINE]]; N], ahead: usize) -> u64 {
    let mut sums = [[0u64; LINE]; N];
    for line in 0..streams[0].len() {
        for (sums, stream) in sums.iter_mut().zip(streams) {
            prefetch::<OUTER>(&raw const stream[line], ahead);
            for (sum, word) in sums.iter_mut().zip(&stream[line]) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    sums.as_flattened().iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Asks for what is `ahead` bytes behind `line`, in the second-level cache if `OUTER`.
#[inline(always)]
fn prefetch<const OUTER: bool>(line: *const [u64; LINE], ahead: usize) {
    #[cfg(vector_kernels)]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let line = line.wrapping_byte_add(ahead).cast();
        // SAFETY: every x86-64 processor has the instruction, and it may point anywhere.
        unsafe {
            match OUTER {
                true => _mm_prefetch::<_MM_HINT_T1>(line),
                false => _mm_prefetch::<_MM_HINT_T0>(line),
            }
        }
    }
    #[cfg(not(vector_kernels))]
    let _ = (line, ahead);
}

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiplier {
    /// f32 vectors of the ISA: fused multiply and add, or in [`Isa::Scalar`] (which has no fused
    /// one) a product and a sum.
    F32,
    /// Vectors of pairs of bf16, summed in f32 (`vdpbf16ps`).
    Bf16,
    /// The AMX tile unit in bf16.
    Bf16Tiles,
    /// Integer vectors of the ISA, u8 × i8 into i32: `vpdpbusd`, or `vpmaddubsw` with `vpmaddwd` (which codes of up to 6
    /// bits need not widen each time).
    Int8,
    /// The AMX tile unit in int8, with i32 sums.
    Int8Tiles,
}

/// Operations per second (a product and a sum are two) that all threads do together, for about
/// `seconds`, with operands that never leave the registers. `None` if the ISA has no such
/// multiplier.
pub fn multiply_rate(compute: &Compute, multiplier: Multiplier, seconds: f64) -> Option<Rate> {
    let burst: fn(Isa) -> f64 = match multiplier {
        Multiplier::F32 => multiply_f32,
        #[cfg(vector_kernels)]
        Multiplier::Int8 if compute.isa > Isa::Scalar => multiply_int8,
        #[cfg(vector_kernels)]
        Multiplier::Bf16 if compute.isa >= Isa::Avx512 && is_x86_feature_detected!("avx512bf16") => {
            multiply_bf16
        }
        #[cfg(vector_kernels)]
        tiles => match tile_kind(compute.isa, tiles)? {
            Kind::Bf16 => |_| amx_peak::in_registers(Kind::Bf16, 500),
            Kind::Int8 => |_| amx_peak::in_registers(Kind::Int8, 500),
        },
        #[cfg(not(vector_kernels))]
        _ => return None,
    };
    Some(measure(compute, seconds, || (), |()| for_a_while(seconds, || burst(compute.isa))))
}

/// As [`multiply_rate`] of a tile unit whose operands come from the second-level cache: each thread
/// multiplies 1 MiB of them again and again, 2 × 2 tiles at a time. What a product can reach whose operands
/// do not stay in the first level. `None` where there is no such unit, and for vectors.
pub fn multiply_rate_from_l2(compute: &Compute, multiplier: Multiplier, seconds: f64) -> Option<Rate> {
    #[cfg(vector_kernels)]
    {
        let kind = tile_kind(compute.isa, multiplier)?;
        let streams = || amx_peak::Streams::new(kind);
        Some(measure(compute, seconds, streams, |streams| for_a_while(seconds, || streams.multiply())))
    }
    #[cfg(not(vector_kernels))]
    {
        let _ = (compute, multiplier, seconds);
        None
    }
}

/// The numbers that a multiplier's tiles hold, if it is a tile unit and `isa` has it.
#[cfg(vector_kernels)]
fn tile_kind(isa: Isa, multiplier: Multiplier) -> Option<Kind> {
    match multiplier {
        Multiplier::Bf16Tiles if isa >= Isa::Amx => Some(Kind::Bf16),
        Multiplier::Int8Tiles if isa >= Isa::Amx && crate::gemm::amx_int8_available() => Some(Kind::Int8),
        _ => None,
    }
}

/// Bursts of operations, as many as a pass of a measurement of `seconds` takes; long enough that threads
/// starting apart do not matter. Returns how many operations.
fn for_a_while(seconds: f64, mut burst: impl FnMut() -> f64) -> f64 {
    let pass = Duration::from_secs_f64((seconds / PASSES_MIN as f64).clamp(0.0, 0.05));
    let (started, mut operations) = (Instant::now(), 0.0);
    while operations == 0.0 || started.elapsed() < pass {
        operations += burst();
    }
    operations
}

/// Some tens of microseconds of multiplications; returns how many operations.
fn multiply_f32(isa: Isa) -> f64 {
    const TURNS: usize = 20_000;
    let lanes = match isa {
        #[cfg(vector_kernels)]
        // SAFETY: an Isa value other than Scalar exists only after detection.
        Isa::Avx512 | Isa::Amx => unsafe { in_registers::avx512(TURNS) },
        #[cfg(vector_kernels)]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { in_registers::avx2(TURNS) },
        _ => in_registers::scalar(TURNS),
    };
    2.0 * (TURNS * lanes) as f64
}

/// As [`multiply_f32`] for pairs of bf16.
#[cfg(vector_kernels)]
fn multiply_bf16(_: Isa) -> f64 {
    const TURNS: usize = 20_000;
    // SAFETY: `multiply_rate` detected the instruction.
    2.0 * (TURNS * unsafe { in_registers::bf16(TURNS) }) as f64
}

/// As [`multiply_f32`] for integer vectors; the scalar ISA has none.
#[cfg(vector_kernels)]
fn multiply_int8(isa: Isa) -> f64 {
    const TURNS: usize = 20_000;
    let products = match isa {
        #[cfg(vector_kernels)]
        // SAFETY: detected here.
        Isa::Avx512 | Isa::Amx if is_x86_feature_detected!("avx512vnni") => unsafe {
            in_registers::vnni(TURNS)
        },
        #[cfg(vector_kernels)]
        // SAFETY: an Isa value other than Scalar exists only after detection.
        Isa::Avx2 | Isa::Avx512 | Isa::Amx if is_x86_feature_detected!("avxvnni") => unsafe {
            in_registers::avx_vnni(TURNS)
        },
        #[cfg(vector_kernels)]
        // SAFETY: an Isa value other than Scalar exists only after detection.
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => unsafe { in_registers::maddubs(TURNS) },
        _ => unreachable!("asked only of vector ISAs"),
    };
    2.0 * (TURNS * products) as f64
}

/// Twelve chains of `sum = sum · a + b`: two units with a latency of four to five cycles need ten.
/// Each returns the lanes of a turn.
mod in_registers {
    use std::hint::black_box;

    const CHAINS: usize = 12;

    /// Operands whose chain converges to 1, far from denormals and infinities.
    fn operands() -> (f32, f32) {
        black_box((0.5, 0.5))
    }

    pub(super) fn scalar(turns: usize) -> usize {
        const LANES: usize = 4;
        let ((a, b), mut sums) = (operands(), [[0.0f32; LANES]; CHAINS]);
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = sum.map(|sum| sum * a + b);
            }
        }
        black_box(sums);
        CHAINS * LANES
    }

    #[cfg(vector_kernels)]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(turns: usize) -> usize {
        use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps};
        let ((a, b), mut sums) = (operands(), [_mm256_setzero_ps(); CHAINS]);
        let (a, b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        CHAINS * 8
    }

    #[cfg(vector_kernels)]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16(turns: usize) -> usize {
        use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi16, _mm512_setzero_ps};
        // SAFETY: both are 64 bytes, of which every pattern is a value; this one is 1.
        let ones = || unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(0x3f80)) };
        let (a, b) = black_box((ones(), ones()));
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
        CHAINS * 32
    }

    #[cfg(vector_kernels)]
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn vnni(turns: usize) -> usize {
        use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_set1_epi8, _mm512_setzero_si512};
        let (a, b) = black_box((_mm512_set1_epi8(1), _mm512_set1_epi8(-1)));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        CHAINS * 64
    }

    #[cfg(vector_kernels)]
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn avx_vnni(turns: usize) -> usize {
        use std::arch::x86_64::{_mm256_dpbusd_avx_epi32, _mm256_set1_epi8, _mm256_setzero_si256};
        let (a, b) = black_box((_mm256_set1_epi8(1), _mm256_set1_epi8(-1)));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        CHAINS * 32
    }

    #[cfg(vector_kernels)]
    #[target_feature(enable = "avx2")]
    pub(super) fn maddubs(turns: usize) -> usize {
        use std::arch::x86_64::{
            _mm256_add_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16,
            _mm256_setzero_si256,
        };
        let (a, b) = black_box((_mm256_set1_epi8(1), _mm256_set1_epi16(1)));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                // The operand depends on the sum, or the products would be made once.
                let pairs = _mm256_maddubs_epi16(a, *sum);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, b));
            }
        }
        black_box(sums);
        CHAINS * 32
    }

    #[cfg(vector_kernels)]
    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(turns: usize) -> usize {
        use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};
        let ((a, b), mut sums) = (operands(), [_mm512_setzero_ps(); CHAINS]);
        let (a, b) = (_mm512_set1_ps(a), _mm512_set1_ps(b));
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        CHAINS * 16
    }
}

/// Operations per second of our own [`gemm`], `y [m, n] = x [m, k] · Wᵀ`, for about `seconds`;
/// activations are prepared beforehand, the same weights serve every pass.
pub fn gemm_rate(compute: &Compute, format: WeightFormat, [m, n, k]: [usize; 3], seconds: f64) -> Rate {
    let number = |index: usize| (index * 37 % 255) as f32 / 128.0 - 1.0;
    let fill = |panel: usize, values: &mut [f32]| {
        values.iter_mut().enumerate().for_each(|(i, value)| *value = number(panel + i));
        Ok::<(), std::convert::Infallible>(())
    };
    let weights = match PackedMatrix::build(compute, format, [n, k], fill) {
        Ok(weights) => weights,
        Err(never) => match never {},
    };
    let x: Vec<f32> = (0..m * k).map(number).collect();
    let mut activations = Activations::default();
    activations.prepare(compute, format, Rows::dense(&x, k));
    let mut y = vec![0.0; m * n];
    let groups = [Group::whole(&weights, &activations)];
    let (started, mut rates) = (Instant::now(), Vec::new());
    while rates.len() < PASSES_MIN || started.elapsed().as_secs_f64() < seconds {
        let pass = Instant::now();
        gemm(compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: n });
        rates.push(2.0 * (m * n * k) as f64 / elapsed(pass, Instant::now()));
    }
    Rate::of(rates)
}

/// Lets every thread of the pool run `pass` on a state of its own (made by the thread itself), all
/// together, until `seconds` are over. `pass` returns how much it did.
fn measure<S>(
    compute: &Compute,
    seconds: f64,
    state: impl Fn() -> S + Sync,
    pass: impl Fn(&mut S) -> f64 + Sync,
) -> Rate {
    let threads = compute.pool.threads();
    // The barrier also makes each thread take exactly one unit.
    let (barrier, over) = (Barrier::new(threads), AtomicBool::new(false));
    let records = Mutex::new(Vec::with_capacity(threads));
    let rates = Mutex::new(Vec::new());
    compute.pool.run(threads, |_, _| {
        let mut state = state();
        barrier.wait();
        let begun = Instant::now();
        while !over.load(Ordering::Acquire) {
            barrier.wait();
            let start = Instant::now();
            let work = pass(&mut state);
            let end = Instant::now();
            lock(&records).push((start, end, work));
            if barrier.wait().is_leader() {
                let (mut records, mut rates) = (lock(&records), lock(&rates));
                rates.extend(rate(&records));
                records.clear();
                let enough = rates.len() >= PASSES_MIN && begun.elapsed().as_secs_f64() >= seconds;
                over.store(enough, Ordering::Release);
            }
            // Nobody looks at `over` before the leader has written it.
            barrier.wait();
        }
    });
    Rate::of(rates.into_inner().expect("no thread panicked"))
}

/// The rate of one pass, from every thread's start, end and work.
fn rate(records: &[(Instant, Instant, f64)]) -> Option<f64> {
    let start = records.iter().map(|record| record.0).min()?;
    let end = records.iter().map(|record| record.1).max()?;
    Some(records.iter().map(|record| record.2).sum::<f64>() / elapsed(start, end))
}

/// Seconds between two moments, never 0: clocks are coarse on some machines.
fn elapsed(start: Instant, end: Instant) -> f64 {
    (end - start).as_secs_f64().max(1e-9)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds this")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rate: Rate, case: &str) {
        assert!(rate.best.is_finite() && rate.median > 0.0 && rate.best >= rate.median, "{case}: {rate:?}");
    }

    #[test]
    fn rates_are_positive_numbers_on_every_isa() {
        for isa in Isa::available() {
            for threads in [1, 3] {
                let compute = Compute::with_isa(isa, threads);
                for bytes in [1, 1 << 20] {
                    check(read_bandwidth(&compute, bytes, 0.0), &format!("{isa} read"));
                }
                let multiply = multiply_rate(&compute, Multiplier::F32, 0.001).expect("always there");
                check(multiply, &format!("{isa} multiply"));
                for multiplier in [Multiplier::Bf16, Multiplier::Int8] {
                    let rate = multiply_rate(&compute, multiplier, 0.001);
                    rate.into_iter().for_each(|rate| check(rate, &format!("{isa} {multiplier:?}")));
                    assert!(rate.is_none() || isa > Isa::Scalar);
                }
                check(gemm_rate(&compute, WeightFormat::Bf16, [2, 17, 33], 0.0), &format!("{isa} gemm"));
                for measure in [multiply_rate, multiply_rate_from_l2] {
                    let tiles = measure(&compute, Multiplier::Bf16Tiles, 0.001);
                    assert_eq!(tiles.is_some(), isa == Isa::Amx);
                    assert!(measure(&compute, Multiplier::Int8Tiles, 0.001).is_none() || isa == Isa::Amx);
                }
            }
        }
    }

    #[test]
    fn every_thread_takes_part_in_every_pass() {
        let compute = Compute::with_isa(Isa::Scalar, 4);
        let passes = Mutex::new(Vec::new());
        let counts = || 0;
        measure(&compute, 0.0, counts, |count| {
            *count += 1;
            lock(&passes).push((std::thread::current().id(), *count));
            1.0
        });
        let passes = passes.into_inner().expect("no thread panicked");
        let threads: std::collections::HashSet<_> = passes.iter().map(|pass| pass.0).collect();
        assert_eq!((threads.len(), passes.len()), (4, 4 * PASSES_MIN));
    }

    #[test]
    fn the_sum_reads_every_word_once() {
        let words: Vec<u64> = (0..(STREAMS * 3 * LINE) as u64).map(|i| i * i).collect();
        let expected: u64 = words.iter().sum();
        let sums = [sum_one, sum_one_outer, sum_four].map(|sum| sum(Isa::best(), &words));
        assert_eq!(sums, [expected; 3]);
    }

    #[test]
    fn best_and_median() {
        assert_eq!(Rate::of(vec![3.0, 1.0, 9.0, 2.0]), Rate { best: 9.0, median: 2.0 });
    }
}
