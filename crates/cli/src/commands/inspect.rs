//! `fathom inspect`: what a model is and what it costs, without loading it.

pub(super) mod table;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use fathom_checkpoint::Checkpoint;
use fathom_checkpoint::gguf::is_gguf;
use fathom_model::Config;
use fathom_model::accounting::{self, Report, Stored, Workload};
use fathom_model::config::RopeScaling;
use fathom_model::config::gguf::config_json;
use serde_json::{Value, json};

use self::table::{bytes, count, grouped, operations, percent, table};
use super::synth::read_config;
use crate::model_args::{StorageArgs, require_model};

/// Show what a model is: parameters, bytes, cache, memory and operations, without loading it.
///
/// "Active" parameters are those one token meets: the experts chosen for it, the
/// output head, one row of the embedding; the papers count like this. The KV cache
/// is compared with what multi-head, grouped-query and multi-query attention of the
/// same heads would need (DeepSeek-V2, Table 1). With --model, every tensor's name,
/// shape and dtype is checked against config.json.
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["model", "config"]),
    after_help = "\
Examples:
  fathom inspect --model DeepSeek-V2-Lite --context 32768
  fathom inspect --config v3 --context 131072 --batch 8 --json"
)]
pub(crate) struct Args {
    /// Directory of a Hugging Face checkpoint
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Only a configuration: a config.json, or v2-lite, v2, v3
    #[arg(long, value_name = "FILE|NAME")]
    config: Option<String>,

    /// Tokens of context that memory and operations are counted at [default: 4096, or the model's limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    context: Option<u64>,

    /// Sequences at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,

    #[command(flatten)]
    storage: StorageArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let inspected = inspect(&args)?;
    let text = if args.json { inspected.json()? } else { inspected.text() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

struct Inspected {
    name: String,
    json: String,
    config: Config,
    stored: Option<Stored>,
    report: Report,
}

fn inspect(args: &Args) -> Result<Inspected> {
    let (name, json, file) = match (&args.model, &args.config) {
        (Some(dir), _) => {
            require_model(dir)?;
            let (json, file) = model_config(dir)?;
            (dir.display().to_string(), json, file)
        }
        (None, Some(what)) => {
            let (json, file) = read_config(what)?;
            (what.clone(), json, file)
        }
        (None, None) => bail!("give --model DIR or --config FILE|NAME"),
    };
    let config = Config::parse(&json, &file)?;
    let limit = config.max_position_embeddings;
    let context =
        args.context.map_or(limit.min(4096), |context| usize::try_from(context).unwrap_or(usize::MAX));
    ensure!(
        context <= limit,
        "--context {context} is beyond what the model was made for: {}: max_position_embeddings is {limit}",
        file.display()
    );
    let stored = match &args.model {
        None => None,
        Some(dir) => {
            let checkpoint = config.open_checkpoint(dir)?;
            Some(accounting::stored(&config, &checkpoint)?)
        }
    };
    let (storage, cache) = (args.storage.storage()?, args.storage.latents());
    let workload = Workload { storage, cache, context, batch: args.batch as usize };
    let report = Report::new(&config, workload);
    Ok(Inspected { name, json, config, stored, report })
}

/// The model's `config.json`, or what a GGUF file says of it, and the file that it stands in.
fn model_config(model: &Path) -> Result<(String, PathBuf)> {
    if is_gguf(model) {
        return Ok((config_json(&Checkpoint::open(model)?)?, model.to_owned()));
    }
    let file = model.join("config.json");
    // For its error, which says what a model's directory is.
    Config::read(&file)?;
    Ok((std::fs::read_to_string(&file)?, file))
}

impl Inspected {
    fn json(&self) -> Result<String> {
        let mut value = json!({ "model": self.name, "stored": self.stored });
        let Value::Object(report) = serde_json::to_value(&self.report)? else {
            bail!("a report is an object");
        };
        value.as_object_mut().expect("made above").extend(report);
        value["config"] = serde_json::from_str(&self.json)?;
        Ok(format!("{value:#}\n"))
    }

    fn text(&self) -> String {
        let parameters = &self.report.parameters;
        let mut out = format!(
            "{}: {}, {} parameters, {} active per token\n",
            self.name,
            self.config.model_type.name(),
            count(parameters.total),
            count(parameters.active)
        );
        self.configuration(&mut out);
        self.parameters(&mut out);
        self.stored(&mut out);
        self.cache(&mut out);
        self.memory(&mut out);
        self.flops(&mut out);
        out
    }

    fn configuration(&self, out: &mut String) {
        let fields = fields(&self.config);
        let half = fields.len().div_ceil(2);
        let cell = |at: usize| fields.get(at).map_or(["", ""].map(String::from), Clone::clone);
        let rows: Vec<[String; 4]> = (0..half)
            .map(|row| {
                let ([left, left_value], [right, right_value]) = (cell(row), cell(row + half));
                [left, left_value, format!("   {right:24}"), right_value]
            })
            .collect();
        table(out, ["Configuration", "", "", ""], &rows);
    }

    fn parameters(&self, out: &mut String) {
        let parameters = &self.report.parameters;
        let row = |name: &str, total: u64, active: u64| {
            let share = |part: u64, whole: u64| percent(part as f64 / whole.max(1) as f64);
            [
                name.to_owned(),
                count(total),
                share(total, parameters.total),
                count(active),
                share(active, parameters.active),
            ]
        };
        let mut rows: Vec<_> = parameters
            .parts
            .iter()
            .filter(|part| part.total > 0 || part.active > 0)
            .map(|part| row(part.part, part.total, part.active))
            .collect();
        rows.push(row("all", parameters.total, parameters.active));
        if parameters.mtp > 0 {
            let (total, active) = (count(parameters.mtp), count(parameters.mtp_active));
            rows.push(["and MTP layers".to_owned(), total, String::new(), active, String::new()]);
        }
        table(out, ["Parameters", "total", "share", "active", "share"], &rows);
    }

    fn stored(&self, out: &mut String) {
        let Some(stored) = &self.stored else { return };
        let row = |name: &str, tensors: usize, size: u64| {
            [
                name.to_owned(),
                grouped(tensors as u64),
                bytes(size),
                percent(size as f64 / stored.bytes.max(1) as f64),
            ]
        };
        let mut rows: Vec<_> =
            stored.dtypes.iter().map(|dtype| row(dtype.dtype, dtype.tensors, dtype.bytes)).collect();
        rows.push(row("all", stored.tensors, stored.bytes));
        let title = format!("On disk, {} file{}", stored.files, if stored.files == 1 { "" } else { "s" });
        table(out, [&title, "tensors", "size", "share"], &rows);
        out.push_str("  All tensors have the names, shapes and dtypes that config.json promises.\n");
        if self.config.num_nextn_predict_layers > 0 && !stored.mtp {
            out.push_str("  The MTP layers that config.json speaks of are not in these files.\n");
        }
    }

    fn cache(&self, out: &mut String) {
        let cache = &self.report.kv_cache;
        let kinds = [("MLA", cache.mla), ("MQA", cache.mqa), ("GQA-8", cache.gqa8), ("MHA", cache.mha)];
        let rows = kinds.map(|(name, kind)| {
            [name.to_owned(), grouped(kind.elements), bytes(kind.bytes), percent(kind.of_mha)]
        });
        table(out, [&format!("KV cache per token, {}", cache.dtype), "numbers", "size", "of MHA"], &rows);
    }

    fn memory(&self, out: &mut String) {
        let memory = &self.report.memory;
        let sequences = if memory.batch == 1 { "" } else { &format!(" x {} sequences", memory.batch) };
        let title = format!("Memory, {}, {} tokens{sequences}", memory.dtype, grouped(memory.context as u64));
        let row = |name: &str, size: u64| [name.to_owned(), bytes(size)];
        let rows = [
            row("weights", memory.weights),
            row("latent cache", memory.cache),
            row("buffers (estimate)", memory.buffers),
            row("all", memory.total),
        ];
        table(out, [&title, "size"], &rows);
    }

    fn flops(&self, out: &mut String) {
        let flops = &self.report.flops;
        let context = grouped(flops.context as u64);
        let row = |name: String, per: &accounting::FlopsPerToken| {
            let [matrices, attention, total] = [per.matrices, per.attention, per.total].map(operations);
            [name, matrices, attention, total, per.form.to_owned()]
        };
        let rows = [
            row("decode, first token".to_owned(), &flops.decode_first),
            row(format!("decode at {context}"), &flops.decode),
            row(format!("prefill of {context}"), &flops.prefill),
        ];
        table(out, ["FLOP per token", "matrices", "attention", "total", "form"], &rows);
    }
}

/// Fields of `config.json` that decide the mathematics, as they act.
fn fields(config: &Config) -> Vec<[String; 2]> {
    let number = |name: &str, value: usize| [name.to_owned(), value.to_string()];
    let text = |name: &str, value: String| [name.to_owned(), value];
    let mut fields = vec![
        number("vocab_size", config.vocab_size),
        number("hidden_size", config.hidden_size),
        number("num_hidden_layers", config.num_hidden_layers),
        number("intermediate_size", config.intermediate_size),
        number("max_position_embeddings", config.max_position_embeddings),
        number("num_attention_heads", config.num_attention_heads),
        text("q_lora_rank", config.q_lora_rank.map_or_else(|| "null".to_owned(), |rank| rank.to_string())),
        number("kv_lora_rank", config.kv_lora_rank),
        number("qk_nope_head_dim", config.qk_nope_head_dim),
        number("qk_rope_head_dim", config.qk_rope_head_dim),
        number("v_head_dim", config.v_head_dim),
        text("rope_theta", config.rope_theta.to_string()),
    ];
    fields.push(text(
        "rope_scaling",
        match &config.rope_scaling {
            RopeScaling::Default => "none".to_owned(),
            RopeScaling::Yarn(yarn) => format!("yarn x{}", yarn.factor),
        },
    ));
    if config.n_routed_experts > 0 {
        let router = config.router();
        fields.extend([
            number("first_k_dense_replace", config.first_k_dense_replace),
            number("n_routed_experts", config.n_routed_experts),
            number("n_shared_experts", config.n_shared_experts),
            number("num_experts_per_tok", config.num_experts_per_tok),
            number("moe_intermediate_size", config.moe_intermediate_size),
            text("n_group, topk_group", format!("{}, {}", config.n_group, config.topk_group)),
            text("topk_method", snake_case(&format!("{:?}", router.method))),
            text("scoring_func", snake_case(&format!("{:?}", router.scoring))),
            text("routed_scaling_factor", config.routed_scaling_factor.to_string()),
        ]);
    }
    if config.num_nextn_predict_layers > 0 {
        fields.push(number("num_nextn_predict_layers", config.num_nextn_predict_layers));
    }
    if let Some([rows, cols]) = config.weight_block_size {
        let scales = if config.power_of_two_scales { " ue8m0" } else { "" };
        fields.push(text("quantization_config", format!("fp8 {rows}x{cols}{scales}")));
    }
    fields
}

/// `NoauxTc` to `noaux_tc`, as `config.json` spells it.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}
