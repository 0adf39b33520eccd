//! What class statistics say of embeddings, with one shrinkage of their covariance.

use super::{
    map::Text,
    matrix::{less, product},
    spread::{LEAST_REMAINDER, Spread},
    whitened::{BATCH, EXACT, Whitened, square},
};
use crate::{
    baseline::statistics::ClassStatistics,
    dense::{moments::mean_row, product::Matrix},
};

/// Least spread of true means around those that their text predicts, where the noise of a mean of
/// one row is 1.
const LEAST_SPREAD: f64 = 1e-3;

/// What else there is to say of means than their rows.
pub(super) enum Beside {
    /// What maps the text of seen classes to means. With too few classes for one, means are shrunk
    /// towards the mean of means.
    Text(Option<Text>),
    /// Nothing: means are shrunk towards the mean of means, and their distances from it normalised.
    Nothing,
}

/// Evidence from counts, means and scatter.
pub(super) struct Model {
    /// What scores rows.
    pub whitened: Whitened,
    pub means: Vec<f64>, // (n, D), whitened
    counts: Vec<f64>,    // (n)
    pub prior: Vec<f64>, // (C, D), what the map predicts from text; without one the centre
    pub trust: Vec<f64>, // (n), how much a mean counts against its prior
    part: f64,           // what the scatter counts in the shrunk covariance
    normalises: bool,
    radius: f64, // root mean square distance of shrunk means from the centre, before it is normalised
}

impl Model {
    /// Of statistics of unit rows, whose covariance is shrunk so far, and of the text features (C, D)
    /// of all classes.
    pub fn fit(statistics: &ClassStatistics, spread: &Spread, shrinkage: f64, text: &[f64], beside: &Beside) -> Self {
        let (dim, counts) = (statistics.dim(), statistics.counts());
        let (n, classes) = (counts.len(), text.len() / dim);
        let counts: Vec<f64> = counts.iter().map(|&count| count as f64).collect();
        let shrunk = spread.shrunk(shrinkage);
        let roots: Vec<f64> = shrunk.iter().map(|x| x.sqrt()).collect();
        let whitener: Vec<f64> = spread
            .directions
            .chunks_exact(dim)
            .flat_map(|row| row.iter().zip(&roots).map(|(x, root)| x / root))
            .collect(); // (D, D)
        let means = product(Matrix::new(statistics.means(), dim), Matrix::new(&whitener, dim)); // (n, D)
        let centre = mean_row(&means, dim);
        let (prior, residuals) = match beside {
            Beside::Text(Some(text_of_seen)) => {
                let map = text_of_seen.map(&means, &whitener);
                (map.predict(text), map.residuals)
            }
            Beside::Text(None) | Beside::Nothing => {
                let whole = n as f64 / (n as f64 - 1.0).max(1.0);
                (centre.repeat(classes), less(&means, &centre).into_iter().map(|x| x * whole).collect())
            }
        };
        // what is left within classes by a whitener that is shrunk; 1 where it is not known
        let within = match statistics.rows() == n {
            true => 1.0,
            false => spread.variances.iter().zip(&shrunk).map(|(x, shrunk)| x / shrunk).sum::<f64>() / dim as f64,
        };
        let around = around_priors(square(residuals.iter().copied()) / residuals.len() as f64, &counts, within);
        let trust: Vec<f64> = counts.iter().map(|count| count * around).collect();
        let mut mu = prior.clone();
        for ((mu, mean), k) in mu.chunks_exact_mut(dim).zip(means.chunks_exact(dim)).zip(&trust) {
            mu.iter_mut().zip(mean).for_each(|(mu, mean)| *mu = (k * mean + *mu) / (1.0 + k));
        }
        let seen = &mut mu[..n * dim];
        let radius = (square(less(seen, &centre).into_iter()) / n as f64).sqrt();
        let normalises = matches!(beside, Beside::Nothing);
        if normalises {
            seen.chunks_exact_mut(dim).zip(&counts).for_each(|(mu, &count)| normalise(mu, &centre, radius, count));
        }
        let whitened = Whitened { dim, whitener, centre, mu };
        let part = (1.0 - shrinkage) / spread.freedom;
        Model { whitened, means, counts, prior, trust, part, normalises, radius }
    }

    /// Evidence (N, C) of unit rows (N, D) that were learned as the classes `classes` (N), each
    /// with its class's mean and with the covariance as if it had not been.
    pub fn left_out(&self, rows: &[f64], classes: &[usize]) -> Vec<f64> {
        let mut found = Vec::with_capacity(classes.len() * self.whitened.classes());
        for (rows, classes) in rows.chunks(BATCH * self.whitened.dim).zip(classes.chunks(BATCH)) {
            found.extend(self.left_out_of(rows, classes));
        }
        found
    }

    fn left_out_of(&self, rows: &[f64], classes: &[usize]) -> Vec<f64> {
        let Whitened { dim, whitener, centre, mu } = &self.whitened;
        let (dim, all) = (*dim, self.whitened.classes());
        let z = product(Matrix::new(rows, dim), Matrix::new(whitener, dim)); // (B, D)
        let means = classes.iter().map(|&class| &self.means[class * dim..][..dim]);
        let from_mean: Vec<f64> =
            z.chunks_exact(dim).zip(means).flat_map(|(z, mean)| z.iter().zip(mean).map(|(z, mean)| z - mean)).collect(); // (B, D)
        let mut distances = self.whitened.distances(&z); // (B, C)
        let along = product(Matrix::new(&from_mean, dim), Matrix::new(mu, dim).t()); // (B, C)
        for (row, &class) in classes.iter().enumerate() {
            let (z, from_mean) = (&z[row * dim..][..dim], &from_mean[row * dim..][..dim]);
            let count = self.counts[class];
            // a class of one row has no scatter to be without
            let part = if count > 1.0 { self.part * count / (count - 1.0) } else { 0.0 };
            let downdate = part / (1.0 - part * square(from_mean.iter().copied())).max(LEAST_REMAINDER);
            let k = self.trust[class] * (count - 1.0) / count;
            let without = |j: usize| {
                let mean = self.means[class * dim + j] - if count > 1.0 { from_mean[j] / (count - 1.0) } else { 0.0 };
                (k * mean + self.prior[class * dim + j]) / (1.0 + k)
            };
            let mut own: Vec<f64> = (0..dim).map(without).collect();
            if self.normalises && count > 1.0 {
                normalise(&mut own, centre, self.radius, count - 1.0);
            }
            let offset: Vec<f64> = z.iter().zip(&own).map(|(z, own)| z - own).collect();
            let from_centre = || z.iter().zip(centre).map(|(z, centre)| z - centre);
            let background = square(from_centre()) + downdate * dot(from_mean, from_centre()).powi(2);
            let (of_row, least) = (dot(from_mean, z.iter().copied()), EXACT * square(z.iter().copied()));
            let distances = &mut distances[row * all..][..all];
            for (c, (distance, along)) in distances.iter_mut().zip(&along[row * all..][..all]).enumerate() {
                let (square, along) = if c == class {
                    (square(offset.iter().copied()), dot(from_mean, offset.iter().copied()))
                } else {
                    (*distance, of_row - along)
                };
                *distance = self.whitened.ratio(square + downdate * along * along, background, least);
            }
        }
        distances
    }
}

/// The spread of true means around predicted ones: the mean square of the residuals less the noise
/// of `counts` rows each. Rows that are white have a variance of 1. With few rows a covariance that
/// is shrunk far leaves less, `within`; that counts where 1 would take more than half.
pub(super) fn around_priors(mean_square: f64, counts: &[f64], within: f64) -> f64 {
    let noise = counts.iter().map(|count| 1.0 / count).sum::<f64>() / counts.len() as f64;
    let (white, shrunk) = (mean_square - noise, mean_square - within * noise);
    let around = if white < 0.5 * shrunk { shrunk } else { white };
    around.max(LEAST_SPREAD)
}

/// Brings the distance of a mean (D) of `count` rows from the centre (D) nearer to `radius`, by
/// τ-normalisation (Kang et al., ICLR 2020). τ is what a mean errs, 1 / √count: with one row the
/// distance is chance, and becomes the radius.
fn normalise(mean: &mut [f64], centre: &[f64], radius: f64, count: f64) {
    let distance = square(mean.iter().zip(centre).map(|(x, centre)| x - centre)).sqrt();
    if distance > 0.0 {
        let factor = (radius / distance).powf(1.0 / count.sqrt());
        mean.iter_mut().zip(centre).for_each(|(x, centre)| *x = centre + (*x - centre) * factor);
    }
}

fn dot(x: &[f64], y: impl Iterator<Item = f64>) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
