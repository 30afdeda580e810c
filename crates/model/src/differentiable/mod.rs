//! The differentiable form: the same equations on a tape, for whole sequences, to be trained.
//!
//! [`DifferentiableModel`] holds the parameters of a [`Config`] under their checkpoint names (experts of a layer stacked)
//! and computes losses of a [`Batch`]. Attention runs in MHA mode (V2 §2.1.3 without absorption): latents are expanded and
//! nothing is cached. Read it top-down: this file (the pass), `attention.rs`, `feed_forward.rs`, `mtp.rs`,
//! `balance.rs` (the terms that keep experts busy), `parameters.rs` (names and values), `adapters.rs` (LoRA), `save.rs`.
//!
//! A test demands the logits of the serving form, and the gradients of transformers.

mod adapters;
mod attention;
mod balance;
mod feed_forward;
mod mtp;
mod parameters;
mod save;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use fathom_kernels::training::rope::{Pairing, Table};
use fathom_tensor::ops::attention::AttentionShape;
use fathom_tensor::ops::rope::Rotary;
use fathom_tensor::{Context, Ids, Parameter, Tape, Tensor, Var};

use crate::{Config, Error, Result};
pub use adapters::{ADAPTER_WEIGHTS, AdapterOptions, PEFT_PREFIX};
use attention::Attention;
pub use balance::Balance;
use feed_forward::FeedForward;
use mtp::MtpLayer;
pub use parameters::Named;
use parameters::{Origin, Store};

/// Sequences of equal length, and what is to be predicted.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Sequences.
    pub batch: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// `[batch, seq + 1]`: token `i + 1` is the target of token `i`.
    pub tokens: Vec<u32>,
    /// `[batch, seq]`: the place in its sequence of the first token of each token's document; tokens before it are not
    /// seen. `None`: everything before is.
    pub documents: Option<Vec<u32>>,
    /// `[batch, seq]`: whether the target of a token counts; `None`: all do.
    pub learn: Option<Vec<bool>>,
}

/// What a pass computes besides the loss.
#[derive(Clone, Copy, Debug)]
pub struct PassOptions {
    /// λ of V3 eq. 25: the weight of the MTP losses; 0 leaves the modules out.
    pub mtp_weight: f32,
    /// Factors of the balance terms.
    pub balance: Balance,
    /// Keep only the input of every layer and compute the rest again for its gradients.
    pub recompute: bool,
}

impl PassOptions {
    /// The plain next-token loss.
    pub const PLAIN: Self = Self { mtp_weight: 0.0, balance: Balance::NONE, recompute: false };
}

/// What came out of a pass.
#[derive(Debug)]
pub struct Losses {
    /// What is to be minimised: main loss, weighted MTP losses and balance terms.
    pub total: Var,
    /// Mean cross-entropy of the next token, in nats.
    pub main: f32,
    /// The same of every MTP module.
    pub mtp: Vec<f32>,
    /// Cross-entropy of every position `[batch · seq]`, in nats; 0 where the target does not count.
    pub per_token: Tensor,
    /// The balance terms, factors included.
    pub balance: f32,
    /// Tokens that each expert got, by MoE layer in order (MTP layers last).
    pub expert_tokens: Vec<Vec<u32>>,
}

/// A model that can be trained.
#[derive(Debug)]
pub struct DifferentiableModel {
    config: Config,
    context: Context,
    store: Store,
    embedding: Parameter,
    layers: Vec<Rc<Layer>>,
    norm: Parameter,
    head: Parameter,
    mtp: Vec<MtpLayer>,
}

/// One decoder layer.
#[derive(Debug)]
struct Layer {
    input_layernorm: Parameter,
    attention: Attention,
    post_attention_layernorm: Parameter,
    feed_forward: FeedForward,
    eps: f32,
}

/// What all layers of a pass share.
#[derive(Clone, Debug)]
struct Pass {
    rotary: Rotary,
    shape: AttentionShape,
    balance: Balance,
}

/// What a layer leaves behind besides its hidden states.
#[derive(Default)]
struct Aside {
    balance: Option<Var>,
    expert_tokens: Option<Vec<u32>>,
}

impl DifferentiableModel {
    /// A model of random weights: matrices normal with standard deviation `init_std` (V2 and V3: 0.006), norms 1, biases 0.
    /// A value depends on the seed and its place alone.
    ///
    /// # Errors
    /// None yet: configurations are checked when they are parsed.
    pub fn random(config: Config, context: &Context, init_std: f32, seed: u64) -> Result<Self> {
        Self::build(config, context, &Origin::Random { init_std, seed }, None)
    }

    /// The model in a checkpoint directory; MTP layers too, if `mtp`.
    ///
    /// # Errors
    /// As [`crate::Model::load`].
    pub fn load(directory: &std::path::Path, context: &Context, mtp: bool) -> Result<Self> {
        Self::load_with(directory, context, mtp, None)
    }

    /// As [`DifferentiableModel::load`], with adapters beside weights that stand still.
    ///
    /// # Errors
    /// As there; a module that no linear map has.
    pub fn load_with(
        directory: &std::path::Path,
        context: &Context,
        mtp: bool,
        adapters: Option<AdapterOptions>,
    ) -> Result<Self> {
        let mut config = Config::read_trainable(directory)?;
        let checkpoint = config.open_checkpoint(directory)?;
        crate::manifest::check(&config, &checkpoint, mtp)?;
        if !mtp {
            config.num_nextn_predict_layers = 0;
        }
        Self::build(config, context, &Origin::Checkpoint(&checkpoint), adapters)
    }

    fn build(
        config: Config,
        context: &Context,
        origin: &Origin<'_>,
        adapters: Option<AdapterOptions>,
    ) -> Result<Self> {
        let mut store = Store::new(context.clone(), &config, adapters);
        let embedding = store.parameter(origin, fathom_checkpoint::names::EMBED_TOKENS)?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Layer::build(&config, &mut store, origin, layer).map(Rc::new))
            .collect::<Result<_>>()?;
        let norm = store.parameter(origin, fathom_checkpoint::names::NORM)?;
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => store.parameter(origin, fathom_checkpoint::names::LM_HEAD)?,
        };
        let mtp = (config.num_hidden_layers..config.layers_with_mtp())
            .map(|layer| MtpLayer::build(&config, &mut store, origin, layer))
            .collect::<Result<_>>()?;
        store.finish()?;
        Ok(Self { config, context: context.clone(), store, embedding, layers, norm, head, mtp })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The machine.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Everything that an optimizer moves, in the order of the data flow. Experts of a layer are one parameter
    /// `[experts, rows, cols]`, named as in a checkpoint without the expert's number.
    pub fn parameters(&self) -> &[Parameter] {
        self.store.parameters()
    }

    /// Every tensor of a checkpoint of this model with its values: stacked experts apart, V3's biases included.
    pub fn named_values(&self) -> Vec<Named> {
        self.store.named(|parameter| Some(parameter.value()))
    }

    /// The gradients gathered so far under the names of their tensors; nothing for tensors that have none.
    pub fn named_gradients(&self) -> Vec<Named> {
        self.store.named(Parameter::gradient)
    }

    /// V3 §2.1.2: after a step, moves `e_score_correction_bias` of every MoE layer by `speed` (γ), up for experts that got
    /// fewer tokens than the mean and down for those that got more. `expert_tokens` as in [`Losses`], summed over the batch.
    pub fn update_biases(&self, expert_tokens: &[Vec<u32>], speed: f32) {
        let main = self.layers.iter().map(|layer| &layer.feed_forward);
        let biased = main.chain(self.mtp.iter().map(MtpLayer::feed_forward)).filter_map(FeedForward::experts);
        for (experts, tokens) in biased.zip(expert_tokens) {
            experts.update_bias(tokens, speed);
        }
    }

    /// Logits `[batch · seq, vocab_size]` of `tokens [batch, seq]`, without a tape.
    ///
    /// # Errors
    /// As [`DifferentiableModel::losses`].
    pub fn logits(&self, tokens: &[u32], batch: usize) -> Result<Tensor> {
        let tape = Tape::without_gradients(&self.context);
        let seq = tokens.len() / batch.max(1);
        self.check(tokens, seq)?;
        let pass = self.pass(batch, seq, None, Balance::NONE);
        let (hidden, _) = self.hidden(&tape, &pass, tokens, false);
        Ok(hidden.linear(&tape.parameter(&self.head)).value().clone())
    }

    /// The losses of a batch; gradients flow from [`Losses::total`].
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, or a sequence beyond the context.
    ///
    /// # Panics
    /// If the lengths of the batch contradict each other.
    pub fn losses(&self, tape: &Tape, batch: &Batch, options: &PassOptions) -> Result<Losses> {
        assert_eq!(
            batch.tokens.len(),
            batch.batch * (batch.seq + 1),
            "one token more than inputs per sequence"
        );
        self.check(&batch.tokens, batch.seq)?;
        let rows = || batch.tokens.chunks_exact(batch.seq + 1);
        let inputs: Vec<u32> = rows().flat_map(|row| &row[..batch.seq]).copied().collect();
        let targets: Vec<u32> = rows().flat_map(|row| &row[1..]).copied().collect();
        let pass = self.pass(batch.batch, batch.seq, batch.documents.as_deref(), options.balance);
        let (hidden, mut asides) = self.hidden(tape, &pass, &inputs, options.recompute);
        let head = tape.parameter(&self.head);
        let main = hidden.head_cross_entropy(
            &head,
            &Ids::new([targets.len()], targets),
            &mean_over(batch.learn.as_deref(), inputs.len()),
        );
        let (mut total, main_loss) = (main.loss.clone(), main.loss.value().item());
        let mut mtp = Vec::new();
        if options.mtp_weight != 0.0 && !self.mtp.is_empty() {
            let modules = self.mtp_losses(tape, &pass, batch, &hidden, &mut asides);
            let weight = options.mtp_weight / modules.len() as f32;
            for loss in modules {
                mtp.push(loss.value().item());
                total = total.add(&loss.scale(weight));
            }
        }
        let mut balance = 0.0;
        for term in asides.iter().filter_map(|aside| aside.balance.as_ref()) {
            balance += term.value().item();
            total = total.add(term);
        }
        let expert_tokens = asides.into_iter().filter_map(|aside| aside.expert_tokens).collect();
        Ok(Losses { total, main: main_loss, mtp, per_token: main.losses, balance, expert_tokens })
    }

    /// Where a pass over `tokens [batch, seq]` first meets a NaN or an infinity: the weight that holds one, or the layer
    /// that makes one. `None` if all is finite up to the final norm.
    ///
    /// # Errors
    /// As [`DifferentiableModel::losses`].
    pub fn first_not_finite(&self, tokens: &[u32], batch: usize) -> Result<Option<String>> {
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        if let Some(named) = self.named_values().iter().find(|named| !finite(named.values())) {
            return Ok(Some(format!("the weight {}", named.name)));
        }
        let tape = Tape::without_gradients(&self.context);
        let seq = tokens.len() / batch.max(1);
        self.check(tokens, seq)?;
        let pass = self.pass(batch, seq, None, Balance::NONE);
        let ids = Ids::new([tokens.len()], tokens.to_vec());
        let mut hidden = tape.parameter(&self.embedding).gather_rows(&ids);
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = layer.run(&tape, &pass, &hidden, false).0;
            if !finite(hidden.value().values()) {
                return Ok(Some(format!("the output of layer {index} (model.layers.{index})")));
            }
        }
        Ok(None)
    }

    /// Hidden states after the final norm, `[batch · seq, hidden]`.
    fn hidden(&self, tape: &Tape, pass: &Pass, tokens: &[u32], recompute: bool) -> (Var, Vec<Aside>) {
        let ids = Ids::new([tokens.len()], tokens.to_vec());
        let mut hidden = tape.parameter(&self.embedding).gather_rows(&ids);
        let mut asides = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (next, aside) = layer.run(tape, pass, &hidden, recompute);
            hidden = next;
            asides.push(aside);
        }
        (hidden.rms_norm(&tape.parameter(&self.norm), self.config.rms_norm_eps), asides)
    }

    fn pass(&self, batch: usize, seq: usize, documents: Option<&[u32]>, balance: Balance) -> Pass {
        let config = &self.config;
        let frequencies = config.rope_scaling.frequencies(config.rope_theta, config.qk_rope_head_dim);
        let pairing = if config.rope_interleave { Pairing::Adjacent } else { Pairing::Halves };
        let table = Table::new(&frequencies, config.rope_scaling.rotation_factor(), seq, pairing);
        let documents = documents.map(|first| Ids::new([batch, seq], first.to_vec()));
        let shape = AttentionShape {
            seq,
            heads: config.num_attention_heads,
            scale: config.softmax_scale(),
            documents,
        };
        Pass { rotary: Rotary::new(Rc::new(table), seq), shape, balance }
    }

    fn check(&self, tokens: &[u32], seq: usize) -> Result<()> {
        let (vocab_size, context) = (self.config.vocab_size, self.config.max_position_embeddings);
        if tokens.is_empty() || seq == 0 {
            return Err(Error::NoTokens);
        }
        if seq > context {
            return Err(Error::ContextTooLong { wanted: seq, context });
        }
        match tokens.iter().position(|&token| token as usize >= vocab_size) {
            Some(position) => Err(Error::TokenOutOfRange { token: tokens[position], position, vocab_size }),
            None => Ok(()),
        }
    }
}

impl Layer {
    fn build(config: &Config, store: &mut Store, origin: &Origin<'_>, layer: usize) -> Result<Self> {
        let names = fathom_checkpoint::names::Layer(layer);
        Ok(Self {
            input_layernorm: store.parameter(origin, &names.input_layernorm())?,
            attention: Attention::build(config, store, origin, names)?,
            post_attention_layernorm: store.parameter(origin, &names.post_attention_layernorm())?,
            feed_forward: FeedForward::build(config, store, origin, layer)?,
            eps: config.rms_norm_eps,
        })
    }

    /// The layer on `[batch · seq, hidden]`, recomputed for its gradients if asked for.
    fn run(self: &Rc<Self>, tape: &Tape, pass: &Pass, hidden: &Var, recompute: bool) -> (Var, Aside) {
        if !recompute || !tape.records() {
            return self.forward(tape, pass, hidden);
        }
        let counts = Rc::new(std::cell::RefCell::new(None));
        let (layer, pass, seen) = (Rc::clone(self), pass.clone(), Rc::clone(&counts));
        let mut results = tape.recompute(&[hidden], move |tape, inputs| {
            let (hidden, aside) = layer.forward(tape, &pass, &inputs[0]);
            *seen.borrow_mut() = aside.expert_tokens;
            std::iter::once(hidden).chain(aside.balance).collect()
        });
        let balance = (results.len() > 1).then(|| results.remove(1));
        (results.remove(0), Aside { balance, expert_tokens: counts.take() })
    }

    fn forward(&self, tape: &Tape, pass: &Pass, hidden: &Var) -> (Var, Aside) {
        let normed = hidden.rms_norm(&tape.parameter(&self.input_layernorm), self.eps);
        let hidden = hidden.add(&self.attention.forward(tape, pass, &normed));
        let normed = hidden.rms_norm(&tape.parameter(&self.post_attention_layernorm), self.eps);
        let (out, aside) = self.feed_forward.forward(tape, pass, &normed);
        (hidden.add(&out), aside)
    }
}

/// Coefficients of a mean over the rows that count; zeroes if none does.
fn mean_over(learn: Option<&[bool]>, rows: usize) -> Vec<f32> {
    let Some(learn) = learn else { return vec![1.0 / rows as f32; rows] };
    assert_eq!(learn.len(), rows, "one flag per row");
    let counted = learn.iter().filter(|learn| **learn).count().max(1);
    learn.iter().map(|&learn| if learn { 1.0 / counted as f32 } else { 0.0 }).collect()
}
