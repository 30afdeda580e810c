//! HTTP: the DeepSeek, OpenAI and Anthropic API on an engine, with keys, limits, streaming, metering and metrics.
//!
//! A request passes these doors, in this order: the limits of the connection (`listen`), the key (`keys`), the
//! size and form of the body (`body`), the meaning of its fields (`chat`, `completions`, `anthropic`), and
//! admission (`admission`). Behind them stands the engine, which tells a `run` what happens; `answer` makes
//! reasoning, content and tool calls of it, and the API's module writes them down.
//!
//! ```text
//! socket ─ listen ─ routes ─ keys ─ body ─ chat | completions | anthropic ─ admission ─▶ engine
//!                                                    ▲                                     │
//!                                                    └───── answer ◀──── run ◀──── sink ───┘
//! ```
//!
//! - [`ServerConfig`] is what an operator can set: defaults, file, environment, flags.
//! - [`App`] is everything that requests share; [`serve`] answers until it is told to stop.
//! - [`Admission`] is the one place where a request is let in, [`Account::settle`] the one where its usage is final.
//!
//! **Invariant:** knows requests and texts; sees no tensor and no weight.
//!
//! **Invariant:** no prompt, answer or key is logged unless the operator asked for prompts.
//!
//! **Invariant:** what a stranger can make large or slow has a limit, and whoever leaves is cancelled.
//!
//! **Invariant:** a text inside a message is never read as a control token.

#![forbid(unsafe_code)]

mod admin;
pub mod admission;
mod answer;
mod anthropic;
mod api_error;
mod app;
mod body;
mod chat;
mod completions;
mod config;
mod error;
mod grammar;
mod identity;
mod keys;
mod layers;
mod listen;
mod metrics;
mod observe;
mod openapi;
mod prompt;
mod routes;
mod run;
mod sse;
mod tls;
mod traces;
mod web;

pub use admission::{Account, Admission, Caller, Demand, Refusal, Usage};
pub use app::{App, Words};
pub use config::{Isolation, KeyConfig, LogFormat, ServerConfig};
pub use error::{Error, Result};
pub use keys::{Keys, NewKey};
pub use listen::{Bound, serve};
pub use openapi::description;
pub use traces::{TRACES, Traces};
