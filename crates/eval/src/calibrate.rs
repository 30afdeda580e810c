//! Which columns of a model's matrices a text exercises.

use std::ops::ControlFlow;

use fathom_model::{
    ForwardOptions, Importance, LogitRows, Model, Observed, Recorder, Segment, Sequence, Workspace,
};

use crate::document::{Document, Fed};
use crate::error::Result;
use crate::perplexity::Windowing;
use crate::windows::windows;

/// Rows per forward pass.
const ROWS: usize = 512;

/// Runs `model` over `document` in windows of `window` tokens that do not overlap, and gathers the mean square of
/// what each column of each matrix is multiplied with. `on_progress` is told of tokens run so far and in all.
/// `None` if it asked to stop.
///
/// # Errors
/// Those of [`Windowing::check`]; the model's.
pub fn calibrate(
    model: &Model,
    document: &Document,
    window: usize,
    on_progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Importance>> {
    Windowing { window, stride: window }.check(model.config(), document)?;
    let mut recorder = Recorder::new(model.config());
    let mut workspace = Workspace::default();
    let mut cache = model.new_cache(window.min(document.tokens.len() + 1))?;
    let (total, mut done) = (document.tokens.len(), 0);
    for window in windows(document.tokens.len(), document.bos.is_some(), window, window) {
        let Fed { inputs, .. } = document.fed(&window);
        let mut sequence = Sequence::default();
        for tokens in inputs.chunks(ROWS) {
            let mut observer = |observed: Observed<'_>| recorder.observe(observed);
            let options = ForwardOptions { observer: Some(&mut observer), ..ForwardOptions::default() };
            let segment = Segment { sequence: &mut sequence, tokens, logits: LogitRows::None };
            model.forward(&mut workspace, &mut cache, &mut [segment], options)?;
            recorder.observe_head(model.hidden(&workspace));
            done += tokens.len();
            if on_progress(done.min(total), total).is_break() {
                return Ok(None);
            }
        }
        cache.release(sequence);
    }
    Ok(Some(recorder.finish()))
}
