//! Shards written and read back.

use super::*;
use proptest::prelude::*;

fn check(vocab_size: u32, masked: bool, documents: &[Vec<(u32, bool)>]) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.tokens");
    let layout = ShardLayout { vocab_size, masked };
    let mut writer = ShardWriter::create(&path, layout).unwrap();
    for (index, document) in documents.iter().enumerate() {
        let (tokens, learn): (Vec<u32>, Vec<bool>) = document.iter().copied().unzip();
        if masked {
            writer.append_masked(&tokens, &learn, index as u64).unwrap();
        } else {
            writer.append(&tokens, index as u64).unwrap();
        }
    }
    assert!(!path.exists(), "a shard appears when it is complete");
    let entry = writer.finish().unwrap();
    let shard = Shard::open(&path).unwrap();
    shard.verify().unwrap();
    shard.check_entry(&entry, layout).unwrap();
    let all: Vec<(u32, bool)> = documents.concat();
    assert_eq!(shard.tokens(), all.len() as u64);
    let mut tokens = vec![0; all.len()];
    shard.read(0..all.len() as u64, &mut tokens).unwrap();
    assert!(tokens.iter().eq(all.iter().map(|(token, _)| token)));
    if masked {
        let mut learn = vec![false; all.len()];
        shard.read_mask(0..all.len() as u64, &mut learn);
        assert!(learn.iter().eq(all.iter().map(|(_, learn)| learn)));
    }
    let mut at = 0;
    for (index, document) in documents.iter().enumerate() {
        let end = at + document.len() as u64;
        assert_eq!(shard.document(index as u64), at..end);
        at = end;
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else is left");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn round_trip(
        wide: bool,
        masked: bool,
        documents in prop::collection::vec(prop::collection::vec((0_u32..65_536, any::<bool>()), 1..70), 0..20),
    ) {
        check(if wide { 65_537 } else { 65_536 }, masked, &documents);
    }
}

#[test]
fn a_document_larger_than_the_buffer() {
    let document: Vec<(u32, bool)> = (0..1_500_001).map(|at| (at % 60_000, at % 3 == 0)).collect();
    check(60_000, true, &[document.clone(), document[..5].to_vec()]);
    check(70_000, false, &[document]);
}

#[test]
fn a_token_outside_the_vocabulary_is_refused_and_nothing_is_left() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.tokens");
    let mut writer = ShardWriter::create(&path, ShardLayout { vocab_size: 10, masked: false }).unwrap();
    writer.append(&[9], 1).unwrap();
    let message = writer.append(&[3, 10], 1).unwrap_err().to_string();
    assert!(message.contains("token 10") && message.contains("vocabulary has 10"), "{message}");
    drop(writer);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
