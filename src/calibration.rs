//! Scores as probabilities.

use anyhow::{Result, ensure};

/// How logits become probabilities. A temperature makes all images more or less sure. One whose
/// logits lie far apart needs a higher one, and what is wrong however sure it is needs a share that
/// every class gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// What logits are divided by.
    pub temperature: f64,
    /// The power of the standard deviation of an image's logits by which they are divided, too, 0
    /// to 1: 0 takes them as far apart as they are, 1 all images' as equally far.
    pub power: f64,
    /// What all classes get in equal parts, 0 to 1; the softmax has the rest.
    pub even: f64,
}

impl Calibration {
    /// The softmax as it is.
    pub const NONE: Calibration = Calibration { temperature: 1.0, power: 0.0, even: 0.0 };

    /// An error where it makes no probabilities.
    pub fn check(self) -> Result<()> {
        let Calibration { temperature, power, even } = self;
        ensure!(temperature.is_finite() && temperature > 0.0, "the temperature is {temperature}");
        ensure!((0.0..=1.0).contains(&power), "the power of the standard deviation is {power}");
        ensure!((0.0..=1.0).contains(&even), "what all classes get is {even}");
        Ok(())
    }

    /// The logits (n) of an image become the logarithms of its probabilities, all finite.
    ///
    /// ```
    /// use cgil::calibration::Calibration;
    /// let mut logits = [4.0 * 3f64.ln(), 0.0, -1e9];
    /// Calibration { temperature: 4.0, power: 0.0, even: 0.3 }.logarithms(&mut logits);
    /// let expected = [0.7 * 0.75 + 0.1, 0.7 * 0.25 + 0.1, 0.1];
    /// assert!(logits.iter().zip(expected).all(|(x, p)| (x.exp() - p).abs() < 1e-12));
    /// ```
    pub fn logarithms(self, logits: &mut [f64]) {
        let n = logits.len() as f64;
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let divisor = self.divisor(logits.iter().copied());
        logits.iter_mut().for_each(|x| *x = (*x - highest) / divisor);
        let sum = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
        logits.iter_mut().for_each(|x| *x -= sum);
        if self.even > 0.0 {
            logits.iter_mut().for_each(|x| *x = self.with_even(x.exp(), n).ln());
        }
    }

    /// What the logits (n) of an image are divided by, above 0. Those that are no candidates, −∞, do
    /// not count.
    ///
    /// ```
    /// use cgil::calibration::Calibration;
    /// let calibration = Calibration { temperature: 3.0, power: 0.5, even: 0.0 };
    /// let logits = [-2.0, 6.0, f64::NEG_INFINITY]; // 4 is their standard deviation
    /// assert_eq!(calibration.divisor(logits.into_iter()), 3.0 * 2.0);
    /// assert!(calibration.divisor([1.0, 1.0].into_iter()) > 0.0);
    /// ```
    pub fn divisor(self, logits: impl Iterator<Item = f64> + Clone) -> f64 {
        let logits = logits.filter(|x| *x > f64::NEG_INFINITY);
        let count = logits.clone().count() as f64;
        let mean = logits.clone().sum::<f64>() / count;
        let variance = logits.map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
        (self.temperature * variance.sqrt().powf(self.power)).max(f64::MIN_POSITIVE)
    }

    /// The probability of the class with the highest of the logits (n) of an image; those that are no
    /// candidates have none, −∞.
    pub fn highest(self, logits: impl Iterator<Item = f64> + Clone) -> f64 {
        let highest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
        let divisor = self.divisor(logits.clone());
        let powers = logits.clone().map(|x| ((x - highest) / divisor).exp());
        let candidates = logits.filter(|x| *x > f64::NEG_INFINITY).count();
        self.with_even(1.0 / powers.sum::<f64>(), candidates as f64)
    }

    /// A probability of the softmax over n classes, with its part of what all get.
    pub fn with_even(self, probability: f64, n: f64) -> f64 {
        (1.0 - self.even) * probability + self.even / n
    }
}
