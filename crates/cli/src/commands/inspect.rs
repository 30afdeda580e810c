//! `fathom inspect`.

/// Show what a model is: parameters, bytes, cache, operations.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
