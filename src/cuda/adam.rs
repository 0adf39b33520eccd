//! Adam in one pass over the parameters.

use anyhow::Result;
use candle_core::Tensor;

use super::{
    engine,
    kernels::{Argument, Source},
};
use crate::dense::adam::{BETA1, BETA2, EPS};

const THREADS: usize = 256;

/// A step, in place, of C parameters (C, …) with their first and second moments, from their
/// gradients. `factors` are, of C values each: whether a parameter takes the step, 1, or waits, 0;
/// the rate, divided by the first moment's bias; what the root of the second moment is multiplied
/// with. Those that take the step lose the share `decay` first.
pub fn adam(
    parameters: &Tensor,
    [first, second]: [&Tensor; 2],
    gradients: &Tensor,
    [on, rates, corrections]: [&Tensor; 3],
    decay: f64,
) -> Result<()> {
    let engine = engine(parameters)?;
    let size = parameters.elem_count() / on.elem_count();
    let arguments = [
        engine.argument(parameters)?,
        engine.argument(first)?,
        engine.argument(second)?,
        engine.argument(gradients)?,
        engine.argument(on)?,
        engine.argument(rates)?,
        engine.argument(corrections)?,
        Argument::Size(size as u64),
        Argument::Value(BETA1 as f32),
        Argument::Value(BETA2 as f32),
        Argument::Value(EPS),
        Argument::Value(decay as f32),
    ];
    let grid = [size.div_ceil(THREADS).min(64) as u32, on.elem_count() as u32, 1];
    // Safety: parameters, moments and gradients have the same shape, the factors a value for each
    // of its first dimension. Nobody else has the parameters and moments.
    unsafe { engine.kernels.launch(Source::Adam, "adam", (grid, [THREADS as u32, 1, 1], 0), &arguments) }
}
