//! Text by a model as it was saved.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use fathom_engine::{Language, SamplingParams, Session, eos_token_ids};
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{LoadOptions, Model};
use fathom_text::Message;
use fathom_train::config::Samples;
use fathom_train::run::Kind;

use crate::language::ChatWriter;

/// Goes on from every prompt: as text, or as a user's message where conversations are learnt.
pub(super) fn write(model: &Path, kind: Kind, samples: &Samples) -> Result<Vec<String>> {
    let language = Language::open(model)?;
    let tokenizer = language.tokenizer()?;
    let loaded = Model::load(model, Compute::new(0)?, LoadOptions::new(WeightFormat::F32), &mut |_, _| {})?;
    let eos = eos_token_ids(loaded.config(), &language.recommendation()?, Some(&tokenizer));
    let mut session = Session::new(&loaded, Some(&tokenizer), eos, None)?;
    let params = SamplingParams {
        temperature: samples.temperature,
        max_tokens: Some(samples.max_tokens),
        seed: Some(0),
        ..SamplingParams::default()
    };
    let mut texts = Vec::with_capacity(samples.prompts.len());
    for prompt in &samples.prompts {
        let ids = match kind {
            Kind::Pretraining => tokenizer.encode(prompt, true)?,
            Kind::FineTuning => {
                ChatWriter::new(&language, &tokenizer, None)?.prompt(&[Message::user(prompt)])?.ids
            }
        };
        let completion = session.generate(&ids, &params, &mut |_| ControlFlow::Continue(()))?;
        texts.push(completion.text.unwrap_or_default());
    }
    Ok(texts)
}
