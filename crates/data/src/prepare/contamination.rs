//! Documents that hold what models are judged by.

use std::collections::{BTreeMap, HashSet};

use twox_hash::xxhash3_128::Hasher;

use super::clean::Words;
use super::config::Decontaminate;
use super::input::{Template, benchmark_files, json_lines};
use crate::{Error, Result};

/// The n-grams of all benchmarks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Benchmarks {
    /// By their length in words.
    runs: BTreeMap<usize, HashSet<u64>>,
    /// Texts that are looked for, and those too short for it.
    pub(crate) texts: u64,
    pub(crate) too_short: u64,
}

impl Benchmarks {
    /// Reads the files of the configuration.
    pub(crate) fn read(decontaminate: &Decontaminate) -> Result<Self> {
        let mut benchmarks = Self::default();
        let mut words = Words::default();
        for benchmark in &decontaminate.benchmark {
            let fields: Vec<Template> = benchmark.fields.iter().map(|field| Template::field(field)).collect();
            for path in benchmark_files(benchmark)? {
                json_lines(&path, |line, place| {
                    for field in &fields {
                        let text = field.read_json(line).map_err(|reason| Error::BadRecord {
                            path: path.clone(),
                            place: format!("line {place}"),
                            reason,
                        })?;
                        words.scan(&text);
                        benchmarks.add(&words, decontaminate);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(benchmarks)
    }

    fn add(&mut self, words: &Words, decontaminate: &Decontaminate) {
        let count = words.hashes.len();
        let length = match decontaminate.shortest {
            _ if count >= decontaminate.ngram => decontaminate.ngram,
            Some(shortest) if count >= shortest => count,
            _ => {
                self.too_short += 1;
                return;
            }
        };
        self.texts += 1;
        let runs = self.runs.entry(length).or_default();
        words.runs(length, |hash| {
            runs.insert(hash);
        });
    }

    /// Whether a document of these words holds a part of a benchmark.
    pub(crate) fn contaminate(&self, words: &Words) -> bool {
        self.runs.iter().any(|(&length, runs)| {
            let mut found = false;
            words.runs(length, |hash| found |= runs.contains(&hash));
            found
        })
    }

    /// Names what is looked for.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = Hasher::new();
        for (length, runs) in &self.runs {
            let mut runs: Vec<u64> = runs.iter().copied().collect();
            runs.sort_unstable();
            hasher.write(&(*length as u64).to_le_bytes());
            runs.iter().for_each(|run| hasher.write(&run.to_le_bytes()));
        }
        format!("{:032x}", hasher.finish_128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::clean::words_of;

    fn benchmarks(ngram: usize, shortest: Option<usize>, texts: &[&str]) -> Benchmarks {
        let decontaminate = Decontaminate { ngram, shortest, benchmark: Vec::new() };
        let mut benchmarks = Benchmarks::default();
        for text in texts {
            benchmarks.add(&Words { hashes: words_of(text), ..Words::default() }, &decontaminate);
        }
        benchmarks
    }

    fn contaminated(benchmarks: &Benchmarks, text: &str) -> bool {
        benchmarks.contaminate(&Words { hashes: words_of(text), ..Words::default() })
    }

    #[test]
    fn a_run_of_words_is_found_whatever_stands_around_and_between() {
        let asked = "Natalia sold clips to 48 of her friends in April";
        let found = benchmarks(6, None, &[asked, "too short"]);
        assert_eq!((found.texts, found.too_short), (1, 1));
        for (text, expected) in [
            ("… NATALIA sold, clips -- to 48\nof! And more.", true),
            ("He said: sold clips to 48 of her?", true),
            ("Natalia sold clips to 48 friends in April", false),
            ("too short", false),
            ("", false),
        ] {
            assert_eq!(contaminated(&found, text), expected, "{text}");
        }
        let chinese = benchmarks(10, None, &["一个长方形的面积是二十四平方厘米"]);
        assert!(contaminated(&chinese, "题：长方形的面积是，二十四。"));
        assert!(!contaminated(&chinese, "长方形的面积是二十五"));
    }

    #[test]
    fn short_texts_are_looked_for_as_a_whole_if_asked_for() {
        let found = benchmarks(10, Some(3), &["what is love", "is it", "seven whole words are a short text"]);
        assert_eq!((found.texts, found.too_short), (2, 1));
        assert!(contaminated(&found, "Baby: What is love?"));
        assert!(!contaminated(&found, "what love is it"));
        assert!(!contaminated(&found, "seven whole words are a short"));
        assert_ne!(found.fingerprint(), benchmarks(10, Some(3), &["what is love"]).fingerprint());
    }
}
