//! GGUF files that we write: the same weights when read back, the same file from a GGUF source.

use std::fs;
use std::path::{Path, PathBuf};

use fathom_checkpoint::gguf::Value;
use fathom_checkpoint::{Checkpoint, Dtype};
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::config::gguf::metadata;
use fathom_model::export::{GgufTensor, Layout, OfCheckpoint, Weights, file_type, gguf_tensors, write_gguf};
use fathom_model::{
    Config, ForwardOptions, LoadOptions, LogitRows, Model, Segment, Sequence, Workspace, manifest,
};
use fathom_numeric::blocks::BlockFormat;

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn export(source: &Path, to: &Path, mtp: bool, dtype: Dtype) -> Vec<GgufTensor> {
    let config = Config::read(source).expect("valid");
    let checkpoint = config.open_checkpoint(source).expect("a checkpoint");
    let fitting = |_: &str, columns: usize| match dtype {
        Dtype::Block(format) if !columns.is_multiple_of(format.block_len()) => Dtype::F32,
        _ => dtype,
    };
    let tensors = gguf_tensors(&config, &Layout { mtp, dtype: &fitting }).expect("expressible");
    let mut entries = metadata(&config, mtp).expect("expressible");
    entries.push(("general.file_type".to_owned(), Value::U32(file_type(&tensors))));
    let ids = [("bos_token_id", config.bos_token_id), ("eos_token_id", config.eos_token_id.first().copied())];
    for (name, id) in ids {
        entries.extend(id.map(|id| (format!("tokenizer.ggml.{name}"), Value::U32(id))));
    }
    let mut last = (0, 0);
    let mut weights = OfCheckpoint::new(&checkpoint, &config);
    write_gguf(to, &config, &entries, &tensors, &mut weights, &mut |done, total| last = (done, total))
        .expect("written");
    assert_eq!(last.0, last.1);
    tensors
}

#[test]
fn weights_survive() {
    let scratch = tempfile::tempdir().expect("a directory");
    for (name, mtp) in [
        ("tiny-v2-lite", false),
        ("tiny-v2", false),
        ("tiny-v3", false),
        ("tiny-v3-mtp", true),
        ("tiny-v3-fp8", false),
    ] {
        let path = scratch.path().join(format!("{name}.gguf"));
        export(&dir(name), &path, mtp, Dtype::F32);
        let (want, got) = (Config::read(&dir(name)).expect("valid"), Config::read(&path).expect("valid"));
        assert_eq!(Config { weight_block_size: want.weight_block_size, ..got.clone() }, want, "{name}");
        let source = want.open_checkpoint(&dir(name)).expect("a checkpoint");
        let written = Checkpoint::open(&path).expect("a checkpoint");
        manifest::check(&got, &written, mtp).expect("all tensors, no others");
        let (mut a, mut b) = (OfCheckpoint::new(&source, &want), OfCheckpoint::new(&written, &got));
        for spec in manifest::tensors(&want) {
            if spec.optional {
                continue;
            }
            let columns = *spec.shape.last().expect("no scalars");
            let rows = spec.elements() as usize / columns;
            let (mut x, mut y) = (vec![0.0; rows * columns], vec![1.0; rows * columns]);
            a.rows(&spec.name, 0..rows, &mut x).expect("stored");
            b.rows(&spec.name, 0..rows, &mut y).expect("stored");
            assert_eq!(x, y, "{name}: {}", spec.name);
        }
        // From the GGUF file the same file is made, kv_b_proj joined and split again.
        let again = scratch.path().join("again.gguf");
        export(&path, &again, mtp, Dtype::F32);
        assert!(fs::read(&again).expect("written") == fs::read(&path).expect("written"), "{name}");
    }
}

/// llama.cpp's converter and ours hold the same bytes under every tensor name.
#[test]
fn tensors_are_those_of_the_converter() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("ours.gguf");
    export(&dir("tiny-v2"), &path, false, Dtype::BF16);
    let (ours, theirs) = (
        Checkpoint::open(&path).expect("ours"),
        Checkpoint::open(&dir("gguf/tiny-v2.gguf")).expect("theirs"),
    );
    assert_eq!(ours.names().collect::<Vec<_>>(), theirs.names().collect::<Vec<_>>());
    for (a, b) in ours.tensors().zip(theirs.tensors()) {
        assert_eq!((a.dtype, a.shape), (b.dtype, b.shape), "{}", a.name);
        assert!(a.bytes == b.bytes, "{}", a.name);
    }
    let (ours, theirs) = (ours.gguf().expect("GGUF"), theirs.gguf().expect("GGUF"));
    for (key, value) in ours.iter().filter(|(key, _)| !key.ends_with("expert_weights_norm")) {
        assert_eq!(theirs.get(key), Some(value), "{key}");
    }
    for (key, _) in theirs.iter().filter(|(key, _)| key.starts_with("deepseek2.")) {
        assert!(ours.get(key).is_some(), "{key}");
    }
}

#[test]
fn blocks_are_encoded_where_they_fit() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("q.gguf");
    let format = Dtype::Block(BlockFormat::Q8_0);
    let tensors = export(&dir("tiny-v2-lite"), &path, false, format);
    let dtype_of =
        |name: &str| tensors.iter().find(|tensor| tensor.plan.name == name).expect("there").plan.dtype;
    assert_eq!(dtype_of("token_embd.weight"), format);
    assert_eq!(dtype_of("blk.1.ffn_gate_exps.weight"), format);
    assert_eq!(dtype_of("blk.1.ffn_down_exps.weight"), Dtype::F32, "40 columns");
    assert_eq!(dtype_of("blk.1.ffn_gate_inp.weight"), Dtype::F32, "a gate");
    assert_eq!(dtype_of("blk.1.attn_norm.weight"), Dtype::F32, "a norm");
    assert_eq!(file_type(&tensors), 7);
    let config = Config::read(&path).expect("valid");
    let (source, written) =
        (Checkpoint::open(&dir("tiny-v2-lite")).expect("source"), Checkpoint::open(&path).expect("written"));
    let name = "model.layers.1.mlp.experts.7.gate_proj.weight";
    let shape = [config.moe_intermediate_size, config.hidden_size];
    let (a, b) = (source.matrix(name, shape).expect("stored"), written.matrix(name, shape).expect("stored"));
    let (mut want, mut blocks) = (vec![0.0; shape[1]], vec![0; BlockFormat::Q8_0.row_bytes(shape[1])]);
    for row in 0..shape[0] {
        a.rows_f32(row..row + 1, &mut want).expect("finite");
        BlockFormat::Q8_0.encode(&want, None, &mut blocks);
        assert_eq!(b.row_blocks(row).expect("finite"), blocks);
    }
}

/// Logits of a fixture's first golden sequence, in f32.
fn logits(model: &Path, name: &str) -> Vec<f32> {
    let options = LoadOptions::new(WeightFormat::F32);
    let model =
        Model::load(model, Compute::new(2).expect("an ISA"), options, &mut |_, _| {}).expect("it loads");
    let golden = Checkpoint::open(&dir(name).join("golden.safetensors")).expect("there");
    let ids = golden.tensor("seq0.input_ids").expect("there").to_i64().expect("integers");
    let tokens: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let mut cache = model.new_cache(tokens.len()).expect("room");
    let (mut workspace, mut sequence) = (Workspace::default(), Sequence::default());
    let mut segment = [Segment { sequence: &mut sequence, tokens: &tokens, logits: LogitRows::All }];
    let options = ForwardOptions::default();
    model.forward(&mut workspace, &mut cache, &mut segment, options).expect("it runs").to_vec()
}

/// A model is what it is, whichever way it is stored: directory, our GGUF file, llama.cpp's.
#[test]
fn logits_do_not_depend_on_the_container() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("m.gguf");
    for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8"] {
        let want = logits(&dir(name), name);
        export(&dir(name), &path, false, Dtype::F32);
        assert!(logits(&path, name) == want, "{name}");
        if name == "tiny-v2" {
            assert!(logits(&dir("gguf/tiny-v2.gguf"), name) == want, "llama.cpp's own conversion");
        }
        let golden = Checkpoint::open(&dir(name).join("golden.safetensors")).expect("there");
        let golden = golden.tensor("seq0.logits").expect("there").to_f32().expect("floats");
        let worst = want.iter().zip(&golden).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-4, "{name}: off by {worst}");
    }
}
