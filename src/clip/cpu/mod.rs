//! CLIP's two encoders on float32 slices: what computes on the CPU.
//!
//! What a tensor library would spend beside the products is not done here: heads are strides,
//! elementwise work is one pass in place, buffers are kept, and rows that nobody looks at are not
//! computed.

mod activation;
pub(super) mod affine;
mod attention;
mod block;
mod pooling;
pub mod text;
pub mod vision;
