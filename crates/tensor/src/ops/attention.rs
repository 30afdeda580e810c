//! Causal attention over whole sequences: MLA in MHA mode (V2 §2.1, eq. 46), and MHA, GQA and MQA.
//!
//! Keys and values are read where the projections left them: a key is the part of its head, followed in MLA by the
//! rotary part that all heads share.

use crate::{Context, Ids, Tensor, Var};

/// Sizes of one layer's attention.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    /// Tokens of a sequence.
    pub seq: usize,
    /// `num_attention_heads`.
    pub heads: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// `[batch, seq]`: the place in its sequence of the first token that each token sees, which is that of its
    /// document; `None` shows it all before it.
    pub documents: Option<Ids>,
}

impl Var {
    /// MLA: queries `self [.., heads · (nope + rope)]`, `keys_values [.., heads · (nope + value)]` as `kv_b_proj` gives
    /// them, the shared rotary key `k_rope [.., rope]`; result `[.., heads · value]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn latent_attention(&self, keys_values: &Var, k_rope: &Var, shape: &AttentionShape) -> Var {
        let heads = shape.heads;
        let [query, expanded, rope] = [self, keys_values, k_rope].map(|var| var.value().rows().1);
        let nope = (query / heads).checked_sub(rope).expect("queries end in a rotary part");
        let value = (expanded / heads).checked_sub(nope).expect("keys and values of every head");
        assert!(
            query == heads * (nope + rope) && expanded == heads * (nope + value),
            "attention of {self:?}"
        );
        let form = Form { nope, rope, value, kv_heads: heads };
        let saved = Saved {
            shape: shape.clone(),
            form,
            q: self.value().clone(),
            k: keys_values.value().clone(),
            v: None,
            rope: Some(k_rope.value().clone()),
        };
        saved.record(self, &[keys_values, k_rope])
    }

    /// MHA, GQA and MQA: queries `self [.., heads · width]`, `keys [.., kv_heads · width]`,
    /// `values [.., kv_heads · value]`; query head `h` reads key head `h · kv_heads / heads`. Result
    /// `[.., heads · value]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn grouped_attention(
        &self,
        keys: &Var,
        values: &Var,
        kv_heads: usize,
        shape: &AttentionShape,
    ) -> Var {
        let [query, key, value] = [self, keys, values].map(|var| var.value().rows().1);
        let nope = query / shape.heads;
        assert!(
            query == shape.heads * nope
                && key == kv_heads * nope
                && value.is_multiple_of(kv_heads)
                && shape.heads.is_multiple_of(kv_heads),
            "attention of {self:?} in {} heads over {keys:?} and {values:?} in {kv_heads}",
            shape.heads
        );
        let form = Form { nope, rope: 0, value: value / kv_heads, kv_heads };
        let saved = Saved {
            shape: shape.clone(),
            form,
            q: self.value().clone(),
            k: keys.value().clone(),
            v: Some(values.value().clone()),
            rope: None,
        };
        saved.record(self, &[keys, values])
    }
}

#[derive(Clone, Copy)]
struct Form {
    nope: usize,
    rope: usize,
    value: usize,
    kv_heads: usize,
}

struct Saved {
    shape: AttentionShape,
    form: Form,
    q: Tensor,
    k: Tensor,
    /// `None`: behind the keys of `k`.
    v: Option<Tensor>,
    rope: Option<Tensor>,
}

impl Saved {
    fn record(self, q: &Var, others: &[&Var; 2]) -> Var {
        let context = q.context().clone();
        let (tokens, _) = q.value().rows();
        assert!(tokens.is_multiple_of(self.shape.seq.max(1)), "attention of {q:?}");
        let mut shape = q.shape().to_vec();
        *shape.last_mut().expect("a width") = self.shape.heads * self.form.value;
        let out = context.build(shape, |out| self.operands().forward(&context, out));
        let (q_slot, slots) = (q.slot(), others.map(Var::slot));
        q.tape().record(out, &[q, others[0], others[1]], move |dout, gradients| {
            let context = gradients.context().clone();
            let [dq, first, second] = self.operands().backward(&context, &dout);
            gradients.add(&q_slot, dq);
            for (slot, gradient) in slots.iter().zip([first, second]) {
                gradients.add(slot, gradient);
            }
        })
    }

    fn operands(&self) -> Operands<'_> {
        Operands {
            seq: self.shape.seq,
            heads: self.shape.heads,
            scale: self.shape.scale,
            documents: self.shape.documents.as_ref().map(Ids::values),
            form: self.form,
            q: self.q.values(),
            k: self.k.values(),
            v: self.v.as_ref().map(Tensor::values),
            rope: self.rope.as_ref().map(Tensor::values),
        }
    }
}

/// What a pass reads; `v` and `rope` as in [`Saved`].
#[derive(Clone, Copy)]
struct Operands<'a> {
    seq: usize,
    heads: usize,
    scale: f32,
    documents: Option<&'a [u32]>,
    form: Form,
    q: &'a [f32],
    k: &'a [f32],
    v: Option<&'a [f32]>,
    rope: Option<&'a [f32]>,
}

impl Operands<'_> {
    fn first_visible(&self, token: usize) -> usize {
        token / self.seq * self.seq + self.documents.map_or(0, |first| first[token] as usize)
    }

    fn query(&self, token: usize, head: usize) -> &[f32] {
        let width = self.form.nope + self.form.rope;
        &self.q[(token * self.heads + head) * width..][..width]
    }

    fn kv_head(&self, head: usize) -> usize {
        head * self.form.kv_heads / self.heads
    }

    fn key_at(&self, token: usize, head: usize) -> usize {
        let width = self.form.nope + if self.v.is_none() { self.form.value } else { 0 };
        (token * self.form.kv_heads + self.kv_head(head)) * width
    }

    fn value_at(&self, token: usize, head: usize) -> usize {
        match self.v {
            None => self.key_at(token, head) + self.form.nope,
            Some(_) => (token * self.form.kv_heads + self.kv_head(head)) * self.form.value,
        }
    }

    fn value(&self, token: usize, head: usize) -> &[f32] {
        &self.v.unwrap_or(self.k)[self.value_at(token, head)..][..self.form.value]
    }

    fn probabilities(&self, token: usize, head: usize) -> Vec<f32> {
        let (q_nope, q_rope) = self.query(token, head).split_at(self.form.nope);
        let mut scores: Vec<f32> = (self.first_visible(token)..=token)
            .map(|key| {
                let rope = self
                    .rope
                    .map_or(0.0, |rope| dot(q_rope, &rope[key * self.form.rope..][..self.form.rope]));
                let nope = &self.k[self.key_at(key, head)..][..self.form.nope];
                (dot(q_nope, nope) + rope) * self.scale
            })
            .collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
        let sum: f32 = scores.iter().sum();
        scores.iter_mut().for_each(|score| *score /= sum);
        scores
    }

    fn forward(&self, context: &Context, out: &mut [f32]) {
        let (heads, value) = (self.heads, self.form.value);
        context.compute().for_pieces(out, value.max(1), |unit, out| {
            let (token, head) = (unit / heads, unit % heads);
            out.fill(0.0);
            for (key, p) in (self.first_visible(token)..).zip(self.probabilities(token, head)) {
                add_scaled(out, self.value(key, head), p);
            }
        });
    }

    fn backward(&self, context: &Context, dout: &Tensor) -> [Tensor; 3] {
        let Form { nope, rope, value, .. } = self.form;
        let (heads, scale) = (self.heads, self.scale);
        let (mut dq, mut dk) = (vec![0.0; self.q.len()], vec![0.0; self.k.len()]);
        let mut dv = vec![0.0; self.v.map_or(0, <[f32]>::len)];
        let mut drope = vec![0.0; self.rope.map_or(0, <[f32]>::len)];
        for unit in 0..dout.elements() / value.max(1) {
            let (token, head) = (unit / heads, unit % heads);
            let (first, dout) = (self.first_visible(token), &dout.values()[unit * value..][..value]);
            let probabilities = self.probabilities(token, head);
            let dp: Vec<f32> = (first..=token).map(|key| dot(dout, self.value(key, head))).collect();
            let mean = dot(&dp, &probabilities);
            let q = self.query(token, head);
            let dq = &mut dq[unit * (nope + rope)..][..nope + rope];
            for ((key, p), dp) in (first..).zip(&probabilities).zip(&dp) {
                let ds = p * (dp - mean) * scale;
                let (key_at, value_at) = (self.key_at(key, head), self.value_at(key, head));
                add_scaled(&mut dq[..nope], &self.k[key_at..][..nope], ds);
                add_scaled(&mut dk[key_at..][..nope], &q[..nope], ds);
                let dv = if self.v.is_some() { &mut dv } else { &mut dk };
                add_scaled(&mut dv[value_at..][..value], dout, *p);
                if let Some(shared) = self.rope {
                    add_scaled(&mut dq[nope..], &shared[key * rope..][..rope], ds);
                    add_scaled(&mut drope[key * rope..][..rope], &q[nope..], ds);
                }
            }
        }
        let second = if self.v.is_some() { dv } else { drope };
        [dq, dk, second].map(|gradient| context.tensor([gradient.len()], &gradient))
    }
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn add_scaled(sum: &mut [f32], x: &[f32], factor: f32) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}

#[cfg(test)]
mod tests {
    use super::AttentionShape;
    use crate::Ids;
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_latent_attention() {
        let (batch, seq, heads, nope, rope, value) = (2, 4, 2, 3, 2, 5);
        for documents in [None, Some(Ids::new([batch, seq], vec![0, 0, 2, 2, 0, 1, 1, 1]))] {
            let shape = AttentionShape { seq, heads, scale: 0.6, documents };
            let shapes: [&[usize]; 3] = [
                &[batch, seq, heads * (nope + rope)],
                &[batch, seq, heads * (nope + value)],
                &[batch, seq, rope],
            ];
            check_gradients(&shapes, |vars| vars[0].latent_attention(&vars[1], &vars[2], &shape));
        }
    }

    #[test]
    fn gradients_of_grouped_attention() {
        let (seq, heads, width) = (4, 4, 3);
        for (kv_heads, documents) in [(4, None), (2, Some(Ids::new([1, seq], vec![0, 0, 2, 2]))), (1, None)] {
            let shape = AttentionShape { seq, heads, scale: 0.7, documents };
            let shapes: [&[usize]; 3] =
                [&[1, seq, heads * width], &[1, seq, kv_heads * width], &[1, seq, kv_heads * width]];
            check_gradients(&shapes, |vars| vars[0].grouped_attention(&vars[1], &vars[2], kv_heads, &shape));
        }
    }
}
