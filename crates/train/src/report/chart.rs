//! The numbers of the page as JSON, what `script.js` draws.

use serde::Serialize;

use super::curve::{Bucket, Curve};
use super::history::History;

/// Steps of a kind that are marked in a chart.
const MARKS: usize = 100;

/// Everything that is drawn.
#[derive(Serialize)]
pub(super) struct Drawing {
    charts: Vec<Chart>,
    heat: Option<Heat>,
}

#[derive(Serialize)]
struct Chart {
    id: &'static str,
    title: &'static str,
    /// How values are written: `number`, `count`, `bytes` or `percent`.
    unit: &'static str,
    log_y: bool,
    wide: bool,
    series: Vec<Series>,
    /// Steps that the policy skipped.
    skipped: Vec<u64>,
    /// Steps that the run resumed from.
    resumed: Vec<u64>,
}

#[derive(Serialize)]
struct Series {
    name: &'static str,
    /// Number of the colour.
    color: u8,
    /// Drawn with dots and never smoothed: few values, each of weight.
    sparse: bool,
    step: Vec<u64>,
    mean: Vec<Digits>,
    /// Empty where nothing was thinned.
    low: Vec<Digits>,
    high: Vec<Digits>,
    not_finite: Vec<u64>,
}

/// A number with five digits that count: more do not show, and cost room.
struct Digits(f64);

impl Serialize for Digits {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let short: f64 = format!("{:.4e}", self.0).parse().unwrap_or(self.0);
        // Integers without ".0".
        if short.fract() == 0.0 && short.abs() < 1e15 {
            serializer.serialize_i64(short as i64)
        } else {
            serializer.serialize_f64(short)
        }
    }
}

#[derive(Serialize)]
struct Heat {
    steps: Vec<u64>,
    layers: Vec<HeatLayer>,
}

#[derive(Serialize)]
struct HeatLayer {
    layer: usize,
    experts: usize,
    /// `[expert][column]`, see [`super::load`].
    cells: String,
}

impl Drawing {
    pub(super) fn of(history: &History) -> Self {
        let charts = [
            chart(("loss", "Loss", "number"), loss(history)),
            chart(
                ("bits", "Validation bits per byte", "number"),
                vec![sparse("bits per byte", 1, &history.bits_per_byte)],
            ),
            chart(("lr", "Learning rate", "number"), vec![dense("learning rate", 0, &history.lr)]),
            chart(("grad", "Gradient norm", "number"), vec![dense("gradient norm", 3, &history.grad_norm)]),
            chart(
                ("balance", "Balance loss", "number"),
                vec![dense("balance loss", 4, &history.balance_loss)],
            ),
            chart(("violation", "Expert max violation", "number"), violation(history)),
            chart(
                ("speed", "Throughput, tokens/s", "count"),
                vec![dense("tokens/s", 2, &history.tokens_per_second)],
            ),
            chart(("mfu", "Model FLOPs utilization", "percent"), vec![dense("MFU", 4, &history.mfu)]),
            chart(("memory", "Memory", "bytes"), vec![dense("memory", 0, &history.memory)]),
        ];
        let charts = charts.into_iter().flatten().map(|chart| marked(chart, history)).collect();
        Self { charts, heat: heat(history) }
    }

    /// The JSON, safe inside of a script element.
    pub(super) fn json(&self) -> String {
        let json = serde_json::to_string(self).expect("numbers and fixed names serialize");
        json.replace('<', "\\u003c")
    }
}

fn loss(history: &History) -> Vec<Option<Series>> {
    vec![
        dense("training", 0, &history.loss),
        dense("multi-token prediction", 2, &history.mtp_loss),
        sparse("validation", 1, &history.validation_loss),
    ]
}

fn violation(history: &History) -> Vec<Option<Series>> {
    vec![dense("worst layer", 1, &history.worst_violation), dense("mean", 0, &history.mean_violation)]
}

/// A chart named (id, title, unit), if it has anything to show.
fn chart(named: (&'static str, &'static str, &'static str), series: Vec<Option<Series>>) -> Option<Chart> {
    let (id, title, unit) = named;
    let series: Vec<Series> = series.into_iter().flatten().collect();
    let (log_y, wide) = (id == "grad", id == "loss");
    (!series.is_empty()).then(|| Chart {
        id,
        title,
        unit,
        log_y,
        wide,
        series,
        skipped: Vec::new(),
        resumed: Vec::new(),
    })
}

fn marked(mut chart: Chart, history: &History) -> Chart {
    if matches!(chart.id, "loss" | "grad") {
        chart.skipped = history.skips.iter().map(|skip| skip.step).collect();
        chart.resumed = history.resumes.iter().map(|resume| resume.step).collect();
    }
    chart
}

fn dense(name: &'static str, color: u8, curve: &Curve) -> Option<Series> {
    series(name, color, curve, false)
}

fn sparse(name: &'static str, color: u8, curve: &Curve) -> Option<Series> {
    series(name, color, curve, true)
}

fn series(name: &'static str, color: u8, curve: &Curve, sparse: bool) -> Option<Series> {
    if curve.is_empty() {
        return None;
    }
    let buckets = curve.thinned();
    let thinned = buckets.iter().any(|bucket| bucket.low != bucket.high);
    let column = |value: fn(&Bucket) -> f64| buckets.iter().map(|bucket| Digits(value(bucket))).collect();
    Some(Series {
        name,
        color,
        sparse,
        step: buckets.iter().map(|bucket| bucket.step).collect(),
        mean: column(|bucket| bucket.mean),
        low: if thinned { column(|bucket| bucket.low) } else { Vec::new() },
        high: if thinned { column(|bucket| bucket.high) } else { Vec::new() },
        not_finite: curve.not_finite.iter().copied().take(MARKS).collect(),
    })
}

fn heat(history: &History) -> Option<Heat> {
    let names = history.run.as_ref().map_or(&[][..], |run| &run.moe_layers);
    let layers: Vec<HeatLayer> = history
        .load
        .layers()
        .into_iter()
        .enumerate()
        .map(|(index, (experts, cells))| HeatLayer {
            layer: names.get(index).copied().unwrap_or(index),
            experts,
            cells,
        })
        .collect();
    (!layers.is_empty()).then(|| Heat { steps: history.load.steps(), layers })
}
