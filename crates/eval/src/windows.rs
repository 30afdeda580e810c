//! Which tokens are scored in which window.
//!
//! The strided scheme of Hugging Face's "Perplexity of fixed-length models": a window of `window` tokens moves by
//! `stride`, and of each only the tokens that no window before has scored count. A bos token, where there is
//! one, stands at the beginning of every window (as in llama.cpp) and takes one place.
//!
//! ```text
//! tokens    0 1 2 3 4 5 6 7 8 9      window 5 with bos, stride 2
//!         b[s s s s]                 s: scored
//!         b    [. . s s]             .: context only
//!         b        [. . s s]
//!         b            [. . s s]
//! ```

use std::ops::Range;

/// One window over the tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The tokens in it, bos not counted.
    pub(crate) tokens: Range<usize>,
    /// The end of those that are context only; from here on they are scored.
    pub(crate) scored_from: usize,
}

/// By how much a window moves that was asked to move by `stride`: at most `window - 1`, so that every scored
/// token has at least one token before it in its window.
pub(crate) fn stride_in_force(window: usize, stride: usize) -> usize {
    stride.min(window - 1)
}

/// The windows over `len` tokens. `window` is at least 2.
pub(crate) fn windows(len: usize, bos: bool, window: usize, stride: usize) -> impl Iterator<Item = Window> {
    let room = window - usize::from(bos);
    let stride = stride_in_force(window, stride);
    let first = Window { tokens: 0..room.min(len), scored_from: usize::from(!bos).min(len) };
    std::iter::successors(Some(first), move |last| {
        let scored_from = last.tokens.end;
        let end = scored_from + stride;
        (scored_from < len).then(|| Window { tokens: end.saturating_sub(room)..end.min(len), scored_from })
    })
    .filter(|window| window.scored_from < window.tokens.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(len: usize, bos: bool, window: usize, stride: usize, expected: &[(usize, usize, usize)]) {
        let got: Vec<_> = windows(len, bos, window, stride)
            .map(|window| (window.tokens.start, window.scored_from, window.tokens.end))
            .collect();
        assert_eq!(got, expected, "{len} tokens, bos {bos}, window {window}, stride {stride}");
    }

    #[test]
    fn rows() {
        check(10, true, 5, 2, &[(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]);
        check(9, true, 5, 2, &[(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 9)]);
        check(10, true, 5, 5, &[(0, 0, 4), (4, 4, 8), (8, 8, 10)]);
        check(10, false, 5, 5, &[(0, 1, 5), (4, 5, 9), (8, 9, 10)]);
        check(10, false, 5, 2, &[(0, 1, 5), (2, 5, 7), (4, 7, 9), (6, 9, 10)]);
        check(3, true, 100, 50, &[(0, 0, 3)]);
        check(1, true, 2, 1, &[(0, 0, 1)]);
        check(2, false, 2, 1, &[(0, 1, 2)]);
        check(1, false, 2, 1, &[]);
        check(0, true, 2, 1, &[]);
        check(0, false, 2, 1, &[]);
    }

    proptest! {
        #[test]
        fn every_token_is_scored_once_in_a_window_that_fits(
            len in 0usize..200, bos: bool, window in 2usize..50, stride in 1usize..60,
        ) {
            let mut next = usize::from(!bos).min(len);
            for part in windows(len, bos, window, stride) {
                prop_assert_eq!(part.scored_from, next);
                prop_assert!(part.tokens.len() + usize::from(bos) <= window);
                prop_assert!(bos || part.tokens.start < part.scored_from);
                prop_assert!(part.scored_from < part.tokens.end);
                next = part.tokens.end;
            }
            prop_assert_eq!(next, len);
        }
    }
}
