use super::*;

const FILE: &str = "run.toml";

const GOOD: &str = r#"
steps = 100
seed = 7

[model]
preset = "v2-lite"

[data]
path = "data"
validation = 0.01

[batch]
sequences = 8
seq_len = 512
micro_batch = 4

[optimizer]
kind = "adamw"
without_decay = ["norms", "embeddings"]
moments = "bf16"

[schedule]
kind = "v3"
lr = 2.2e-4
warmup_steps = 10
"#;

fn parse(text: &str, overrides: &[&str]) -> Result<RunConfig> {
    let overrides: Vec<String> = overrides.iter().map(|&given| given.to_owned()).collect();
    RunConfig::parse(text, Path::new(FILE), &overrides)
}

#[test]
fn a_good_file_with_overrides() {
    let config = parse(GOOD, &["batch.sequences=16", "ema.decay = 0.99", "model.preset=v3"]).unwrap();
    assert_eq!(config.batch.sequences, 16);
    assert_eq!(config.ema, Some(Ema { decay: 0.99 }));
    assert_eq!(config.model.preset.as_deref(), Some("v3"), "what is no TOML is a string");
    let Optimizer::Adamw(adamw) = &config.optimizer else { panic!("{:?}", config.optimizer) };
    assert_eq!(adamw.betas, [0.9, 0.95]);
    assert_eq!(adamw.moments, Moments::Bf16);
    let again: RunConfig = serde_json::from_value(config.to_json()).unwrap();
    assert_eq!(again, config);
}

#[test]
fn what_cannot_be_is_one_clear_error() {
    let rows: &[(&str, &str)] = &[
        ("batch.sequence=8", "run.toml: batch.sequence: unknown field `sequence`, expected one of"),
        ("batch.seq_len=\"long\"", "run.toml: batch.seq_len: invalid type: string"),
        ("batch.micro_batch=3", "run.toml: batch.micro_batch: 3 should divide sequences = 8"),
        ("batch.seq_len=1", "run.toml: batch.seq_len: 1 should be 2 or more"),
        ("optimizer.beta=1", "unknown field `beta`"),
        ("optimizer.betas=[1.0, 0.9]", "run.toml: optimizer.betas[0]: 1 should be from 0 to below 1"),
        ("optimizer.eps=nan", "run.toml: optimizer.eps: NaN should be above 0"),
        ("optimizer.kind=sgd", "unknown variant `sgd`, expected `adamw` or `muon`"),
        ("schedule.kind=cosin", "unknown variant `cosin`"),
        ("schedule.to=0.1", "unknown field `to`"),
        ("schedule.lr=0", "run.toml: schedule.lr: 0 should be above 0"),
        ("schedule.cosine_until=0.1", "run.toml: schedule.cosine_until: constant_until, cosine_until and"),
        ("tokens=5", "run.toml: steps: give exactly one of steps, tokens and epochs"),
        ("model.from=x", "run.toml: model: give exactly one of config"),
        ("balance.sequence=-1", "run.toml: balance.sequence: -1 should be 0 (off) or above"),
        ("mtp.switch=2", "run.toml: mtp.switch: 2 should be a share of the run"),
        ("checkpoint.every=0", "run.toml: checkpoint.every: 0 should be 1 or more"),
        ("batch.ramp.from=6", "missing field `over_tokens`"),
        ("lora={rank=0,target_modules=[]}", "run.toml: lora.rank: 0 should be 1 or more"),
        ("lora={rank=4,target_modules=['q_proj']}", "run.toml: lora: adapters stand beside weights"),
        ("dtype=fp8", "run.toml: dtype: unknown variant `fp8`"),
        ("seed", "there is no \"=\""),
        ("seed.x=1", "\"seed\" is a value and no table"),
    ];
    for (given, expected) in rows {
        let message = parse(GOOD, &[given]).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{given}: {message}");
    }
    let message = parse("steps = = 1", &[]).unwrap_err().to_string();
    assert!(message.starts_with("run.toml: not valid TOML: "), "{message}");
}

#[test]
fn a_ramp_grows_evenly_over_tokens() {
    let batch = Batch {
        sequences: 8,
        seq_len: 10,
        micro_batch: Some(2),
        ramp: Some(Ramp { from: 2, over_tokens: 120 }),
    };
    // 2 sequences; after 20 tokens 2 + 6/6 = 3, rounded down to 2; after 40: 4; after 80: 6; from 140 on: 8.
    let mut tokens = 0;
    let sizes: Vec<u64> = (0..6)
        .map(|_| {
            let now = batch.step_tokens(tokens);
            tokens += now;
            now
        })
        .collect();
    assert_eq!(sizes, [20, 20, 40, 60, 80, 80]);
    for steps in 0..9 {
        let tokens = batch.tokens_of(steps);
        assert_eq!(batch.steps_for(tokens), (steps, tokens), "{steps}");
    }
    assert_eq!(batch.steps_for(141), (5, 220));
}

#[test]
fn fields_in_the_file_are_a_model() {
    let fields = r#"
[model.fields]
model_type = "deepseek_v3"
vocab_size = 64
hidden_size = 16
intermediate_size = 32
moe_intermediate_size = 8
num_hidden_layers = 2
num_attention_heads = 2
kv_lora_rank = 8
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 8
first_k_dense_replace = 1
n_routed_experts = 4
num_experts_per_tok = 2
n_group = 3
topk_group = 1
max_position_embeddings = 64
"#;
    let text = GOOD.replace("[model]\npreset = \"v2-lite\"\n", fields);
    let config = parse(&text, &["model.fields.n_group=2"]).unwrap();
    let source = config.model.source(Path::new(FILE)).unwrap();
    assert_eq!(source.config.n_routed_experts, 4);
    let wrong = parse(&text, &[]).unwrap().model.source(Path::new(FILE)).unwrap_err().to_string();
    assert!(wrong.contains("run.toml [model.fields]: n_group is 3, but it should be a divisor"), "{wrong}");
}
