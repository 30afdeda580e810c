//! Portable arithmetic, written so that compilers turn its loops into vector code, and the means
//! to compile one loop for every ISA.

/// Defines a function that takes an [`Isa`](crate::Isa) first: its body is compiled once per ISA
/// and the matching copy runs. (A generic function that takes the loop as a closure would do the
/// same only where the compiler chooses to inline the closure.)
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::Isa, $($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $result)? $body

            #[cfg(vector_kernels)]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) $(-> $result)? {
                body($($arg),*)
            }

            #[cfg(vector_kernels)]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            fn avx512($($arg: $type),*) $(-> $result)? {
                body($($arg),*)
            }

            match isa {
                $crate::Isa::Scalar => body($($arg),*),
                // SAFETY: an Isa other than Scalar is in use only where it was detected.
                #[cfg(vector_kernels)]
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(vector_kernels)]
                $crate::Isa::Avx512 | $crate::Isa::Amx => unsafe { avx512($($arg),*) },
                #[cfg(not(vector_kernels))]
                _ => body($($arg),*),
            }
        }
    };
}

pub(crate) use per_isa;

per_isa! {
    /// `x += y · scale`.
    pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y * scale);
    }
}

per_isa! {
    /// `x *= factor`.
    pub(crate) fn multiply_by(x: &mut [f32], factor: f32) {
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

/// `e^x` to about one unit in the last place; 0 below -87.3, saturating above 88.3.
///
/// Cephes' scheme: `x = n·ln 2 + r`, a polynomial in `r`, and `n` put into the exponent. Adding
/// `1.5·2²³` rounds to an integer and leaves it in the low bits, which needs no conversion.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.0e-1;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let value = (p * r * r + r + 1.0) * scale;
    if x < -87.3 { 0.0 } else { value }
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Lanes of the partial sums below: what the widest ISA adds at once.
const LANES: usize = 16;

/// `Σ x²`, in lanes, so that it is one order of sums on every ISA.
#[inline(always)]
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>()
}

/// `Σ a · b`, in lanes.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// `Σ a · b · c`, in lanes.
#[inline(always)]
pub(crate) fn sum_of_products(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest), (c, c_rest)) =
        (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += a[i] * b[i] * c[i];
        }
    }
    let rest = a_rest.iter().zip(b_rest).zip(c_rest);
    lanes.iter().sum::<f32>() + rest.map(|((a, b), c)| a * b * c).sum::<f32>()
}

/// The largest value, in lanes; -∞ of none.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &value| largest.max(value))
}

/// `Σ e^(x - shift)`, in lanes.
#[inline(always)]
pub(crate) fn sum_of_exp(x: &[f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += exp(value - shift);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| exp(value - shift)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    per_isa! {
        fn silu_all(values: &mut [f32]) {
            values.iter_mut().for_each(|x| *x = silu(*x));
        }
    }

    #[test]
    fn exp_is_within_two_units_of_the_exact_value() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / exact - 1.0).abs() < 2.5e-7, "exp({x}) = {ours}, not {exact}");
            x += 0.0137;
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(-100.0), exp(0.0)), (0.0, 0.0, 1.0));
    }

    #[test]
    fn silu_matches_its_definition_on_every_isa() {
        for isa in Isa::available() {
            let mut values: Vec<f32> = (-200..200).map(|i| i as f32 * 0.11).collect();
            let expected: Vec<f64> =
                values.iter().map(|&x| f64::from(x) / (1.0 + (-f64::from(x)).exp())).collect();
            silu_all(isa, &mut values);
            for (a, e) in values.iter().zip(expected) {
                assert!((f64::from(*a) - e).abs() < 1e-6 * (1.0 + e.abs()), "{isa}: {a} for {e}");
            }
        }
    }
}
