//! Sequences of tokens become more tokens.
