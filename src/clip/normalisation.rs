//! Pixels as bytes, and what an encoder sees of them.

/// What every byte of each colour is normalised to.
pub struct Normalisation {
    values: [[f32; 256]; 3],
}

impl Normalisation {
    /// Of bytes of 0 to 1 that lose the mean of their colour and are divided by its deviation.
    pub(super) fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        let values = std::array::from_fn(|c| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean[c]) / std[c]));
        Normalisation { values }
    }

    /// Of red, green and blue.
    pub fn values(&self) -> &[[f32; 256]; 3] {
        &self.values
    }

    /// Pixels (B, S, S, 3) to (B, 3, S, S), flat, `plane` being S².
    pub fn planes(&self, pixels: &[u8], plane: usize) -> Vec<f32> {
        let mut planes = Vec::with_capacity(pixels.len());
        for image in pixels.chunks_exact(3 * plane) {
            for (c, values) in self.values.iter().enumerate() {
                planes.extend(image.iter().skip(c).step_by(3).map(|&byte| values[usize::from(byte)]));
            }
        }
        planes
    }
}
