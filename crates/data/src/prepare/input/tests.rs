//! Files of every kind, and broken ones.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::parquet::arrow::ArrowWriter;
use arrow_array::{ArrayRef, Int32Array, LargeStringArray, RecordBatch, StringArray};

use super::*;
use crate::prepare::config::{PrepareConfig, SourceConfig};

const TEXT: &[u8] = b"{\"text\": \"one\"}\n\n  \n{\"text\": \"two\"}\r\n{\"text\": \"three\"}";

/// The line `{"text": "packed with xz"}`, as `xz -0` packs it.
const XZ: [u8; 84] = [
    0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x0c,
    0x00, 0x00, 0x00, 0x8f, 0x98, 0x41, 0x9c, 0x01, 0x00, 0x1a, 0x7b, 0x22, 0x74, 0x65, 0x78, 0x74, 0x22,
    0x3a, 0x20, 0x22, 0x70, 0x61, 0x63, 0x6b, 0x65, 0x64, 0x20, 0x77, 0x69, 0x74, 0x68, 0x20, 0x78, 0x7a,
    0x22, 0x7d, 0x0a, 0x00, 0x00, 0xca, 0x92, 0x33, 0xea, 0x4e, 0xd6, 0xc7, 0xdc, 0x00, 0x01, 0x33, 0x1b,
    0xf7, 0x19, 0x88, 0x5e, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn source(paths: &Path, fields: &str) -> SourceConfig {
    let text = format!(
        "out = 'x'\n[tokenizer]\npath = 'x'\n[[source]]\nname = 'a'\npaths = ['{}']\n{fields}",
        paths.display()
    );
    PrepareConfig::parse(&text, Path::new("data.toml"), &[]).unwrap().source.remove(0)
}

/// Texts and places of all records of a file with this content.
fn read(name: &str, content: &[u8], fields: &str) -> Result<Vec<(String, u64)>> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join(name);
    fs::write(&path, content).unwrap();
    let source = source(&path, fields);
    let file = InputFile {
        source: 0,
        format: plan::format_of(&path)?,
        path,
        bytes: content.len() as u64,
        modified: 0,
    };
    let counter = Arc::new(AtomicU64::new(0));
    let mut reader = Reader::open(&file, &source, Arc::clone(&counter))?;
    let mut all = Vec::new();
    while let Some(records) = reader.next()? {
        all.extend(records.iter().map(|(text, place)| (String::from_utf8_lossy(text).into_owned(), place)));
    }
    assert_eq!(counter.load(Ordering::Relaxed), file.bytes, "the progress ends at the end");
    Ok(all)
}

fn texts(name: &str, content: &[u8], fields: &str) -> Vec<(String, u64)> {
    read(name, content, fields).unwrap()
}

#[track_caller]
fn refused(name: &str, content: &[u8], fields: &str, parts: &[&str]) {
    let message = read(name, content, fields).expect_err(name).to_string();
    for part in parts.iter().chain([&name]) {
        assert!(message.contains(part), "{message} does not say {part:?}");
    }
}

fn owned(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
    rows.iter().map(|&(text, place)| (text.to_owned(), place)).collect()
}

#[test]
fn every_compression() {
    let lines =
        owned(&[("{\"text\": \"one\"}", 1), ("{\"text\": \"two\"}", 4), ("{\"text\": \"three\"}", 5)]);
    assert_eq!(texts("a.jsonl", TEXT, ""), lines);
    assert_eq!(texts("a.jsonl.gz", &gzip(TEXT), ""), lines);
    let members = [gzip(&TEXT[..16]), gzip(&TEXT[16..])].concat();
    assert_eq!(texts("members.jsonl.gz", &members, ""), lines);
    let packed = zstd::encode_all(TEXT, 3).unwrap();
    assert_eq!(texts("a.jsonl.zst", &packed, ""), lines);
    assert_eq!(texts("without-suffix.jsonl", &packed, ""), lines);
    let frames =
        [zstd::encode_all(&TEXT[..16], 3).unwrap(), zstd::encode_all(&TEXT[16..], 1).unwrap()].concat();
    assert_eq!(texts("frames.jsonl.zst", &frames, ""), lines);
    let xz = owned(&[("{\"text\": \"packed with xz\"}", 1)]);
    assert_eq!(texts("a.jsonl.xz", &XZ, ""), xz);
    assert_eq!(texts("twice.jsonl.xz", &[XZ, XZ].concat(), "").len(), 2);
    assert_eq!(texts("empty.jsonl", b"", ""), []);
}

#[test]
fn damaged_files_are_named() {
    let large: Vec<u8> =
        (0..200_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).collect();
    let (gz, zst) = (gzip(&large), zstd::encode_all(&*large, 1).unwrap());
    refused("cut.txt.gz", &gz[..gz.len() / 2], "", &["cannot read"]);
    refused("cut.txt.zst", &zst[..zst.len() / 2], "", &["cannot read"]);
    refused("cut.txt.xz", &XZ[..60], "", &["cannot read"]);
    let mut changed = gz.clone();
    changed[gz.len() / 2] ^= 0x55;
    refused("changed.txt.gz", &changed, "", &["cannot read"]);
    refused("plain.jsonl.gz", TEXT, "", &["ends in .gz", "gzip"]);
    refused("empty.jsonl.zst", b"", "", &["ends in .zst"]);
    refused("other.jsonl.xz", &gz, "", &["ends in .xz"]);
    refused("a.docx", TEXT, "", &["format"]);
    refused("long.jsonl", TEXT, "max_record_bytes = 10", &["line 1", "10 bytes", "max_record_bytes"]);
    refused("long.txt", TEXT, "max_record_bytes = 10", &["document at line 1"]);
}

#[test]
fn documents_of_text_files() {
    let text = b"a\nb\n\n\nc\n====\n d \n \n====\ne";
    assert_eq!(texts("a.txt", text, ""), owned(&[("a\nb\n\n\nc\n====\n d \n \n====\ne", 1)]));
    let lines = [("a", 1), ("b", 2), ("c", 5), ("====", 6), (" d", 7), ("====", 9), ("e", 10)];
    assert_eq!(texts("a.txt", text, "documents = 'line'"), owned(&lines));
    let paragraphs = [("a\nb", 1), ("c\n====\n d", 5), ("====\ne", 9)];
    assert_eq!(texts("a.txt", text, "documents = 'paragraph'"), owned(&paragraphs));
    let parts = [("a\nb\n\n\nc", 1), (" d", 7), ("e", 10)];
    assert_eq!(texts("a.txt", text, "documents = { separator = '====' }"), owned(&parts));
    // Batches end between records, and none is lost.
    let many: String = (0..30_000).map(|n| format!("line {n} {}\n", "x".repeat(100))).collect();
    let read = texts("many.txt", many.as_bytes(), "documents = 'line'");
    assert_eq!(read.len(), 30_000);
    assert!(
        read.iter()
            .zip(1..)
            .all(|((text, place), n)| *place == n && text.starts_with(&format!("line {} x", n - 1)))
    );
}

fn parquet_file(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn columns_of_parquet() {
    let strings = |rows: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(rows.to_vec())) };
    let file = parquet_file(vec![
        ("title", strings(&[Some("A"), None])),
        ("number", Arc::new(Int32Array::from(vec![1, 2]))),
        ("text", Arc::new(LargeStringArray::from(vec!["one", "two"]))),
    ]);
    assert_eq!(texts("a.parquet", &file, ""), owned(&[("one", 1), ("two", 2)]));
    let template = "template = '{{{title}}}: {text}'";
    assert_eq!(texts("a.parquet", &file, template), owned(&[("{A}: one", 1), ("{}: two", 2)]));
    refused("a.parquet", &file, "field = 'body'", &["`body`", "title, number, text"]);
    refused("a.parquet", &file, "field = 'number'", &["`number`", "strings", "Int32"]);
    refused("a.parquet", &file, "kind = 'chat'", &["JSONL"]);
    refused("cut.parquet", &file[..file.len() - 3], "", &["Parquet"]);
    refused("none.parquet", b"nothing", "", &["Parquet"]);
    refused("long.parquet", &file, "max_record_bytes = 2", &["row 1"]);
}

#[test]
fn fields_of_json() {
    let read = |template: &str, json: &str| {
        Template::parse(template).and_then(|t| t.read_json(json.as_bytes()).map(String::from))
    };
    let json =
        r#"{"a": "x\n\u4e00", "skip": [{"a": 1}], "n": 3, "z": null, "f": 0.5, "b": true, "esc\"": "q"}"#;
    assert_eq!(read("{a}", json).unwrap(), "x\n一");
    assert_eq!(read("<{a}|{n}|{z}|{f}|{b}|{a}>", json).unwrap(), "<x\n一|3||0.5|true|x\n一>");
    assert_eq!(read("{esc\"}", json).unwrap(), "q");
    for (template, json, part) in [
        ("{c}", json, "no field `c`"),
        ("{skip}", json, "`skip`"),
        ("{a}", "[1]", "an object with a"),
        ("{a}", "{\"a\": \"x\"} y", "trailing"),
        ("{a}", "{\"a\": \"x", "EOF"),
        ("{a", json, "without a }"),
        ("a}", json, "without a {"),
        ("a", json, "names no field"),
    ] {
        let error = read(template, json).unwrap_err();
        assert!(error.contains(part), "{template} {json}: {error}");
    }
    let turns =
        read_messages(br#"{"id": 1, "messages": [{"role": "user", "content": "hi"}]}"#, "messages").unwrap();
    assert_eq!(turns[0].content.as_deref(), Some("hi"));
    assert!(read_messages(br#"{"id": 1}"#, "messages").unwrap_err().contains("`messages`"));
}
