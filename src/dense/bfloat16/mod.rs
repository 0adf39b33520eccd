//! Products of bfloat16 with float32 sums, on CPUs that have instructions for them: AMX, which Intel
//! has from Sapphire Rapids on, and AVX512-BF16, which AMD has from Zen 4 on.
//!
//! Both sides are rounded as they are packed, to nearest even: a frozen right side once. The two
//! kinds of instructions add a product's terms up in another order, so that results differ by
//! rounding; on one machine they are the same whatever the number of rows and of threads.

mod kernel;

use std::ops::Range;

use anyhow::{Result, bail};
use half::bf16;
pub use kernel::Unit;
use kernel::{Ahead, BLOCK, DEPTH, Step, Sums};

use super::{
    huge_pages::{HugePages, Plain},
    product::Matrix,
    vector::vectorised,
};

/// Blocks of rows between two looks at their sums, which stay in the cache.
const GROUP: usize = 4;

/// Rows that are rounded side by side: a step holds 64 bytes of each row, so eight rows are 512 bytes
/// that lie together, where the next 64 of one row are 2 KB on.
const TOGETHER: usize = 8;

/// The left side of a product: rows, rounded.
#[derive(Default)]
pub struct Rows {
    steps: HugePages<Step>, // (blocks of rows, steps)
    rows: usize,
    columns: usize,
}

/// The right side of a product (I, O), rounded and packed.
pub struct Packed {
    steps: HugePages<Step>, // (blocks of columns, steps)
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
    /// Becomes x (N, I), rounded.
    pub fn set(&mut self, unit: Unit, x: Matrix) {
        self.resize(x.rows(), x.columns());
        let steps = self.columns.div_ceil(DEPTH);
        for first in (0..x.rows()).step_by(TOGETHER) {
            let rows = TOGETHER.min(x.rows() - first);
            let x: [&[f32]; TOGETHER] = std::array::from_fn(|i| if i < rows { x.row(first + i) } else { &[] });
            unit.round(&x[..rows], &mut self.steps[first / BLOCK * steps..][..steps], first % BLOCK);
        }
    }

    /// Room for rows whose values are left over.
    fn resize(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        let steps = rows.div_ceil(BLOCK) * columns.div_ceil(DEPTH);
        if self.steps.len() < steps {
            self.steps = HugePages::zeros(steps);
        }
    }
}

// Safety: zeros are zeros, and 64 bytes divide a page.
unsafe impl Plain for Step {}

impl Packed {
    /// Nothing yet.
    pub fn empty(unit: Unit) -> Self {
        Packed { steps: HugePages::default(), inputs: 0, outputs: 0, unit }
    }

    /// Of a weight (O, I).
    pub fn new(weight: &[f32], inputs: usize, unit: Unit) -> Self {
        let mut packed = Packed::empty(unit);
        let weight = Matrix::new(weight, inputs);
        packed.set_transposed(weight, weight.rows());
        packed
    }

    /// Becomes the transpose of w (O, I), with zeros in what there are more `outputs` than O.
    pub fn set_transposed(&mut self, w: Matrix, outputs: usize) {
        assert!(outputs >= w.rows());
        self.resize(w.columns(), outputs);
        let per_block = self.inputs.div_ceil(DEPTH);
        let mut rounded = vec![Step::ZERO; per_block]; // of which the first row counts
        for output in 0..outputs {
            let steps = &mut self.steps[output / BLOCK * per_block..][..per_block];
            match output < w.rows() {
                true => self.unit.round(&[w.row(output)], &mut rounded, 0),
                false => rounded.fill(Step::ZERO),
            }
            for (step, rounded) in steps.iter_mut().zip(&rounded) {
                let (pairs, values) = (&mut step.0[output % BLOCK / 16], &rounded.0[0][0]);
                for (pair, values) in pairs.iter_mut().zip(values.as_chunks::<2>().0) {
                    pair.as_chunks_mut::<2>().0[output % 16] = *values;
                }
            }
        }
    }

    /// Becomes w (I, O), with zeros in what there are more `inputs` than I.
    pub fn set(&mut self, w: Matrix, inputs: usize) {
        assert!(inputs >= w.rows());
        self.resize(inputs, w.columns());
        let per_block = self.inputs.div_ceil(DEPTH);
        let zeros = vec![0.0; w.columns()];
        let row = |i: usize| if i < w.rows() { w.row(i) } else { &zeros };
        vectorised(
            #[inline(always)]
            || {
                for pair in 0..inputs.div_ceil(2) {
                    let rows = row(2 * pair).chunks(16).zip(row(2 * pair + 1).chunks(16));
                    for (tile, (first, second)) in rows.enumerate() {
                        let step = &mut self.steps[tile / 2 * per_block + pair / (DEPTH / 2)];
                        let values = step.0[tile % 2][pair % (DEPTH / 2)].as_chunks_mut::<2>().0;
                        for ((y, first), second) in values.iter_mut().zip(first).zip(second) {
                            *y = [bf16::from_f32(*first), bf16::from_f32(*second)];
                        }
                    }
                }
            },
        );
    }

    /// The instructions that multiply it.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    fn resize(&mut self, inputs: usize, outputs: usize) {
        if (inputs, outputs) != (self.inputs, self.outputs) {
            (self.inputs, self.outputs) = (inputs, outputs);
            let steps = outputs.div_ceil(BLOCK) * inputs.div_ceil(DEPTH);
            self.steps = HugePages::zeros(steps); // what pads steps is zero
        }
    }

    /// Number I of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// y = `scale` · x w; the rows of y (N, O) are `stride` values apart.
    pub fn scaled(&self, x: &Rows, scale: f32, y: &mut [f32], stride: usize) {
        self.each_row(
            x,
            y,
            stride,
            #[inline(always)]
            |y, _, sums| {
                y.iter_mut().zip(sums).for_each(|(y, sum)| *y = scale * sum);
            },
        );
    }

    /// y (N, O) = x w + bias
    pub fn forward(&self, x: &Rows, bias: &[f32], y: &mut [f32]) {
        self.each_row(
            x,
            y,
            self.outputs,
            #[inline(always)]
            |y, columns, sums| {
                y.iter_mut().zip(sums).zip(&bias[columns]).for_each(|((y, sum), bias)| *y = sum + bias);
            },
        );
    }

    /// y (N, O) += x w + bias
    pub fn add(&self, x: &Rows, bias: &[f32], y: &mut [f32]) {
        self.each_row(
            x,
            y,
            self.outputs,
            #[inline(always)]
            |y, columns, sums| {
                y.iter_mut().zip(sums).zip(&bias[columns]).for_each(|((y, sum), bias)| *y += sum + bias);
            },
        );
    }

    /// y (N, O) = f(x w + bias), rounded. `f` has to be inlined.
    pub fn forward_mapped(&self, x: &Rows, bias: &[f32], f: impl Fn(f32) -> f32, y: &mut Rows) {
        y.resize(x.rows, self.outputs);
        let per_block = self.outputs.div_ceil(DEPTH);
        self.multiply(x, None, |rows, columns, sums| {
            let mut own = [0.0; BLOCK];
            own[..columns.len()].copy_from_slice(&bias[columns.clone()]);
            vectorised(
                #[inline(always)]
                || {
                    for row in sums.iter_mut().flat_map(|sums| &mut sums.0).take(rows.len()) {
                        row.iter_mut().zip(&own).for_each(|(sum, bias)| *sum = f(*sum + bias));
                        row[columns.len()..].fill(0.0);
                    }
                },
            );
            for (i, sums) in sums.iter().enumerate() {
                let block = rows.start / BLOCK + i;
                let step = &mut y.steps[block * per_block + columns.start / DEPTH];
                self.unit.round_sums(sums, rows.len() - i * BLOCK, step);
            }
        });
    }

    /// x (N, I) times this, for y (N, O), of which rows are `stride` values apart: `each` is given up
    /// to 32 values of a row, their columns, and their sums. It has to be inlined.
    #[inline(always)]
    fn each_row(
        &self,
        x: &Rows,
        y: &mut [f32],
        stride: usize,
        mut each: impl FnMut(&mut [f32], Range<usize>, &[f32; BLOCK]),
    ) {
        self.multiply(x, Some((y.as_ptr(), stride)), |rows, columns, sums| {
            vectorised(
                #[inline(always)]
                || {
                    for (sums, row) in sums.iter().flat_map(|sums| &sums.0).zip(rows) {
                        each(&mut y[row * stride..][columns.clone()], columns.clone(), sums);
                    }
                },
            );
        });
    }

    /// x (N, I) times this: `each` is given rows, up to 32 columns, and the blocks of their sums. If
    /// these go to rows, `onto` is where the first begins, and how many values they are apart.
    #[inline(always)]
    fn multiply(
        &self,
        x: &Rows,
        onto: Option<(*const f32, usize)>,
        mut each: impl FnMut(Range<usize>, Range<usize>, &mut [Sums]),
    ) {
        assert_eq!(x.columns, self.inputs);
        let per_block = self.inputs.div_ceil(DEPTH);
        let left = &x.steps[..x.rows.div_ceil(BLOCK) * per_block];
        let mut sums = [Sums::ZERO; GROUP];
        let at_once = self.unit.blocks_at_once(per_block).saturating_mul(per_block);
        for (part, left) in left.chunks(at_once).enumerate() {
            let first = part * (at_once / per_block) * BLOCK;
            for (block, b) in self.steps.chunks_exact(per_block).enumerate() {
                let columns = block * BLOCK..self.outputs.min((block + 1) * BLOCK);
                for (group, a) in left.chunks(GROUP * per_block).enumerate() {
                    let (sums, rows) = (&mut sums[..a.len() / per_block], first + group * GROUP * BLOCK..x.rows);
                    let right = self.steps[block * per_block..].get(per_block..).unwrap_or_default();
                    let ahead = Ahead {
                        right: right.get(self.unit.ahead(group, per_block)).unwrap_or_default(),
                        onto: onto.map(|(y, stride)| (y.wrapping_add(rows.start * stride + columns.start), stride)),
                    };
                    self.unit.multiply(a, rows.len(), b, ahead, sums);
                    each(rows, columns.clone(), sums);
                }
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
            for (inputs, outputs) in [(1, 1), (31, 33), (64, 32), (70, 65), (588, 40), (3072, 3)] {
                let (weight, bias) = (values(outputs * inputs, 0.3), values(outputs, 0.9));
                let packed = Packed::new(&weight, inputs, unit);
                let mut x16 = Rows::default();
                x16.set(unit, Matrix::new(&[f32::NAN; 160 * 3072], 3072)); // what is left over does no harm
                let mut before = Vec::new();
                for rows in (1..=70).chain([130]) {
                    let x = values(rows * inputs, 0.1);
                    let onto = values(rows * outputs, 0.5);
                    let (mut into, mut added) = (vec![f32::NAN; rows * outputs], onto.clone());
                    x16.set(unit, Matrix::new(&x, inputs));
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
                between.set(unit, Matrix::new(&[f32::NAN; 200 * 700], 700));
                left.set(unit, Matrix::new(&x, inputs));
                let mut expected = vec![0.0; rows * hidden];
                first.forward(&left, &bias, &mut expected);
                expected.iter_mut().for_each(|x: &mut f32| *x = 1.0 + x.abs());
                first.forward_mapped(&left, &bias, |x| 1.0 + x.abs(), &mut between);
                left.set(unit, Matrix::new(&expected, hidden));
                let [mut found, mut expected] = [(); 2].map(|()| vec![0.0; rows * outputs]);
                second.forward(&between, &vec![0.0; outputs], &mut found);
                second.forward(&left, &vec![0.0; outputs], &mut expected);
                assert_eq!(found, expected, "{unit:?} {rows}×{inputs}×{hidden}×{outputs}");
            }
        }
    }

    #[test]
    fn what_is_set_again_is_as_if_new() {
        for unit in units() {
            let mut packed = Packed::empty(unit);
            packed.set(Matrix::new(&[f32::NAN; 90 * 90], 90), 90);
            for (rows, inputs, more, outputs) in [(3, 40, 64, 70), (2, 37, 64, 70), (5, 64, 64, 33), (1, 31, 31, 1)] {
                let (x, w) = (values(rows * more, 0.1), values(inputs * outputs, 0.3));
                let transposed: Vec<f32> = (0..outputs * more)
                    .map(|i| if i % more < inputs { w[i % more * outputs + i / more] } else { 0.0 })
                    .collect();
                let mut left = Rows::default();
                left.set(unit, Matrix::new(&x, more));
                let mut expected = vec![0.0; rows * outputs];
                Packed::new(&transposed, more, unit).forward(&left, &vec![0.0; outputs], &mut expected);
                expected.iter_mut().for_each(|x| *x *= 0.5);

                let stride = outputs + 3;
                let mut found = vec![7.0; rows * stride];
                packed.set(Matrix::new(&vec![f32::NAN; more * outputs], outputs), more);
                packed.set(Matrix::new(&w, outputs), more);
                packed.scaled(&left, 0.5, &mut found, stride);
                for (found, expected) in found.chunks(stride).zip(expected.chunks(outputs)) {
                    assert_eq!(found, [expected, &[7.0; 3]].concat(), "{unit:?} {rows}×{inputs}×{outputs}");
                }
                let mut found = vec![0.0; rows * (outputs + 9)];
                packed.set_transposed(Matrix::new(&vec![f32::NAN; (outputs + 9) * more], more), outputs + 9);
                packed.set_transposed(Matrix::new(&transposed, more), outputs + 9);
                packed.scaled(&left, 0.5, &mut found, outputs + 9);
                for (found, expected) in found.chunks(outputs + 9).zip(expected.chunks(outputs)) {
                    assert_eq!(found, [expected, &[0.0; 9]].concat(), "{unit:?} {rows}×{inputs}×{outputs}, transposed");
                }
            }
        }
    }
}
