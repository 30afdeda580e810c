//! The terms that keep experts, devices and nodes busy (V2 §2.2.3 eq. 23–31; V3 §2.1.2 eq. 17–20).

use fathom_kernels::router::{Router, Scoring};
use fathom_tensor::Var;
use fathom_tensor::ops::router::Routed;

/// Factors of the terms; 0 leaves one out. Devices are the groups of the configuration (`n_group`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balance {
    /// V2's α1: over the whole batch, by expert.
    pub expert: f32,
    /// V2's α2: by device.
    pub device: f32,
    /// V2's α3: what is sent to devices.
    pub communication: f32,
    /// V3's α: by expert within each sequence.
    pub sequence: f32,
}

impl Balance {
    /// No term.
    pub const NONE: Self = Self { expert: 0.0, device: 0.0, communication: 0.0, sequence: 0.0 };

    /// The sum of the terms of one layer, a single number; `None` if there is none. Rows of `routed` are sequences of
    /// `seq` tokens.
    pub(super) fn term(&self, router: &Router, routed: &Routed, seq: usize) -> Option<Var> {
        let tokens = routed.ids.values().len() / router.top_k;
        let mut terms = Vec::new();
        if self.expert != 0.0 {
            terms.push(Self::per_expert(router, routed, tokens).scale(self.expert));
        }
        if self.device != 0.0 {
            terms.push(Self::per_device(router, routed, false).scale(self.device));
        }
        if self.communication != 0.0 {
            terms.push(Self::per_device(router, routed, true).scale(self.communication));
        }
        if self.sequence != 0.0 {
            terms.push(Self::per_expert(router, routed, seq).scale(self.sequence));
        }
        terms.into_iter().reduce(|sum, term| sum.add(&term))
    }

    /// `Σ f_i · P_i` within each span of `span` tokens, averaged over the spans: `f_i = experts / (top_k · span) · count_i`,
    /// `P_i` the mean affinity, normalised over the experts where affinities are sigmoids (V3 eq. 19).
    fn per_expert(router: &Router, routed: &Routed, span: usize) -> Var {
        let (experts, spans) = (router.experts, routed.ids.values().len() / router.top_k / span);
        let mut frequencies = vec![0.0f32; spans * experts];
        let share = experts as f32 / (router.top_k * span) as f32;
        for (choice, &id) in routed.ids.values().iter().enumerate() {
            frequencies[choice / router.top_k / span * experts + id as usize] += share;
        }
        let frequencies = routed.scores.context().tensor([spans, experts], &frequencies);
        let means = normalised(router, routed).reshape([spans, span, experts]).mean(1);
        let tape = routed.scores.tape();
        means.mul(&tape.constant(frequencies)).sum_all().scale(1.0 / spans as f32)
    }

    /// `Σ f'_d · P'_d` (eq. 26–28) or, of what is sent, `Σ f''_d · P''_d` (eq. 29–31).
    fn per_device(router: &Router, routed: &Routed, sent: bool) -> Var {
        let (devices, size) = (router.groups, router.experts / router.groups);
        let tokens = routed.ids.values().len() / router.top_k;
        let mut frequencies = vec![0.0f32; devices];
        for ids in routed.ids.values().chunks_exact(router.top_k) {
            let mut before = None;
            for &id in ids {
                let device = id as usize / size;
                if !sent {
                    // The mean of f_i over the device's experts.
                    let share = router.experts as f32 / (router.top_k * tokens) as f32;
                    frequencies[device] += share / size as f32;
                } else if before != Some(device) {
                    // Ids ascend: a device's experts stand together.
                    frequencies[device] += devices as f32 / (router.top_groups * tokens) as f32;
                    before = Some(device);
                }
            }
        }
        let frequencies = routed.scores.context().tensor([devices], &frequencies);
        let sums = normalised(router, routed).mean(0).reshape([devices, size]).sum(1);
        sums.mul(&routed.scores.tape().constant(frequencies)).sum_all()
    }
}

/// Affinities `[tokens, experts]` that sum to 1 over the experts.
fn normalised(router: &Router, routed: &Routed) -> Var {
    match router.scoring {
        Scoring::Softmax => routed.scores.clone(),
        Scoring::Sigmoid => {
            let (tokens, _) = routed.scores.value().rows();
            routed.scores.div(&routed.scores.sum(1).reshape([tokens, 1]).add_number(1e-20))
        }
    }
}
