//! `fathom serve`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use fathom_engine::{Engine, Language, eos_token_ids};
use fathom_server::{App, Bound, Keys, LogFormat, ServerConfig, Traces, Words, serve};
use tokio::signal::unix::{SignalKind, signal};

use crate::model_args::{ModelArgs, read_config};
use crate::terminal::without_controls;
use crate::{interrupt, logging};

/// Serve a model over HTTP: the DeepSeek, OpenAI and Anthropic API, and a chat page.
///
/// Every setting can stand in a TOML file (--config), in the environment (FATHOM_SERVE_SETTING) and in a flag (--set
/// SETTING=VALUE); later ones win. Without any, the API is on http://127.0.0.1:8000 and a key is made and printed at
/// the first start. SIGTERM or Ctrl-C lets running answers end; a second Ctrl-C does not wait.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom serve --model DIR
  fathom serve --model DIR --listen 0.0.0.0:8000 --config fathom.toml
  fathom serve --model DIR --set sequences=16 --set cache_tokens=131072 --set log_format=json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// File of settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Address of the API and the page; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,

    /// Address of the admin endpoints [default: none]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,

    /// One setting; may be given many times
    #[arg(long, value_name = "SETTING=VALUE", value_parser = split)]
    set: Vec<(String, String)>,
}

fn split(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give SETTING=VALUE")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

impl Args {
    fn settings(&self) -> Result<ServerConfig> {
        let flags = [("listen", &self.listen), ("admin_listen", &self.admin_listen)];
        let flags = flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        let flags: Vec<(String, String)> = self.set.iter().cloned().chain(flags).collect();
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(ServerConfig::read(self.config.as_deref(), environment, &flags)?)
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let settings = args.settings()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Prompts are encoded and grammars compiled here: as many as there are processors are of use.
        .max_blocking_threads(8)
        .build()
        .context("no threads for connections")?;
    let traces = Traces::start(&settings, runtime.handle())?;
    logging::start("info", settings.log_format == LogFormat::Json, traces.as_ref());
    let dir = &args.model.model;
    let config = read_config(dir)?;
    let language = Language::open(dir)?;
    let tokenizer = Arc::new(language.tokenizer()?);
    let template = match language.chat_template() {
        Ok(template) => Some(template),
        Err(fathom_text::Error::NoChatTemplate { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let recommendation = language.recommendation()?;
    let eos = eos_token_ids(&config, &recommendation, Some(&tokenizer));
    let (keys, made, admin_token) = Keys::open(&settings)?;
    // Only their hashes are kept, so they are shown even if what follows fails.
    if let Some(key) = made {
        println!("made an API key, shown only now: {}", key.secret);
    }
    if let Some(token) = admin_token {
        println!("made an admin token, shown only now: {token}");
    }

    let speculates = settings.speculation.is_some_and(|sequences| sequences > 0);
    let model = args.model.load(speculates)?;
    let engine = Engine::start(model, tokenizer.clone(), eos, settings.engine_options())?;
    let words = Words { tokenizer, template, recommendation };
    let name = dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
    let app = App::new(engine, words, settings, keys, name.as_deref().unwrap_or("model"));
    runtime.block_on(async {
        let bound = Bound::new(&app).await?;
        if let Some(url) = bound.admin_url()? {
            println!("admin endpoints on {url}");
        }
        println!("serving {} on {}", without_controls(app.model_id()), bound.url()?);
        let stop = stop_signal()?;
        serve(app, bound, stop).await?;
        anyhow::Ok(())
    })?;
    if let Some(traces) = traces {
        traces.stop();
    }
    Ok(())
}

/// Ready after the first SIGTERM or Ctrl-C; the second ends the program.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let catch = |kind| signal(kind).map_err(|error| anyhow!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tokio::spawn(async move {
            interrupt.recv().await;
            std::process::exit(i32::from(interrupt::EXIT_CODE));
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_pairs() {
        assert_eq!(split("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(split("a").is_err());
    }
}
