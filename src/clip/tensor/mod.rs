//! CLIP's two encoders on candle's tensors: what computes on other devices than the CPU, and what
//! the CPU's are tested against.

mod batches;
mod ops;
mod pooling;
pub mod text;
mod transformer;
pub mod vision;
