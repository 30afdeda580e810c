//! How fast a model runs, against what the machine allows.
//!
//! [`run`] takes a loaded model and a [`Plan`] (prompt lengths, contexts, batch sizes, repeats) and
//! returns a [`Report`]: tokens per second of prefill and decode as median, minimum and maximum of
//! the repeats, and what these speeds mean: bytes a decode step reads over the bandwidth this
//! machine showed minutes before and after, operations of a prefill over the rate of its
//! multiplier, and over the time plain f32 products of the same shapes take here. Figures of
//! different days or machines do not compare; the fractions nearly do.
//!
//! `plan.rs` is what to measure, `limits.rs` the machine, `cost.rs` the bytes and operations of a
//! step counted from the configuration, `sequences.rs` the random tokens that are run, `prefill.rs`
//! and `decode.rs` the two measurements, `report.rs` the results, `table.rs` how people read them.
//!
//! **Invariant:** counting never depends on a clock: everything but the seconds is the same in
//! every run of the same plan.
//!
//! **Invariant:** every result is kept with its raw samples, and one with fewer than were asked
//! for says so.
#![forbid(unsafe_code)]

mod cost;
mod decode;
mod error;
mod limits;
mod plan;
mod prefill;
mod report;
mod sequences;
mod spread;
mod table;

pub use cost::{DecodeCost, PrefillCost, Product};
pub use error::{Error, Result};
pub use limits::{Effort, Limits, Measured, Peak, available_memory};
pub use plan::{Counts, Plan};
pub use report::{DecodeResult, ModelFacts, PrefillResult, Report};
pub use spread::Spread;

use fathom_model::Model;

use prefill::GemmTimes;
use sequences::Bench;

/// What the measurement tells, and asks, the world on its way.
pub struct Hooks<'a> {
    /// Told what is being measured.
    pub note: &'a mut dyn FnMut(&str),
    /// Asked between steps whether to end with what there is.
    pub stop: &'a dyn Fn() -> bool,
}

/// Measures all of `plan`: the machine, prefills, decodes, the machine again.
///
/// # Errors
/// If the plan does not fit the model or the memory: [`Plan::check`], [`Plan::check_memory`].
pub fn run(model: &Model, plan: &Plan, effort: Effort, mut hooks: Hooks<'_>) -> Result<Report> {
    plan.check(model.config())?;
    // Where the system does not tell, everything may fit.
    let available = available_memory().unwrap_or(u64::MAX);
    plan.check_memory(model.config(), model.cache_format(), available)?;
    (hooks.note)("the machine's limits");
    let mut limits = Limits::measure(model.compute(), effort);
    let mut bench = Bench::new(model, plan)?;
    let mut times = GemmTimes::new(model.compute(), effort.seconds / 5.0);

    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for (prompt, batch) in plan.prefills() {
        prefill.extend(prefill::measure(&mut bench, [prompt, batch], &limits, &mut times, &mut hooks)?);
    }
    for batch in plan.decode_batches() {
        decode.extend(decode::measure(&mut bench, batch, &mut hooks)?);
    }
    if !(hooks.stop)() {
        (hooks.note)("the memory bandwidth again");
        limits.read_again(model.compute(), effort);
    }
    let facts = ModelFacts::of(model);
    for result in &mut decode {
        result.compare(&limits);
        if let Some(layers) = plan.of_layers {
            result.extrapolate(&facts, layers);
        }
    }
    let complete = !(hooks.stop)()
        && prefill.len() == plan.prefills().len()
        && decode.len() == plan.decode_batches().len() * plan.contexts.len();
    Ok(Report {
        complete: complete && prefill.iter().all(|r| r.complete) && decode.iter().all(|r| r.complete),
        model: facts,
        plan: plan.clone(),
        limits,
        prefill,
        decode,
    })
}
