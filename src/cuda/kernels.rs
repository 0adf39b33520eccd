//! The kernels, compiled by NVRTC when they are first needed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use candle_core::{
    CudaDevice,
    cuda::cudarc::{
        driver::{CudaFunction, CudaModule, CudaStream, LaunchConfig, PushKernelArg, sys::CUfunction_attribute_enum},
        nvrtc::{CompileOptions, compile_ptx_with_opts},
    },
};

/// Widest row that is normed.
pub const WIDEST: usize = 2048;

/// What residuals in float16 are divided by.
pub const UNIT: f64 = 64.0;

/// A source of kernels.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// What does not depend on the head dimension, and attention for heads of this dimension.
    Transformer {
        head: usize,
    },
    /// Attention on Hopper's tensor cores.
    Hopper,
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
    /// Whether the device has Hopper's tensor cores.
    pub is_hopper: bool,
    modules: Mutex<HashMap<Source, Arc<CudaModule>>>,
    loaded: Mutex<HashMap<(Source, &'static str), CudaFunction>>,
}

impl Kernels {
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let (major, minor) = stream.context().compute_capability()?;
        let is_hopper = (major, minor) == (9, 0);
        let own = if is_hopper { "a" } else { "" }; // what later devices lack
        Ok(Kernels {
            stream,
            architecture: format!("--gpu-architecture=compute_{major}{minor}{own}"),
            is_hopper,
            modules: Mutex::default(),
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
            loaded.insert((source, name), self.module(source)?.load_function(name)?);
        }
        let kernel = &loaded[&(source, name)];
        if shared_bytes > 48 << 10 {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(attribute, shared_bytes as i32)?;
        }
        Ok(kernel.clone())
    }

    fn module(&self, source: Source) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&source) {
            return Ok(module.clone());
        }
        let (text, defines) = match source {
            Source::Transformer { head } => (
                concat!(include_str!("common.cu"), include_str!("transformer.cu")),
                vec![format!("-DHEAD={head}"), format!("-DWIDEST={WIDEST}"), format!("-DUNIT={UNIT:.1}f")],
            ),
            Source::Hopper => (concat!(include_str!("common.cu"), include_str!("attention.cu")), Vec::new()),
            Source::Adam => (include_str!("adam.cu"), Vec::new()),
        };
        let options = [self.architecture.clone()].into_iter().chain(defines).collect();
        let options = CompileOptions { options, ..Default::default() };
        let ptx = compile_ptx_with_opts(text, options).context("NVRTC cannot compile the kernels")?;
        let module = self.stream.context().load_module(ptx)?;
        modules.insert(source, module.clone());
        Ok(module)
    }
}
