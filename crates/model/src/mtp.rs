//! Multi-token prediction (V3 §2.2): module `k` joins the hidden state of position `i` with the
//! embedding of token `i + k` and predicts token `i + k + 1`.
//!
//! `h' = M_k [norm(Emb(t_{i+k})) ; norm(h_i)]`, one decoder layer, a norm, the main head. `h_i`
//! is the main model's state after its final norm, as transformers, vLLM and DeepSeek's own
//! modelling code feed it; a further module takes the state after this module's norm.

use fathom_kernels::gemm::{Epilogue, Group, Output, Rows, gemm};
use fathom_kernels::rmsnorm::rmsnorm;

use crate::batch::{self, Batch, LogitRows};
use crate::cache::{LatentCache, Sequence};
use crate::transformer::{ForwardOptions, Model};
use crate::weights::MtpModule;
use crate::workspace::{Workspace, room};
use crate::{Error, Result};

/// The next rows of one sequence for an MTP module.
#[derive(Debug)]
pub struct MtpSegment<'a> {
    /// A place in the cache of its own: module rows lag the main model's. Its blocks may be those of the
    /// main model's sequence, since a module is a layer of its own in every block.
    pub sequence: &'a mut Sequence,
    /// `h_i [rows, hidden_size]`.
    pub hidden: &'a [f32],
    /// Tokens `i + k`, one per row.
    pub tokens: &'a [u32],
    /// Which rows get logits.
    pub logits: LogitRows,
}

impl Model {
    /// MTP modules loaded.
    pub fn mtp_modules(&self) -> usize {
        self.weights.mtp.len()
    }

    /// Runs the next rows of some sequences through MTP module `module` (from 0) and returns logits
    /// `[rows asked for, vocab_size]`, in the order of the segments; [`Model::hidden`] then gives the
    /// states of all rows after `shared_head.norm`.
    ///
    /// # Errors
    /// If there is no such module, a segment is empty, a row's token leaves the vocabulary, or the cache
    /// is full.
    ///
    /// # Panics
    /// If a segment's `hidden` is not `[tokens, hidden_size]`.
    pub fn forward_mtp<'w>(
        &self,
        module: usize,
        workspace: &'w mut Workspace,
        cache: &mut LatentCache,
        segments: &mut [MtpSegment<'_>],
        mut options: ForwardOptions<'_>,
    ) -> Result<&'w [f32]> {
        let (config, compute) = (self.config(), self.compute());
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        let available = self.mtp_modules();
        let weights =
            self.weights.mtp.get(module).ok_or(Error::NoSuchMtpModule { wanted: module + 1, available })?;
        for segment in segments.iter_mut() {
            assert_eq!(segment.hidden.len(), segment.tokens.len() * hidden);
            batch::check_tokens(config, segment.tokens, 0)?;
            cache.reserve(segment.sequence, segment.tokens.len())?;
        }
        let rows: usize = segments.iter().map(|segment| segment.tokens.len()).sum();

        self.join(weights, segments, workspace);
        let joined = &workspace.joined[..rows * 2 * hidden];
        let activations = &mut workspace.activations;
        activations.prepare(compute, weights.eh_proj.format(), Rows::dense(joined, 2 * hidden));
        let groups = [Group::whole(&weights.eh_proj, activations)];
        let x = Output { values: room(&mut workspace.x, rows * hidden), stride: hidden };
        gemm(compute, activations, &groups, Epilogue::Store, x);

        {
            let parts = segments.iter().map(|segment| {
                let sequence = &*segment.sequence;
                (sequence.len, segment.tokens.len(), sequence.block_table.as_slice())
            });
            let batch = Batch::new(&self.rope, parts);
            let index = config.num_hidden_layers + module;
            self.layer(index, &weights.layer, &batch, workspace, cache, &mut options);
        }
        for segment in segments.iter_mut() {
            segment.sequence.len += segment.tokens.len();
        }
        workspace.rows = rows;
        let x = Rows::dense(&workspace.x[..rows * hidden], hidden);
        rmsnorm(compute, x, &weights.norm, eps, room(&mut workspace.hidden, rows * hidden));
        let wanted = segments.iter().map(|segment| (segment.tokens.len(), segment.logits));
        Ok(self.head(workspace, &batch::logit_rows(wanted)))
    }

    /// `[norm(Emb(t_{i+k})) ; norm(h_i)]` of every row, in `workspace.joined [rows, 2 · hidden]`.
    fn join(&self, weights: &MtpModule, segments: &[MtpSegment<'_>], workspace: &mut Workspace) {
        let (hidden, eps) = (self.config().hidden_size, self.config().rms_norm_eps);
        let rows: usize = segments.iter().map(|segment| segment.tokens.len()).sum();
        let source = room(&mut workspace.x, rows * hidden);
        let normed = room(&mut workspace.normed, rows * hidden);
        let joined = room(&mut workspace.joined, rows * 2 * hidden);
        for (half, norm) in [(0, &weights.enorm), (1, &weights.hnorm)] {
            let tokens = segments.iter().flat_map(|segment| segment.tokens);
            let states = segments.iter().flat_map(|segment| segment.hidden.chunks_exact(hidden));
            for ((row, &token), state) in source.chunks_exact_mut(hidden).zip(tokens).zip(states) {
                match half {
                    0 => self.weights.embed(token, row),
                    _ => row.copy_from_slice(state),
                }
            }
            rmsnorm(self.compute(), Rows::dense(source, hidden), norm, eps, normed);
            for (joined, normed) in joined.chunks_exact_mut(2 * hidden).zip(normed.chunks_exact(hidden)) {
                joined[half * hidden..][..hidden].copy_from_slice(normed);
            }
        }
    }
}
