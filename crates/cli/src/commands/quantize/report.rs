//! What was written and how far it is from the source, for people and for programs.

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::Result;
use fathom_eval::Comparison;
use fathom_model::manifest::Part;
use fathom_model::quantize::Report;
use serde_json::{Map, Value, json};

use crate::commands::generate::println_json;
use crate::commands::inspect::table::{bytes, count, percent, table};

/// Layers that are listed.
const WORST: usize = 5;

pub(super) struct Outcome<'a> {
    pub(super) out: &'a Path,
    pub(super) written: &'a Report,
    pub(super) seconds: f64,
    pub(super) comparison: Option<Comparison>,
}

impl Outcome<'_> {
    pub(super) fn print(&self) -> Result<()> {
        let (weights, size) = self.written.total();
        let mut text = format!(
            "{}: {} weights in {}, {:.3} bits per weight, {:.1} s\n\n",
            self.out.display(),
            count(weights),
            bytes(size),
            self.written.bits_per_weight(),
            self.seconds
        );
        let rows: Vec<[String; 4]> = self
            .written
            .parts
            .iter()
            .map(|part| {
                let bits = format!("{:.3}", part.bits_per_weight());
                [name(part.part).to_owned(), count(part.weights), bytes(part.bytes), bits]
            })
            .collect();
        table(&mut text, ["part", "weights", "bytes", "bits per weight"], &rows);
        if self.written.unfitting > 0 {
            text += &format!(
                "\n{} matrices have rows that no block divides: they are f16\n",
                self.written.unfitting
            );
        }
        if let Some(comparison) = &self.comparison {
            text += "\n";
            compared(&mut text, comparison);
        }
        stdout().lock().write_all(text.as_bytes())?;
        Ok(())
    }

    pub(super) fn print_json(&self) -> Result<()> {
        let (weights, bytes) = self.written.total();
        let part = |part: &fathom_model::quantize::PartSize| {
            let size = json!({
                "weights": part.weights,
                "bytes": part.bytes,
                "bits_per_weight": part.bits_per_weight(),
            });
            (name(part.part).to_owned(), size)
        };
        let parts: Map<String, Value> = self.written.parts.iter().map(part).collect();
        println_json(&json!({
            "out": self.out,
            "files": self.written.files,
            "weights": weights,
            "bytes": bytes,
            "bits_per_weight": self.written.bits_per_weight(),
            "parts": parts,
            "matrices_without_blocks": self.written.unfitting,
            "seconds": self.seconds,
            "report": self.comparison.as_ref().map(compared_json),
        }))
    }
}

fn compared(text: &mut String, comparison: &Comparison) {
    let divergence = &comparison.divergence;
    if divergence.tokens() == 0 {
        *text += "interrupted before anything was compared\n";
        return;
    }
    let [source, result] = divergence.perplexities();
    let part = if comparison.complete { "" } else { ", interrupted" };
    for (what, value) in [
        ("tokens", format!("{}{part}", divergence.tokens())),
        ("mean KL(source||result)", format!("{:.6}", divergence.mean_kl())),
        ("99 % of KLs below", format!("{:.6}", divergence.kl_quantile(0.99))),
        ("same top token", percent(divergence.top1_agreement())),
        ("perplexity of the source", format!("{source:.4}")),
        ("perplexity of the result", format!("{result:.4}")),
    ] {
        *text += &format!("{what:<26}{value}\n");
    }
    let relative = comparison.layers.relative();
    let rows: Vec<[String; 3]> = comparison
        .layers
        .worst()
        .iter()
        .take(WORST)
        .map(|&(layer, growth)| {
            [layer.to_string(), format!("{growth:+.5}"), format!("{:.5}", relative[layer])]
        })
        .collect();
    *text += "\nworst layers, by what each adds to the relative error of hidden states:\n";
    table(text, ["layer", "adds", "error after it"], &rows);
}

fn compared_json(comparison: &Comparison) -> Value {
    let divergence = &comparison.divergence;
    if divergence.tokens() == 0 {
        return json!({ "tokens": 0, "complete": false });
    }
    let [source, result] = divergence.perplexities();
    let worst = comparison.layers.worst();
    json!({
        "tokens": divergence.tokens(),
        "mean_kl": divergence.mean_kl(),
        "kl_99": divergence.kl_quantile(0.99),
        "top1_agreement": divergence.top1_agreement(),
        "perplexity": { "source": source, "result": result },
        "layer_errors": comparison.layers.relative(),
        "worst_layers": worst.iter().take(WORST).map(|worst| worst.0).collect::<Vec<_>>(),
        "complete": comparison.complete,
    })
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Embedding => "embedding",
        Part::Attention => "attention",
        Part::DenseMlp => "dense MLP",
        Part::Router => "router",
        Part::RoutedExperts => "routed experts",
        Part::SharedExperts => "shared experts",
        Part::Norms => "norms",
        Part::Head => "head",
        Part::Mtp => "MTP",
    }
}
