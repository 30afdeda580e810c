//! The page around the drawing.

use std::fmt::Write;

use crate::metrics::{Git, Machine, Run, Sample};

use super::chart::Drawing;
use super::history::History;
use super::text::{bounded, bytes, count, date, definitions, duration, escaped};

/// Bytes of a sample, of all samples after escaping, and of the configuration that the page shows.
const SAMPLE: usize = 3000;
const SAMPLES: usize = 200_000;
const CONFIG: usize = 20_000;
/// Bytes of any other text of the run.
const NOTE: usize = 300;

/// The report of `history`; a run without a name is called `fallback_name`.
pub(super) fn html(history: &History, fallback_name: &str) -> String {
    let given = history.run.as_ref().map(|run| run.name.trim()).filter(|name| !name.is_empty());
    let name = escaped(&bounded(given.unwrap_or(fallback_name), NOTE));
    let style = include_str!("style.css");
    let script = include_str!("script.js");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n\
         <title>{name} · Fathom</title>\n<style>\n{style}</style>\n</head>\n<body>\n\
         <header>{header}</header>\n<main>\n{tiles}{curves}{samples}{events}{about}</main>\n\
         <footer>Written by fathom {version}</footer>\n\
         <div id=\"tip\" role=\"status\" hidden></div>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{script}</script>\n</body>\n</html>\n",
        header = header(history, &name),
        tiles = tiles(history),
        curves = curves(history),
        samples = samples(&history.samples),
        events = events(history),
        about = about(history),
        version = env!("CARGO_PKG_VERSION"),
        data = Drawing::of(history).json(),
    )
}

fn header(history: &History, name: &str) -> String {
    let mut out = format!("<p class=\"kind\">Training run</p><h1>{name}</h1>");
    let step = history.last.as_ref().map_or(0, |last| last.step);
    let total = history.run.as_ref().map_or(0, |run| run.total_steps);
    let mut facts = Vec::new();
    if let Some(run) = history.run.as_ref().filter(|run| run.started > 0) {
        facts.push(format!("begun {}", date(run.started)));
    }
    if total > 0 {
        facts.push(format!("step {} of {}", count(step as f64), count(total as f64)));
        let share = (step as f64 / total as f64).min(1.0);
        let _ = write!(
            out,
            "<progress max=\"1\" value=\"{share:.4}\" aria-label=\"Steps done\">{:.0} %</progress>",
            share * 100.0
        );
    } else if step > 0 {
        facts.push(format!("step {}", count(step as f64)));
    }
    if let Some(last) = &history.last {
        facts.push(format!("{} of training", duration(last.seconds)));
    }
    let _ = write!(out, "<p class=\"facts\">{}</p>", facts.join(" · "));
    out
}

/// The figures that one looks for first.
fn tiles(history: &History) -> String {
    let Some(last) = &history.last else {
        return "<p class=\"empty\">This run has not finished a step yet.</p>\n".into();
    };
    let mut out = String::from("<section class=\"tiles\" aria-label=\"Final figures\">\n");
    let mut tile = |name: &str, value: String, note: String| {
        let _ =
            writeln!(out, "<div class=\"tile\"><span>{name}</span><b>{value}</b><small>{note}</small></div>");
    };
    if let Some((step, loss)) = history.validation_loss.last() {
        let best = history.validation_loss.lowest().filter(|best| best.0 != step);
        let note = best
            .map_or("the best so far".into(), |(at, low)| format!("best {low:.4} at {}", count(at as f64)));
        tile("Validation loss", format!("{loss:.4}"), note);
    }
    if let Some((_, bits)) = history.bits_per_byte.last() {
        tile("Bits per byte", format!("{bits:.4}"), "on the validation set".into());
    }
    let loss = if last.loss.is_finite() { format!("{:.4}", last.loss) } else { "not finite".into() };
    let recent =
        history.loss.recent(100).map_or(String::new(), |mean| format!("mean of the last 100: {mean:.4}"));
    tile("Training loss", loss, recent);
    tile("Tokens", count(last.tokens as f64), format!("in {} steps", count(last.step as f64)));
    if let Some(speed) = history.tokens_per_second.median() {
        tile("Tokens per second", count(speed), "median".into());
    }
    if let Some(share) = history.mfu.median() {
        tile("MFU", format!("{:.1} %", share * 100.0), "median, of the measured peak".into());
    }
    if let Some((_, peak)) = history.memory.highest() {
        tile("Memory", bytes(peak), "at most".into());
    }
    if let Some(run) = history.run.as_ref().filter(|run| run.parameters > 0) {
        let active = format!("{} active per token", count(run.active_parameters as f64));
        tile("Parameters", count(run.parameters as f64), active);
    }
    out.push_str("</section>\n");
    out
}

/// Places that the script fills.
fn curves(history: &History) -> String {
    if history.loss.is_empty() && history.validation_loss.is_empty() {
        return String::new();
    }
    let heat = if history.load.steps().is_empty() {
        ""
    } else {
        "<section><h2>Expert load</h2>\n\
         <p class=\"hint\">Each field is the share of tokens an expert got, in multiples of an even share. Rows are \
         experts, time runs to the right.</p>\n\
         <div class=\"scale\" aria-hidden=\"true\"><span>⅛×</span><i></i><span>8×</span><em></em><span>no token</span></div>\n\
         <div id=\"heat\"></div></section>\n"
    };
    format!(
        "<section><div class=\"bar\"><h2>Curves</h2><div class=\"controls\">\
         <label><input type=\"checkbox\" id=\"log-x\"> log steps</label>\
         <label>smoothing <input type=\"range\" id=\"smoothing\" min=\"0\" max=\"0.98\" step=\"0.02\" value=\"0.6\"></label>\
         </div></div>\n<noscript><p class=\"hint\">The curves are drawn by a script, which this browser does not run.</p>\
         </noscript>\n<div id=\"charts\"></div></section>\n{heat}"
    )
}

/// Newest first; the newest step is open.
fn samples(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section><h2>Samples</h2>\n");
    let mut room = SAMPLES;
    for (index, group) in samples.chunk_by(|a, b| a.step == b.step).rev().enumerate() {
        let open = if index == 0 { " open" } else { "" };
        let _ = writeln!(out, "<details{open}><summary>Step {}</summary>", count(group[0].step as f64));
        for sample in group {
            let text = format!(
                "<blockquote dir=\"auto\"><mark>{}</mark>{}</blockquote>\n",
                escaped(&bounded(&sample.prompt, SAMPLE)),
                escaped(&bounded(&sample.text, SAMPLE))
            );
            if text.len() > room {
                out.push_str("<p class=\"hint\">Left out; the log has it.</p>");
                continue;
            }
            room -= text.len();
            out.push_str(&text);
        }
        out.push_str("</details>\n");
    }
    out.push_str("</section>\n");
    out
}

/// What interrupted the run, and what it saved.
fn events(history: &History) -> String {
    let mut rows = Vec::new();
    rows.extend(history.skips.iter().map(|skip| (skip.step, "skipped", skip.reason.clone())));
    rows.extend(
        history.resumes.iter().map(|resume| (resume.step, "resumed", format!("from {}", resume.path))),
    );
    let newest = history.checkpoints.iter().rev().take(5);
    let best = history.best_checkpoint.iter().filter(|best| !newest.clone().any(|saved| saved == *best));
    rows.extend(newest.clone().chain(best).map(|saved| {
        let best = history.best_checkpoint.as_ref().is_some_and(|best| best.path == saved.path);
        (saved.step, "saved", format!("{}{}", saved.path, if best { " (best)" } else { "" }))
    }));
    if rows.is_empty() {
        return String::new();
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.0));
    let mut out = String::from("<section><h2>Events</h2>\n");
    if history.skipped > history.skips.len() {
        let _ =
            write!(out, "<p class=\"hint\">{} steps were skipped; the last are listed.</p>", history.skipped);
    }
    out.push_str("<table><thead><tr><th>Step</th><th>What</th><th></th></tr></thead><tbody>\n");
    for (step, what, note) in rows {
        let note = escaped(&bounded(&note, NOTE));
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"{what}\">{what}</td><td>{note}</td></tr>",
            count(step as f64)
        );
    }
    out.push_str("</tbody></table></section>\n");
    out
}

/// Where the run comes from.
fn about(history: &History) -> String {
    let Some(run) = &history.run else { return String::new() };
    let mut out = String::from("<section class=\"about\"><h2>Origin</h2><div class=\"columns\">\n");
    let latest = history.resumes.last();
    let git = latest.and_then(|resume| resume.git.as_ref()).or(run.git.as_ref());
    let _ = writeln!(
        out,
        "<div><h3>Code</h3>{}</div>",
        git.map_or("<p>Not in a git repository.</p>".into(), code)
    );
    let _ = writeln!(
        out,
        "<div><h3>Machine</h3>{}</div>",
        machine(latest.map_or(&run.machine, |resume| &resume.machine))
    );
    out.push_str("</div>\n");
    out.push_str(&config(run));
    out.push_str("</section>\n");
    out
}

fn code(git: &Git) -> String {
    let state = if git.changed { "with changes that are not committed" } else { "exactly this commit" };
    definitions(&[
        ("Commit", bounded(&git.commit, NOTE).into_owned()),
        ("Branch", bounded(&git.branch, NOTE).into_owned()),
        ("State", state.into()),
    ])
}

fn machine(machine: &Machine) -> String {
    let some = |known: bool, text: String| if known { text } else { String::new() };
    definitions(&[
        ("Processor", bounded(&machine.processor, NOTE).into_owned()),
        ("Threads", some(machine.threads > 0, machine.threads.to_string())),
        ("Instructions", bounded(&machine.isa, NOTE).into_owned()),
        ("Memory", some(machine.memory_bytes > 0, bytes(machine.memory_bytes as f64))),
        (
            "Peak",
            machine.peak_flops.map_or(String::new(), |peak| format!("{:.1} GFLOP/s, measured", peak / 1e9)),
        ),
    ])
}

fn config(run: &Run) -> String {
    if run.config.trim().is_empty() {
        return String::new();
    }
    let text = escaped(&bounded(run.config.trim_end(), CONFIG));
    format!("<details><summary>Configuration</summary><pre>{text}</pre></details>\n")
}
