//! Whether probabilities are what they say: confidence against accuracy, the expected calibration
//! error (Guo, Pleiss, Sun and Weinberger, 2017), and what chance makes of it (consistency, as in
//! Bröcker and Smith, 2007).

use std::f64::consts::FRAC_2_PI;

/// Bins of equal width that probabilities from 0 to 1 are put in.
pub const BINS: usize = 15;

/// Images whose probability of the answer is in a bin.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// How many there are.
    pub images: usize,
    /// The sum of their probabilities.
    pub confidence: f64,
    /// How many of them are answered right.
    pub right: usize,
    /// The variance of that number, were each as likely to be right as its probability says.
    pub variance: f64,
}

/// The bins of images with the probability of their answer, and whether it is right. A bin has its
/// upper end and not its lower one.
pub fn bins(answers: impl Iterator<Item = (f64, bool)>) -> [Bin; BINS] {
    let mut bins = [Bin::default(); BINS];
    for (probability, is_right) in answers {
        let place = (probability * BINS as f64).ceil().clamp(1.0, BINS as f64) as usize - 1;
        bins[place].images += 1;
        bins[place].confidence += probability;
        bins[place].right += usize::from(is_right);
        bins[place].variance += probability * (1.0 - probability);
    }
    bins
}

/// The expected calibration error, in percentage points: the mean over images of the difference of
/// confidence and accuracy in their bin. None without images.
///
/// ```
/// use cgil::metrics::{bins, calibration_error};
/// // two at 0.9 and 0.94 in the last but one bin, one right: 0.42 off; one at 0.5, right: 0.5
/// let bins = bins([(0.9, true), (0.92, false), (0.5, true)].into_iter());
/// assert!((calibration_error(&bins).unwrap() - 100.0 * (0.82 + 0.5) / 3.0).abs() < 1e-9);
/// ```
pub fn calibration_error(bins: &[Bin]) -> Option<f64> {
    let images: usize = bins.iter().map(|bin| bin.images).sum();
    let off: f64 = bins.iter().map(|bin| (bin.confidence - bin.right as f64).abs()).sum();
    (images > 0).then(|| 100.0 * off / images as f64)
}

/// The calibration error to be expected of as many images with the same probabilities, were each as
/// likely to be right as its own says, in percentage points: chance alone, which no calibration takes
/// away. The number of right ones of a bin is taken to be normal, and no further off in the mean than
/// the sum of its images are, each 2 p (1 − p). None without images.
///
/// ```
/// use cgil::metrics::{bins, error_if_calibrated};
/// // 100 coins that say so: 50 right, with a deviation of 5, are √(2 / π) · 5 off in the mean
/// let coins = bins((0..100).map(|i| (0.5, i % 2 == 0)));
/// assert!((error_if_calibrated(&coins).unwrap() - 3.989).abs() < 1e-3);
/// ```
pub fn error_if_calibrated(bins: &[Bin]) -> Option<f64> {
    let images: usize = bins.iter().map(|bin| bin.images).sum();
    let off: f64 = bins.iter().map(|bin| (FRAC_2_PI * bin.variance).sqrt().min(2.0 * bin.variance)).sum();
    (images > 0).then(|| 100.0 * off / images as f64)
}
