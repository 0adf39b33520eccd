//! Class-conditional generators of embeddings, and the store that keeps them.

mod fit;
mod scaler;
pub mod store;
mod together;
pub mod vae;

pub use fit::{ClassRows, Fitted, annealing, fit, fit_all};
pub use scaler::Scaler;
pub use store::LatentStore;
pub use together::fit_together;
pub use vae::{Vae, VaeConfig};

use crate::rng::Rng;

/// A class's generator: standard normal noise, decoded and scaled back.
#[derive(Clone, Debug, PartialEq)]
pub struct Generator {
    pub decoder: vae::Decoder,
    pub scaler: Scaler,
}

impl Generator {
    /// Whether every weight and scaling is a finite number.
    pub fn is_finite(&self) -> bool {
        let Scaler { low, span, mean, std } = &self.scaler;
        let layers = self.decoder.layers.iter().flat_map(|(weight, bias)| [weight, bias]);
        layers.chain([low, span, mean, std]).flatten().all(|x| x.is_finite())
    }

    /// `n` embeddings (n, D), flat, as the image encoder would give them.
    pub fn sample(&self, n: usize, rng: &mut Rng) -> Vec<f32> {
        let mut rows = self.decoder.decode(&rng.normals(n * self.decoder.latent));
        self.scaler.restore(&mut rows);
        rows
    }
}
