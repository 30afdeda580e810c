//! Multi-token prediction (V3 §2.2, eq. 21–25).

use std::rc::Rc;

use fathom_checkpoint::names;
use fathom_tensor::{Ids, Parameter, Tape, Var};

use super::feed_forward::FeedForward;
use super::parameters::{Linear, Origin, Store};
use super::{Aside, Batch, DifferentiableModel, Layer, Pass, mean_over};
use crate::{Config, Result};

/// One module: it predicts one token further than the one before it.
#[derive(Debug)]
pub(super) struct MtpLayer {
    enorm: Parameter,
    hnorm: Parameter,
    eh_proj: Linear,
    layer: Rc<Layer>,
    shared_head_norm: Parameter,
    eps: f32,
}

impl MtpLayer {
    pub(super) fn build(
        config: &Config,
        store: &mut Store,
        origin: &Origin<'_>,
        layer: usize,
    ) -> Result<Self> {
        let names = names::Layer(layer);
        Ok(Self {
            layer: Rc::new(Layer::build(config, store, origin, layer)?),
            enorm: store.parameter(origin, &names.enorm())?,
            hnorm: store.parameter(origin, &names.hnorm())?,
            eh_proj: store.linear(origin, &names.eh_proj(), false)?,
            shared_head_norm: store.parameter(origin, &names.shared_head_norm())?,
            eps: config.rms_norm_eps,
        })
    }

    pub(super) fn feed_forward(&self) -> &FeedForward {
        &self.layer.feed_forward
    }

    /// Hidden states after `shared_head.norm` from those of the module before and the embeddings of the tokens ahead.
    fn forward(&self, tape: &Tape, pass: &Pass, hidden: &Var, embedded: &Var) -> (Var, Aside) {
        let embedded = embedded.rms_norm(&tape.parameter(&self.enorm), self.eps);
        let hidden = hidden.rms_norm(&tape.parameter(&self.hnorm), self.eps);
        let joined = self.eh_proj.forward(tape, &Var::concat(&[&embedded, &hidden], 1));
        let (hidden, aside) = self.layer.forward(tape, pass, &joined);
        (hidden.rms_norm(&tape.parameter(&self.shared_head_norm), self.eps), aside)
    }
}

impl DifferentiableModel {
    /// The mean loss of every module. Module `k` (from 1) sees token `i + k` beside state `i` and predicts token
    /// `i + k + 1`; the last `k` positions of a sequence, whose targets are not in the batch, do not count.
    pub(super) fn mtp_losses(
        &self,
        tape: &Tape,
        pass: &Pass,
        batch: &Batch,
        hidden: &Var,
        asides: &mut Vec<Aside>,
    ) -> Vec<Var> {
        let (embedding, head) = (tape.parameter(&self.embedding), tape.parameter(&self.head));
        let (mut hidden, count) = (hidden.clone(), batch.batch * batch.seq);
        let mut losses = Vec::new();
        for (module, weights) in self.mtp.iter().enumerate() {
            let ahead = |place: usize, by: usize| {
                let (row, position) = (place / batch.seq, place % batch.seq);
                batch.tokens[row * (batch.seq + 1) + (position + by).min(batch.seq)]
            };
            let next: Vec<u32> = (0..count).map(|place| ahead(place, module + 1)).collect();
            let targets: Vec<u32> = (0..count).map(|place| ahead(place, module + 2)).collect();
            let learn: Vec<bool> = (0..count).map(|place| batch.predicts(place, module + 1)).collect();
            let embedded = embedding.gather_rows(&Ids::new([count], next));
            let (states, aside) = weights.forward(tape, pass, &hidden, &embedded);
            let coefficients = mean_over(Some(&learn), count);
            losses.push(states.head_cross_entropy(&head, &Ids::new([count], targets), &coefficients).loss);
            asides.push(aside);
            hidden = states;
        }
        losses
    }
}

impl Batch {
    /// Whether the target `by` tokens beyond the ordinary one of position `place` is in the sequence, in the same document,
    /// and counts.
    fn predicts(&self, place: usize, by: usize) -> bool {
        if place % self.seq + by >= self.seq {
            return false;
        }
        let document = self.documents.as_ref().is_none_or(|first| first[place] == first[place + by]);
        document && self.learn.as_ref().is_none_or(|learn| learn[place + by])
    }
}
