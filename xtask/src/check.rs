//! The steps of `cargo xtask check`: each is announced, timed, and the first failure ends the run.
//!
//! The children write straight to the terminal, so the closing lines of `cargo test` stay where a person
//! and continuous integration look for them.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::{crate_map, tidy};

/// What a step does: a cargo command with extra environment, or a function of this crate.
enum Action {
    Cargo { args: &'static [&'static str], env: &'static [(&'static str, &'static str)] },
    Own(fn(&Path) -> Result<()>),
}

struct Step {
    name: &'static str,
    action: Action,
    /// The reader's next move when the step fails.
    mend: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        action: Action::Cargo { args: &["fmt", "--all", "--check"], env: &[] },
        mend: "run `cargo fmt --all` (if cargo knows no `fmt`: `rustup component add rustfmt`)",
    },
    Step {
        name: "clippy",
        action: Action::Cargo {
            args: &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
            env: &[],
        },
        mend: "mend the first warning above (if cargo knows no `clippy`: `rustup component add clippy`)",
    },
    Step {
        name: "scalar",
        action: Action::Cargo {
            args: &[
                "clippy",
                "--package=fathom-kernels",
                "--all-targets",
                "--features=scalar-only",
                "--",
                "-D",
                "warnings",
            ],
            env: &[],
        },
        mend: "put what only vector kernels have under `#[cfg(vector_kernels)]`: other architectures have none",
    },
    Step { name: "tidy", action: Action::Own(tidy::run), mend: "each line above says how to mend it" },
    Step { name: "map", action: Action::Own(crate_map::check), mend: "run `cargo xtask map`" },
    Step {
        name: "tests",
        action: Action::Cargo { args: &["test", "--workspace"], env: &[] },
        mend: "run the failing test alone: `cargo test -p CRATE NAME`",
    },
    Step {
        name: "docs",
        action: Action::Cargo {
            args: &["doc", "--workspace", "--no-deps"],
            env: &[("RUSTDOCFLAGS", "-D warnings")],
        },
        mend: "mend the first broken link or missing doc above",
    },
];

/// Runs the named steps, or all of them when `names` is empty, always in the order of the table.
pub(crate) fn run(root: &Path, names: &[&str]) -> Result<()> {
    let steps = select(names)?;
    let start = Instant::now();
    for (i, step) in steps.iter().enumerate() {
        let step_start = Instant::now();
        println!("==> [{}/{}] {}: {}", i + 1, steps.len(), step.name, describe(&step.action));
        execute(&step.action, root).with_context(|| format!("step `{}` failed; {}", step.name, step.mend))?;
        println!("    {} passed in {:.1} s", step.name, step_start.elapsed().as_secs_f64());
    }
    println!(
        "==> passed: {} of {} steps, in {:.1} s",
        steps.len(),
        STEPS.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn select(names: &[&str]) -> Result<Vec<&'static Step>> {
    for name in names {
        let known: Vec<&str> = STEPS.iter().map(|s| s.name).collect();
        ensure!(known.contains(name), "no such step: `{name}`; the steps are {}", known.join(", "));
    }
    Ok(STEPS.iter().filter(|s| names.is_empty() || names.contains(&s.name)).collect())
}

fn describe(action: &Action) -> String {
    match action {
        Action::Own(_) => "in this process".to_owned(),
        Action::Cargo { args, env } => {
            let env: String = env.iter().map(|(key, value)| format!("{key}='{value}' ")).collect();
            format!("{env}cargo {}", args.join(" "))
        }
    }
}

fn execute(action: &Action, root: &Path) -> Result<()> {
    match action {
        Action::Own(function) => function(root),
        Action::Cargo { args, env } => {
            // cargo names itself in CARGO when it runs us, which keeps the toolchain the caller chose.
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.args(*args).envs(env.iter().copied()).current_dir(root);
            let status = command.status().context("cargo could not be started")?;
            verdict(action, status)
        }
    }
}

fn verdict(action: &Action, status: ExitStatus) -> Result<()> {
    ensure!(status.success(), "`{}` ended with {status}", describe(action));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(selected: &[&str]) -> Vec<&'static str> {
        select(selected).unwrap().iter().map(|s| s.name).collect()
    }

    #[test]
    fn all_steps_in_order_when_none_is_named() {
        assert_eq!(names(&[]), ["fmt", "clippy", "scalar", "tidy", "map", "tests", "docs"]);
    }

    #[test]
    fn named_steps_keep_the_order_of_the_table() {
        assert_eq!(names(&["tests", "fmt"]), ["fmt", "tests"]);
    }

    #[test]
    fn an_unknown_step_is_refused_and_the_known_ones_are_told() {
        let message = select(&["test"]).err().unwrap().to_string();
        assert!(message.contains("`test`") && message.contains("tests"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_failing_command_is_an_error_that_shows_the_command() {
        use std::os::unix::process::ExitStatusExt;
        let action = &STEPS.last().expect("there are steps").action;
        let message = verdict(action, ExitStatus::from_raw(1 << 8)).unwrap_err().to_string();
        assert!(message.contains("RUSTDOCFLAGS='-D warnings' cargo doc"), "{message}");
        verdict(action, ExitStatus::from_raw(0)).unwrap();
    }
}
