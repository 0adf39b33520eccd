//! What computes prompts: slices on the CPU, candle's tensors elsewhere.

use anyhow::Result;
use candle_core::Device;

use super::{Learner, PromptConfig, cpu, tensor};
use crate::{clip::Checkpoint, task::Class};

/// The prompts of `classes`, initialised from `seed`.
pub fn new(
    checkpoint: &Checkpoint,
    classes: &[Class],
    config: &PromptConfig,
    seed: u64,
    device: &Device,
) -> Result<Box<dyn Learner>> {
    config.check()?;
    let tokenizer = checkpoint.tokenizer()?;
    Ok(match device {
        Device::Cpu => {
            Box::new(cpu::Prompts::new(checkpoint.text_encoder(&tokenizer)?, &tokenizer, classes, config, seed)?)
        }
        device => {
            let encoder = checkpoint.text_encoder_on(device)?;
            Box::new(tensor::Prompts::new(encoder, &tokenizer, classes, config, seed)?)
        }
    })
}
