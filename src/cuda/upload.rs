//! Bytes to a device, while others compute there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use candle_core::{CudaStorage, Device, Storage, Tensor, cuda::cudarc::driver::PinnedHostSlice, op::BackpropOp};

/// Room that the device reads at the speed of its bus: ten times that of other memory.
#[derive(Default)]
pub struct Upload {
    pinned: Mutex<Option<PinnedHostSlice<u8>>>,
}

impl Upload {
    /// Bytes as a tensor of the device. They are there when it returns.
    pub fn bytes(&self, bytes: &[u8], shape: &[usize], device: &Device) -> Result<Tensor> {
        let Device::Cuda(cuda) = device else { bail!("not a CUDA device") };
        let stream = cuda.cuda_stream();
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if pinned.as_ref().is_none_or(|room| room.len() < bytes.len()) {
            // Safety: written before it is read.
            let room = unsafe { stream.context().alloc_pinned(bytes.len()) };
            *pinned = Some(room.with_context(|| format!("the device can pin no {} bytes of memory", bytes.len()))?);
        }
        // Safety: written by the copy that follows, in the same stream.
        let mut slice = unsafe { cuda.alloc::<u8>(bytes.len())? };
        if let Some(room) = &mut *pinned {
            room.as_mut_slice()?[..bytes.len()].copy_from_slice(bytes);
            stream.memcpy_htod(&room.as_slice()?[..bytes.len()], &mut slice)?;
            stream.synchronize()?; // before another batch takes the room
        }
        let storage = CudaStorage::wrap_cuda_slice(slice, cuda.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }
}

/// Whose turn it is to compute, of each device by its number. Two streams that compute at a time
/// end at a time, and then both copy while the device waits.
static TURNS: [Mutex<()>; 16] = [const { Mutex::new(()) }; 16];

/// Waits until nobody else computes on the device. The turn is over when the guard is dropped.
pub fn turn(device: &Device) -> Option<MutexGuard<'static, ()>> {
    let Device::Cuda(device) = device else { return None };
    let number = device.cuda_stream().context().ordinal();
    Some(TURNS[number % TURNS.len()].lock().unwrap_or_else(PoisonError::into_inner))
}
