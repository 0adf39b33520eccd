//! The measures of a class's generator.

use rayon::prelude::*;

use super::{
    frechet::frechet,
    neighbours::{covered, distance_to, recognised},
};

/// The rows of a class that are compared, (N, D) each, flat, of length 1.
pub struct Sets {
    /// What its generator gives.
    pub generated: Vec<f32>,
    /// The same with replay noise, as prompts are trained on it.
    pub replayed: Vec<f32>,
    /// As many training rows: what a perfect generator might give.
    pub real: Vec<f32>,
    /// The held-out rows.
    pub test: Vec<f32>,
}

/// How like a class's held-out rows others are. What needs more rows than there are is None.
#[derive(Clone, Debug, PartialEq)]
pub struct Likeness {
    /// Squared Fréchet distance.
    pub frechet: Option<f64>,
    /// Share of the rows, in %, that are like held-out ones.
    pub precision: Option<f64>,
    /// Share of the held-out rows, in %, that are like some of the rows.
    pub recall: Option<f64>,
}

/// How good the generator of a class is, seen by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Quality {
    /// Training rows of the class.
    pub train_rows: usize,
    /// Held-out rows of the class.
    pub test_rows: usize,
    /// Generated rows, and training rows beside them.
    pub samples: usize,
    /// Of the generated rows.
    pub generated: Likeness,
    /// Of the generated rows with replay noise.
    pub replayed: Likeness,
    /// Of the training rows.
    pub real: Likeness,
    /// How far generated rows are from the nearest training row, in units of held-out rows'
    /// distance.
    pub neighbour_distance: Option<f64>,
}

/// How well classes are told apart by their nearest neighbours: recall of each, in %. None for a
/// class without rows to be recognised.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// Held-out rows among generated ones.
    pub generated_to_real: Option<f64>,
    /// Held-out rows among training rows.
    pub real_to_real: Option<f64>,
    /// Generated rows among training rows.
    pub real_to_generated: Option<f64>,
}

impl Likeness {
    fn new(rows: &[f32], test: &[f32], dim: usize) -> Self {
        Likeness {
            frechet: frechet(rows, test, dim),
            precision: covered(rows, test, dim),
            recall: covered(test, rows, dim),
        }
    }
}

impl Quality {
    /// Compares a class's sets, with all of its training rows `train` (N, D) of length 1.
    pub fn new(sets: &Sets, train: &[f32], dim: usize) -> Self {
        let held_out = distance_to(&sets.test, train, dim).filter(|&distance| distance > 0.0);
        Quality {
            train_rows: train.len() / dim,
            test_rows: sets.test.len() / dim,
            samples: sets.generated.len() / dim,
            generated: Likeness::new(&sets.generated, &sets.test, dim),
            replayed: Likeness::new(&sets.replayed, &sets.test, dim),
            real: Likeness::new(&sets.real, &sets.test, dim),
            neighbour_distance: distance_to(&sets.generated, train, dim)
                .zip(held_out)
                .map(|(own, held_out)| own / held_out),
        }
    }
}

/// How well classes are told apart by what their generators give. `tick` is called after each
/// class.
pub fn accuracies(classes: &[Sets], dim: usize, tick: impl Fn() + Sync) -> Vec<Accuracy> {
    let of = |set: fn(&Sets) -> &[f32]| -> Vec<&[f32]> { classes.iter().map(set).collect() };
    let (generated, real) = (of(|sets| &sets.generated), of(|sets| &sets.real));
    let of_class = |(class, sets): (usize, &Sets)| {
        let accuracy = Accuracy {
            generated_to_real: recognised(&sets.test, class, &generated, dim),
            real_to_real: recognised(&sets.test, class, &real, dim),
            real_to_generated: recognised(&sets.generated, class, &real, dim),
        };
        tick();
        accuracy
    };
    classes.par_iter().enumerate().with_max_len(1).map(of_class).collect()
}
