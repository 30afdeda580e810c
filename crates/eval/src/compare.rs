//! Two models on one text, side by side.

use std::ops::ControlFlow;

use fathom_model::{
    Config, ForwardOptions, LatentCache, LogitRows, Model, Observed, Segment, Sequence, Workspace,
};

use crate::document::{Document, Fed};
use crate::error::Result;
use crate::kl::{Divergence, LayerErrors};
use crate::perplexity::{Windowing, rows_per_pass};
use crate::windows::windows;

/// Numbers of hidden states of all layers that are held at a time: 128 MB.
const STATES_MAX: usize = 1 << 25;

/// What two models made of a text.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Of their predictions, at every token that is scored.
    pub divergence: Divergence,
    /// Of their hidden states, at every token that is fed.
    pub layers: LayerErrors,
    /// Whether the whole text was run; not if the caller cancelled.
    pub complete: bool,
}

/// Runs `source` and `result`, models of one architecture and vocabulary, over `document`, which is cut as
/// [`perplexity`](crate::perplexity) cuts it. Both are in memory together. `on_progress` is told of tokens scored
/// so far and in all.
///
/// # Errors
/// Those of [`Windowing::check`]; the models'; logits that are not finite.
///
/// # Panics
/// If the models have vocabularies of different sizes.
pub fn compare(
    source: &Model,
    result: &Model,
    document: &Document,
    windowing: Windowing,
    on_progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Comparison> {
    windowing.check(source.config(), document)?;
    let total = document.tokens.len() - usize::from(document.bos.is_none());
    let room = windowing.window.min(document.tokens.len() + 1);
    let mut sides = [Side::new(source, room)?, Side::new(result, room)?];
    let mut comparison = Comparison::default();
    let rows = rows_of(source.config());
    for window in windows(document.tokens.len(), document.bos.is_some(), windowing.window, windowing.stride) {
        let Fed { inputs, targets, context_only } = document.fed(&window);
        for start in (0..inputs.len()).step_by(rows) {
            let end = inputs.len().min(start + rows);
            let [source, result] = &mut sides;
            source.run(&inputs[start..end])?;
            result.run(&inputs[start..end])?;
            for (layer, (x, y)) in source.states.iter().zip(&result.states).enumerate() {
                comparison.layers.add(layer, x, y);
            }
            let skipped = context_only.saturating_sub(start).min(end - start);
            let pairs = source.logit_rows().zip(result.logit_rows());
            for ((x, y), &target) in pairs.zip(&targets[start..end]).skip(skipped) {
                comparison.divergence.add(x, y, target)?;
            }
            if on_progress(comparison.divergence.tokens(), total).is_break() {
                return Ok(comparison);
            }
        }
        sides.iter_mut().for_each(Side::next_window);
    }
    Ok(Comparison { complete: true, ..comparison })
}

fn rows_of(config: &Config) -> usize {
    let states = STATES_MAX / (2 * config.num_hidden_layers * config.hidden_size).max(1);
    rows_per_pass(config).min(states).max(1)
}

/// One of the two.
struct Side<'a> {
    model: &'a Model,
    workspace: Workspace,
    cache: LatentCache,
    sequence: Sequence,
    /// After each layer, of the last rows.
    states: Vec<Vec<f32>>,
    logits: Vec<f32>,
}

impl<'a> Side<'a> {
    fn new(model: &'a Model, room: usize) -> Result<Self> {
        Ok(Self {
            model,
            workspace: Workspace::default(),
            cache: model.new_cache(room)?,
            sequence: Sequence::default(),
            states: vec![Vec::new(); model.config().num_hidden_layers],
            logits: Vec::new(),
        })
    }

    fn run(&mut self, tokens: &[u32]) -> Result<()> {
        let states = &mut self.states;
        let mut observer = |observed: Observed<'_>| {
            if let Observed::Hidden { layer, values } = observed {
                states[layer].clear();
                states[layer].extend_from_slice(values);
            }
        };
        let options = ForwardOptions { observer: Some(&mut observer), ..ForwardOptions::default() };
        let segment = Segment { sequence: &mut self.sequence, tokens, logits: LogitRows::All };
        let logits = self.model.forward(&mut self.workspace, &mut self.cache, &mut [segment], options)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        Ok(())
    }

    fn logit_rows(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks_exact(self.model.config().vocab_size)
    }

    fn next_window(&mut self) {
        self.cache.release(std::mem::take(&mut self.sequence));
    }
}
