//! Tensors and a tape: what a training step is made of.
#![forbid(unsafe_code)]
