//! Words: tokenizer, chat template, streaming detokenization, reasoning.
