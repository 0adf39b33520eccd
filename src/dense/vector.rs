//! Elementwise functions and sums that the compiler can turn into vector instructions, and the
//! means to run them with the widest ones of the machine.

/// Values summed side by side.
const LANES: usize = 16;

/// Runs `work`, compiled for the vector instructions that this machine has. It has to be inlined, as
/// `#[inline(always)] || …`, and so has what it calls: what is not is compiled for every machine.
#[inline(always)]
pub fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// 1.5 · 2²³: adding it rounds to a whole number, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// eˣ, with a relative error below 2e-7; 0 below -87, clipped above 88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // x = n ln 2 + r, with n whole and |r| <= ln 2 / 2
    let clipped = x.clamp(-87.0, 88.0);
    let shifted = clipped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clipped - n * 0.693_359_4 - n * -2.121_944_4e-4; // ln 2 in two parts, the first one short
    let tail = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    let tail = ((tail * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1;
    let power = (tail * r + 5e-1) * r * r + r + 1.0;
    // 2ⁿ, from the whole number in the low bits of `shifted`
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { power * scale }
}

/// ln x of a normal x above 0, with an error below 2e-7 of the larger of the result and 1.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // x = m 2ᵉ, with m from √½ to √2
    let bits = x.to_bits();
    let half = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000); // from ½ to 1
    let small = half < std::f32::consts::FRAC_1_SQRT_2;
    let e = ((bits >> 23) as i32 - if small { 127 } else { 126 }) as f32;
    let z = if small { half + half - 1.0 } else { half - 1.0 };
    let tail = (7.037_683_6e-2 * z - 1.151_461e-1) * z + 1.167_699_9e-1;
    let tail = ((tail * z - 1.242_014_1e-1) * z + 1.424_932_3e-1) * z - 1.666_805_8e-1;
    let tail = ((tail * z + 2.000_071_5e-1) * z - 2.499_999_4e-1) * z + 3.333_333e-1;
    tail * z * z * z - 0.5 * z * z + e * -2.121_944_4e-4 + z + e * 0.693_359_4 // ln 2 in two parts
}

/// Sine and cosine of `turns` whole turns, 0 to 1, with an absolute error below 2e-7.
#[inline(always)]
pub fn sin_cos(turns: f32) -> (f32, f32) {
    // an eighth of a turn to either side of the nearest quarter
    let shifted = 4.0 * turns + ROUND;
    let quarter = shifted.to_bits();
    let x = (4.0 * turns - (shifted - ROUND)) * std::f32::consts::FRAC_PI_2;
    let z = x * x;
    let sin = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * x + x;
    let cos = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    let (sin, cos) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let sign = |value: f32, negative: u32| f32::from_bits(value.to_bits() ^ (negative << 31));
    (sign(sin, quarter >> 1 & 1), sign(cos, quarter.wrapping_add(1) >> 1 & 1))
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function, with an absolute error below 5e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let tail = ((1.061_405_4 * t - 1.453_152) * t + 1.421_413_8) * t - 0.284_496_74;
    (1.0 - (tail * t + 0.254_829_6) * t * exp(-x * x)).copysign(x)
}

/// The sum of a function of the values of three slices.
#[inline(always)]
pub fn fold(a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let (c, c_rest) = c.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            sums[i] += f(a[i], b[i], c[i]);
        }
    }
    let mut total: f32 = sums.iter().sum();
    for ((&a, &b), &c) in a_rest.iter().zip(b_rest).zip(c_rest) {
        total += f(a, b, c);
    }
    total
}

/// Σ aᵢ bᵢ
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold(a, b, b, |a, b, _| a * b)
}

/// Σ aᵢ
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    fold(a, a, a, |a, _, _| a)
}

/// The largest of a and −∞; NaN does not count.
#[inline(always)]
pub fn largest(a: &[f32]) -> f32 {
    #[inline(always)]
    fn larger<const N: usize>(a: &[f32], b: &[f32]) -> [f32; N] {
        std::array::from_fn(|i| if b[i] > a[i] { b[i] } else { a[i] })
    }
    let (lanes, rest) = a.as_chunks::<LANES>();
    let most = lanes.iter().fold([f32::NEG_INFINITY; LANES], |most, lanes| larger(&most, lanes));
    let most: [f32; 8] = larger(&most[..8], &most[8..]);
    let most: [f32; 4] = larger(&most[..4], &most[4..]);
    let most = most[0].max(most[1]).max(most[2].max(most[3]));
    rest.iter().copied().fold(most, f32::max)
}

/// Σ (aᵢ - centre)²
#[inline(always)]
pub fn squares(a: &[f32], centre: f32) -> f32 {
    fold(a, a, a, |a, _, _| (a - centre) * (a - centre))
}

/// y += scale·x
#[inline(always)]
pub fn add_scaled(y: &mut [f32], scale: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += scale * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_found_wherever_it_is() {
        assert_eq!(largest(&[]), f32::NEG_INFINITY);
        for n in 1..=70 {
            for at in 0..n {
                let mut values: Vec<f32> = (0..n).map(|i| -2.0 - (i as f32).sin()).collect();
                values[at] = -0.5;
                assert_eq!(largest(&values), -0.5, "{at} of {n}");
                values[(at + 1) % n] = f32::NAN;
                assert_eq!(largest(&values), if n == 1 { f32::NEG_INFINITY } else { -0.5 }, "{at} of {n}, beside NaN");
            }
        }
    }

    #[test]
    fn the_exponential_is_exact_to_rounding() {
        for i in -8600..8800 {
            let x = i as f32 * 0.01;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / expected - 1.0).abs() < 2e-7, "exp({x}) = {found:e}, not {expected:e}");
        }
        assert_eq!((exp(-1e30), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_logarithm_and_the_circle_are_exact_to_rounding() {
        for i in 1..=1 << 16 {
            let x = i as f32 / (1 << 16) as f32;
            let expected = f64::from(x).ln();
            assert!((f64::from(ln(x)) - expected).abs() < 2e-7 * expected.abs().max(1.0), "ln({x}) = {}", ln(x));
            let ((sin, cos), angle) = (sin_cos(x), std::f64::consts::TAU * f64::from(x));
            assert!((f64::from(sin) - angle.sin()).abs() < 2e-7, "sin({angle}) = {sin}");
            assert!((f64::from(cos) - angle.cos()).abs() < 2e-7, "cos({angle}) = {cos}");
        }
        assert!((ln(1.0 / (1 << 24) as f32) + 16.635_532).abs() < 2e-6);
    }

    #[test]
    fn the_error_function_is_exact_enough() {
        for (x, expected) in [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (6.0, 1.0)] {
            assert!((erf(x) - expected).abs() < 5e-7, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }
}
