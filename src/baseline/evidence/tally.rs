//! What is tried, and the sums over rows that were left out by which it is chosen, hits,
//! log-likelihoods and cross-entropies: all that is kept of the rows for it.

use crate::calibration::Calibration;

/// Least shrinkages that are tried where text counts, each not below oracle approximating shrinkage.
pub const SHRINKAGES: [f64; 5] = [0.0, 0.1, 0.2, 0.3, 0.5];

/// Shrinkages whose log-likelihoods are summed up.
pub const LOOC_SHRINKAGES: [f64; 16] =
    [0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 0.95];

/// Weights of the evidence that are tried, where text counts 1.
pub const WEIGHTS: [f64; 12] = [0.05, 0.07, 0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 2.0, 4.0, 16.0];

/// Temperatures that are tried, as [`Calibration`] has them.
pub const TEMPERATURES: [f64; 17] =
    [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 23.0, 32.0, 45.0, 64.0];

/// The power of the standard deviation, as [`Calibration`] has it. With 0 images whose scores lie
/// far apart are believed too much; with 1, of two classes, all have the same probability.
pub const POWER: f64 = 0.5;

/// What all classes get that is tried with each.
pub const EVENS: [f64; 12] = [0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4];

/// The calibration of evidence without text while no row could be left out: its softmax would be
/// sure of everything. About what is chosen for classes of two rows.
const UNJUDGED: Calibration = Calibration { temperature: 8.0, power: POWER, even: 0.02 };

/// Quantiles of the highest scores of rows that are kept, from the lowest to the highest.
pub const QUANTILES: usize = 101;

/// Biases of unseen classes that are tried: from −4 in halves.
pub const BIASES: usize = 41;

pub fn bias_at(place: usize) -> f64 {
    -4.0 + 0.5 * place as f64
}

/// Sums over the rows or the tasks so far.
#[derive(Clone)]
pub struct Tally {
    pub hits: Vec<f64>,            // (shrinkages, weights), rows
    pub unseen: Vec<f64>,          // (biases), shares of the rows of a task before it was learned, over tasks
    pub seen: Vec<f64>,            // (biases), shares of the rows of a task after that, each left out, over tasks
    pub tasks: [f64; 2],           // that `unseen` and `seen` are sums over
    pub log_likelihoods: Vec<f64>, // (LOOC shrinkages), of the rows, each left out
    pub text: [f64; 3],            // what text tells more of a class's rows than a guess: number, sum, sum of squares
    pub known: Vec<f64>, // (quantiles), of the highest scores of the last task's rows, each left out; none before
    pub errors: Vec<f64>, // (temperatures, evens), cross-entropies of the rows, each left out
}

impl Tally {
    /// Of no row.
    pub fn new() -> Self {
        Tally {
            hits: vec![0.0; SHRINKAGES.len() * WEIGHTS.len()],
            unseen: vec![0.0; BIASES],
            seen: vec![0.0; BIASES],
            tasks: [0.0; 2],
            log_likelihoods: vec![0.0; LOOC_SHRINKAGES.len()],
            text: [0.0; 3],
            known: Vec::new(),
            errors: vec![0.0; TEMPERATURES.len() * EVENS.len()],
        }
    }

    /// The shrinkage that the rows are likeliest with; 0 where none could be left out.
    pub fn likeliest(&self) -> f64 {
        let place = first_highest(&self.log_likelihoods);
        if self.log_likelihoods[place] == 0.0 { 0.0 } else { LOOC_SHRINKAGES[place] }
    }

    /// Keeps the quantiles of the highest scores of the last task's rows.
    pub fn set_known(&mut self, mut scores: Vec<f64>) {
        scores.sort_by(f64::total_cmp);
        let Some(last) = scores.len().checked_sub(1) else { return };
        let quantile = |place: usize| {
            let at = last as f64 * place as f64 / (QUANTILES - 1) as f64;
            let (below, above) = (scores[at.floor() as usize], scores[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        self.known = (0..QUANTILES).map(quantile).collect();
    }

    /// Lets what was said of scores among `n` classes with the weights of evidence and text `before`
    /// count less, now that there are others: as much as the squared ratios of the classes' numbers and
    /// of the evidence's weights, the smaller over the larger, and nothing where text came or went.
    pub fn discount(&mut self, before: (usize, [f64; 2]), now: (usize, [f64; 2])) {
        let ((n_before, [weight_before, text_before]), (n, [weight, text])) = (before, now);
        let ratio = |a: f64, b: f64| (a.min(b) / a.max(b)).powi(2);
        let alike =
            if text_before == text { ratio(n_before as f64, n as f64) * ratio(weight_before, weight) } else { 0.0 };
        self.errors.iter_mut().for_each(|error| *error *= alike);
    }

    /// The calibration among n classes of the least cross-entropy of the rows and of one more, which is
    /// told by nothing, as in the rule of succession: no number of rows says that none is ever wrong.
    /// Where no row could be left out, the softmax as it is if text counts, and else [`UNJUDGED`];
    /// that of one class is 1 anyway. `power` is that of the scores that the rows had.
    pub fn calibration(&self, n: usize, text_counts: bool, power: f64) -> Calibration {
        if n < 2 || self.errors.iter().all(|error| *error == 0.0) {
            return if n < 2 || text_counts || power == 0.0 { Calibration::NONE } else { UNJUDGED };
        }
        let errors = self.errors.iter().zip(EVENS.iter().cycle()).map(|(error, even)| (even / n as f64).ln() - error);
        let place = highest(errors).0;
        let (temperature, even) = (TEMPERATURES[place / EVENS.len()], EVENS[place % EVENS.len()]);
        Calibration { temperature, power, even }
    }

    /// Whether text tells more than a guess, by the mean over classes and its standard error, since rows
    /// of a class are right or wrong together: where their ratio squared is above the logarithm of the
    /// number of classes, as the Bayesian information criterion asks. So few classes seldom say that it
    /// tells nothing. It does as long as there is one class, or none.
    pub fn text_tells(&self) -> bool {
        let [n, sum, squares] = self.text;
        if n == 0.0 {
            return true;
        }
        let mean = sum / n;
        let variance = (squares / n - mean * mean).max(0.0);
        mean > 0.0 && mean * mean * (n - 1.0).max(1.0) > variance * n.ln()
    }

    /// The bias at which the worse of seen and unseen classes is told best; none where no task has
    /// been tested before it was learned, or nothing was hit.
    pub fn bias(&self) -> Option<f64> {
        let [unseen_tasks, seen_tasks] = self.tasks;
        let worse =
            self.unseen.iter().zip(&self.seen).map(|(unseen, seen)| (unseen / unseen_tasks).min(seen / seen_tasks));
        let (place, best) = highest(worse);
        (unseen_tasks > 0.0 && best > 0.0).then(|| bias_at(place))
    }
}

/// The first of the highest scores: its place and itself.
pub fn highest(scores: impl Iterator<Item = f64>) -> (usize, f64) {
    scores.enumerate().fold((0, f64::NEG_INFINITY), |best, (place, x)| if x > best.1 { (place, x) } else { best })
}

pub fn first_highest(scores: &[f64]) -> usize {
    highest(scores.iter().copied()).0
}
