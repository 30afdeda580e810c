//! Whole datasets from small corpora.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::test_data::tokenizer_directory;
use crate::{Dataset, Verify};

const WORDS: [&str; 12] = [
    "river", "stone", "paper", "light", "under", "seven", "garden", "quiet", "marble", "often", "window",
    "carry",
];

/// A text of `length` words that shares no shingle with another number's.
fn text(number: u64, length: u64) -> String {
    let word = |at: u64| {
        let mixed = (number * 1000 + at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        format!("{}{}", WORDS[(mixed % 12) as usize], mixed / 12 % 100)
    };
    (0..length).map(word).collect::<Vec<_>>().join(" ")
}

fn json(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect()
}

/// Three files of forty documents, of which some are what others are.
fn corpus() -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    for file in 0..3 {
        let mut texts: Vec<String> = (0..40).map(|number| text(file * 100 + number, 60)).collect();
        if file == 2 {
            // Of another file, word for word; with one word changed; of a benchmark.
            texts.push(text(3, 60));
            texts.push(text(105, 60).replacen(' ', " another ", 1));
            texts.push(format!("{} {}", text(900, 30), text(901, 30)));
            texts.push("short".to_owned());
        }
        fs::write(scratch.path().join(format!("{file}.jsonl")), json(texts)).unwrap();
    }
    let asked = serde_json::json!({ "question": format!("{} {}", text(901, 12), text(902, 12)) });
    fs::write(scratch.path().join("benchmark.json"), format!("{asked}\n")).unwrap();
    let config = format!(
        "out = \"out\"\nseed = 4\n[[source]]\nname = \"a\"\npaths = [\"?.jsonl\"]\nlicense = \"CC0\"\n\
         [filter]\nmin_words = 5\n[decontaminate]\n[[decontaminate.benchmark]]\nname = \"b\"\n\
         paths = [\"benchmark.json\"]\nfields = [\"question\"]\n\
         [tokenizer]\npath = {:?}\n[pack]\nvalidation = 0.1\ntokens_per_shard = 9000\n",
        tokenizer_directory()
    );
    fs::write(scratch.path().join("data.toml"), config).unwrap();
    scratch
}

fn config(scratch: &TempDir, overrides: &[&str]) -> PrepareConfig {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    PrepareConfig::read(&scratch.path().join("data.toml"), &overrides).unwrap()
}

fn go_on(_: Phase, _: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn report(config: &PrepareConfig, part: Part) -> PrepareReport {
    match prepare(config, part, &go_on).unwrap() {
        Outcome::Dataset(report) => *report,
        other => panic!("{other:?}"),
    }
}

fn stages(config: &PrepareConfig, part: Part) -> (u64, u64, u64) {
    match prepare(config, part, &go_on).unwrap() {
        Outcome::Stages { made, found, missing } => (made, found, missing),
        other => panic!("{other:?}"),
    }
}

/// All files but the report, whose times differ.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file() && !path.ends_with("report.json"));
    files
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect()
}

/// The texts of a split, without bos and eos.
fn documents(directory: &Path, split: fn(&Dataset) -> &crate::Split) -> Vec<String> {
    let dataset = Dataset::open(directory, Verify::Content).unwrap();
    let tokenizer = Tokenizer::from_dir(directory).unwrap();
    let split = split(&dataset);
    let decode = |index| tokenizer.decode(&split.document(index).unwrap().tokens, true).unwrap();
    (0..split.documents()).map(decode).collect()
}

#[test]
fn what_is_left_is_what_should_be() {
    let scratch = corpus();
    let config = config(&scratch, &[]);
    let made = report(&config, Part::All);
    let total = &made.total;
    assert_eq!((total.files, total.counts.documents_in, total.counts.documents_kept), (3, 124, 122));
    assert_eq!(
        (total.counts.contaminated, &total.counts.filtered),
        (1, &BTreeMap::from([("min_words".to_owned(), 1)]))
    );
    assert_eq!((total.exact_duplicates, total.near_duplicates), (1, 1));
    assert_eq!(total.train_documents + total.validation_documents, 120);
    assert!((3..30).contains(&total.validation_documents), "{}", total.validation_documents);
    let mut all = documents(&config.out, Dataset::train);
    assert_ne!(
        all,
        {
            let mut sorted = all.clone();
            sorted.sort();
            sorted
        },
        "they are shuffled"
    );
    all.extend(documents(&config.out, Dataset::validation));
    all.sort();
    let mut expected: Vec<String> =
        (0..3).flat_map(|file| (0..40).map(move |number| text(file * 100 + number, 60))).collect();
    expected.sort();
    assert_eq!(all, expected);
    let dataset = Dataset::open(&config.out, Verify::Content).unwrap();
    let first = dataset.train().document(0).unwrap();
    assert_eq!((first.tokens[0], first.tokens[first.tokens.len() - 1]), (0, 1), "bos and eos");
    let source = &dataset.manifest().sources[0];
    assert_eq!((&*source.name, &*source.license, source.tokens), ("a", "CC0", dataset.tokens()));
    assert!(dataset.manifest().train.shards.len() > 1);
    assert!(!config.out.join("stages").exists());
    let written: PrepareReport =
        serde_json::from_slice(&fs::read(config.out.join("report.json")).unwrap()).unwrap();
    assert_eq!(written, made);
    let again = prepare(&config, Part::All, &go_on).unwrap_err().to_string();
    assert!(again.contains("already exists"), "{again}");
}

#[test]
fn threads_tasks_and_memory_do_not_matter() {
    let scratch = corpus();
    let one = config(&scratch, &["out=one", "threads=1"]);
    report(&one, Part::All);
    let many = config(&scratch, &["out=many", "threads=3", "memory=1048576"]);
    report(&many, Part::All);
    assert_eq!(files(&one.out), files(&many.out));
    let array = config(&scratch, &["out=array"]);
    let early = prepare(&array, Part::Finish, &go_on).unwrap_err().to_string();
    assert!(early.contains("3 of 3 input files") && early.contains("0.jsonl"), "{early}");
    assert_eq!(stages(&array, Part::Task { task: 1, tasks: 2 }), (1, 0, 2));
    assert_eq!(stages(&array, Part::Task { task: 0, tasks: 2 }), (2, 0, 0));
    assert_eq!(stages(&array, Part::Task { task: 0, tasks: 2 }), (0, 2, 0));
    report(&array, Part::Finish);
    assert_eq!(files(&one.out), files(&array.out));
}

#[test]
fn work_goes_on_where_it_was_stopped() {
    let scratch = corpus();
    let whole = config(&scratch, &["out=whole"]);
    report(&whole, Part::All);
    let stopped = config(&scratch, &["out=stopped", "keep_stages=true"]);
    for last in [Phase::Stages, Phase::Pack] {
        let stop =
            |phase, _, _| if phase == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        assert!(matches!(prepare(&stopped, Part::All, &stop), Err(Error::Stopped)), "{last:?}");
        assert!(!stopped.out.join("dataset.json").exists());
    }
    let stage_files = || {
        let names = fs::read_dir(stopped.out.join("stages")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = names.filter(|path| path.is_file()).collect();
        files.sort();
        files
    };
    assert_eq!(stage_files().len(), 6, "two files for each input");
    fs::remove_file(&stage_files()[1]).unwrap();
    assert_eq!(stages(&stopped, Part::Task { task: 0, tasks: 1 }), (1, 2, 0));
    // Another configuration of the same documents finds no stage, another mixture does.
    let other = config(&scratch, &["out=stopped", "filter.min_words=6"]);
    assert!(matches!(prepare(&other, Part::Finish, &go_on), Err(Error::MissingStages { missing: 3, .. })));
    let mixed = config(&scratch, &["out=stopped", "source.0.epochs=2", "pack.shuffle=false"]);
    assert_eq!(stages(&mixed, Part::Task { task: 0, tasks: 1 }), (0, 3, 0));
    report(&stopped, Part::All);
    assert_eq!(files(&whole.out), files(&stopped.out));
    assert_eq!(stage_files().len(), 6, "they are kept if asked for");
}

#[test]
fn epochs_and_weights() {
    let scratch = corpus();
    let second = "\n[[source]]\nname = \"b\"\npaths = [\"0.jsonl\"]\ndeduplicate = \"none\"\n";
    let path = scratch.path().join("data.toml");
    fs::write(&path, fs::read_to_string(&path).unwrap() + second).unwrap();
    let share = |made: &PrepareReport, source: usize| {
        made.sources[source].train_tokens as f64 / made.total.train_tokens as f64
    };

    let made =
        report(&config(&scratch, &["out=epochs", "source.0.epochs=0.5", "source.1.epochs=3"]), Part::All);
    assert_eq!(made.sources[1].train_documents, 3 * (40 - made.sources[1].validation_documents));
    assert!((30..90).contains(&made.sources[0].train_documents), "{made:?}");
    assert_eq!(made.sources[1].exact_duplicates, 0, "it may repeat what was there");

    let weights = ["source.0.weight=1", "source.1.weight=3"];
    let made = report(&config(&scratch, &[&["out=all"], &weights[..]].concat()), Part::All);
    assert_eq!(made.sources[1].epochs, 1.0, "the largest mixture that repeats nothing");
    assert!((share(&made, 1) - 0.75).abs() < 0.06, "{}", share(&made, 1));
    let made =
        report(&config(&scratch, &[&["out=more", "mix.tokens=60000"], &weights[..]].concat()), Part::All);
    assert!((made.total.train_tokens as f64 / 60_000.0 - 1.0).abs() < 0.1, "{}", made.total.train_tokens);
    assert!((share(&made, 1) - 0.75).abs() < 0.06, "{}", share(&made, 1));
}

#[test]
fn conversations_are_documents() {
    let scratch = corpus();
    let turn = |role, content: &str| serde_json::json!({ "role": role, "content": content });
    let talk = |number| {
        let turns = [
            turn("user", &format!("{} <｜User｜>\r\n", text(number, 5))),
            turn("assistant", "<think>a</think>b"),
        ];
        serde_json::json!({ "messages": turns }).to_string() + "\n"
    };
    fs::write(scratch.path().join("0.jsonl"), (0..20).map(talk).collect::<String>()).unwrap();
    let overrides = ["source.0.kind=chat", "source.0.paths=[\"0.jsonl\"]", "fill_in_the_middle.rate=0"];
    let config = config(&scratch, &overrides);
    let made = report(&config, Part::All);
    assert_eq!(made.total.counts.documents_kept, 20);
    let dataset = Dataset::open(&config.out, Verify::Content).unwrap();
    let tokenizer = Tokenizer::from_dir(&config.out).unwrap();
    let document = dataset.train().document(0).unwrap();
    let user = tokenizer.token_to_id("<｜User｜>").unwrap();
    assert_eq!(document.tokens.iter().filter(|&&id| id == user).count(), 1, "what people wrote is text");
    assert_eq!((document.tokens[0], document.tokens.last()), (0, Some(&1)));
    let text = tokenizer.decode(&document.tokens, false).unwrap();
    assert!(text.contains("<｜User｜>\n<｜Assistant｜>"), "{text:?}");
    assert_eq!(document.learn, None, "all of it is learnt");
}

/// Control tokens stand between them in a dataset, so that what would join their texts would never be used.
#[test]
fn nothing_is_learnt_across_the_turns_of_a_conversation() {
    let scratch = corpus();
    let talk = |number| {
        let turn = |role, content: String| serde_json::json!({ "role": role, "content": content });
        let turns = [turn("user", text(number, 4) + "??"), turn("assistant", text(number + 500, 4) + ".\n")];
        serde_json::json!({ "messages": turns }).to_string() + "\n"
    };
    fs::write(scratch.path().join("0.jsonl"), (0..60).map(talk).collect::<String>()).unwrap();
    let path = scratch.path().join("data.toml");
    let source = fs::read_to_string(&path).unwrap();
    fs::write(&path, source.replace(&format!("path = {:?}", tokenizer_directory()), "vocab_size = 400"))
        .unwrap();
    let overrides = ["source.0.kind=chat", "source.0.paths=[\"0.jsonl\"]"];
    let config = config(&scratch, &overrides);
    report(&config, Part::All);
    let tokenizer = Tokenizer::from_dir(&config.out).unwrap();
    let ids = |text: &str| tokenizer.encode_plain(text).unwrap().len();
    assert_eq!((ids("??"), ids(".\n"), ids("??\n")), (1, 1, 2));
}

#[test]
fn bad_corpora_give_one_error_and_no_dataset() {
    let check = |change: &dyn Fn(&Path), overrides: &[&str], parts: &[&str]| {
        let scratch = corpus();
        change(scratch.path());
        let config = config(&scratch, overrides);
        let message = prepare(&config, Part::All, &go_on).expect_err(parts[0]).to_string();
        for part in parts {
            assert!(message.contains(part), "{message} does not say {part:?}");
        }
        assert!(!config.out.join("dataset.json").exists());
        config.out.clone()
    };
    let append = |directory: &Path, bytes: &[u8]| {
        let path = directory.join("1.jsonl");
        fs::write(&path, [&fs::read(&path).unwrap(), bytes].concat()).unwrap();
    };
    check(&|dir| append(dir, b"{\"text\": \"\xff\"}\n"), &[], &["1.jsonl, line 41", "skip"]);
    check(&|dir| append(dir, b"{\"body\": \"x\"}\n"), &[], &["1.jsonl, line 41", "no field `text`"]);
    check(&|dir| append(dir, b"{\"text\": "), &[], &["1.jsonl, line 41"]);
    check(&|_| {}, &["source.0.paths=[\"*.gz\"]"], &["\"a\"", "*.gz", "no file matches"]);
    check(&|_| {}, &["filter.min_words=1000"], &["nothing is left of 124 documents"]);
    check(&|_| {}, &["fill_in_the_middle.rate=0.1"], &["fim", "rate"]);
    check(
        &|_| {},
        &["decontaminate.benchmark.0.fields=[\"answer\"]"],
        &["benchmark.json, line 1", "`answer`"],
    );
    check(&|_| {}, &["tokenizer.path=nowhere"], &["nowhere", "tokenizer"]);
    let without_eos = |dir: &Path| {
        fs::create_dir(dir.join("t")).unwrap();
        fs::copy(tokenizer_directory().join("tokenizer.json"), dir.join("t/tokenizer.json")).unwrap();
    };
    check(&without_eos, &["tokenizer.path=t"], &["no eos token", "eos_token"]);
    let scratch = corpus();
    append(scratch.path(), b"{\"text\": \"\xff\"}\nno JSON\n");
    let made = report(&config(&scratch, &["source.0.on_invalid=skip"]), Part::All);
    assert_eq!((made.total.counts.invalid, made.total.counts.documents_in), (2, 124));
}

#[test]
fn a_tokenizer_is_trained_once_and_the_same_every_time() {
    let scratch = corpus();
    let path = scratch.path().join("data.toml");
    let text = fs::read_to_string(&path).unwrap();
    let tokenizer = format!("path = {:?}", tokenizer_directory());
    let training = "vocab_size = 400\nisolate = '[0-9]'\nsample_bytes = 20000";
    fs::write(&path, text.replace(&tokenizer, training) + "[fill_in_the_middle]\nrate = 0.5\n").unwrap();
    let array = config(&scratch, &["out=array"]);
    let early = prepare(&array, Part::Task { task: 0, tasks: 2 }, &go_on).unwrap_err().to_string();
    assert!(early.contains("--only-tokenizer"), "{early}");
    let Outcome::Tokenizer(directory) = prepare(&array, Part::Tokenizer, &go_on).unwrap() else { panic!() };
    let trained = fs::read(directory.join("tokenizer.json")).unwrap();
    for task in 0..2 {
        stages(&array, Part::Task { task, tasks: 2 });
    }
    let made = report(&array, Part::Finish);
    assert_eq!(fs::read(array.out.join("tokenizer.json")).unwrap(), trained);
    let gaps = made.total.counts.fill_in_the_middle;
    assert!((30..80).contains(&gaps), "{gaps} of 122");
    let single = config(&scratch, &["out=single", "threads=1"]);
    report(&single, Part::All);
    assert_eq!(files(&single.out), files(&array.out));
    let tokenizer = Tokenizer::from_dir(&single.out).unwrap();
    assert!((280..=400).contains(&tokenizer.vocab_size()), "{} ids", tokenizer.vocab_size());
    let dataset = Dataset::open(&single.out, Verify::Content).unwrap();
    let begin = tokenizer.token_to_id("<｜fim▁begin｜>").unwrap();
    let found = (0..dataset.train().documents())
        .filter(|&index| dataset.train().document(index).unwrap().tokens[1] == begin)
        .count();
    assert!((20..80).contains(&found), "{found}");
    let plain = (0..dataset.validation().documents())
        .all(|index| !dataset.validation().document(index).unwrap().tokens.contains(&begin));
    assert!(plain, "validation is of whole documents");
}
