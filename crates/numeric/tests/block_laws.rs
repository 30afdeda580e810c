//! What holds for every block format, whatever the values: no reference is needed to see it.

use fathom_numeric::blocks::BlockFormat;
use fathom_numeric::f16;
use fathom_numeric::fp8::F8E4M3;
use proptest::collection::vec;
use proptest::prelude::*;

fn encode(format: BlockFormat, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xa5; format.row_bytes(values.len())];
    format.encode(values, importance, &mut out);
    out
}

fn decode(format: BlockFormat, blocks: &[u8], cols: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; cols];
    format.decode(blocks, &mut out);
    out
}

fn round_trip(format: BlockFormat, values: &[f32]) -> Vec<f32> {
    decode(format, &encode(format, values, None), values.len())
}

/// The largest magnitude that a format can hold on both sides of zero.
fn largest(format: BlockFormat) -> f32 {
    let steps = match format {
        BlockFormat::Fp8 => return 2f32.powi(127),
        BlockFormat::Q8_0 | BlockFormat::Int8G64 | BlockFormat::Int8G128 | BlockFormat::Iq4Nl => 127.0,
        BlockFormat::Q4_0 | BlockFormat::Int4G64 | BlockFormat::Int4G128 => 8.0,
        BlockFormat::Q5_0 => 16.0,
        // The minimum is what bounds them below; above they reach up to 32 times as far.
        BlockFormat::Q4_1 | BlockFormat::Q5_1 => 1.0,
        BlockFormat::Iq4Xs => 32.0 * 127.0,
        BlockFormat::Q4K | BlockFormat::Q5K => 63.0,
        BlockFormat::Q6K => 128.0 * 32.0,
    };
    steps * f16::MAX.to_f32()
}

/// Steps between the two ends of a block's range: the coarsest a uniform choice would be.
fn levels(format: BlockFormat) -> f32 {
    match format {
        BlockFormat::Q8_0 | BlockFormat::Int8G64 | BlockFormat::Int8G128 => 254.0,
        BlockFormat::Q5_0 | BlockFormat::Q5_1 | BlockFormat::Q5K => 31.0,
        BlockFormat::Q6K => 63.0,
        // The widest gap of the table is 24 of 240; an E4M3 step is 1/16 of a magnitude near 448.
        BlockFormat::Iq4Nl | BlockFormat::Iq4Xs => 10.0,
        BlockFormat::Fp8 => 28.0,
        _ => 15.0,
    }
}

fn any_format() -> impl Strategy<Value = BlockFormat> {
    (0..BlockFormat::all().count()).prop_map(|index| BlockFormat::all().nth(index).unwrap())
}

/// The formats without a minimum, which may happen to be next to nothing, and subnormal.
fn without_minimum() -> impl Strategy<Value = BlockFormat> {
    any_format().prop_filter("has a minimum", |format| {
        !matches!(format, BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K)
    })
}

/// Rows of any length, tails included, of values that f16 scales can hold well.
fn ordinary() -> impl Strategy<Value = Vec<f32>> {
    (vec(-1.0f32..1.0, 1..600), -4i32..6).prop_map(|(values, exponent)| {
        let scale = 2f32.powi(exponent);
        values.into_iter().map(|value| value * scale).collect()
    })
}

fn any_bits(length: usize) -> impl Strategy<Value = Vec<f32>> {
    vec(any::<u32>().prop_map(f32::from_bits), length)
}

fn amax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

proptest! {
    /// No value strays further than two steps of its block; and the mean is far better than that.
    #[test]
    fn ordinary_values_come_back_nearly(format in any_format(), values in ordinary()) {
        let decoded = round_trip(format, &values);
        for (values, decoded) in values.chunks(format.block_len()).zip(decoded.chunks(format.block_len())) {
            let step = 2.0 * amax(values) / levels(format);
            for (value, decoded) in values.iter().zip(decoded) {
                let near = (value - decoded).abs() <= 2.0 * step;
                prop_assert!(near, "{}: {value} became {decoded}", format.name());
            }
        }
    }

    /// A block is encoded by itself: a row is its blocks, and a ragged row one with zeroes that don't matter.
    #[test]
    fn a_row_is_its_blocks(format in any_format(), values in ordinary(), seed in any::<u32>()) {
        let importance = |i: usize| (seed.rotate_left(i as u32) & 0xff) as f32;
        let importance: Vec<f32> = (0..values.len()).map(importance).collect();
        let length = format.block_len();
        let row = encode(format, &values, Some(&importance));
        let blocks: Vec<u8> = values
            .chunks(length)
            .zip(importance.chunks(length))
            .flat_map(|(values, importance)| encode(format, values, Some(importance)))
            .collect();
        prop_assert_eq!(&row, &blocks);

        let whole = values.len().next_multiple_of(length);
        let padded: Vec<f32> = values.iter().copied().chain(std::iter::repeat(0.0)).take(whole).collect();
        let mut importance = vec![1.0; whole];
        importance[values.len()..].fill(0.0);
        prop_assert_eq!(encode(format, &values, None), encode(format, &padded, Some(&importance)));
    }

    /// Any bits, importance too: what comes back is finite, of the right sign, and within the format.
    #[test]
    fn nothing_becomes_nan(
        (format, values, importance) in (any_format(), 1usize..300)
            .prop_flat_map(|(format, length)| (Just(format), any_bits(length), any_bits(length)))
    ) {
        for importance in [None, Some(&importance[..])] {
            let blocks = encode(format, &values, importance);
            prop_assert_eq!(format.first_bad_block(&blocks), None);
            for decoded in decode(format, &blocks, values.len()) {
                prop_assert!(decoded.is_finite() && decoded.abs() <= 32.0 * largest(format), "{decoded:e}");
            }
        }
    }

    /// A power of two in the values is a power of two in the scales, exactly, as long as f16 is normal.
    #[test]
    fn powers_of_two_pass_through(
        format in without_minimum(),
        values in vec(0.25f32..1.0, 1..600),
        exponent in 0i32..5,
    ) {
        let alternate = |factor: f32| -> Vec<f32> {
            let sign = |i: usize| if i.is_multiple_of(3) { -factor } else { factor };
            values.iter().enumerate().map(|(i, value)| value * sign(i)).collect()
        };
        let factor = 2f32.powi(exponent);
        let small = round_trip(format, &alternate(1024.0));
        let small: Vec<f32> = small.iter().map(|value| value * factor).collect();
        prop_assert_eq!(small, round_trip(format, &alternate(1024.0 * factor)));
    }

    /// Importance has no unit, and equal importance is none.
    #[test]
    fn importance_is_relative(format in any_format(), values in ordinary(), exponent in -100i32..100) {
        let importance = vec![2f32.powi(exponent); values.len()];
        prop_assert_eq!(encode(format, &values, Some(&importance)), encode(format, &values, None));
    }

    /// fp8 blocks are the released checkpoints' encoding with blocks of one row.
    #[test]
    fn fp8_is_the_block_scaled_encoding(values in ordinary()) {
        let blocks = encode(BlockFormat::Fp8, &values, None);
        for (values, block) in values.chunks(128).zip(blocks.chunks(132)) {
            let scale = f32::from_le_bytes(block[..4].try_into().unwrap());
            prop_assert_eq!(scale, amax(values) / 448.0);
            for (value, &code) in values.iter().zip(&block[4..]) {
                prop_assert_eq!(code, F8E4M3::from_f32(value / scale).0);
            }
        }
    }
}

#[test]
fn zeroes_stay_zeroes() {
    for format in BlockFormat::all() {
        for cols in [0, 1, 31, format.block_len(), 3 * format.block_len() + 5] {
            for zero in [0.0, -0.0, 1e-30, f32::NAN] {
                let decoded = round_trip(format, &vec![zero; cols]);
                let tolerance = if format == BlockFormat::Fp8 { 1e-30 } else { 0.0 };
                assert!(decoded.iter().all(|value| value.abs() <= tolerance), "{} {zero}", format.name());
            }
        }
    }
}

/// A block of one value loses only what its scales lose: f16 and, in superblocks, 6 bits.
#[test]
fn constants_keep_their_value() {
    for format in BlockFormat::all() {
        let tolerance = match format {
            // The steps of the integer scale, and of f16 for what is divided by 32·128.
            BlockFormat::Iq4Xs | BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => 0.01,
            _ => 0.001,
        };
        for value in [1.0f32, -1.0, 0.37, -0.0123, 300.0, -65.5] {
            for decoded in round_trip(format, &vec![value; 2 * format.block_len()]) {
                let error = (decoded / value - 1.0).abs();
                assert!(error <= tolerance, "{}: {value} became {decoded}", format.name());
            }
        }
    }
}

/// Beyond f16 the scale saturates: a value goes to the end of the range, on its own side.
#[test]
fn huge_values_saturate() {
    for format in BlockFormat::all() {
        for huge in [1e9f32, 1e30, f32::MAX, f32::INFINITY] {
            let values: Vec<f32> = (0..300).map(|i| if i % 2 == 0 { huge } else { -huge }).collect();
            let expected = huge.min(largest(format));
            for (value, decoded) in values.iter().zip(round_trip(format, &values)) {
                assert!(
                    decoded.signum() == value.signum(),
                    "{}: {value:e} became {decoded:e}",
                    format.name()
                );
                assert!(decoded.abs() >= 0.8 * expected, "{}: {value:e} became {decoded:e}", format.name());
            }
        }
    }
}

/// Where f16 scales are subnormal they are off by up to `2^-25`, and codes multiply that by up to 127.
#[test]
fn tiny_values_lose_at_most_the_spacing_of_f16() {
    for format in BlockFormat::all() {
        for exponent in -30..-10 {
            let size = 2f32.powi(exponent);
            let values: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * size).collect();
            let bound = 4.0 * amax(&values) / levels(format) + 2f32.powi(-18);
            for (value, decoded) in values.iter().zip(round_trip(format, &values)) {
                let miss = (value - decoded).abs();
                assert!(miss <= bound, "{}: {value:e} became {decoded:e}", format.name());
            }
        }
    }
}

/// With importance the column that matters is kept better than without.
#[test]
fn importance_moves_the_error_away() {
    for format in BlockFormat::all() {
        let values: Vec<f32> = (0..1024).map(|i| ((i * 7919 % 1009) as f32 / 504.0 - 1.0).powi(3)).collect();
        let importance: Vec<f32> = (0..1024).map(|i| if i % 8 == 3 { 100.0 } else { 1.0 }).collect();
        let error = |importance: Option<&[f32]>| -> f32 {
            let decoded = decode(format, &encode(format, &values, importance), values.len());
            let missed = values.iter().zip(decoded).map(|(value, decoded)| (value - decoded).powi(2));
            missed.skip(3).step_by(8).sum()
        };
        let (with, without) = (error(Some(&importance)), error(None));
        let searches = !matches!(
            format,
            BlockFormat::Fp8 | BlockFormat::Q8_0 | BlockFormat::Int8G64 | BlockFormat::Int8G128
        );
        assert!(
            if searches { with < 0.9 * without } else { with == without },
            "{}: {with} {without}",
            format.name()
        );
    }
}

#[test]
fn finds_the_first_bad_block() {
    let places: [(BlockFormat, &[usize]); 6] = [
        (BlockFormat::Q8_0, &[0]),
        (BlockFormat::Int4G128, &[0]),
        (BlockFormat::Q5_1, &[0, 2]),
        (BlockFormat::Q4K, &[0, 2]),
        (BlockFormat::Q6K, &[208]),
        (BlockFormat::Iq4Xs, &[0]),
    ];
    for (format, places) in places {
        let good = encode(format, &vec![0.5; 4 * format.block_len()], None);
        assert_eq!(format.first_bad_block(&good), None);
        assert_eq!(format.first_bad_block(&good[..good.len() - 1]), Some(3), "cut short");
        for place in places {
            for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
                let mut blocks = good.clone();
                let at = 2 * format.block_bytes() + place;
                blocks[at..at + 2].copy_from_slice(&bad.to_le_bytes());
                assert_eq!(format.first_bad_block(&blocks), Some(2), "{} {bad}", format.name());
            }
        }
    }
    let mut blocks = encode(BlockFormat::Fp8, &[0.5; 300], None);
    blocks[132..136].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_eq!(BlockFormat::Fp8.first_bad_block(&blocks), Some(1));
}

#[test]
#[should_panic(expected = "bytes of a row of 33 weights")]
fn refuses_bytes_of_another_length() {
    BlockFormat::Q8_0.decode(&[0; 34], &mut [0.0; 33]);
}
