//! Pixels as bytes, and what an encoder sees of them.

/// What every byte of each colour is normalised to.
pub struct Normalisation {
    values: [[f32; 256]; 3],
}

impl Normalisation {
    /// (byte / 255 − mean) / deviation of each colour.
    pub(super) fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        let values = std::array::from_fn(|c| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean[c]) / std[c]));
        Normalisation { values }
    }

    /// Of red, green and blue.
    pub fn values(&self) -> &[[f32; 256]; 3] {
        &self.values
    }
}
