//! What text is kept, and how it is written.

mod filter;
mod normalize;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use filter::Judge;
pub(crate) use normalize::normalize;
pub(crate) use words::Words;
#[cfg(test)]
pub(crate) use words::words_of;
