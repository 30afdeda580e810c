//! The meaning of the two products.

use super::{KEYS, LANES, Mix, STRIDE, Scores};

pub(super) fn scores(job: &Scores<'_>, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<LANES>();
    for vector in 0..job.vectors {
        let (queries, _) = job.queries[vector * job.apart..].as_chunks::<LANES>();
        let queries = &queries[job.piece.clone()];
        for (key, out) in out[vector * KEYS..][..job.count].iter_mut().enumerate() {
            if job.piece.start == 0 {
                *out = [0.0; LANES];
            }
            for (queries, number) in queries.iter().zip(&job.keys[key * STRIDE..]) {
                out.iter_mut().zip(queries).for_each(|(out, query)| *out += query * number);
            }
        }
    }
}

pub(super) fn mix(job: &Mix<'_>, out: &mut [f32]) {
    for (row, out) in out.chunks_exact_mut(job.cols).enumerate() {
        let (weights, out) =
            (&job.weights[row / LANES * KEYS * LANES + row % LANES..], &mut out[job.piece.clone()]);
        out.iter_mut().for_each(|out| *out *= job.keep[row]);
        for key in 0..job.count {
            let (weight, values) = (weights[key * LANES], &job.values[key * STRIDE..]);
            out.iter_mut().zip(values).for_each(|(out, value)| *out += weight * value);
        }
    }
}
