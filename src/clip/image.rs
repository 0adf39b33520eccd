//! The image encoder, wherever it is computed.

use anyhow::Result;

use super::{cpu, normalisation::Normalisation, tensor};

/// A frozen image encoder.
pub enum ImageEncoder {
    /// On float32 slices, on the CPU.
    Cpu(cpu::vision::ImageEncoder),
    /// On candle's tensors, on any device.
    Device(tensor::vision::ImageEncoder),
}

/// Buffers that whoever encodes keeps from batch to batch.
pub type Workspace = cpu::vision::Workspace;

impl ImageEncoder {
    /// Dimension P of the embeddings.
    pub fn dim(&self) -> usize {
        match self {
            ImageEncoder::Cpu(encoder) => encoder.dim,
            ImageEncoder::Device(encoder) => encoder.dim,
        }
    }

    /// Images to encode at a time. On a device they are fewer once its memory has run out.
    pub fn batch(&self) -> usize {
        match self {
            ImageEncoder::Cpu(encoder) => encoder.batch(),
            ImageEncoder::Device(encoder) => encoder.batch(),
        }
    }

    /// Encodes so many images at a time on a device; the CPU keeps to what its cache holds.
    pub fn set_batch(&mut self, images: usize) {
        if let ImageEncoder::Device(encoder) = self {
            encoder.set_batch(images);
        }
    }

    /// RGB pixels (B, S, S, 3), flat, to embeddings (B, P), flat, not normalised. On the CPU the
    /// calling thread computes alone.
    pub fn encode(&self, pixels: &[u8], normalisation: &Normalisation, workspace: &mut Workspace) -> Result<Vec<f32>> {
        match self {
            ImageEncoder::Cpu(encoder) => Ok(encoder.encode(pixels, normalisation, workspace)),
            ImageEncoder::Device(encoder) => encoder.encode(pixels, normalisation),
        }
    }
}
