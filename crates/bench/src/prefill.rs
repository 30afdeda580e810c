//! Prefill: whole prompts into an empty cache, logits of their last tokens.

use std::collections::HashMap;
use std::time::Instant;

use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_kernels::roofline;
use fathom_model::Sequence;

use crate::cost::{PrefillCost, Product};
use crate::report::PrefillResult;
use crate::sequences::Bench;
use crate::{Hooks, Limits, Result, Spread};

/// Measures `batch` prompts of `prompt` tokens side by side. `None` if stopped before the first
/// repeat was over.
pub(crate) fn measure(
    bench: &mut Bench<'_>,
    [prompt, batch]: [usize; 2],
    limits: &Limits,
    times: &mut GemmTimes<'_>,
    hooks: &mut Hooks<'_>,
) -> Result<Option<PrefillResult>> {
    let mut sequences: Vec<Sequence> = (0..batch).map(|_| Sequence::default()).collect();
    let mut seconds = Vec::new();
    // Repeat 0 warms up: memory is touched, threads are awake.
    for repeat in 0..=bench.plan.repeats {
        if (hooks.stop)() {
            break;
        }
        (hooks.note)(&format!("prefill {prompt} × {batch}: repeat {repeat} of {}", bench.plan.repeats));
        let prompts = bench.prompts(batch, prompt);
        let start = Instant::now();
        bench.prefill(&mut sequences, &prompts)?;
        let elapsed = start.elapsed().as_secs_f64().max(1e-9);
        bench.truncate(&mut sequences, 0);
        if repeat > 0 {
            seconds.push(elapsed);
        }
    }
    let Some(seconds) = Spread::of(seconds) else { return Ok(None) };
    let tokens = (prompt * batch) as f64;
    let Some(tokens_per_second) = Spread::of(seconds.samples.iter().map(|s| tokens / s).collect()) else {
        return Ok(None);
    };
    let cost = PrefillCost::of(bench.model.config(), prompt, batch);
    let flops_per_second = cost.flops() / seconds.median;
    let peak = limits.peak(bench.model.format().name());
    let f32_gemm_seconds = times.of_all(&cost.products, hooks);
    Ok(Some(PrefillResult {
        prompt_tokens: prompt,
        batch,
        complete: seconds.samples.len() == bench.plan.repeats,
        tokens_per_second,
        flops_per_token: cost.flops() / tokens,
        flops_per_second,
        multiplier: peak.multiplier,
        share_of_peak: flops_per_second / peak.registers,
        share_of_l2_peak: peak.from_l2.map(|peak| flops_per_second / peak),
        times_f32_gemm: f32_gemm_seconds.map(|gemm| gemm / seconds.median),
        f32_gemm_seconds,
        seconds,
    }))
}

/// How long products take in f32 on this machine; each shape is measured once.
pub(crate) struct GemmTimes<'a> {
    compute: &'a Compute,
    seconds: f64,
    rates: HashMap<[usize; 3], f64>,
}

/// Rows beyond which a product's rate no longer changes.
const ROWS_MAX: usize = 2048;

impl<'a> GemmTimes<'a> {
    /// `seconds` are spent on each shape (three passes at least).
    pub(crate) fn new(compute: &'a Compute, seconds: f64) -> Self {
        Self { compute, seconds, rates: HashMap::new() }
    }

    /// Seconds that all `products` take one after the other, at the median rate of each shape.
    /// `None` if stopped meanwhile.
    fn of_all(&mut self, products: &[Product], hooks: &mut Hooks<'_>) -> Option<f64> {
        let mut seconds = 0.0;
        for product in products {
            let rows = (product.rows.round() as usize).clamp(1, ROWS_MAX);
            let shape = [rows, product.n, product.k];
            if !self.rates.contains_key(&shape) {
                if (hooks.stop)() {
                    return None;
                }
                (hooks.note)(&format!(
                    "f32 products [{rows}, {}] · [{}, {}]ᵀ",
                    product.k, product.n, product.k
                ));
                let rate = roofline::gemm_rate(self.compute, WeightFormat::F32, shape, self.seconds);
                self.rates.insert(shape, rate.median);
            }
            seconds += product.flops() / self.rates[&shape];
        }
        Some(seconds)
    }
}
