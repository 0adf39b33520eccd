//! Products of bfloat16 with float32 sums, on CPUs that have instructions for them: AMX, which Intel
//! has from Sapphire Rapids on, and AVX512-BF16, which AMD has from Zen 4 on.
//!
//! The right side is frozen and packed once, the left side is rounded as it is packed, to nearest
//! even. The two kinds of instructions add a product's terms up in another order, so that results
//! differ by rounding; on one machine they are the same whatever the number of rows and of threads.

mod kernel;

use std::ops::Range;

use anyhow::{Result, bail};
use half::bf16;
pub use kernel::Unit;
use kernel::{BLOCK, DEPTH, Step, Sums};

use super::vector::vectorised;

/// Blocks of rows between two looks at their sums, which stay in the cache.
const GROUP: usize = 4;

/// The left side of a product: rows, rounded.
#[derive(Default)]
pub struct Rows {
    steps: Vec<Step>, // (blocks of rows, steps)
    rows: usize,
    columns: usize,
}

/// The right side of a product (I, O), packed.
pub struct Packed {
    steps: Vec<Step>, // (blocks of columns, steps)
    inputs: usize,
    outputs: usize,
    unit: Unit,
}

impl Unit {
    /// The fastest that this machine has.
    pub fn detect() -> Result<Self> {
        let Some(&unit) = Unit::all().first() else {
            bail!(
                "bfloat16 takes a CPU with AMX (Intel's from Sapphire Rapids on, on Linux) or AVX512-BF16 (AMD's from \
                 Zen 4 on), and this one, {}, has neither: leave --dtype out, float32 is what every CPU computes in",
                found()
            );
        };
        Ok(unit)
    }
}

/// The instructions of this machine, in a few words.
fn found() -> String {
    #[cfg(target_arch = "x86_64")]
    for (name, is_there) in [
        ("AVX-512", std::arch::is_x86_feature_detected!("avx512f")),
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
    ] {
        if is_there {
            return format!("x86_64 with {name}");
        }
    }
    std::env::consts::ARCH.into()
}

impl Rows {
    /// Becomes x (N, columns), rounded.
    pub fn set(&mut self, x: &[f32], columns: usize) {
        self.resize(x.len() / columns, columns);
        let steps = columns.div_ceil(DEPTH);
        vectorised(
            #[inline(always)]
            || {
                for (row, x) in x.chunks_exact(columns).enumerate() {
                    let steps = &mut self.steps[row / BLOCK * steps..][..steps];
                    let (whole, rest) = x.as_chunks::<DEPTH>();
                    for (step, x) in steps.iter_mut().zip(whole) {
                        round(x, step.row(row));
                    }
                    if !rest.is_empty() {
                        let mut padded = [0.0; DEPTH];
                        padded[..rest.len()].copy_from_slice(rest);
                        round(&padded, steps[whole.len()].row(row));
                    }
                }
            },
        );
    }

    /// Room for rows whose values are left over.
    fn resize(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        let steps = rows.div_ceil(BLOCK) * columns.div_ceil(DEPTH);
        if self.steps.len() < steps {
            self.steps.resize(steps, Step::ZERO);
        }
    }
}

impl Step {
    fn row(&mut self, row: usize) -> &mut [bf16; DEPTH] {
        &mut self.0[row % BLOCK / 16][row % 16]
    }
}

/// x to the nearest bfloat16, of two the even one.
#[inline(always)]
fn round(x: &[f32; DEPTH], y: &mut [bf16; DEPTH]) {
    for (x, y) in x.iter().zip(y) {
        *y = bf16::from_f32(*x);
    }
}

impl Packed {
    /// Of a weight (O, I).
    pub fn new(weight: &[f32], inputs: usize, unit: Unit) -> Self {
        let outputs = weight.len() / inputs;
        let per_block = inputs.div_ceil(DEPTH);
        let mut steps = vec![Step::ZERO; outputs.div_ceil(BLOCK) * per_block];
        for (output, weight) in weight.chunks_exact(inputs).enumerate() {
            let steps = &mut steps[output / BLOCK * per_block..][..per_block];
            for (i, &value) in weight.iter().enumerate() {
                let (step, within) = (i / DEPTH, i % DEPTH);
                steps[step].0[output % BLOCK / 16][within / 2][output % 16 * 2 + within % 2] = bf16::from_f32(value);
            }
        }
        Packed { steps, inputs, outputs, unit }
    }

    /// Number I of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// y (N, O) = x w + bias
    pub fn forward(&self, x: &Rows, bias: &[f32], y: &mut [f32]) {
        self.multiply(x, |rows, columns, sums| {
            vectorised(
                #[inline(always)]
                || {
                    for (sums, row) in sums.iter().flat_map(|sums| &sums.0).zip(rows) {
                        let y = &mut y[row * self.outputs..][columns.clone()];
                        for ((y, sum), bias) in y.iter_mut().zip(sums).zip(&bias[columns.clone()]) {
                            *y = sum + bias;
                        }
                    }
                },
            );
        });
    }

    /// y (N, O) += x w + bias
    pub fn add(&self, x: &Rows, bias: &[f32], y: &mut [f32]) {
        self.multiply(x, |rows, columns, sums| {
            vectorised(
                #[inline(always)]
                || {
                    for (sums, row) in sums.iter().flat_map(|sums| &sums.0).zip(rows) {
                        let y = &mut y[row * self.outputs..][columns.clone()];
                        for ((y, sum), bias) in y.iter_mut().zip(sums).zip(&bias[columns.clone()]) {
                            *y += sum + bias;
                        }
                    }
                },
            );
        });
    }

    /// y (N, O) = f(x w + bias), rounded. `f` has to be inlined.
    pub fn forward_mapped(&self, x: &Rows, bias: &[f32], f: impl Fn(f32) -> f32, y: &mut Rows) {
        y.resize(x.rows, self.outputs);
        let per_block = self.outputs.div_ceil(DEPTH);
        self.multiply(x, |rows, columns, sums| {
            vectorised(
                #[inline(always)]
                || {
                    for (sums, row) in sums.iter().flat_map(|sums| &sums.0).zip(rows) {
                        let mut mapped = [0.0; DEPTH];
                        for ((y, sum), bias) in mapped.iter_mut().zip(sums).zip(&bias[columns.clone()]) {
                            *y = f(sum + bias);
                        }
                        round(&mapped, y.steps[row / BLOCK * per_block + columns.start / DEPTH].row(row));
                    }
                },
            );
        });
    }

    /// x (N, I) times this: `each` is given rows, up to 32 columns, and the blocks of their sums.
    #[inline(always)]
    fn multiply(&self, x: &Rows, mut each: impl FnMut(Range<usize>, Range<usize>, &[Sums])) {
        assert_eq!(x.columns, self.inputs);
        let per_block = self.inputs.div_ceil(DEPTH);
        let left = &x.steps[..x.rows.div_ceil(BLOCK) * per_block];
        let mut sums = [Sums::ZERO; GROUP];
        for (block, b) in self.steps.chunks_exact(per_block).enumerate() {
            let columns = block * BLOCK..self.outputs.min((block + 1) * BLOCK);
            for (group, a) in left.chunks(GROUP * per_block).enumerate() {
                let sums = &mut sums[..a.len() / per_block];
                let ahead = (block + 1) * per_block + (group * per_block / 2).min(per_block);
                self.unit.multiply(a, b, self.steps.get(ahead..).unwrap_or_default(), sums);
                each(group * GROUP * BLOCK..x.rows, columns.clone(), sums);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values over several powers of two, of both signs.
    fn values(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (0.7 * i as f32 + seed).sin() * (0.11 * i as f32).cos().exp2()).collect()
    }

    /// Each of `x` to the nearest bfloat16, by comparing with both neighbours.
    fn nearest(x: f32) -> f64 {
        let below = x.to_bits() >> 16;
        let [low, high] = [below, below + 1].map(|bits| f64::from(f32::from_bits(bits << 16)));
        let (to_low, to_high) = ((f64::from(x) - low).abs(), (f64::from(x) - high).abs());
        if to_low < to_high || to_low == to_high && below.is_multiple_of(2) { low } else { high }
    }

    /// The machine's units, or a word on standard error.
    fn units() -> Vec<Unit> {
        let units = Unit::all();
        if units.is_empty() {
            eprintln!("NOT TESTED: {}", Unit::detect().unwrap_err());
        }
        units
    }

    #[test]
    fn products_are_those_of_rounded_values() {
        for unit in units() {
            for (inputs, outputs) in [(1, 1), (31, 33), (64, 32), (70, 65), (588, 40)] {
                let (weight, bias) = (values(outputs * inputs, 0.3), values(outputs, 0.9));
                let packed = Packed::new(&weight, inputs, unit);
                let mut x16 = Rows::default();
                x16.set(&[f32::NAN; 200 * 700], 700); // what is left over does no harm
                let mut before = Vec::new();
                for rows in (1..=70).chain([130]) {
                    let x = values(rows * inputs, 0.1);
                    let onto = values(rows * outputs, 0.5);
                    let (mut into, mut added) = (vec![f32::NAN; rows * outputs], onto.clone());
                    x16.set(&x, inputs);
                    packed.forward(&x16, &bias, &mut into);
                    packed.add(&x16, &bias, &mut added);
                    for (i, (found, added)) in into.iter().zip(&added).enumerate() {
                        let (row, column) = (i / outputs, i % outputs);
                        let terms = x[row * inputs..].iter().zip(&weight[column * inputs..]).take(inputs);
                        let terms: Vec<f64> = terms.map(|(x, w)| nearest(*x) * nearest(*w)).collect();
                        let size = 1.0 + terms.iter().map(|term| term.abs()).sum::<f64>();
                        let expected = terms.iter().sum::<f64>() + f64::from(bias[column]);
                        let off = (f64::from(*found) - expected).abs();
                        assert!(
                            off < (inputs + 4) as f64 * 6e-8 * size,
                            "{unit:?} {rows}×{inputs}×{outputs}: {found} {expected}"
                        );
                        assert_eq!(*added, onto[i] + found);
                    }
                    // a row is the same bytes, whatever stands beside it
                    assert_eq!(into[..before.len()], before, "{unit:?} {rows}×{inputs}×{outputs}");
                    before = into;
                }
            }
        }
    }

    #[test]
    fn a_mapped_product_is_the_left_side_of_the_next() {
        for unit in units() {
            for (rows, inputs, hidden, outputs) in [(1, 3, 33, 2), (65, 64, 70, 31), (40, 40, 32, 64)] {
                let (x, bias) = (values(rows * inputs, 0.1), values(hidden, 0.9));
                let first = Packed::new(&values(hidden * inputs, 0.3), inputs, unit);
                let second = Packed::new(&values(outputs * hidden, 0.2), hidden, unit);
                let [mut left, mut between] = <[Rows; 2]>::default();
                between.set(&[f32::NAN; 200 * 700], 700);
                left.set(&x, inputs);
                let mut expected = vec![0.0; rows * hidden];
                first.forward(&left, &bias, &mut expected);
                expected.iter_mut().for_each(|x: &mut f32| *x = 1.0 + x.abs());
                first.forward_mapped(&left, &bias, |x| 1.0 + x.abs(), &mut between);
                left.set(&expected, hidden);
                let [mut found, mut expected] = [(); 2].map(|()| vec![0.0; rows * outputs]);
                second.forward(&between, &vec![0.0; outputs], &mut found);
                second.forward(&left, &vec![0.0; outputs], &mut expected);
                assert_eq!(found, expected, "{unit:?} {rows}×{inputs}×{hidden}×{outputs}");
            }
        }
    }
}
