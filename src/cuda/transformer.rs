//! The kernels of `transformer.cu` and `attention.cu` on tensors.

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};

use super::{
    engine,
    kernels::{Argument, Source, UNIT},
};
use crate::clip::config::Activation;

/// What a source is compiled for where the head dimension does not count.
const ANY_HEAD: Source = Source::Transformer { head: 64 };

/// Rows that a block of threads norms, a warp each.
const ROWS: u32 = 4;

/// Largest head dimension that the kernels have room for.
pub const LARGEST_HEAD: usize = 128;

/// Most positions whose attention has a backward pass: what fits shared memory.
pub const LONGEST_BACKWARD: usize = 96;

/// Shared memory that a block may have on Hopper.
const HOPPERS_SHARED_BYTES: usize = 227 << 10;

/// Threads of a block of an elementwise kernel, and of attention's backward pass.
const THREADS: u32 = 256;

/// Layer norm of a residual x (N, W) with weight and bias (W), float32, and W at most [`WIDEST`](super::WIDEST); the
/// result in `dtype`. Where there is `more` (N, W), in `dtype`, it is added to x first. The sum, or x,
/// comes before the result: beside bfloat16 a sum is in float16, as [`residual`] reads it.
pub fn layer_norm(
    x: &Tensor,
    more: Option<&Tensor>,
    [weight, bias]: [&Tensor; 2],
    eps: f64,
    dtype: DType,
) -> Result<(Tensor, Tensor)> {
    let engine = engine(x)?;
    let (rows, width) = x.dims2()?;
    let (y, place) = engine.empty(&[rows, width], dtype)?;
    let (sum, sums_place) = match more {
        Some(_) => engine.empty(&[rows, width], if dtype == DType::BF16 { DType::F16 } else { DType::F32 })?,
        None => (x.clone(), 0),
    };
    let name = match (x.dtype(), dtype) {
        (DType::F16, DType::BF16) => "layer_norm_f16_bf16",
        (DType::F32, DType::BF16) => "layer_norm_bf16",
        (DType::F32, DType::F32) => "layer_norm_f32",
        (x, y) => bail!("no norm of {x:?} in {y:?}"),
    };
    let arguments = [
        engine.argument(x)?,
        Argument::Place(more.map_or(Ok(0), |more| engine.place(more))?),
        engine.argument(weight)?,
        engine.argument(bias)?,
        Argument::Place(sums_place),
        Argument::Place(place),
        Argument::Count(rows as i32),
        Argument::Count(width as i32),
        Argument::Value(eps as f32),
    ];
    // Safety: x, what is added, the sum and y are (N, W), weight and bias (W).
    unsafe { engine.kernels.launch(ANY_HEAD, name, per_row(rows), &arguments)? };
    Ok((sum, y))
}

/// A residual in float32.
pub fn residual(x: &Tensor) -> Result<Tensor> {
    Ok(match x.dtype() {
        DType::F16 => (x.to_dtype(DType::F32)? * UNIT)?,
        _ => x.clone(),
    })
}

/// Gradient (N, W) of a layer norm's input x from that of its output, plus `residual` (N, W).
pub fn layer_norm_backward(x: &Tensor, weight: &Tensor, grad: &Tensor, residual: &Tensor, eps: f64) -> Result<Tensor> {
    let engine = engine(x)?;
    let (rows, width) = x.dims2()?;
    let (dx, place) = engine.empty(&[rows, width], DType::F32)?;
    let arguments = [
        engine.argument(x)?,
        engine.argument(weight)?,
        engine.argument(grad)?,
        engine.argument(residual)?,
        Argument::Place(place),
        Argument::Count(rows as i32),
        Argument::Count(width as i32),
        Argument::Value(eps as f32),
    ];
    // Safety: all are (N, W), the weight (W).
    unsafe { engine.kernels.launch(ANY_HEAD, "layer_norm_backward_f32", per_row(rows), &arguments)? };
    Ok(dx)
}

/// Patches (B·side·side, 3·p·p), in `dtype`, of side p of pixels (B, S, S, 3), bytes, as the
/// normalisation (3, 256) has them.
pub fn patches(pixels: &Tensor, normalisation: &Tensor, p: usize, dtype: DType) -> Result<Tensor> {
    let engine = engine(pixels)?;
    let (b, image, _, channels) = pixels.dims4()?;
    let side = image / p;
    let (out, place) = engine.empty(&[b * side * side, channels * p * p], dtype)?;
    let name = if dtype == DType::BF16 { "patches_bf16" } else { "patches_f32" };
    let rows = b * side * side * channels * p;
    let mut arguments = vec![engine.argument(pixels)?, engine.argument(normalisation)?, Argument::Place(place)];
    arguments.extend([rows, image, side, p].map(|n| Argument::Count(n as i32)));
    let grid = [rows.div_ceil(THREADS as usize) as u32, 1, 1];
    // Safety: the patches' rows cover what is written, and lie within the pixels.
    unsafe { engine.kernels.launch(ANY_HEAD, name, (grid, [THREADS, 1, 1], 0), &arguments)? };
    Ok(out)
}

/// Patches (B·P, W), after a token (1, 1, W) where there is one, with positions (T, W): x (B·T, W),
/// float32.
pub fn embed(patches: &Tensor, token: Option<&Tensor>, positions: &Tensor) -> Result<Tensor> {
    let engine = engine(patches)?;
    let ((t, width), first) = (positions.dims2()?, usize::from(token.is_some()));
    let rows = patches.dim(0)? / (t - first) * t;
    let (x, place) = engine.empty(&[rows, width], DType::F32)?;
    let name = if patches.dtype() == DType::BF16 { "embed_bf16" } else { "embed_f32" };
    let mut arguments = vec![
        engine.argument(patches)?,
        engine.argument(token.unwrap_or(positions))?,
        engine.argument(positions)?,
        Argument::Place(place),
    ];
    arguments.extend([rows, t, first, width].map(|n| Argument::Count(n as i32)));
    // Safety: x has B·T rows, the patches B·(T − first), all as wide as token and positions.
    unsafe { engine.kernels.launch(ANY_HEAD, name, per_row(rows), &arguments)? };
    Ok(x)
}

/// The activation of x, elementwise. Its last dimension fills packs of 16 bytes.
pub fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let engine = engine(x)?;
    let (y, place) = engine.empty(x.dims(), x.dtype())?;
    let name = if x.dtype() == DType::BF16 { "activation_bf16" } else { "activation_f32" };
    let packs = x.elem_count() * x.dtype().size_in_bytes() / 16;
    let arguments = [
        engine.argument(x)?,
        Argument::Place(place),
        Argument::Size(packs as u64),
        Argument::Count(number(activation)),
    ];
    // Safety: x and y have the same size, whole packs.
    unsafe { engine.kernels.launch(ANY_HEAD, name, elementwise(packs), &arguments)? };
    Ok(y)
}

/// The gradient of an activation's input x from that of its output, elementwise, float32.
pub fn activation_backward(x: &Tensor, grad: &Tensor, activation: Activation) -> Result<Tensor> {
    let engine = engine(x)?;
    let (dx, place) = engine.empty(x.dims(), DType::F32)?;
    let n = x.elem_count();
    let arguments = [
        engine.argument(x)?,
        engine.argument(grad)?,
        Argument::Place(place),
        Argument::Size(n as u64),
        Argument::Count(number(activation)),
    ];
    // Safety: all have the same size.
    unsafe { engine.kernels.launch(ANY_HEAD, "activation_backward_f32", elementwise(n), &arguments)? };
    Ok(dx)
}

/// Softmax attention of the first Q positions of each sequence to all: qkv (B·T, 3W), of `heads`
/// heads whose dimension is a multiple of 8, → (B·Q, W).
pub fn attention(qkv: &Tensor, (b, t): (usize, usize), queries: usize, heads: usize, causal: bool) -> Result<Tensor> {
    let engine = engine(qkv)?;
    let width = qkv.dim(1)? / 3;
    let head = width / heads;
    let (out, place) = engine.empty(&[b * queries, width], qkv.dtype())?;
    let shared_bytes = 256 * t.next_multiple_of(16) + 1024; // as attention.cu says
    let is_hoppers = engine.kernels.is_hopper && head == 64 && !causal && shared_bytes <= HOPPERS_SHARED_BYTES;
    let [t_, heads_, scale, causal] = numbers(t, heads, width, causal);
    let all =
        [engine.argument(qkv)?, Argument::Place(place), t_, Argument::Count(queries as i32), heads_, scale, causal];
    let (source, name, dims, arguments) = match qkv.dtype() {
        DType::BF16 if is_hoppers => {
            let dims = ([heads as u32, b as u32, 1], [128, 1, 1], shared_bytes as u32);
            (Source::Hopper, "attention_hopper", dims, &all[..6]) // never causal
        }
        DType::BF16 => {
            let tiles = if head > 80 { 1 } else { 2 }; // TILES there
            let warps = queries.div_ceil(16 * tiles) as u32;
            let blocks = warps.div_ceil(4);
            let dims = ([blocks, heads as u32, b as u32], [32, warps.div_ceil(blocks), 1], 0);
            (Source::Transformer { head }, "attention_bf16", dims, &all[..])
        }
        _ => {
            let threads = (queries.next_multiple_of(32) as u32).min(64);
            let dims = ([(queries as u32).div_ceil(threads), heads as u32, b as u32], [threads, 1, 1], 0);
            (Source::Transformer { head }, "attention_f32", dims, &all[..])
        }
    };
    // Safety: the grid covers the queries, heads and sequences of qkv, and out has as many.
    unsafe { engine.kernels.launch(source, name, dims, arguments)? };
    Ok(out)
}

/// Gradient (B·T, 3W) of [`attention`]'s input from that of its output (B·T, W), float32. T is at
/// most [`LONGEST_BACKWARD`].
pub fn attention_backward(
    qkv: &Tensor,
    grad: &Tensor,
    (b, t): (usize, usize),
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    let engine = engine(qkv)?;
    let width = grad.dim(1)?;
    let (dqkv, place) = engine.empty(&[b * t, 3 * width], DType::F32)?;
    let shared_bytes = 4 * (4 * t * (width / heads + 1) + 2 * t * t);
    let dims = ([heads as u32, b as u32, 1], [THREADS, 1, 1], shared_bytes as u32);
    let [t, heads_, scale, causal] = numbers(t, heads, width, causal);
    let arguments = [engine.argument(qkv)?, engine.argument(grad)?, Argument::Place(place), t, heads_, scale, causal];
    let source = Source::Transformer { head: width / heads };
    // Safety: the grid covers the heads and sequences of qkv, and the shared memory is what the
    // kernel says.
    unsafe { engine.kernels.launch(source, "attention_backward_f32", dims, &arguments)? };
    Ok(dqkv)
}

fn numbers(t: usize, heads: usize, width: usize, causal: bool) -> [Argument; 4] {
    let scale = ((width / heads) as f32).powf(-0.5);
    [Argument::Count(t as i32), Argument::Count(heads as i32), Argument::Value(scale), Argument::Count(causal.into())]
}

fn number(activation: Activation) -> i32 {
    match activation {
        Activation::QuickGelu => 0,
        Activation::Gelu => 1,
        Activation::GeluPytorchTanh => 2,
    }
}

fn per_row(rows: usize) -> ([u32; 3], [u32; 3], u32) {
    ([(rows as u32).div_ceil(ROWS), 1, 1], [32, ROWS, 1], 0)
}

fn elementwise(n: usize) -> ([u32; 3], [u32; 3], u32) {
    ([n.div_ceil(THREADS as usize).clamp(1, 4096) as u32, 1, 1], [THREADS, 1, 1], 0)
}
