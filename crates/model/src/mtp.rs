//! Multi-token prediction (V3 §2.2): module `k` joins the hidden state of position `i` with the
//! embedding of token `i + k` and predicts token `i + k + 1`.
//!
//! `h' = M_k [norm(Emb(t_{i+k})) ; norm(h_i)]`, one decoder layer, a norm, the main head. `h_i`
//! is the main model's state after its final norm, as transformers, vLLM and DeepSeek's own
//! modelling code feed it; a further module takes the state after this module's norm.

use fathom_kernels::gemm::{Epilogue, Group, Output, Rows, gemm};
use fathom_kernels::rmsnorm::rmsnorm;

use crate::batch::Batch;
use crate::cache::{LatentCache, Sequence};
use crate::transformer::{ForwardOptions, Model};
use crate::workspace::{Workspace, room};
use crate::{Error, Result};

/// The next rows of one sequence for an MTP module.
#[derive(Debug)]
pub struct MtpSegment<'a> {
    /// A place in the cache of its own: module rows lag the main model's.
    pub sequence: &'a mut Sequence,
    /// `h_i [rows, hidden_size]`.
    pub hidden: &'a [f32],
    /// Tokens `i + k`, one per row.
    pub tokens: &'a [u32],
}

impl Model {
    /// MTP modules loaded.
    pub fn mtp_modules(&self) -> usize {
        self.weights.mtp.len()
    }

    /// Runs MTP module `module` (from 0) and returns logits for every row
    /// `[rows, vocab_size]`; [`Model::hidden`] then gives the states after `shared_head.norm`.
    ///
    /// # Errors
    /// If there is no such module, a row's token leaves the vocabulary, or the cache is full.
    ///
    /// # Panics
    /// If `hidden` is not `[tokens, hidden_size]`.
    pub fn forward_mtp<'w>(
        &self,
        module: usize,
        workspace: &'w mut Workspace,
        cache: &mut LatentCache,
        segment: MtpSegment<'_>,
        mut options: ForwardOptions<'_>,
    ) -> Result<&'w [f32]> {
        let MtpSegment { sequence, hidden: states, tokens } = segment;
        let (config, compute) = (self.config(), self.compute());
        let (hidden, rows, eps) = (config.hidden_size, tokens.len(), config.rms_norm_eps);
        assert_eq!(states.len(), rows * hidden);
        let available = self.mtp_modules();
        let weights =
            self.weights.mtp.get(module).ok_or(Error::NoSuchMtpModule { wanted: module + 1, available })?;
        let vocab_size = config.vocab_size;
        if let Some((position, &token)) = tokens.iter().enumerate().find(|(_, t)| **t as usize >= vocab_size)
        {
            return Err(Error::TokenOutOfRange { token, position, vocab_size });
        }
        if rows == 0 {
            return Err(Error::NoTokens);
        }
        cache.reserve(sequence, rows)?;

        let normed = room(&mut workspace.normed, rows * hidden);
        let joined = room(&mut workspace.joined, rows * 2 * hidden);
        let embedded = room(&mut workspace.x, rows * hidden);
        for (row, &token) in embedded.chunks_exact_mut(hidden).zip(tokens) {
            self.weights.embed(token, row);
        }
        for (half, source, norm) in [(0, &*embedded, &weights.enorm), (1, states, &weights.hnorm)] {
            rmsnorm(compute, Rows::dense(source, hidden), norm, eps, normed);
            for (joined, normed) in joined.chunks_exact_mut(2 * hidden).zip(normed.chunks_exact(hidden)) {
                joined[half * hidden..][..hidden].copy_from_slice(normed);
            }
        }
        let activations = &mut workspace.activations;
        activations.prepare(compute, weights.eh_proj.format(), Rows::dense(joined, 2 * hidden));
        let groups = [Group::whole(&weights.eh_proj, activations)];
        let x = Output { values: room(&mut workspace.x, rows * hidden), stride: hidden };
        gemm(compute, activations, &groups, Epilogue::Store, x);

        {
            let batch = Batch::new(
                &self.rope,
                std::iter::once((sequence.len, rows, sequence.block_table.as_slice())),
            );
            let index = config.num_hidden_layers + module;
            self.layer(index, &weights.layer, &batch, workspace, cache, &mut options);
        }
        sequence.len += rows;
        workspace.rows = rows;
        let x = Rows::dense(&workspace.x[..rows * hidden], hidden);
        rmsnorm(compute, x, &weights.norm, eps, room(&mut workspace.hidden, rows * hidden));
        Ok(self.head(workspace, &(0..rows).collect::<Vec<_>>()))
    }
}
