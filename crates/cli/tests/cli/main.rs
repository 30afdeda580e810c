//! The binary as people run it, on the fixtures: exact outputs, exit codes, error lines.

mod bad_input;
mod chat;
mod data;
mod fathom;
mod generate;
mod logits;
mod quantize;
mod score;
mod tokenize;
