//! What a CUDA device computes in fewer passes than candle's operations would: products that add a
//! bias, and the kernels of `transformer.cu`, `attention.cu` and `adam.cu`.
//!
//! Every tensor of a device is used on the one stream of that device, so that nothing here waits
//! for another stream.

mod adam;
mod kernels;
mod products;
mod transformer;
mod upload;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Storage, Tensor,
    cuda::{DeviceId, cudarc::driver::DevicePtr},
    op::BackpropOp,
};
use half::{bf16, f16};

pub use self::{
    adam::adam,
    kernels::WIDEST,
    products::{affine, affine_backward},
    transformer::{
        LARGEST_HEAD, LONGEST_BACKWARD, activation, activation_backward, attention, attention_backward, embed,
        layer_norm, layer_norm_backward, patches, residual,
    },
    upload::{Upload, turn},
};

use self::{
    kernels::{Argument, Kernels},
    products::Products,
};

/// What is opened once for a device.
struct Engine {
    device: CudaDevice,
    products: Products,
    kernels: Kernels,
}

static ENGINES: LazyLock<Mutex<HashMap<DeviceId, Arc<Engine>>>> = LazyLock::new(Mutex::default);

/// The engine of the device that `tensor` is on.
fn engine(tensor: &Tensor) -> Result<Arc<Engine>> {
    let Device::Cuda(device) = tensor.device() else { bail!("not on a CUDA device") };
    let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = engines.get(&device.id()) {
        return Ok(engine.clone());
    }
    let (products, kernels) = (Products::new(device)?, Kernels::new(device)?);
    let engine = Arc::new(Engine { device: device.clone(), products, kernels });
    engines.insert(device.id(), engine.clone());
    Ok(engine)
}

impl Engine {
    /// A tensor whose values are still to be written, and where they are.
    fn empty(&self, shape: &[usize], dtype: DType) -> Result<(Tensor, u64)> {
        let n = shape.iter().product();
        // Safety: whoever asks for it writes every value before it is read.
        let storage = match dtype {
            DType::F32 => CudaStorage::wrap_cuda_slice(unsafe { self.device.alloc::<f32>(n)? }, self.device.clone()),
            DType::F16 => CudaStorage::wrap_cuda_slice(unsafe { self.device.alloc::<f16>(n)? }, self.device.clone()),
            DType::BF16 => CudaStorage::wrap_cuda_slice(unsafe { self.device.alloc::<bf16>(n)? }, self.device.clone()),
            other => bail!("{other:?} is not computed with"),
        };
        let tensor = Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false);
        let place = self.place(&tensor)?;
        Ok((tensor, place))
    }

    /// Where the values of a tensor are on the device; they have to lie one after another.
    fn place(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, _) = layout.contiguous_offsets().context("a tensor is not contiguous")?;
        let Storage::Cuda(storage) = &*storage else { bail!("a tensor is not on a CUDA device") };
        let stream = self.device.cuda_stream();
        Ok(match tensor.dtype() {
            DType::U8 => storage.as_cuda_slice::<u8>()?.device_ptr(&stream).0 + start as u64,
            DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0 + 4 * start as u64,
            DType::F16 => storage.as_cuda_slice::<f16>()?.device_ptr(&stream).0 + 2 * start as u64,
            DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0 + 2 * start as u64,
            other => bail!("{other:?} is not computed with"),
        })
    }

    /// A tensor as a kernel's argument.
    fn argument(&self, tensor: &Tensor) -> Result<Argument> {
        Ok(Argument::Place(self.place(tensor)?))
    }
}
