//! A steady decode step allocates nothing in attention: counted, not promised.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use fathom_kernels::attention::{CacheFormat, LatentNorm, LatentRows, absorbed};
use fathom_kernels::gemm::Rows;
use fathom_kernels::{Compute, Isa};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One token of three sequences, two of them long enough to be cut: store, attend, merge.
#[test]
fn a_steady_step_of_attention_allocates_nothing() {
    let (heads, latent, rope) = (5, 96, 32);
    let compute = Compute::with_isa(Isa::best(), 2);
    let shape = absorbed::Shape { heads, latent, rope, rotary_stride: rope, scale: 0.1 };
    let tables: [Vec<u32>; 3] = [(0..10).collect(), (10..20).collect(), (20..21).collect()];
    let seen = [600, 530, 7];
    for format in CacheFormat::ALL {
        let mut cache = LatentRows::new(format, 21, [latent, rope]).expect("a small cache");
        let (q, rotary) = (vec![0.5; 3 * heads * latent], vec![0.25; 3 * heads * rope]);
        let (mut out, mut space) = (vec![0.0; 3 * heads * latent], absorbed::Space::default());
        let (row, weight) = (vec![0.5; latent + rope], vec![1.0; latent]);
        let mut step = || {
            for (table, seen) in tables.iter().zip(seen) {
                let norm = LatentNorm { weight: &weight, eps: 1e-6 };
                cache.store(&compute, table, seen - 1, Rows::dense(&row, latent + rope), norm);
            }
            let query = |i: usize| absorbed::Query {
                cache: cache.sequence(&tables[i]),
                visible: seen[i],
                rotary: &rotary[i * heads * rope..],
            };
            let queries = absorbed::Queries { count: 3, latent: &q, query };
            absorbed::attend(&compute, shape, &queries, &mut space, &mut out);
        };
        // Until every thread has had every kind of unit.
        (0..200).for_each(|_| step());
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..10).for_each(|_| step());
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{format}");
    }
}
