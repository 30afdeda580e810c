//! Configurations that are and that cannot be.

use super::*;

const GOOD: &str = r#"
out = "data"
[[source]]
name = "a"
paths = ["a/*.jsonl.zst", "/b/*.txt"]
documents = { separator = "====" }
[[source]]
name = "b"
paths = ["b.parquet"]
template = "{title}\n{body}"
epochs = 2.5
deduplicate = "exact"
filter = { min_words = 10 }
[tokenizer]
vocab_size = 4608
digits = "single"
isolate = '\p{Han}|[-+*/<=>]'
"#;

fn parse(text: &str, overrides: &[&str]) -> Result<PrepareConfig> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    PrepareConfig::parse(text, Path::new("data.toml"), &overrides)
}

#[test]
fn defaults_and_overrides() {
    let config = parse(GOOD, &[]).unwrap();
    assert_eq!(config.deduplicate, Deduplicate::default());
    assert_eq!(config.source[0].documents, TextDocuments::Separator("====".to_owned()));
    assert_eq!((config.source[0].field(), config.pack.validation), ("text", 0.005));
    let overrides = ["source.1.epochs=3", "pack.shuffle=false", "out=there", "filter.max_words=9"];
    let config = parse(GOOD, &overrides).unwrap();
    assert_eq!((config.source[1].epochs, config.filter.max_words), (Some(3.0), Some(9)));
    assert_eq!((config.out, config.pack.shuffle), (PathBuf::from("there"), false));
}

#[test]
fn paths_start_at_the_file_whatever_its_folder_is_called() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("odd[1]*");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("data.toml"), GOOD.replace("\"a/*.jsonl.zst\", \"/b/*.txt\"", "\"*.txt\""))
        .unwrap();
    std::fs::write(folder.join("x.txt"), "x").unwrap();
    std::fs::write(folder.join("b.parquet"), "x").unwrap();
    let config = PrepareConfig::read(&folder.join("data.toml"), &[]).unwrap();
    assert_eq!(config.out, folder.join("data"));
    let files = crate::prepare::input::input_files(&config).unwrap();
    let paths: Vec<&Path> = files.iter().map(|file| &*file.path).collect();
    assert_eq!(paths, [folder.join("x.txt"), folder.join("b.parquet")]);
}

#[test]
fn what_cannot_be_is_named() {
    for (change, parts) in [
        ("pack.validation=1", &["pack.validation", "1 should be", "below 1"][..]),
        ("pack.tokens=1", &["pack", "unknown field `tokens`", "misspelt"]),
        ("source.0.weight=1", &["source.weight", "every source or to none"]),
        ("source.1.weight=1", &["source[1].weight", "either epochs or weight"]),
        ("source.1.epochs=0", &["source[1].epochs", "above 0"]),
        ("source.1.name=a", &["source[1].name", "another source"]),
        ("source.1.template=\"{x\"", &["source[1].template", "without a }"]),
        ("source.1.template=\"x\"", &["source[1].template", "names no field"]),
        ("source.1.kind=chat", &["source[1].template", "one field"]),
        ("source.0.paths=[\"a**b\"]", &["source[0].paths", "no glob"]),
        ("source.0.paths=[]", &["source[0].paths", "at least one"]),
        ("source.0.max_record_bytes=3000000000", &["source[0].max_record_bytes", "2147483647"]),
        ("source.2.name=c", &["2 entries"]),
        ("source.name=c", &["source", "is a list"]),
        ("mix.tokens=5", &["mix.tokens", "weight"]),
        ("filter.min_letter_share=2", &["filter.min_letter_share", "share"]),
        ("filter.forbidden=[\"\"]", &["filter.forbidden", "empty"]),
        ("deduplicate.bands=7", &["deduplicate.bands", "permutations = 128"]),
        ("deduplicate.threshold=0", &["deduplicate.threshold"]),
        ("tokenizer.path=x", &["tokenizer", "either path", "vocab_size"]),
        ("tokenizer.vocab_size=200", &["tokenizer.vocab_size", "266"]),
        ("tokenizer.isolate=\"(\"", &["tokenizer", "regular expression"]),
        ("tokenizer.digits=two", &["tokenizer.digits", "unknown variant `two`"]),
        ("fill_in_the_middle.rate=1.5", &["fill_in_the_middle.rate"]),
        ("decontaminate.ngram=10", &["decontaminate", "missing field `benchmark`"]),
        ("memory=5", &["memory"]),
        ("out", &["there is no \"=\""]),
    ] {
        let message = parse(GOOD, &[change]).expect_err(change).to_string();
        for part in parts.iter() {
            assert!(message.contains(part), "{change}: {message} does not say {part:?}");
        }
    }
    assert!(parse("out = [", &[]).unwrap_err().to_string().contains("not valid TOML"));
}
