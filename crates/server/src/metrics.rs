//! Counters and histograms, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fathom_engine::Statistics;

/// Seconds; from a token of a small model to a long answer.
const BOUNDS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// How often something took how long.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut total = 0;
        for (count, bound) in
            self.counts.iter().zip(BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]))
        {
            total += count.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(out, "{name}_sum {}", self.sum_us.load(Relaxed) as f64 / 1e6);
        let _ = writeln!(out, "{name}_count {total}");
    }
}

/// Everything that is counted outside the engine.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By route and status. Both come from small sets.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    pub(crate) connections: AtomicI64,
    pub(crate) refused_connections: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) first_token: Histogram,
    pub(crate) between_tokens: Histogram,
    pub(crate) total: Histogram,
}

impl Metrics {
    pub(crate) fn request(&self, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Everything, with the engine's numbers.
    pub(crate) fn render(&self, engine: &Statistics) -> String {
        let mut out = String::new();
        head(&mut out, "fathom_requests_total", "counter", "HTTP requests by route and status");
        for ((route, code), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "fathom_requests_total{{route=\"{route}\",code=\"{code}\"}} {count}");
        }
        let gauges = [
            ("fathom_connections", "open connections", self.connections.load(Relaxed) as f64),
            ("fathom_running", "sequences side by side", engine.running as f64),
            ("fathom_waiting", "requests that wait", engine.waiting as f64),
            ("fathom_cache_blocks", "blocks of the latent cache", engine.cache_blocks as f64),
            (
                "fathom_cache_blocks_used",
                "blocks of the latent cache in use",
                engine.cache_blocks_used as f64,
            ),
            (
                "fathom_speculation_acceptance",
                "share of drafted tokens that were accepted",
                acceptance(engine),
            ),
        ];
        for (name, help, value) in gauges {
            one(&mut out, name, "gauge", help, value);
        }
        let counters = [
            (
                "fathom_connections_refused_total",
                "connections beyond the limit",
                self.refused_connections.load(Relaxed) as f64,
            ),
            (
                "fathom_answers_cancelled_total",
                "answers whose client left",
                self.cancelled.load(Relaxed) as f64,
            ),
            ("fathom_prompt_tokens_total", "tokens of prompts", engine.prompt_tokens as f64),
            ("fathom_cached_tokens_total", "tokens of prompts that were cached", engine.cached_tokens as f64),
            ("fathom_generated_tokens_total", "tokens of answers", engine.generated_tokens as f64),
            ("fathom_drafted_tokens_total", "tokens drafted by the MTP layer", engine.drafted_tokens as f64),
            (
                "fathom_accepted_tokens_total",
                "drafted tokens that were accepted",
                engine.accepted_tokens as f64,
            ),
            ("fathom_preemptions_total", "sequences put back for want of blocks", engine.preemptions as f64),
            ("fathom_steps_total", "steps of the engine", engine.steps as f64),
            ("fathom_step_seconds_total", "time in steps", engine.step_seconds),
        ];
        for (name, help, value) in counters {
            one(&mut out, name, "counter", help, value);
        }
        self.first_token.write(
            &mut out,
            "fathom_time_to_first_token_seconds",
            "from arrival to the first token",
        );
        self.between_tokens.write(&mut out, "fathom_inter_token_seconds", "between tokens of one answer");
        self.total.write(&mut out, "fathom_answer_seconds", "from arrival to the end of an answer");
        out
    }
}

fn acceptance(engine: &Statistics) -> f64 {
    if engine.drafted_tokens == 0 {
        0.0
    } else {
        engine.accepted_tokens as f64 / engine.drafted_tokens as f64
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn one(out: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    head(out, name, kind, help);
    let _ = writeln!(out, "{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        for ms in [1, 2, 700_000] {
            metrics.first_token.observe(Duration::from_millis(ms));
        }
        metrics.request("/x", 200);
        metrics.request("/x", 200);
        let text = metrics.render(&Statistics::default());
        for line in [
            "fathom_requests_total{route=\"/x\",code=\"200\"} 2",
            "fathom_time_to_first_token_seconds_bucket{le=\"0.001\"} 1",
            "fathom_time_to_first_token_seconds_bucket{le=\"0.0025\"} 2",
            "fathom_time_to_first_token_seconds_bucket{le=\"300\"} 2",
            "fathom_time_to_first_token_seconds_bucket{le=\"+Inf\"} 3",
            "fathom_time_to_first_token_seconds_sum 700.003",
            "fathom_speculation_acceptance 0",
        ] {
            assert!(text.lines().any(|have| have == line), "no line {line:?} in\n{text}");
        }
    }
}
