//! Replay noise: generated embeddings vary less within classes than real ones do; those of a VAE
//! are means of its decoder. Normal noise of the covariance that they lack is added to them.

use anyhow::{Context, Result};

use super::Generator;
use crate::{
    baseline::ClassStatistics,
    dense::{
        covariance::add_scatter,
        eigen::eigen,
        moments::mean_row,
        product::{Matrix, Product, Threads},
    },
    rng::{Draw, Rng},
};

/// How far the covariance that classes share is shrunk, at least.
const LEAST_SHRINKAGE: f64 = 0.1;

/// Rows that are drawn of a generator to see how they vary.
const ROWS: usize = 128;

/// Variances below this share of the largest are rounding.
const LEAST: f64 = 1e-12;

/// Normal noise of the covariance (Σ − S)₊: Σ is that of real embeddings within classes, S that of
/// generated ones.
#[derive(Debug)]
pub struct Noise {
    rank: usize,
    factor: Vec<f32>, // (r, D)
}

/// How the embeddings that generators give vary within classes.
pub struct Variation {
    dim: usize,
    classes: usize,
    scatter: Vec<f64>, // (D, D)
}

impl Variation {
    /// Of embeddings of `dim` values, of no class yet.
    pub fn new(dim: usize) -> Self {
        Variation { dim, classes: 0, scatter: vec![0.0; dim * dim] }
    }

    /// How many classes it is of.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Takes in a class: draws of its generator, keyed by `key`.
    pub fn add(&mut self, generator: &Generator, key: u64, seed: u64) {
        let rows = generator.sample(ROWS, &mut Rng::new(seed, Draw::NoiseRows, &[key])); // (ROWS, D)
        add_scatter(&mut self.scatter, &rows, &mean_row(&rows, self.dim));
        self.classes += 1;
    }

    /// The noise that the generated embeddings lack where real ones have these statistics.
    pub fn noise(&self, real: &ClassStatistics) -> Result<Noise> {
        let freedom = (self.classes * (ROWS - 1)).max(1) as f64;
        let own: Vec<f64> = self.scatter.iter().map(|x| x / freedom).collect();
        Noise::between(&real.covariance(LEAST_SHRINKAGE), &own, self.dim)
    }
}

impl Noise {
    /// Of the covariances (D, D) of real and of generated embeddings within classes. What stands on
    /// and below the diagonal counts.
    pub fn between(real: &[f64], generated: &[f64], dim: usize) -> Result<Self> {
        let missing: Vec<f64> = real.iter().zip(generated).map(|(real, generated)| real - generated).collect();
        let (variances, directions) = eigen(&missing, dim).context("the replay noise has no covariance")?;
        let most = variances.iter().copied().fold(0.0, f64::max);
        let kept: Vec<usize> = (0..dim).filter(|&i| variances[i] > LEAST * most).collect();
        let row = |&i: &usize| {
            let deviation = variances[i].sqrt();
            directions.iter().skip(i).step_by(dim).map(move |x| (x * deviation) as f32).collect::<Vec<_>>()
        };
        Ok(Noise { rank: kept.len(), factor: kept.iter().flat_map(row).collect() })
    }

    /// Adds noise to rows (N, D), on the caller's thread.
    pub fn add(&self, rows: &mut [f32], dim: usize, rng: &mut Rng) {
        if self.rank > 0 {
            let noise = rng.normals(rows.len() / dim * self.rank); // (N, r)
            let factor = Matrix::new(&self.factor, dim);
            Product::on(Threads::One).added().into(rows, dim, Matrix::new(&noise, self.rank), factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn its_covariance_is_that_of_the_reference() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/evidence.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let at = |name: &str| -> Vec<f64> {
            golden[name].to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let (shared, expected) = (at("noise.shared"), at("noise.covariance"));
        let (generated, labels) = (at("noise.generated"), at("noise.labels"));
        let (dim, classes) = (golden["noise.generated"].dims()[1], *labels.last().unwrap() as usize + 1);
        let mut own = vec![0.0; dim * dim];
        for class in 0..classes {
            let rows: Vec<f64> = (0..labels.len())
                .filter(|&row| labels[row] as usize == class)
                .flat_map(|row| generated[row * dim..][..dim].iter().copied())
                .collect();
            add_scatter(&mut own, &rows, &mean_row(&rows, dim));
        }
        own.iter_mut().for_each(|x| *x /= (labels.len() - classes) as f64);
        let Noise { rank, factor } = Noise::between(&shared, &own, dim).unwrap();
        assert!(rank > 0 && rank < dim, "{rank}"); // in some directions the generated rows vary more
        let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        for (i, j) in (0..dim).flat_map(|i| (0..dim).map(move |j| (i, j))) {
            let found: f64 = (0..rank).map(|k| f64::from(factor[k * dim + i]) * f64::from(factor[k * dim + j])).sum();
            assert!((found - expected[i * dim + j]).abs() < 1e-6 * largest, "{i}, {j}");
        }
    }

    #[test]
    fn rows_with_noise_vary_as_real_ones_do_and_those_that_lack_nothing_stay() {
        let (real, generated) = ([4.0, 0.0, 1.5, 3.0], [1.0, 0.0, 0.0, 3.5]); // of (4 1.5; 1.5 3), below the diagonal
        let noise = Noise::between(&real, &generated, 2).unwrap();
        let mut rows = vec![0.0; 2 * 40_000];
        noise.add(&mut rows, 2, &mut Rng::new(3, Draw::ReplayNoise, &[]));
        let moment = |i: usize, j: usize| rows.chunks(2).map(|row| row[i] * row[j]).sum::<f32>() / 40_000.0;
        // (3 1.5; 1.5 −0.5) without its negative eigenvalue: 1.25 + √5.3125 = 3.5549 along (0.9379, 0.3470)
        for (found, expected) in [(moment(0, 0), 3.127), (moment(0, 1), 1.157), (moment(1, 1), 0.428)] {
            assert!((found - expected).abs() < 0.06, "{found} for {expected}");
        }
        let mut still = [1.0, 2.0];
        Noise::between(&generated, &generated, 2).unwrap().add(&mut still, 2, &mut Rng::new(3, Draw::ReplayNoise, &[]));
        assert_eq!(still, [1.0, 2.0]);
    }
}
