//! The mathematics of the papers, once.
