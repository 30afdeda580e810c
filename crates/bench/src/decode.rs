//! Decode: one token per sequence and step, behind a context.

use std::time::Instant;

use fathom_model::{Config, Observed, Sequence};

use crate::cost::DecodeCost;
use crate::report::DecodeResult;
use crate::sequences::Bench;
use crate::{Hooks, Result, Spread};

/// Steps that warm up.
const WARM_UP: usize = 4;

/// Measures a batch size in every context of the plan. The contexts rise, so that each is filled
/// from the one before it.
pub(crate) fn measure(
    bench: &mut Bench<'_>,
    batch: usize,
    hooks: &mut Hooks<'_>,
) -> Result<Vec<DecodeResult>> {
    let mut sequences: Vec<Sequence> = (0..batch).map(|_| Sequence::default()).collect();
    let (mut results, mut filled) = (Vec::new(), 0);
    for context in bench.plan.contexts.iter() {
        if (hooks.stop)() {
            break;
        }
        (hooks.note)(&format!("decode after {context} × {batch}: filling the cache"));
        let prompts = bench.prompts(batch, context - filled);
        bench.prefill(&mut sequences, &prompts)?;
        filled = context;
        results.extend(at_context(bench, &mut sequences, hooks)?);
    }
    bench.truncate(&mut sequences, 0);
    Ok(results)
}

/// `None` if stopped before the first repeat was over.
fn at_context(
    bench: &mut Bench<'_>,
    sequences: &mut [Sequence],
    hooks: &mut Hooks<'_>,
) -> Result<Option<DecodeResult>> {
    let (plan, batch) = (bench.plan, sequences.len());
    let context = sequences.first().map_or(0, Sequence::len);
    let mut seconds = Vec::new();
    let mut experts = DistinctExperts::new(bench.model.config());
    for repeat in 0..=plan.repeats {
        let steps = if repeat == 0 { WARM_UP.min(plan.decode_tokens) } else { plan.decode_tokens };
        (hooks.note)(&format!("decode after {context} × {batch}: repeat {repeat} of {}", plan.repeats));
        let prompts = bench.prompts(batch, steps);
        let mut seen = DistinctExperts::new(bench.model.config());
        let start = Instant::now();
        let mut done = 0;
        while done < steps && !(hooks.stop)() {
            bench.step(sequences, &prompts, done, &mut |observed| seen.observe(observed))?;
            done += 1;
        }
        let elapsed = start.elapsed().as_secs_f64().max(1e-9);
        bench.truncate(sequences, context);
        if done < steps {
            break;
        }
        if repeat > 0 {
            seconds.push(elapsed);
            experts.total += seen.total;
        }
    }
    let steps = plan.decode_tokens as f64;
    let rates = seconds.iter().map(|seconds| batch as f64 * steps / seconds).collect();
    let (Some(seconds), Some(tokens_per_second)) = (Spread::of(seconds), Spread::of(rates)) else {
        return Ok(None);
    };
    let distinct = experts.total as f64 / (steps * seconds.samples.len() as f64);
    // Each new token is cached, then seen by its own query.
    let visible = context as f64 + (steps + 1.0) / 2.0;
    let step_bytes = DecodeCost::of(bench.model).step_bytes(distinct, batch as f64 * visible);
    Ok(Some(DecodeResult {
        context,
        batch,
        complete: seconds.samples.len() == plan.repeats,
        sequence_tokens_per_second: tokens_per_second.median / batch as f64,
        tokens_per_second,
        experts_per_step: distinct,
        bytes_per_step: step_bytes,
        bytes_per_token: step_bytes / batch as f64,
        bytes_per_second: step_bytes * steps / seconds.median,
        tokens_per_second_of_layers: None,
        share_of_bandwidth: 0.0,
        seconds,
    }))
}

/// Counts the different experts of each layer and step.
struct DistinctExperts {
    total: u64,
    used: Vec<bool>,
}

impl DistinctExperts {
    fn new(config: &Config) -> Self {
        Self { total: 0, used: vec![false; config.n_routed_experts] }
    }

    fn observe(&mut self, observed: Observed<'_>) {
        if let Observed::Routed { routing, .. } = observed {
            self.count(routing.expert_ids);
        }
    }

    /// The choices of all rows in one layer.
    fn count(&mut self, ids: &[u32]) {
        self.used.fill(false);
        for &id in ids {
            self.total += u64::from(!std::mem::replace(&mut self.used[id as usize], true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_count_once_per_layer_and_step() {
        let mut experts = DistinctExperts { total: 0, used: vec![false; 8] };
        experts.count(&[0, 3, 3, 7, 0, 7]);
        assert_eq!(experts.total, 3);
        experts.count(&[3]);
        assert_eq!(experts.total, 4, "another layer's expert 3 is another expert");
        experts.count(&[]);
        assert_eq!(experts.total, 4);
    }
}
