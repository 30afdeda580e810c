//! Causal attention over whole sequences: MLA in MHA mode (V2 §2.1, eq. 46), and MHA, GQA and MQA.
//!
//! Keys and values are read where the projections left them: a key is the part of its head, followed in MLA by the
//! rotary part that all heads share.

use fathom_kernels::attention_training::{
    Attention, Gradients, Keys, KeysGradient, Saved as Results, Shape, backward, forward,
};

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
        let mut lse = context.build([tokens * self.shape.heads], |_| {});
        let out = context.build(shape, |out| {
            let lse = lse.values_mut().expect("a new buffer");
            forward(context.compute(), &self.attention(&context), out, lse);
        });
        let (q_slot, slots, result) = (q.slot(), others.map(Var::slot), out.clone());
        q.tape().record(out, &[q, others[0], others[1]], move |dout, gradients| {
            let context = gradients.context().clone();
            let [dq, first, second] = self.backward(&context, [&result, &lse, &dout]);
            gradients.add(&q_slot, dq);
            for (slot, gradient) in slots.iter().zip([first, second]) {
                gradients.add(slot, gradient);
            }
        })
    }

    fn attention<'a>(&'a self, context: &Context) -> Attention<'a> {
        let Form { nope, rope, value, kv_heads } = self.form;
        let (seq, heads) = (self.shape.seq, self.shape.heads);
        let batch = self.q.rows().0 / seq.max(1);
        let k = self.k.values();
        Attention {
            shape: Shape { batch, seq, heads, kv_heads, nope, rope, value },
            q: self.q.values(),
            keys: match (&self.rope, &self.v) {
                (Some(rope), _) => Keys::Latent { kv: k, rope: rope.values() },
                (None, Some(v)) => Keys::Separate { k, v: v.values() },
                (None, None) => unreachable!("keys without shared part have values of their own"),
            },
            document: self.shape.documents.as_ref().map(Ids::values),
            scale: self.shape.scale,
            precision: context.precision(),
        }
    }

    /// Gradients of the queries, of the keys, and of the shared rotary key or the values.
    fn backward(&self, context: &Context, [out, lse, dout]: [&Tensor; 3]) -> [Tensor; 3] {
        let attention = self.attention(context);
        let saved = Results { out: out.values(), lse: lse.values(), dout: dout.values() };
        let buffer = |len: usize| context.build([len], |_| {});
        let mut dq = buffer(self.q.elements());
        let mut dk = buffer(self.k.elements());
        let other = self.rope.as_ref().or(self.v.as_ref()).expect("one of them");
        let mut second = buffer(other.elements());
        let heads = if self.rope.is_some() { self.shape.heads } else { 0 };
        let mut per_head = buffer(other.elements() * heads);
        let [dq_values, dk_values, second_values, per_head] = [&mut dq, &mut dk, &mut second, &mut per_head]
            .map(|buffer| buffer.values_mut().expect("a new buffer"));
        let keys = match self.rope {
            Some(_) => KeysGradient::Latent { dkv: dk_values, drope: second_values, per_head },
            None => KeysGradient::Separate { dk: dk_values, dv: second_values },
        };
        backward(context.compute(), &attention, saved, Gradients { dq: dq_values, keys });
        [dq, dk, second]
    }
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
