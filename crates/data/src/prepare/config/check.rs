//! What cannot be, said before anything is read.

use std::collections::HashSet;
use std::path::Path;

use fathom_text::{BpeTraining, SMALLEST_VOCABULARY};

use super::{Deduplicate, Filter, Kind, PrepareConfig, SourceConfig, TokenizerConfig};
use crate::{Error, Result};

/// Checks everything that the file alone decides.
pub(super) fn check(config: &PrepareConfig, file: &Path) -> Result<()> {
    let check = Check { file };
    check.that(!config.source.is_empty(), "source", || "give at least one [[source]]".to_owned())?;
    check.that(config.memory >= 1 << 20, "memory", || {
        format!("{} should be 1048576 or more", config.memory)
    })?;
    let mut names = HashSet::new();
    for (index, source) in config.source.iter().enumerate() {
        check_source(source, index, &check)?;
        check.that(names.insert(&source.name), &format!("source[{index}].name"), || {
            format!("{:?} is the name of another source too", source.name)
        })?;
    }
    let weighted = config.source.iter().filter(|source| source.weight.is_some()).count();
    check.that(weighted == 0 || weighted == config.source.len(), "source.weight", || {
        "give a weight to every source or to none".to_owned()
    })?;
    check.that(config.mix.tokens.is_none() || weighted > 0, "mix.tokens", || {
        "this needs a weight for every source; with epochs the number of tokens follows".to_owned()
    })?;
    check.that(config.mix.tokens != Some(0), "mix.tokens", || "0 should be 1 or more".to_owned())?;
    check_filter(&config.filter, "filter", &check)?;
    check_deduplicate(&config.deduplicate, &check)?;
    check_decontaminate(config, &check)?;
    check_tokenizer(&config.tokenizer, &check)?;
    let validation = config.pack.validation;
    check.that((0.0..1.0).contains(&validation), "pack.validation", || {
        format!("{validation} should be a share from 0 to below 1")
    })?;
    check.that(config.pack.tokens_per_shard > 0, "pack.tokens_per_shard", || {
        "0 should be 1 or more".to_owned()
    })?;
    check.share("fill_in_the_middle.rate", config.fill_in_the_middle.rate)
}

struct Check<'a> {
    file: &'a Path,
}

impl Check<'_> {
    fn that(&self, holds: bool, field: &str, problem: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { Err(Error::config(self.file, field, problem())) }
    }

    fn share(&self, field: &str, value: f64) -> Result<()> {
        self.that((0.0..=1.0).contains(&value), field, || format!("{value} should be a share from 0 to 1"))
    }
}

fn check_source(source: &SourceConfig, index: usize, check: &Check<'_>) -> Result<()> {
    let field = |name: &str| format!("source[{index}].{name}");
    check.that(!source.name.is_empty(), &field("name"), || "it is empty".to_owned())?;
    check.that(!source.paths.is_empty(), &field("paths"), || "give at least one file or glob".to_owned())?;
    for pattern in &source.paths {
        let parsed = glob::Pattern::new(pattern);
        check.that(parsed.is_ok(), &field("paths"), || {
            format!(
                "{pattern:?} is no glob: {}",
                parsed.err().map(|error| error.to_string()).unwrap_or_default()
            )
        })?;
    }
    check.that(source.template.is_none() || source.field.is_none(), &field("template"), || {
        "give either field or template".to_owned()
    })?;
    if let Some(template) = &source.template {
        check.that(source.kind == Kind::Text, &field("template"), || {
            "a conversation comes from one field; give field".to_owned()
        })?;
        let parsed = crate::prepare::input::Template::parse(template);
        check.that(parsed.is_ok(), &field("template"), || parsed.err().unwrap_or_default())?;
    }
    check.that((1..1 << 31).contains(&source.max_record_bytes), &field("max_record_bytes"), || {
        format!("{} should be from 1 to 2147483647", source.max_record_bytes)
    })?;
    check.that(source.epochs.is_none() || source.weight.is_none(), &field("weight"), || {
        "give either epochs or weight".to_owned()
    })?;
    for (name, value) in [("epochs", source.epochs), ("weight", source.weight)] {
        let fits = value.is_none_or(|value| value > 0.0 && value.is_finite());
        check.that(fits, &field(name), || {
            format!("{} should be above 0; leave the source out instead", value.unwrap_or_default())
        })?;
    }
    if let Some(rate) = source.fill_in_the_middle {
        check.share(&field("fill_in_the_middle"), rate)?;
    }
    source.filter.as_ref().map_or(Ok(()), |filter| check_filter(filter, &field("filter"), check))
}

fn check_filter(filter: &Filter, table: &str, check: &Check<'_>) -> Result<()> {
    for (field, share) in [
        ("min_letter_share", filter.min_letter_share),
        ("min_alphabetic_word_share", filter.min_alphabetic_word_share),
        ("max_bullet_line_share", filter.max_bullet_line_share),
        ("max_ellipsis_line_share", filter.max_ellipsis_line_share),
        ("max_duplicate_line_share", filter.max_duplicate_line_share),
        ("max_duplicate_paragraph_share", filter.max_duplicate_paragraph_share),
        ("min_punctuated_line_share", filter.min_punctuated_line_share),
    ] {
        check.share(&format!("{table}.{field}"), share.unwrap_or_default())?;
    }
    for (field, number) in [
        ("min_mean_word_length", filter.min_mean_word_length),
        ("max_mean_word_length", filter.max_mean_word_length),
        ("min_mean_line_length", filter.min_mean_line_length),
        ("max_symbol_word_ratio", filter.max_symbol_word_ratio),
    ] {
        let fits = number.is_none_or(|number| number >= 0.0 && number.is_finite());
        check.that(fits, &format!("{table}.{field}"), || "it should be 0 or above".to_owned())?;
    }
    check.that(filter.forbidden.iter().all(|text| !text.is_empty()), &format!("{table}.forbidden"), || {
        "an empty text is in every document".to_owned()
    })
}

fn check_deduplicate(deduplicate: &Deduplicate, check: &Check<'_>) -> Result<()> {
    let Deduplicate { shingle, permutations, bands, threshold, .. } = *deduplicate;
    check.that((1..=64).contains(&shingle), "deduplicate.shingle", || {
        format!("{shingle} should be from 1 to 64")
    })?;
    check.that((2..=4096).contains(&permutations), "deduplicate.permutations", || {
        format!("{permutations} should be from 2 to 4096")
    })?;
    check.that(threshold > 0.0 && threshold <= 1.0, "deduplicate.threshold", || {
        format!("{threshold} should be a share above 0 and at most 1")
    })?;
    let fits = bands.is_none_or(|bands| bands > 0 && permutations.is_multiple_of(bands));
    check.that(fits, "deduplicate.bands", || {
        format!("{} should divide permutations = {permutations}", bands.unwrap_or_default())
    })
}

fn check_decontaminate(config: &PrepareConfig, check: &Check<'_>) -> Result<()> {
    let Some(decontaminate) = &config.decontaminate else { return Ok(()) };
    let ngram = decontaminate.ngram;
    check.that((1..=64).contains(&ngram), "decontaminate.ngram", || {
        format!("{ngram} should be from 1 to 64")
    })?;
    if let Some(shortest) = decontaminate.shortest {
        check.that((1..=ngram).contains(&shortest), "decontaminate.shortest", || {
            format!("{shortest} should be from 1 to ngram = {ngram}")
        })?;
    }
    check.that(!decontaminate.benchmark.is_empty(), "decontaminate.benchmark", || {
        "give at least one [[decontaminate.benchmark]]".to_owned()
    })?;
    for (index, benchmark) in decontaminate.benchmark.iter().enumerate() {
        let field = |name: &str| format!("decontaminate.benchmark[{index}].{name}");
        check.that(!benchmark.paths.is_empty(), &field("paths"), || "give at least one file".to_owned())?;
        check
            .that(!benchmark.fields.is_empty(), &field("fields"), || "give at least one field".to_owned())?;
    }
    Ok(())
}

fn check_tokenizer(tokenizer: &TokenizerConfig, check: &Check<'_>) -> Result<()> {
    let one = tokenizer.path.is_some() != tokenizer.vocab_size.is_some();
    check.that(one, "tokenizer", || {
        "give either path (of a tokenizer that there is) or vocab_size (of one to be trained)".to_owned()
    })?;
    if tokenizer.path.is_some() {
        let other = tokenizer.isolate.is_some() || tokenizer.chat_template.is_some();
        return check.that(!other, "tokenizer", || {
            "isolate and chat_template are for a tokenizer that is trained; leave them out".to_owned()
        });
    }
    let vocab_size = tokenizer.vocab_size.unwrap_or_default();
    check.that((SMALLEST_VOCABULARY..1 << 24).contains(&vocab_size), "tokenizer.vocab_size", || {
        format!("{vocab_size} should be from {SMALLEST_VOCABULARY} (control tokens and bytes) to 16777215")
    })?;
    check
        .that(tokenizer.sample_bytes > 0, "tokenizer.sample_bytes", || "0 should be 1 or more".to_owned())?;
    let training = tokenizer.training(None);
    training.check().map_err(|error| Error::config(check.file, "tokenizer", error.to_string()))
}

impl TokenizerConfig {
    /// What is to be trained; `chat_template` is the content of the file.
    pub(crate) fn training(&self, chat_template: Option<String>) -> BpeTraining {
        BpeTraining {
            vocab_size: self.vocab_size.unwrap_or_default(),
            digits: self.digits,
            isolate: self.isolate.clone(),
            min_frequency: self.min_frequency,
            chat_template,
        }
    }
}
