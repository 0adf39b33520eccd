//! Products of bfloat16 with float32 sums, on CPUs that have instructions for them: AMX, which Intel
//! has from Sapphire Rapids on, and AVX512-BF16, which AMD has from Zen 4 on.
//!
//! Both sides are rounded as they are packed, to nearest even: a frozen right side once. The two
//! kinds of instructions add a product's terms up in another order, so that results differ by
//! rounding; on one machine they are the same whatever the number of rows and of threads.

mod kernel;

use std::ops::Range;

use anyhow::{Result, bail};
pub use kernel::Unit;
use kernel::{Ahead, BLOCK, DEPTH, Step, Sums};

use super::{
    huge_pages::{HugePages, Plain},
    product::Matrix,
    vector::vectorised,
};

/// Columns of a tile of the right side.
const TILE: usize = 16;

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

/// Some inputs of a right side, or some outputs.
#[derive(Clone, Copy)]
struct Part<'a> {
    steps: &'a [Step], // blocks of columns, `stride` apart
    stride: usize,
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
        let steps = self.inputs.div_ceil(DEPTH);
        let mut room = vec![Step::ZERO; steps];
        for first in (0..outputs).step_by(TILE) {
            let rows: [&[f32]; TILE] =
                std::array::from_fn(|i| if first + i < w.rows() { w.row(first + i) } else { &[] });
            let there = w.rows().saturating_sub(first).min(TILE);
            let to = &mut self.steps[first / BLOCK * steps..][..steps];
            self.unit.round_transposed(&rows[..there], first / TILE % 2, to, &mut room);
        }
    }

    /// Becomes w (I, O), with zeros in what there are more `inputs` than I.
    pub fn set(&mut self, w: Matrix, inputs: usize) {
        assert!(inputs >= w.rows());
        self.resize(inputs, w.columns());
        let steps = self.inputs.div_ceil(DEPTH);
        let zeros = vec![0.0; w.columns()];
        let row = |i: usize| if i < w.rows() { w.row(i) } else { &zeros };
        for pair in 0..inputs.div_ceil(2) {
            let to = &mut self.steps[pair / (DEPTH / 2)..];
            self.unit.round_pair([row(2 * pair), row(2 * pair + 1)], pair % (DEPTH / 2), to, steps);
        }
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
        self.all().each_value(x, &[0.0; BLOCK], y, stride, |_, sum, _| scale * sum);
    }

    /// y (N, O) = x w + bias
    pub fn forward(&self, x: &Rows, bias: &[f32], y: &mut [f32]) {
        self.all().each_value(x, bias, y, self.outputs, |_, sum, bias| sum + bias);
    }

    /// y (N, O) += x w + bias
    pub fn add(&self, x: &Rows, bias: &[f32], y: &mut [f32]) {
        self.all().add(x, bias, y);
    }

    /// y (N, O) += f(x w + bias) w' + bias', with w' (F, O) the second map. `f` has to be inlined, and
    /// multiplies nothing itself; `between` is a buffer.
    pub fn add_both(
        &self,
        x: &Rows,
        bias: &[f32],
        f: impl Fn(f32) -> f32 + Copy,
        second: (&Packed, &[f32]),
        between: &mut Rows,
        y: &mut [f32],
    ) {
        let (second, mut second_bias) = second;
        assert_eq!(second.inputs, self.outputs);
        let zeros = vec![0.0; second.outputs];
        let at_once = self.unit.values_at_once().min(self.outputs);
        for first in (0..self.outputs).step_by(at_once) {
            let some = first..self.outputs.min(first + at_once);
            self.some_outputs(some.clone()).forward_mapped(x, &bias[some.clone()], f, between);
            second.some_inputs(some).add(between, second_bias, y);
            second_bias = &zeros;
        }
    }

    fn all(&self) -> Part<'_> {
        self.some_outputs(0..self.outputs)
    }

    /// From a whole block on.
    fn some_outputs(&self, outputs: Range<usize>) -> Part<'_> {
        let stride = self.inputs.div_ceil(DEPTH);
        let steps = &self.steps[outputs.start / BLOCK * stride..outputs.end.div_ceil(BLOCK) * stride];
        Part { steps, stride, inputs: self.inputs, outputs: outputs.len(), unit: self.unit }
    }

    /// From a whole step on.
    fn some_inputs(&self, inputs: Range<usize>) -> Part<'_> {
        let stride = self.inputs.div_ceil(DEPTH);
        let steps = &self.steps[inputs.start / DEPTH..self.outputs.div_ceil(BLOCK) * stride];
        Part { steps, stride, inputs: inputs.len(), outputs: self.outputs, unit: self.unit }
    }
}

impl Part<'_> {
    /// y (N, O) += x w + bias
    fn add(self, x: &Rows, bias: &[f32], y: &mut [f32]) {
        self.each_value(x, bias, y, self.outputs, |y, sum, bias| y + (sum + bias));
    }

    /// y (N, O) = f(x w + bias), rounded. `f` has to be inlined.
    fn forward_mapped(self, x: &Rows, bias: &[f32], f: impl Fn(f32) -> f32, y: &mut Rows) {
        y.resize(x.rows, self.outputs);
        let per_block = self.outputs.div_ceil(DEPTH);
        self.multiply(
            x,
            None,
            #[inline(always)]
            |_, columns, sums| {
                let bias = &bias[columns];
                match bias.first_chunk::<BLOCK>() {
                    Some(&bias) => {
                        for sums in sums {
                            for i in 0..BLOCK {
                                sums[i] = f(sums[i] + bias[i]);
                            }
                        }
                    }
                    None => {
                        for sums in sums {
                            sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum = f(*sum + bias));
                            sums[bias.len()..].fill(0.0);
                        }
                    }
                }
            },
            #[inline(always)]
            |rows, columns, sums| {
                let step = &mut y.steps[rows.start / BLOCK * per_block + columns.start / DEPTH];
                self.unit.round_sums(sums, rows.len(), step);
            },
        );
    }

    /// Each value of y (N, O), of which rows are `stride` values apart, becomes f of itself, of its sum
    /// in x (N, I) times this, and of its column's bias (O, or any one block). `f` is inlined.
    #[inline(always)]
    fn each_value(self, x: &Rows, bias: &[f32], y: &mut [f32], stride: usize, f: impl Fn(f32, f32, f32) -> f32) {
        let onto = Some((y.as_ptr(), stride));
        self.multiply(
            x,
            onto,
            #[inline(always)]
            |first, columns, sums| {
                let bias = if bias.len() == BLOCK { &bias[..columns.len()] } else { &bias[columns.clone()] };
                match bias.first_chunk::<BLOCK>() {
                    Some(&bias) => {
                        for (row, &sums) in (first..).zip(&*sums) {
                            let y = y[row * stride..][columns.clone()].first_chunk_mut::<BLOCK>().expect("a block");
                            *y = std::array::from_fn(|i| f(y[i], sums[i], bias[i]));
                        }
                    }
                    None => {
                        for (row, sums) in (first..).zip(sums) {
                            let y = y[row * stride..][columns.clone()].iter_mut();
                            y.zip(sums).zip(bias).for_each(|((y, sum), bias)| *y = f(*y, *sum, *bias));
                        }
                    }
                }
            },
            #[inline(always)]
            |_, _, _| {},
        );
    }

    /// x (N, I) times this, block by block: `each` is given the first of some rows, up to 32 columns,
    /// and their sums, `block` what all rows of these columns have become. The sums of a block have
    /// their turn while the next one is multiplied, which takes other parts of a core. If they go to
    /// rows, `onto` is where the first row begins, and how many values rows are apart. Both have to be
    /// inlined.
    #[inline(always)]
    fn multiply(
        self,
        x: &Rows,
        onto: Option<(*const f32, usize)>,
        mut each: impl FnMut(usize, Range<usize>, &mut [[f32; BLOCK]]),
        mut block: impl FnMut(Range<usize>, Range<usize>, &Sums),
    ) {
        assert_eq!(x.columns, self.inputs);
        let steps = self.inputs.div_ceil(DEPTH);
        let left = &x.steps[..x.rows.div_ceil(BLOCK) * steps];
        let at_once = self.unit.blocks_at_once(steps).saturating_mul(steps);
        let mut sums = [Sums::ZERO; 2];
        let [mut now, mut done] = sums.each_mut();
        let mut before: Option<(Range<usize>, Range<usize>)> = None; // rows and columns of what is done
        let tiles = self.unit.tiles();
        vectorised(
            #[inline(always)]
            || {
                for (part, left) in left.chunks(at_once).enumerate() {
                    for (right, b) in self.steps.chunks(self.stride).enumerate() {
                        let columns = right * BLOCK..self.outputs.min((right + 1) * BLOCK);
                        let (b, next) = (&b[..steps], self.steps.get((right + 1) * self.stride..).unwrap_or_default());
                        for (i, a) in left.chunks_exact(steps).enumerate() {
                            let first = (part * (at_once / steps) + i) * BLOCK;
                            let rows = first..x.rows.min(first + BLOCK);
                            let ahead = Ahead {
                                right: next.get(self.unit.ahead(i, steps)).unwrap_or_default(),
                                onto: onto.map(|(y, stride)| (y.wrapping_add(first * stride + columns.start), stride)),
                            };
                            tiles.multiply(
                                a,
                                rows.len(),
                                b,
                                ahead,
                                now,
                                #[inline(always)]
                                |some| {
                                    if let Some((rows, columns)) = &before {
                                        let some = some.start.min(rows.len())..some.end.min(rows.len());
                                        each(rows.start + some.start, columns.clone(), &mut done.0[some]);
                                    }
                                },
                            );
                            if let Some((rows, columns)) = before.replace((rows, columns.clone())) {
                                block(rows, columns, done);
                            }
                            std::mem::swap(&mut now, &mut done);
                        }
                    }
                }
                if let Some((rows, columns)) = before {
                    each(rows.start, columns.clone(), &mut done.0[..rows.len()]);
                    block(rows, columns, done);
                }
            },
        );
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
    fn two_maps_are_one_after_another_whatever_is_multiplied_at_once() {
        for unit in units() {
            for (rows, inputs, hidden, outputs) in [(3, 40, 70, 33), (40, 33, 3190, 65)] {
                let (x, [bias, other_bias]) = (values(rows * inputs, 0.1), [hidden, outputs].map(|n| values(n, 0.9)));
                let first = Packed::new(&values(hidden * inputs, 0.3), inputs, unit);
                let second = Packed::new(&values(outputs * hidden, 0.2), hidden, unit);
                let [mut left, mut between] = <[Rows; 2]>::default();
                between.set(unit, Matrix::new(&[f32::NAN; 200 * 700], 700));
                let [mut one, mut found, mut expected] = [(); 3].map(|()| values(rows * outputs, 0.4));
                left.set(unit, Matrix::new(&x[..inputs], inputs));
                first.add_both(&left, &bias, |x| x.max(0.1 * x), (&second, &other_bias), &mut between, &mut one);
                left.set(unit, Matrix::new(&x, inputs));
                first.add_both(&left, &bias, |x| x.max(0.1 * x), (&second, &other_bias), &mut between, &mut found);
                first.all().forward_mapped(&left, &bias, |x| x.max(0.1 * x), &mut between);
                second.add(&between, &other_bias, &mut expected);
                assert_eq!(one[..outputs], found[..outputs], "{unit:?}: a row, whatever stands beside it");
                let size = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-6 * size, "{unit:?} {hidden}: {found} {expected}");
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
                first.all().forward_mapped(&left, &bias, |x| 1.0 + x.abs(), &mut between);
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
