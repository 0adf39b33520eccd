//! Class-conditional generators of embeddings, and the store that keeps them.

mod config;
pub mod diffusion;
mod fit;
mod fitted;
pub mod gaussian;
mod kinds;
pub mod mixture;
mod network;
pub mod noise;
mod scaler;
pub mod store;
mod together;
pub mod vae;

pub use config::{GeneratorConfig, Kind};
pub use diffusion::{Denoiser, DiffusionConfig};
pub use fit::{fit, fit_all};
pub use fitted::{ClassRows, Fitted, Measures};
pub use gaussian::Gaussian;
pub use kinds::Generator;
pub use mixture::Mixture;
pub use noise::{Noise, Variation};
pub use scaler::Scaler;
pub use store::LatentStore;
pub use together::fit_together;
pub use vae::{Vae, VaeConfig, annealing};
