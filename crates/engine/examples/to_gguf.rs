//! Writes a model as a GGUF file, every matrix in one type where its rows allow it and F32 elsewhere:
//! `cargo run -p fathom-engine --example to_gguf -- MODEL OUT.gguf [f32|bf16|q8_0|…]`. For
//! `tools/check_gguf.py`, which lets llama.cpp run the result.

use std::error::Error;
use std::path::PathBuf;

use fathom_checkpoint::Dtype;
use fathom_checkpoint::gguf::{Value, is_gguf, read_metadata};
use fathom_engine::{Language, gguf_generation_entries, gguf_vocabulary, gguf_vocabulary_entries};
use fathom_model::Config;
use fathom_model::config::gguf::metadata;
use fathom_model::export::{Layout, OfCheckpoint, file_type, gguf_tensors, write_gguf};
use fathom_text::GgufVocabulary;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(model), Some(out)) = (args.next(), args.next()) else {
        return Err("give a model and the file to write".into());
    };
    let format = args.next().map_or_else(|| "f32".into(), |format| format.to_string_lossy().into_owned());
    let dtype = Dtype::from_format(&format).ok_or("the format is not known")?;

    let config = Config::read(&model)?;
    let checkpoint = config.open_checkpoint(&model)?;
    let mtp = config.num_nextn_predict_layers > 0;
    let fitting =
        |_: &str, columns: usize| if columns.is_multiple_of(dtype.block_len()) { dtype } else { Dtype::F32 };
    let tensors = gguf_tensors(&config, &Layout { mtp, dtype: &fitting })?;

    let mut entries = metadata(&config, mtp)?;
    entries.push(("general.file_type".to_owned(), Value::U32(file_type(&tensors))));
    entries.push(("general.quantization_version".to_owned(), Value::U32(2)));
    let vocabulary = if is_gguf(&model) {
        gguf_vocabulary(&read_metadata(&model)?)?.ok_or("the file has no vocabulary")?
    } else {
        GgufVocabulary::from_dir(&model, config.vocab_size)?
    };
    entries.extend(gguf_vocabulary_entries(&vocabulary));
    entries.extend(gguf_generation_entries(&Language::open(&model)?.recommendation()?));
    let mut weights = OfCheckpoint::new(&checkpoint, &config);
    write_gguf(&out, &config, &entries, &tensors, &mut weights, &mut |_, _| ())?;
    Ok(())
}
