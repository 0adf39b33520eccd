//! The kernels, compiled by NVRTC when they are first needed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use candle_core::{
    CudaDevice,
    cuda::cudarc::{
        driver::{CudaFunction, CudaStream, LaunchConfig, PushKernelArg, sys::CUfunction_attribute_enum},
        nvrtc::{CompileOptions, compile_ptx_with_opts},
    },
};

/// The kernels of `transformer.cu`.
const TRANSFORMER: &[&str] = &[
    "layer_norm_f32",
    "layer_norm_bf16",
    "layer_norm_backward_f32",
    "patches_f32",
    "patches_bf16",
    "embed_f32",
    "embed_bf16",
    "activation_f32",
    "activation_bf16",
    "activation_backward_f32",
    "attention_f32",
    "attention_bf16",
    "attention_backward_f32",
];

/// A source of kernels.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// What does not depend on the head dimension, and attention for heads of this dimension.
    Transformer {
        head: usize,
    },
    Adam,
}

/// A kernel's argument.
pub enum Argument {
    /// A tensor on the device.
    Place(u64),
    Count(i32),
    Size(u64),
    Value(f32),
}

/// The kernels of a device.
pub struct Kernels {
    stream: Arc<CudaStream>,
    architecture: String,
    loaded: Mutex<HashMap<(Source, &'static str), CudaFunction>>,
}

impl Kernels {
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let (major, minor) = stream.context().compute_capability()?;
        Ok(Kernels {
            stream,
            architecture: format!("--gpu-architecture=compute_{major}{minor}"),
            loaded: Mutex::default(),
        })
    }

    /// Runs a kernel. Safety: its arguments are what the source says, and the tensors as large.
    pub unsafe fn launch(
        &self,
        source: Source,
        name: &'static str,
        (grid, block, shared_bytes): ([u32; 3], [u32; 3], u32),
        arguments: &[Argument],
    ) -> Result<()> {
        let kernel = self.kernel(source, name, shared_bytes)?;
        let mut launch = self.stream.launch_builder(&kernel);
        for argument in arguments {
            match argument {
                Argument::Place(x) | Argument::Size(x) => launch.arg(x),
                Argument::Count(x) => launch.arg(x),
                Argument::Value(x) => launch.arg(x),
            };
        }
        let config = LaunchConfig { grid_dim: grid.into(), block_dim: block.into(), shared_mem_bytes: shared_bytes };
        unsafe { launch.launch(config) }.with_context(|| format!("cannot run the kernel {name}"))?;
        Ok(())
    }

    fn kernel(&self, source: Source, name: &'static str, shared_bytes: u32) -> Result<CudaFunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !loaded.contains_key(&(source, name)) {
            let (text, names, define): (_, &[_], _) = match source {
                Source::Transformer { head } => (include_str!("transformer.cu"), TRANSFORMER, format!("-DHEAD={head}")),
                Source::Adam => (include_str!("adam.cu"), &["adam"], "-DADAM".to_owned()),
            };
            let options = CompileOptions { options: vec![self.architecture.clone(), define], ..Default::default() };
            let ptx = compile_ptx_with_opts(text, options).context("NVRTC cannot compile the kernels")?;
            let module = self.stream.context().load_module(ptx)?;
            for &name in names {
                loaded.insert((source, name), module.load_function(name)?);
            }
        }
        let kernel = &loaded[&(source, name)];
        if shared_bytes > 48 << 10 {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(attribute, shared_bytes as i32)?;
        }
        Ok(kernel.clone())
    }
}
