//! Many classes' VAEs fitted together, on a device that is slow at small work: one batched product
//! for all classes.
//!
//! What `vae` and `fit` do for one class on slices, this does for C classes on candle's tensors,
//! with the same draws. Every class keeps its own batches; where classes differ in size, the rows
//! that a shorter batch lacks count for nothing, and a class that has no batch left in an epoch
//! waits.

use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::{
    fitted::{ClassRows, Fitted},
    kinds::Generator,
    scaler::Scaler,
    vae::{Decoder, Losses, NAMES, Vae, VaeConfig, annealing},
};
use crate::{
    dense::{
        adam::{BETA1, BETA2, EPS},
        layers::{BATCH_NORM_EPS, LEAKY_SLOPE},
    },
    rng::{Draw, Rng},
};

/// The VAEs of C classes while they are fitted. L is the latent dimension.
struct Vaes {
    params: Vec<Tensor>, // in the order of NAMES: weights (C, O, I), all else (C, 1, O)
    first_moments: Vec<Tensor>,
    second_moments: Vec<Tensor>,
    steps: Vec<i32>,
    latent: usize,
    half: f64,
}

/// A batch of every class: B rows, of which a class may have fewer.
struct Batch {
    x: Tensor,     // (C, B, D), standardised; any row where there is none
    eps: Tensor,   // (C, B, L)
    there: Tensor, // (C, B, 1): 1 for a row, 0 for none
    count: Tensor, // (C, 1, 1): rows, at least 1
    active: Vec<bool>,
}

/// The rows of a class's batch and their noise (rows, L).
type Draws = (Vec<usize>, Vec<f32>);

/// Fits a VAE to each of `classes`, rows of `dim` values. `tick` is called for every class after
/// each epoch.
pub fn fit_together(
    classes: &[ClassRows],
    dim: usize,
    seed: u64,
    config: &VaeConfig,
    device: &Device,
    tick: impl Fn(),
) -> Result<Vec<Fitted>> {
    let start = Instant::now();
    let (scalers, standard): (Vec<Scaler>, Vec<Vec<f32>>) =
        classes.par_iter().map(|class| Scaler::standardised(class.rows.values(), dim)).unzip();
    let rows = Rows::upload(&standard, dim, device)?;
    drop(standard);
    let mut vaes = Vaes::new(classes, dim, config, seed, device)?;
    let mut draws: Vec<Rng> = classes.iter().map(|class| Rng::new(seed, Draw::VaeBatches, &[class.key])).collect();

    let mut curves = vec![Vec::with_capacity(config.epochs); classes.len()];
    let mut read = |losses: Tensor| -> Result<()> {
        for (curve, losses) in curves.iter_mut().zip(losses.to_vec2::<f32>()?) {
            curve.push(Losses { reconstruction: losses[0].into(), kl: losses[1].into() });
            tick();
        }
        Ok(())
    };
    let mut last: Option<Tensor> = None;
    for epoch in 0..config.epochs {
        let lr = config.lr * annealing(epoch, config.epochs);
        let batches: Vec<Vec<Draws>> = draws
            .par_iter_mut()
            .enumerate()
            .map(|(class, draw)| draw_epoch(rows.counts[class], config, draw))
            .collect();
        let mut losses = Vec::new();
        for i in 0..batches.iter().map(Vec::len).max().unwrap_or(0) {
            let batch: Vec<Option<&Draws>> = batches.iter().map(|batches| batches.get(i)).collect();
            losses.push(vaes.step(&rows.batch(&batch, config.latent)?, lr)?);
        }
        let seen: Vec<f32> = batches
            .iter()
            .map(|batches| batches.iter().map(|(rows, _)| rows.len()).sum::<usize>().max(1) as f32)
            .collect();
        losses.push(Tensor::zeros((classes.len(), 2), DType::F32, device)?); // where all classes have one row
        let sum = Tensor::stack(&losses, 0)?.sum(0)?; // (C, 2)
        let now = sum.broadcast_div(&Tensor::from_vec(seen, (classes.len(), 1), device)?)?;
        // An epoch late: the device works on this one while the host draws for the next.
        if let Some(before) = last.replace(now) {
            read(before)?;
        }
    }
    last.map_or(Ok(()), read)?;
    let seconds = start.elapsed().as_secs_f64() / classes.len() as f64;
    let fitted = vaes.decoders()?.into_iter().zip(scalers).zip(classes).zip(curves);
    Ok(fitted
        .map(|(((decoder, scaler), class), curve)| Fitted {
            generator: Generator::Vae { decoder, scaler },
            rows: class.rows.len(),
            measures: curve.last().copied().unwrap_or_default().into(),
            losses: curve.into_iter().map(Losses::sum).collect(),
            seconds,
        })
        .collect())
}

/// The batches of an epoch of one class of `n` rows. One of a single row is skipped.
fn draw_epoch(n: usize, config: &VaeConfig, draw: &mut Rng) -> Vec<Draws> {
    let order = draw.permutation(n);
    let batches = order.chunks(config.batch_size).filter(|batch| batch.len() > 1);
    batches.map(|batch| (batch.to_vec(), draw.normals(batch.len() * config.latent))).collect()
}

/// The rows of all classes on the device.
struct Rows {
    values: Tensor, // (N, D), standardised, class after class
    counts: Vec<usize>,
    firsts: Vec<usize>,
}

impl Rows {
    fn upload(standard: &[Vec<f32>], dim: usize, device: &Device) -> Result<Self> {
        let counts: Vec<usize> = standard.iter().map(|rows| rows.len() / dim).collect();
        let firsts = counts.iter().scan(0, |next, count| Some(std::mem::replace(next, *next + count))).collect();
        Ok(Rows { values: Tensor::from_vec(standard.concat(), ((), dim), device)?, counts, firsts })
    }

    /// The classes' batches side by side.
    fn batch(&self, batch: &[Option<&Draws>], latent: usize) -> Result<Batch> {
        let (c, device) = (batch.len(), self.values.device());
        let b = batch.iter().flatten().map(|(rows, _)| rows.len()).max().unwrap_or(0);
        let (mut places, mut eps) = (vec![0u32; c * b], vec![0f32; c * b * latent]);
        let (mut there, mut count) = (vec![0f32; c * b], vec![1f32; c]);
        for (class, (rows, noise)) in batch.iter().enumerate().filter_map(|(class, batch)| Some((class, (*batch)?))) {
            for (place, row) in places[class * b..].iter_mut().zip(rows) {
                *place = (self.firsts[class] + row) as u32;
            }
            eps[class * b * latent..][..noise.len()].copy_from_slice(noise);
            there[class * b..][..rows.len()].fill(1.0);
            count[class] = rows.len() as f32;
        }
        let x = self.values.index_select(&Tensor::from_vec(places, c * b, device)?, 0)?;
        Ok(Batch {
            x: x.reshape((c, b, ()))?,
            eps: Tensor::from_vec(eps, (c, b, latent), device)?,
            there: Tensor::from_vec(there, (c, b, 1), device)?,
            count: Tensor::from_vec(count, (c, 1, 1), device)?,
            active: batch.iter().map(Option::is_some).collect(),
        })
    }
}

impl Vaes {
    fn new(classes: &[ClassRows], dim: usize, config: &VaeConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut vaes: Vec<Vae> = classes.par_iter().map(|class| Vae::new(dim, config, seed, class.key)).collect();
        let params: Vec<Tensor> = (0..NAMES.len())
            .map(|i| {
                let values: Vec<f32> = vaes.iter_mut().flat_map(|vae| vae.parameter(NAMES[i]).to_vec()).collect();
                let outputs = vaes[0].parameter(NAMES[i | 1]).len(); // of the bias
                let rest = values.len() / classes.len() / outputs;
                let matrix = i % 2 == 0 && !is_norm(i);
                let shape = if matrix { (classes.len(), outputs, rest) } else { (classes.len(), 1, outputs) };
                Ok(Tensor::from_vec(values, shape, device)?)
            })
            .collect::<Result<_>>()?;
        let zeros = || params.iter().map(|param| Ok(param.zeros_like()?)).collect::<Result<Vec<_>>>();
        Ok(Vaes {
            first_moments: zeros()?,
            second_moments: zeros()?,
            params,
            steps: vec![0; classes.len()],
            latent: config.latent,
            half: if config.legacy_reparam { 1.0 } else { 0.5 },
        })
    }

    /// A step of Adam for every class that has a batch. The losses (C, 2), those of reconstruction
    /// and KL before the step, are sums over rows.
    fn step(&mut self, batch: &Batch, lr: f64) -> Result<Tensor> {
        let Batch { x, eps, there, count, .. } = batch;
        let l = self.latent;

        // encoder
        let (h1, normal1, scale1) = self.norm(2, &self.affine(0, x)?, batch)?; // (C, B, H)
        let h1 = leaky_relu(&h1)?;
        let (h2, normal2, scale2) = self.norm(6, &self.affine(4, &h1)?, batch)?;
        let h2 = leaky_relu(&h2)?;
        let posterior = self.affine(8, &h2)?; // (C, B, 2L)
        let (mu, logvar) = (posterior.narrow(2, 0, l)?, posterior.narrow(2, l, l)?);
        let noise = (eps * (&logvar * self.half)?.exp()?)?; // (C, B, L)
        let z = (&mu + &noise)?;

        // decoder
        let g1 = leaky_relu(&self.affine(10, &z)?)?;
        let g2 = leaky_relu(&self.affine(12, &g1)?)?;
        let error = (self.affine(14, &g2)? - x)?.broadcast_mul(there)?; // (C, B, D)

        // losses
        let kl = ((logvar.exp()? + mu.sqr()?)? - (&logvar + 1.0)?)?.broadcast_mul(there)?;
        let constant = x.dim(2)? as f64 * std::f64::consts::TAU.ln();
        let rows = there.sum((1, 2))?; // (C)
        let reconstruction = ((error.sqr()?.sum((1, 2))? + (rows * constant)?)? * 0.5)?; // (C)
        let losses = Tensor::stack(&[reconstruction, (kl.sum((1, 2))? * 0.5)?], 1)?; // (C, 2)

        // backward
        let mut grads: Vec<Option<Tensor>> = vec![None; NAMES.len()];
        let dout = error.broadcast_div(count)?;
        let dg2 = leaky_relu_backward(&g2, &self.affine_backward(14, &g2, &dout, &mut grads)?)?;
        let dg1 = leaky_relu_backward(&g1, &self.affine_backward(12, &g1, &dg2, &mut grads)?)?;
        let dz = self.affine_backward(10, &z, &dg1, &mut grads)?;
        let weight = there.broadcast_div(count)?; // (C, B, 1)
        let dmu = (&dz + mu.broadcast_mul(&weight)?)?;
        let dlogvar = ((&dz * noise)? * self.half)?;
        let dlogvar = (dlogvar + ((logvar.exp()? - 1.0)? * 0.5)?.broadcast_mul(&weight)?)?;
        let dposterior = Tensor::cat(&[dmu, dlogvar], 2)?;
        let dh2 = leaky_relu_backward(&h2, &self.affine_backward(8, &h2, &dposterior, &mut grads)?)?;
        let dh2 = self.norm_backward(6, &dh2, &normal2, &scale2, batch, &mut grads)?;
        let dh1 = leaky_relu_backward(&h1, &self.affine_backward(4, &h1, &dh2, &mut grads)?)?;
        let dh1 = self.norm_backward(2, &dh1, &normal1, &scale1, batch, &mut grads)?;
        self.affine_backward(0, x, &dh1, &mut grads)?;

        self.adam(&grads, &batch.active, lr, x.device())?;
        Ok(losses)
    }

    /// x (C, B, I) → (C, B, O), by the layer whose weight is parameter `i`.
    fn affine(&self, i: usize, x: &Tensor) -> Result<Tensor> {
        Ok(x.contiguous()?.matmul(&self.params[i].t()?)?.broadcast_add(&self.params[i + 1])?)
    }

    /// Leaves that layer's gradients; gives that of its input (C, B, I) from dy (C, B, O).
    fn affine_backward(&self, i: usize, x: &Tensor, dy: &Tensor, grads: &mut [Option<Tensor>]) -> Result<Tensor> {
        grads[i] = Some(dy.t()?.matmul(&x.contiguous()?)?);
        grads[i + 1] = Some(dy.sum_keepdim(1)?);
        Ok(dy.matmul(&self.params[i])?)
    }

    /// Batch normalisation of x (C, B, H) by the rows that are there: output, normalised input, 1 /
    /// deviation (C, 1, H).
    fn norm(&self, i: usize, x: &Tensor, batch: &Batch) -> Result<(Tensor, Tensor, Tensor)> {
        let Batch { there, count, .. } = batch;
        let mean = x.broadcast_mul(there)?.sum_keepdim(1)?.broadcast_div(count)?;
        let centred = x.broadcast_sub(&mean)?.broadcast_mul(there)?;
        let variance = centred.sqr()?.sum_keepdim(1)?.broadcast_div(count)?;
        let scale = (variance + f64::from(BATCH_NORM_EPS))?.sqrt()?.recip()?;
        let normal = centred.broadcast_mul(&scale)?;
        let y = normal.broadcast_mul(&self.params[i])?.broadcast_add(&self.params[i + 1])?;
        Ok((y, normal, scale))
    }

    fn norm_backward(
        &self,
        i: usize,
        dy: &Tensor,
        normal: &Tensor,
        scale: &Tensor,
        batch: &Batch,
        grads: &mut [Option<Tensor>],
    ) -> Result<Tensor> {
        let Batch { there, count, .. } = batch;
        let dweight = (dy * normal)?.sum_keepdim(1)?;
        let dbias = dy.sum_keepdim(1)?;
        let along = normal.broadcast_mul(&dweight.broadcast_div(count)?)?;
        let dx = (dy.broadcast_sub(&dbias.broadcast_div(count)?)? - along)?;
        let dx = dx.broadcast_mul(&(scale * &self.params[i])?)?.broadcast_mul(there)?;
        (grads[i], grads[i + 1]) = (Some(dweight), Some(dbias));
        Ok(dx)
    }

    /// Adam for the classes that are active; the others keep parameters and moments.
    fn adam(&mut self, grads: &[Option<Tensor>], active: &[bool], lr: f64, device: &Device) -> Result<()> {
        let (mut rates, mut corrections, mut on) = (Vec::new(), Vec::new(), Vec::new());
        for (steps, &active) in self.steps.iter_mut().zip(active) {
            *steps += i32::from(active);
            let t = (*steps).max(1);
            on.push(f32::from(active));
            rates.push(f32::from(active) * (lr / (1.0 - BETA1.powi(t))) as f32);
            corrections.push((1.0 / (1.0 - BETA2.powi(t)).sqrt()) as f32);
        }
        let per_class = |values: Vec<f32>| Tensor::from_vec(values, (active.len(), 1, 1), device);
        let (on, rates, corrections) = (per_class(on)?, per_class(rates)?, per_class(corrections)?);
        for (i, grad) in grads.iter().enumerate() {
            let Some(g) = grad else { continue };
            let (m, v) = (&self.first_moments[i], &self.second_moments[i]);
            #[cfg(feature = "cuda")]
            if device.is_cuda() {
                crate::cuda::adam(&self.params[i], [m, v], g, [&on, &rates, &corrections], 0.0)?;
                continue;
            }
            let m = (m + ((g - m)? * (1.0 - BETA1))?.broadcast_mul(&on)?)?;
            let v = (v + ((g.sqr()? - v)? * (1.0 - BETA2))?.broadcast_mul(&on)?)?;
            let step = (m.broadcast_mul(&rates)? / (v.sqrt()?.broadcast_mul(&corrections)? + f64::from(EPS))?)?;
            self.params[i] = (&self.params[i] - step)?;
            (self.first_moments[i], self.second_moments[i]) = (m, v);
        }
        Ok(())
    }

    /// The generating halves.
    fn decoders(&self) -> Result<Vec<Decoder>> {
        let values: Vec<Vec<Vec<f32>>> = self
            .params
            .iter()
            .map(|param| Ok(param.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2()?))
            .collect::<Result<_>>()?;
        let layer = |i: usize, class: usize| (values[i][class].clone(), values[i + 1][class].clone());
        let decoder =
            |class| Decoder { latent: self.latent, layers: [layer(10, class), layer(12, class), layer(14, class)] };
        Ok((0..self.steps.len()).map(decoder).collect())
    }
}

/// Whether parameter `i` is the weight of a batch norm.
fn is_norm(i: usize) -> bool {
    matches!(NAMES[i], "enc.1.weight" | "enc.4.weight")
}

fn leaky_relu(x: &Tensor) -> Result<Tensor> {
    Ok(x.maximum(&(x * f64::from(LEAKY_SLOPE))?)?)
}

/// Backward pass of [`leaky_relu`], from its output.
fn leaky_relu_backward(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let slope = f64::from(LEAKY_SLOPE);
    let slopes = ((y.gt(0.0)?.to_dtype(DType::F32)? * (1.0 - slope))? + slope)?;
    Ok((dy * slopes)?)
}
