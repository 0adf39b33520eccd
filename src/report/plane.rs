//! The plane in which rows vary most (principal component analysis).

use anyhow::{Result, bail};
use nalgebra::{DMatrix, SymmetricEigen};

/// Steps per eigenvalue after which it is taken for one that does not converge; three are usual.
const STEPS: usize = 100;

/// The plane of the two directions in which rows (N, D) vary most.
///
/// ```
/// let rows = [3.0, 0.0, -3.0, 0.0, 0.0, 1.0, 0.0, -1.0]; // (4, 2)
/// let plane = cgil::report::Plane::of(&rows, 2).unwrap();
/// assert!((plane.shares[0] - 0.9).abs() < 1e-12 && (plane.shares[1] - 0.1).abs() < 1e-12);
/// let places = plane.project(&rows);
/// assert!((places[0].0.abs() - 3.0).abs() < 1e-6 && places[0].1.abs() < 1e-6);
/// ```
pub struct Plane {
    mean: Vec<f64>,            // (D)
    directions: [Vec<f64>; 2], // (D) each, of length 1
    /// Shares of the rows' variance along each direction, from 0 to 1.
    pub shares: [f64; 2],
}

impl Plane {
    /// Of rows (N, `dim`), flat, at least 2 of which differ. A direction's sign is such that its
    /// largest value is above 0.
    pub fn of(rows: &[f32], dim: usize) -> Result<Self> {
        let n = rows.len() / dim;
        let mut centred = DMatrix::from_row_iterator(n, dim, rows.iter().map(|&x| f64::from(x))); // (N, D)
        let mean = centred.row_mean();
        centred.row_iter_mut().for_each(|mut row| row -= &mean);
        // of A Aᵀ and Aᵀ A, whose eigenvalues are the same but for zeros, the smaller one
        let few = n < dim;
        let gram = if few { &centred * centred.transpose() } else { centred.tr_mul(&centred) };
        let steps = STEPS * gram.nrows();
        let Some(eigen) = SymmetricEigen::try_new(gram, f64::EPSILON, steps) else {
            bail!("the embeddings' principal components did not converge: are they finite?");
        };
        let total: f64 = eigen.eigenvalues.iter().map(|value| value.max(0.0)).sum();
        if n < 2 || total <= 0.0 {
            bail!("a plane needs two embeddings that differ");
        }
        let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let place = |i: usize| order.get(i).copied();
        let direction = |i: usize| -> Vec<f64> {
            let Some(place) = place(i) else { return vec![0.0; dim] };
            let vector = eigen.eigenvectors.column(place);
            let vector = if few { centred.tr_mul(&vector) } else { vector.into_owned() };
            let largest = vector.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
            let scale = vector.norm() * largest.signum();
            vector.iter().map(|x| if scale == 0.0 { 0.0 } else { x / scale }).collect()
        };
        let share = |i: usize| place(i).map_or(0.0, |place| eigen.eigenvalues[place].max(0.0) / total);
        Ok(Plane {
            mean: mean.iter().copied().collect(),
            directions: [direction(0), direction(1)],
            shares: [share(0), share(1)],
        })
    }

    /// Where rows (N, D), flat, lie in the plane.
    pub fn project(&self, rows: &[f32]) -> Vec<(f64, f64)> {
        let along = |row: &[f32], direction: &[f64]| -> f64 {
            row.iter().zip(&self.mean).zip(direction).map(|((&x, mean), d)| (f64::from(x) - mean) * d).sum()
        };
        let [first, second] = &self.directions;
        rows.chunks_exact(self.mean.len()).map(|row| (along(row, first), along(row, second))).collect()
    }
}
