//! The five checkpoints made by transformers: every tensor found, and decoded as an independent reader does.

use fathom_checkpoint::names::{Attention, EMBED_TOKENS, Ffn, LM_HEAD, Layer, NORM, scale_name};
use fathom_checkpoint::{Checkpoint, Dtype, TensorView};
use safetensors::SafeTensors;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FIXTURES: [&str; 5] = ["tiny-v2", "tiny-v2-lite", "tiny-v3", "tiny-v3-fp8", "tiny-v3-mtp"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Value of one element, from the definition of its format alone.
fn element(dtype: Dtype, bytes: &[u8], position: usize) -> f64 {
    match dtype {
        Dtype::F32 => f32::from_le_bytes(bytes[position * 4..][..4].try_into().unwrap()).into(),
        Dtype::BF16 => {
            let high = [bytes[position * 2], bytes[position * 2 + 1]];
            f32::from_be_bytes([high[1], high[0], 0, 0]).into()
        }
        Dtype::F8E4M3 => {
            let code = bytes[position];
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
            let magnitude = match exponent {
                0 => mantissa / 8.0 * 2f64.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
            };
            if code >= 0x80 { -magnitude } else { magnitude }
        }
        other => panic!("no weight of a fixture is {other}"),
    }
}

/// The weight at (`row`, `col`), with the scale of its 128 × 128 block if it has scales.
fn scalar(weight: &TensorView<'_>, scales: Option<&TensorView<'_>>, row: usize, col: usize) -> f32 {
    let value = element(weight.dtype, weight.bytes, row * weight.shape[1] + col);
    let scale = scales
        .map_or(1.0, |scales| element(scales.dtype, scales.bytes, row / 128 * scales.shape[1] + col / 128));
    // Exact in f64 (24 + 4 bits of mantissa), so this rounds once, as an f32 product does.
    (value * scale) as f32
}

#[test]
fn reads_every_weight_of_every_fixture() {
    for name in FIXTURES {
        let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
        for view in checkpoint.tensors() {
            if view.name.ends_with("_scale_inv") {
                continue;
            }
            let shape = view.shape.to_vec();
            if let [len] = shape[..] {
                let values = checkpoint.vector(view.name, len).unwrap();
                for (position, &got) in values.iter().enumerate() {
                    assert_eq!(
                        f64::from(got),
                        element(view.dtype, view.bytes, position),
                        "{name} {}",
                        view.name
                    );
                }
                continue;
            }
            let (rows, cols) = (shape[0], shape[1]);
            let matrix = checkpoint.matrix(view.name, [rows, cols]).unwrap();
            let scales = checkpoint.find(&scale_name(view.name));
            assert_eq!(scales.is_some(), view.dtype == Dtype::F8E4M3, "{name} {}", view.name);
            let mut out = vec![0.0; shape.iter().product()];
            matrix.rows_f32(0..rows, &mut out).unwrap();
            for (position, &got) in out.iter().enumerate() {
                let want = scalar(&view, scales.as_ref(), position / cols, position % cols);
                assert_eq!(got.to_bits(), want.to_bits(), "{name} {} at {position}", view.name);
            }
            // A part in the middle is the same part of the whole.
            let part = rows / 3..rows - rows / 4;
            let mut some = vec![0.0; part.len() * cols];
            matrix.rows_f32(part.clone(), &mut some).unwrap();
            assert_eq!(some, out[part.start * cols..part.end * cols]);
        }
    }
}

#[test]
fn the_fp8_fixture_has_ragged_blocks() {
    let checkpoint = Checkpoint::open(&fixture("tiny-v3-fp8")).unwrap();
    let ragged = checkpoint
        .tensors()
        .filter(|view| view.dtype == Dtype::F8E4M3)
        .filter(|view| view.shape.iter().any(|dim| *dim > 128 && dim % 128 != 0))
        .count();
    assert!(ragged > 10, "only {ragged} matrices would catch a reader that is wrong on ragged blocks");
}

#[test]
fn agrees_with_the_reference_reader_on_every_byte() {
    for name in FIXTURES {
        let mut files: Vec<PathBuf> =
            fs::read_dir(fixture(name)).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
        assert!(files.len() >= 3);
        let whole = Checkpoint::open(&fixture(name)).unwrap();
        let mut weights = 0;
        for file in files {
            let bytes = fs::read(&file).unwrap();
            let reference = SafeTensors::deserialize(&bytes).unwrap();
            let ours = Checkpoint::open(&file).unwrap();
            assert_eq!(ours.names().count(), reference.len());
            for (tensor, want) in reference.iter() {
                let got = ours.tensor(tensor).unwrap();
                assert_eq!((got.shape, got.bytes), (want.shape(), want.data()), "{name} {tensor}");
                assert_eq!(got.dtype.name(), want.dtype().to_string(), "{name} {tensor}");
                if whole.files().any(|path| path == file) {
                    assert_eq!(whole.tensor(tensor).unwrap().bytes, want.data());
                    weights += 1;
                }
            }
        }
        assert_eq!(weights, whole.names().count());
        assert_eq!(whole.files().count(), if name == "tiny-v3" { 2 } else { 1 });
        assert_eq!(whole.total_bytes(), whole.tensors().map(|view| view.bytes.len() as u64).sum::<u64>());
    }
}

#[test]
fn the_table_of_names_is_the_checkpoint() {
    for name in FIXTURES {
        let config: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(fixture(name).join("config.json")).unwrap()).unwrap();
        let number = |field: &str| config[field].as_u64().unwrap_or(0) as usize;
        let checkpoint = Checkpoint::open(&fixture(name)).unwrap();

        let mut want: BTreeSet<String> = [EMBED_TOKENS, NORM, LM_HEAD].map(str::to_owned).into();
        let layers = number("num_hidden_layers");
        for index in 0..layers + number("num_nextn_predict_layers") {
            let layer = Layer(index);
            want.extend([layer.input_layernorm(), layer.post_attention_layernorm()]);
            let compressed = [Attention::QAProj, Attention::QALayernorm, Attention::QBProj];
            want.extend(
                Attention::ALL
                    .into_iter()
                    .filter(|part| match config["q_lora_rank"].is_null() {
                        true => !compressed.contains(part),
                        false => *part != Attention::QProj,
                    })
                    .map(|part| layer.attention(part)),
            );
            if index < number("first_k_dense_replace") {
                want.extend(Ffn::ALL.map(|part| layer.mlp(part)));
            } else {
                want.insert(layer.router());
                want.extend((config["topk_method"] == "noaux_tc").then(|| layer.e_score_correction_bias()));
                want.extend(Ffn::ALL.map(|part| layer.shared_experts(part)));
                for expert in 0..number("n_routed_experts") {
                    want.extend(Ffn::ALL.map(|part| layer.expert(expert, part)));
                }
            }
            if index >= layers {
                want.extend([layer.embed_tokens(), layer.enorm(), layer.hnorm(), layer.eh_proj()]);
                want.extend([layer.shared_head_norm(), layer.shared_head_head()]);
            }
        }
        let scales: Vec<String> = checkpoint
            .tensors()
            .filter(|view| view.dtype == Dtype::F8E4M3)
            .map(|view| scale_name(view.name))
            .collect();
        want.extend(scales);
        let got: BTreeSet<String> = checkpoint.names().map(str::to_owned).collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn integers_of_the_goldens_read_back() {
    let golden = Checkpoint::open(&fixture("tiny-v2").join("golden.safetensors")).unwrap();
    let ids = golden.tensor("seq2.input_ids").unwrap();
    assert_eq!((ids.dtype, ids.shape), (Dtype::I32, &[33][..]));
    let ids = ids.to_i64().unwrap();
    assert!(ids.len() == 33 && ids.iter().all(|id| (0..512).contains(id)), "{ids:?}");
    assert_eq!(golden.tensor("seq2.logits").unwrap().to_f32().unwrap().len(), 33 * 512);
    assert!(golden.tensor("seq2.logits").unwrap().to_i64().is_err());
    assert!(golden.tensor("seq2.input_ids").unwrap().to_f32().is_err());
}
