//! Cross-entropy of rows of logits: `loss = log Σ e^logits - logits[target]`, `dlogits = softmax - [target]`.

use super::rows_per_unit;
use super::softmax::log_sum_exp;
use crate::Compute;
use crate::math::{exp, per_isa};
use crate::shared::SharedSlice;

/// The target of a row that has none: its loss and its gradient are 0.
pub const IGNORE: u32 = u32::MAX;

/// `losses [rows]` of `logits [rows, vocab]`, and `log_sums [rows]` for [`backward`].
///
/// # Panics
/// If a length does not fit, or a target is neither below `vocab` nor [`IGNORE`].
pub fn forward(compute: &Compute, logits: &[f32], targets: &[u32], losses: &mut [f32], log_sums: &mut [f32]) {
    let rows = targets.len();
    let vocab = vocab(logits, targets);
    assert!(losses.len() == rows && log_sums.len() == rows);
    let (losses, log_sums) = (SharedSlice::new(losses), SharedSlice::new(log_sums));
    let each = rows_per_unit(vocab);
    compute.pool.run(rows.div_ceil(each), |unit, _| {
        for row in unit * each..rows.min((unit + 1) * each) {
            // SAFETY: every row belongs to one unit.
            let (loss, log_sum) = unsafe { (losses.range_mut(row, 1), log_sums.range_mut(row, 1)) };
            let logits = &logits[row * vocab..][..vocab];
            log_sum[0] = row_log_sum(compute.isa, logits);
            loss[0] = match targets[row] {
                IGNORE => 0.0,
                target => log_sum[0] - logits[target as usize],
            };
        }
    });
}

/// `dlogits [rows, vocab] = dlosses · (softmax(logits) - [target])`, with `dlosses [rows]`.
///
/// # Panics
/// As [`forward`].
pub fn backward(
    compute: &Compute,
    logits: &[f32],
    targets: &[u32],
    log_sums: &[f32],
    dlosses: &[f32],
    dlogits: &mut [f32],
) {
    let rows = targets.len();
    let vocab = vocab(logits, targets);
    assert!(dlosses.len() == rows && log_sums.len() == rows && dlogits.len() == logits.len());
    let dlogits = SharedSlice::new(dlogits);
    let each = rows_per_unit(vocab);
    compute.pool.run(rows.div_ceil(each), |unit, _| {
        for row in unit * each..rows.min((unit + 1) * each) {
            // SAFETY: every row belongs to one unit.
            let dlogits = unsafe { dlogits.range_mut(row * vocab, vocab) };
            if targets[row] == IGNORE {
                dlogits.fill(0.0);
                continue;
            }
            let logits = &logits[row * vocab..][..vocab];
            scaled_softmax(compute.isa, logits, log_sums[row], dlosses[row], dlogits);
            dlogits[targets[row] as usize] -= dlosses[row];
        }
    });
}

fn vocab(logits: &[f32], targets: &[u32]) -> usize {
    let vocab = logits.len().checked_div(targets.len()).unwrap_or(0);
    assert_eq!(logits.len(), targets.len() * vocab, "cross_entropy: one row of logits per target");
    let wrong = targets.iter().find(|&&target| target != IGNORE && target as usize >= vocab);
    assert!(wrong.is_none(), "cross_entropy: target {wrong:?} of a vocabulary of {vocab}");
    vocab
}

per_isa! {
    pub(super) fn row_log_sum(logits: &[f32]) -> f32 {
        log_sum_exp(logits)
    }
}

per_isa! {
    fn scaled_softmax(logits: &[f32], log_sum: f32, scale: f32, out: &mut [f32]) {
        out.iter_mut().zip(logits).for_each(|(out, logit)| *out = exp(logit - log_sum) * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, dot, finite_differences, noise, on_every_isa, wide};
    use super::*;

    fn reference(logits: &[f64], targets: &[u32]) -> Vec<f64> {
        let row = |(row, &target): (&[f64], &u32)| match target {
            IGNORE => 0.0,
            target => row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[target as usize],
        };
        logits.chunks(logits.len() / targets.len()).zip(targets).map(row).collect()
    }

    #[test]
    fn loss_and_gradient_over_odd_sizes() {
        for (rows, vocab) in [(1, 1), (5, 7), (4, 50)] {
            let logits: Vec<f32> = noise(rows * vocab, 1).iter().map(|x| 5.0 * x).collect();
            let targets: Vec<u32> =
                (0..rows).map(|row| if row == 2 { IGNORE } else { (row * 13 % vocab) as u32 }).collect();
            let dlosses = noise(rows, 2);
            let expected = reference(&wide(&logits), &targets);
            let dexpected =
                finite_differences(&wide(&logits), |logits| dot(&reference(logits, &targets), &dlosses));
            on_every_isa(
                |compute| {
                    let [mut losses, mut log_sums] = [(); 2].map(|()| vec![0.0; rows]);
                    let mut dlogits = vec![f32::NAN; logits.len()];
                    forward(compute, &logits, &targets, &mut losses, &mut log_sums);
                    backward(compute, &logits, &targets, &log_sums, &dlosses, &mut dlogits);
                    vec![losses, dlogits]
                },
                |isa, got| {
                    assert_close(&format!("{isa} loss"), &got[0], &expected, 1e-6);
                    assert_close(&format!("{isa} dlogits"), &got[1], &dexpected, 2e-6);
                },
            );
        }
    }
}
