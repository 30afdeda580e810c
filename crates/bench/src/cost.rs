//! Bytes and operations of a step, counted from the configuration.

use fathom_model::{Config, LatentCache, Model};
use serde::Serialize;

/// `count` products `[rows, k] · [n, k]ᵀ` of one prefill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// How many of them.
    pub count: usize,
    /// Rows of activations; of routed experts the mean.
    pub rows: f64,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

impl Product {
    /// Operations of all `count`: a product and a sum are two.
    pub fn flops(&self) -> f64 {
        2.0 * self.count as f64 * self.rows * self.n as f64 * self.k as f64
    }
}

/// What a prefill of `batch` prompts of `tokens` tokens each computes.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefillCost {
    /// Products with weight matrices, the head aside.
    pub products: Vec<Product>,
    /// Operations of scores and values in MHA form, causal: half of each square.
    pub attention_flops: f64,
    /// Operations of the head, on each prompt's last token.
    pub head_flops: f64,
}

impl PrefillCost {
    /// Counts them.
    pub fn of(config: &Config, tokens: usize, batch: usize) -> Self {
        let heads = config.num_attention_heads;
        let pair = 2 * (config.qk_head_dim() + config.v_head_dim) * heads * config.num_hidden_layers;
        let pairs = tokens as f64 * (tokens as f64 + 1.0) / 2.0;
        let head = 2.0 * config.vocab_size as f64 * config.hidden_size as f64;
        Self {
            products: products(config, tokens * batch),
            attention_flops: batch as f64 * pairs * pair as f64,
            head_flops: batch as f64 * head,
        }
    }

    /// Everything.
    pub fn flops(&self) -> f64 {
        self.products.iter().map(Product::flops).sum::<f64>() + self.attention_flops + self.head_flops
    }
}

/// Products with weights in all main layers for `rows` tokens.
fn products(config: &Config, rows: usize) -> Vec<Product> {
    let (layers, hidden, heads) = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads);
    let moe = (0..layers).filter(|&layer| config.is_moe(layer)).count();
    let every = |count, n, k| Product { count, rows: rows as f64, n, k };
    let queries = heads * config.qk_head_dim();
    let mut products = vec![
        every(layers, config.q_lora_rank.unwrap_or(queries) + config.latent_width(), hidden),
        every(layers, heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank),
        every(layers, hidden, heads * config.v_head_dim),
        every(layers - moe, 2 * config.intermediate_size, hidden),
        every(layers - moe, hidden, config.intermediate_size),
        every(moe, config.n_routed_experts, hidden),
    ];
    products.extend(config.q_lora_rank.map(|rank| every(layers, queries, rank)));
    if moe > 0 {
        // Few tokens cannot reach all experts.
        let width = config.moe_intermediate_size;
        let choices = rows * config.num_experts_per_tok;
        let reached = config.n_routed_experts.min(choices);
        let experts = [
            every(moe * config.n_shared_experts, 0, 0),
            Product { count: moe * reached, rows: choices as f64 / reached as f64, n: 0, k: 0 },
        ];
        for expert in experts {
            products.push(Product { n: 2 * width, k: hidden, ..expert });
            products.push(Product { n: hidden, k: width, ..expert });
        }
    }
    products.retain(|product| product.count > 0);
    products
}

/// Bytes that decode steps read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DecodeCost {
    /// Weights that every step reads, whatever its tokens.
    pub fixed_bytes: usize,
    /// Weights of one routed expert of one layer.
    pub expert_bytes: usize,
    /// Latents of one token in all layers.
    pub cached_token_bytes: usize,
}

impl DecodeCost {
    /// Of a loaded model.
    pub fn of(model: &Model) -> Self {
        let config = model.config();
        let moe = (0..config.num_hidden_layers).filter(|&layer| config.is_moe(layer)).count();
        let expert_bytes = model.expert_bytes();
        Self {
            fixed_bytes: model
                .weight_bytes_per_token()
                .saturating_sub(moe * config.num_experts_per_tok * expert_bytes),
            expert_bytes,
            cached_token_bytes: LatentCache::bytes_per_token(config, model.cache_format()),
        }
    }

    /// Bytes of one step that uses `experts` distinct (layer, expert) pairs and sees `cached`
    /// tokens over all its sequences.
    pub fn step_bytes(&self, experts: f64, cached: f64) -> f64 {
        self.fixed_bytes as f64 + experts * self.expert_bytes as f64 + cached * self.cached_token_bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use fathom_model::manifest::{self, Part};
    use fathom_model::presets;

    use super::*;

    /// Twice the elements of every matrix a token meets, from the list that loading uses.
    fn flops_per_token(config: &Config) -> f64 {
        let chosen = config.num_experts_per_tok as f64 / config.n_routed_experts as f64;
        let weight = |spec: &manifest::TensorSpec| match spec.part {
            Part::Embedding | Part::Head | Part::Norms | Part::Mtp => 0.0,
            _ if spec.shape.len() < 2 => 0.0,
            Part::RoutedExperts => chosen * spec.elements() as f64,
            _ => spec.elements() as f64,
        };
        2.0 * manifest::tensors(config).iter().map(weight).sum::<f64>()
    }

    #[test]
    fn products_are_those_of_the_manifest() {
        for preset in presets::names() {
            let config = presets::find(preset).expect("shipped");
            for tokens in [1, 7, 512] {
                let counted: f64 = products(&config, tokens).iter().map(Product::flops).sum();
                let expected = tokens as f64 * flops_per_token(&config);
                assert!((counted / expected - 1.0).abs() < 1e-9, "{preset} {tokens}: {counted} {expected}");
            }
        }
    }

    #[test]
    fn v2_lite_with_six_layers_needs_a_gflop_per_token() {
        let mut config = presets::find("v2-lite").expect("shipped");
        config.num_hidden_layers = 6;
        let cost = PrefillCost::of(&config, 512, 1);
        let products: f64 = cost.products.iter().map(Product::flops).sum();
        assert!((products / 512.0 / 0.99e9 - 1.0).abs() < 0.01, "{products}");
        // 16 heads, 192 + 128 numbers per query and key, 6 layers, half a square.
        assert_eq!(cost.attention_flops, 512.0 * 513.0 / 2.0 * 2.0 * 16.0 * 320.0 * 6.0);
        assert_eq!(cost.head_flops, 2.0 * 102_400.0 * 2_048.0);
        let four = PrefillCost::of(&config, 512, 4);
        assert!((four.flops() / cost.flops() - 4.0).abs() < 1e-9);
    }

    #[test]
    fn bytes_of_a_step() {
        let cost = DecodeCost { fixed_bytes: 1000, expert_bytes: 10, cached_token_bytes: 3 };
        assert_eq!(cost.step_bytes(12.5, 7.0), 1146.0);
    }
}
