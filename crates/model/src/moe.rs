//! Feed-forward layers: SwiGLU, and DeepSeekMoE (V2 §2.2, V3 §2.1.2).
//!
//! Tokens are grouped by expert (no padding, no capacity: nothing is dropped), all experts run in
//! one region for gate and up and one for down, and a token sums its experts' outputs in the order
//! of their ids: who else is in the batch changes the rounding of sums at most.

use fathom_kernels::Compute;
use fathom_kernels::combine::{Choices, sum_experts};
use fathom_kernels::gemm::{
    Activations, Epilogue, Gathered, Group, Output, PackedMatrix, Precisions, Rows, gemm,
};

use crate::observe::{ExpertInputs, Routing};
use crate::weights::{FeedForward, Mlp, Moe};
use crate::workspace::room;

/// Buffers kept from layer to layer and step to step.
#[derive(Debug, Default)]
pub(crate) struct FeedForwardSpace {
    activations: Activations,
    inner: Vec<f32>,
    outputs: Vec<f32>,
    pub(crate) logits: Vec<f32>,
    ids: Vec<u32>,
    weights: Vec<f32>,
    dispatch: Dispatch,
}

impl FeedForwardSpace {
    /// What the last MoE layer decided.
    pub(crate) fn routing(&self) -> Routing<'_> {
        Routing { expert_ids: &self.ids, expert_weights: &self.weights }
    }

    /// What the last pass over `rows` rows gave the SwiGLUs of `ffn`, in their order.
    pub(crate) fn inputs(&self, ffn: &FeedForward, rows: usize) -> Vec<ExpertInputs<'_>> {
        let moe = match ffn {
            FeedForward::Moe(moe) => moe,
            FeedForward::Dense(mlp) => {
                let inner = Rows::dense(&self.inner[..rows * mlp.width], mlp.width);
                return vec![ExpertInputs { rows: None, inner }];
            }
        };
        let parts = moe.experts.iter().zip(self.dispatch.starts.windows(2));
        parts
            .map(|(expert, ends)| {
                let values = &self.inner[ends[0] * moe.width..ends[1] * moe.width];
                let inner = Rows { values, cols: expert.width, stride: moe.width };
                ExpertInputs { rows: Some(&self.dispatch.rows[ends[0]..ends[1]]), inner }
            })
            .collect()
    }
}

impl Mlp {
    /// `x [rows, hidden]` to `out [rows, hidden]`.
    pub(crate) fn forward(
        &self,
        compute: &Compute,
        x: Rows<'_>,
        space: &mut FeedForwardSpace,
        out: &mut [f32],
    ) {
        let (rows, hidden) = (x.rows(), x.cols);
        let inner = room(&mut space.inner, rows * self.width);
        space.activations.prepare(compute, self.gate_up.format(), x);
        let groups = [Group::whole(&self.gate_up, &space.activations)];
        let epilogue = Epilogue::SwiGlu { width: self.width };
        gemm(compute, &space.activations, &groups, epilogue, Output { values: inner, stride: self.width });
        space.activations.prepare(compute, self.down.format(), Rows::dense(inner, self.width));
        let groups = [Group::whole(&self.down, &space.activations)];
        gemm(compute, &space.activations, &groups, Epilogue::Store, Output { values: out, stride: hidden });
    }
}

impl Moe {
    /// `x [rows, hidden]` to `out [rows, hidden]`.
    pub(crate) fn forward(
        &self,
        compute: &Compute,
        x: Rows<'_>,
        space: &mut FeedForwardSpace,
        out: &mut [f32],
    ) {
        let (rows, hidden) = (x.rows(), x.cols);
        self.route(compute, x, space);
        let FeedForwardSpace { activations, inner, outputs, ids, weights, dispatch, .. } = space;
        dispatch.group(ids, rows, self);
        let slots = dispatch.rows.len();
        let width = self.width;
        let precisions = |matrix: fn(&Mlp) -> &PackedMatrix| -> Precisions {
            self.experts.iter().map(|expert| matrix(expert).format()).collect()
        };

        let largest = dispatch.largest();
        let by_expert = Gathered { rows: slots, largest, source_rows: |slot: usize| dispatch.rows[slot] };
        activations.gather(compute, precisions(|expert| &expert.gate_up), x, by_expert);
        let inner = room(inner, slots * width);
        let epilogue = Epilogue::SwiGlu { width };
        let groups = dispatch.groups(|expert| &self.experts[expert].gate_up);
        gemm(compute, activations, &groups, epilogue, Output { values: inner, stride: width });

        let in_place = Gathered { rows: slots, largest, source_rows: |slot| slot };
        self.clear_beyond(&dispatch.starts, inner);
        activations.gather(compute, precisions(|expert| &expert.down), Rows::dense(inner, width), in_place);
        let outputs = room(outputs, slots * hidden);
        let groups = dispatch.groups(|expert| &self.experts[expert].down);
        gemm(compute, activations, &groups, Epilogue::Store, Output { values: outputs, stride: hidden });

        let (weighted, each) = (self.router.top_k, self.router.top_k + self.shared);
        let choices = Choices { slots: &dispatch.slots, each, weights, weighted };
        sum_experts(compute, choices, outputs, hidden, out);
    }

    /// Zeroes behind the outputs of experts that are narrower than others: blocks of weights may reach there.
    fn clear_beyond(&self, starts: &[usize], inner: &mut [f32]) {
        for (expert, ends) in self.experts.iter().zip(starts.windows(2)).filter(|(e, _)| e.width < self.width)
        {
            for row in inner[ends[0] * self.width..ends[1] * self.width].chunks_exact_mut(self.width) {
                row[expert.width..].fill(0.0);
            }
        }
    }

    fn route(&self, compute: &Compute, x: Rows<'_>, space: &mut FeedForwardSpace) {
        let (rows, experts, top_k) = (x.rows(), self.router.experts, self.router.top_k);
        space.activations.prepare(compute, self.gate.format(), x);
        let logits = room(&mut space.logits, rows * experts);
        let groups = [Group::whole(&self.gate, &space.activations)];
        gemm(
            compute,
            &space.activations,
            &groups,
            Epilogue::Store,
            Output { values: logits, stride: experts },
        );
        space.ids.resize(rows * top_k, 0);
        space.weights.resize(rows * top_k, 0.0);
        self.router.route(compute, logits, &self.bias, &mut space.ids, &mut space.weights);
    }
}

/// Slots: one per (token, expert), sorted by expert, tokens in order within an expert.
#[derive(Debug, Default)]
struct Dispatch {
    /// `[slots]`: the token of each slot.
    rows: Vec<usize>,
    /// `[experts + 1]`: where each expert's slots begin.
    starts: Vec<usize>,
    /// `[rows, top_k + shared]`: the slots of each token, in the order of its experts.
    slots: Vec<u32>,
}

impl Dispatch {
    fn group(&mut self, ids: &[u32], rows: usize, moe: &Moe) {
        let (top_k, routed) = (moe.router.top_k, moe.router.experts);
        let each = top_k + moe.shared;
        self.starts.clear();
        self.starts.resize(moe.experts.len() + 1, 0);
        ids.iter().for_each(|&id| self.starts[id as usize + 1] += 1);
        self.starts[routed + 1..].fill(rows);
        for expert in 0..moe.experts.len() {
            self.starts[expert + 1] += self.starts[expert];
        }
        self.rows.resize(rows * each, 0);
        self.slots.resize(rows * each, 0);
        // `starts` serves as the write position of each expert and is set back afterwards.
        for row in 0..rows {
            let routed_ids = ids[row * top_k..][..top_k].iter().map(|&id| id as usize);
            for (choice, expert) in routed_ids.chain(routed..moe.experts.len()).enumerate() {
                let slot = self.starts[expert];
                self.starts[expert] += 1;
                self.rows[slot] = row;
                self.slots[row * each + choice] = slot as u32;
            }
        }
        self.starts.rotate_right(1);
        self.starts[0] = 0;
    }

    /// Slots of the busiest expert.
    fn largest(&self) -> usize {
        self.starts.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0)
    }

    fn groups<'a>(&self, weights: impl Fn(usize) -> &'a PackedMatrix) -> Vec<Group<'a>> {
        let experts = self.starts.windows(2).enumerate().filter(|(_, ends)| ends[0] < ends[1]);
        experts
            .map(|(expert, ends)| Group {
                weights: weights(expert),
                rows: ends[0]..ends[1],
                x_col: 0,
                y_col: 0,
            })
            .collect()
    }
}
