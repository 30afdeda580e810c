//! The operations: each file has some, forward and backward side by side.
//!
//! | file | operations |
//! |---|---|
//! | [`linear`] | `x · Wᵀ` with packed weights |
//! | [`arithmetic`] | add, subtract, multiply, scale … |
//! | [`reduce`] | sums and means |
//! | [`shape`] | reshape |
//! | [`rows`] | embedding: rows chosen by id |

pub mod arithmetic;
pub mod linear;
pub mod reduce;
pub mod rows;
pub mod shape;
