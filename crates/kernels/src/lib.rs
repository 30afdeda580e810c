//! Hot loops on slices: operation × ISA.
//!
//! A kernel takes slices and shapes, checks them once, and runs the best loop that this machine
//! has. One folder (or file) per operation; inside a folder `mod.rs` holds the contract, the
//! checks, the choice of ISA and the tests, `scalar.rs` the meaning, and `avx2.rs`, `avx512.rs`,
//! `amx.rs` the speed. A weight format enters a kernel as a type parameter, so that files are
//! operation × ISA and never operation × ISA × format.
//!
//! | operation | what |
//! |---|---|
//! | [`gemm`] | `y = x · Wᵀ` on packed weights, one or many weight matrices per call |
//! | [`matmul`] | `C += A · B` on f32 matrices in any form: the products of training |
//! | [`optimizer`] | AdamW, sums of squares, moving averages: one pass over memory each |
//! | [`attention`] | MLA scores and values, MHA form (prefill) and MQA form (decode) |
//! | [`rmsnorm`], [`rope`], `swiglu`, [`router`], [`combine`] | the small ones |
//! | [`training`] | what a training step needs besides products, forward and backward |
//! | [`attention_training`] | causal attention forward and backward, MLA, MHA, GQA and MQA |
//! | [`encode`] | weights to blocks |
//! | [`parallel`] | loops over pieces of slices, for callers without `unsafe` |
//! | [`roofline`] | what the machine allows: bytes and operations per second |
//!
//! Every operation runs on a [`Compute`]: an ISA and a pool of threads that live as long as the
//! process. Work is cut into units that own their outputs, so results do not depend on the number
//! of threads. `FATHOM_ISA` forces an ISA; `FATHOM_REQUIRE_ISA` makes a start fail where it is
//! missing, so that a test run on a weak machine cannot pass emptily.
//!
//! **Invariant:** knows no model, reads no file, keeps its buffers: a steady step allocates
//! nothing larger than the rotations of its rows.
//!
//! **Invariant:** every fast path is tested against `scalar.rs` over odd sizes.

#![cfg_attr(
    not(vector_kernels),
    allow(
        dead_code,
        unused_imports,
        unused_variables,
        reason = "for vector kernels, which are all of x86-64"
    )
)]

pub mod attention;
pub mod attention_training;
pub mod combine;
mod compute;
pub mod encode;
mod error;
pub mod gemm;
#[cfg(all(test, vector_kernels, target_os = "linux"))]
mod illegal;
#[cfg(vector_kernels)]
mod in_turn;
mod isa;
mod math;
pub mod matmul;
mod memory;
pub mod optimizer;
pub mod parallel;
mod pool;
pub mod rmsnorm;
pub mod roofline;
pub mod rope;
pub mod router;
mod shared;
mod storage;
mod swiglu;
pub mod training;

pub use compute::{Compute, THREADS_MAX};
pub use error::{Error, Result};
pub use isa::Isa;
pub use memory::Floats;
pub use storage::{SharedBytes, WeightBytes};
