//! Nearest neighbours: what of the real rows is missed, what is made up, what is copied, and what
//! is confused.

use crate::{
    dense::moments::mean,
    dense::{
        product::{Matrix, Product, Threads},
        room,
        vector::{fold, vectorised},
    },
};

/// How many neighbours a ball reaches to; the authors' choice.
const K: usize = 3;

/// Share in % of the rows (N, D) that lie in the balls around the rows of `set` (M, D), flat, each
/// of which reaches to its row's third nearest neighbour in the set: of generated rows in a set of
/// real ones the precision, of real rows in a set of generated ones the recall (Kynkäänniemi et
/// al., 2019). None without rows, or where the set has fewer than 4.
pub fn covered(rows: &[f32], set: &[f32], dim: usize) -> Option<f64> {
    if rows.is_empty() || set.len() <= K * dim {
        return None;
    }
    let radius = |row| *distances(row, set).select_nth_unstable_by(K, f32::total_cmp).1; // the first is the row itself
    let radii: Vec<f32> = set.chunks_exact(dim).map(radius).collect(); // (M)
    let inside = |row: &&[f32]| distances(row, set).iter().zip(&radii).any(|(distance, radius)| distance <= radius);
    let count = rows.chunks_exact(dim).filter(inside).count();
    Some(percent(count, rows.len() / dim))
}

/// Mean Euclidean distance of rows (N, D) to the nearest row of `set` (M, D), flat. None without
/// rows, or without a set.
pub fn distance_to(rows: &[f32], set: &[f32], dim: usize) -> Option<f64> {
    let nearest = |row| f64::from(distances(row, set).into_iter().fold(f32::INFINITY, f32::min));
    (!rows.is_empty() && !set.is_empty()).then(|| mean(rows.chunks_exact(dim).map(nearest)))
}

/// Share in % of rows (N, D), flat, of a class whose nearest neighbour among the `known` rows of
/// all classes is of the class: its recall by a nearest-neighbour classifier. All rows have length
/// 1, so the nearest is that with the highest cosine; of equally near ones the first class has it.
/// None without rows.
pub fn recognised(rows: &[f32], class: usize, known: &[&[f32]], dim: usize) -> Option<f64> {
    let right = nearest_classes(rows, known, dim).into_iter().filter(|&found| found == class).count();
    (!rows.is_empty()).then(|| percent(right, rows.len() / dim))
}

/// The class of the nearest among the `known` rows, for each row (N, D).
fn nearest_classes(rows: &[f32], known: &[&[f32]], dim: usize) -> Vec<usize> {
    let n = rows.len() / dim;
    let mut best = vec![(0, f32::NEG_INFINITY); n];
    let mut buffer = Vec::new();
    for (class, known) in known.iter().enumerate().filter(|(_, known)| !known.is_empty()) {
        let m = known.len() / dim;
        let cosines = room(&mut buffer, n * m); // (N, M)
        Product::on(Threads::One).into(cosines, m, Matrix::new(rows, dim), Matrix::new(known, dim).t());
        for (best, cosines) in best.iter_mut().zip(cosines.chunks_exact(m)) {
            let highest = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if highest > best.1 {
                *best = (class, highest);
            }
        }
    }
    best.into_iter().map(|(class, _)| class).collect()
}

/// Distances (M) of a row (D) to the rows of `set` (M, D), from differences: equal rows are at 0.
fn distances(row: &[f32], set: &[f32]) -> Vec<f32> {
    let mut distances = vec![0.0; set.len() / row.len()]; // (M)
    vectorised(
        #[inline(always)]
        || {
            for (distance, other) in distances.iter_mut().zip(set.chunks_exact(row.len())) {
                *distance = fold(row, other, other, |a, b, _| (a - b) * (a - b)).sqrt();
            }
        },
    );
    distances
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}
