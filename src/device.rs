//! What computes: the CPU, or CUDA devices where the program was built for them.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};

use crate::{Error, choice::choices, dense::bfloat16::Unit};

/// The class of a device, as artefacts record it: values differ between classes by rounding.
pub fn class_of(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}

/// Whether CUDA or cuBLAS found no memory; candle hands their errors on as it has them, so that only
/// their text tells.
pub fn is_out_of_memory(error: &anyhow::Error) -> bool {
    let text = format!("{error:?}");
    text.contains("CUDA_ERROR_OUT_OF_MEMORY") || text.contains("CUBLAS_STATUS_ALLOC_FAILED")
}

/// From this width of a text encoder on prompts are learned faster on a CUDA device: at 64 values a
/// step of 5 classes takes 0.5 ms on 16 cores and 2.7 ms on an H100, at 512 values 44 and 5.5 ms.
const WIDTH_FOR_A_DEVICE: usize = 128;

/// Devices, as `--device` takes them: `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,1`.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA devices by their numbers.
    Cuda(Vec<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || format!("expected auto, cpu, cuda, or cuda:0,1 with the numbers of devices, not {text:?}");
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(vec![0])),
            _ => {
                let numbers = text.strip_prefix("cuda:").ok_or_else(expected)?;
                let numbers: Vec<usize> = numbers
                    .split(',')
                    .map(|n| n.parse().map_err(|_| expected()))
                    .collect::<std::result::Result<_, _>>()?;
                if (1..numbers.len()).any(|i| numbers[..i].contains(&numbers[i])) {
                    return Err(format!("{text:?} names a device twice"));
                }
                Ok(DeviceChoice::Cuda(numbers))
            }
        }
    }
}

impl DeviceChoice {
    /// The devices, in the order given. With `streams` above 1 each CUDA device comes as often,
    /// every time with a stream of its own, so that one copies while another computes. A device
    /// that is not there is an [`Error::Device`], and any in a program without CUDA an
    /// [`Error::BuiltWithoutCuda`].
    pub fn open(&self, streams: usize) -> Result<Vec<Device>> {
        let cuda = |number: usize| -> Result<Vec<Device>> { (0..streams).map(|_| open_cuda(number)).collect() };
        match self {
            DeviceChoice::Cpu => Ok(vec![Device::Cpu]),
            DeviceChoice::Auto if !cfg!(feature = "cuda") => Ok(vec![Device::Cpu]),
            DeviceChoice::Auto => Ok(cuda(0).unwrap_or_else(|_| vec![Device::Cpu])),
            DeviceChoice::Cuda(_) if !cfg!(feature = "cuda") => Err(Error::BuiltWithoutCuda.into()),
            DeviceChoice::Cuda(numbers) => {
                let open = |&number| cuda(number).map_err(|source| Error::Device { number, source });
                Ok(numbers.iter().map(open).collect::<Result<Vec<_>, _>>()?.concat())
            }
        }
    }

    /// For prompts of a text encoder of a width: `auto` is the CPU where that is faster.
    pub fn for_prompts(&self, width: usize) -> Self {
        match self {
            DeviceChoice::Auto if width < WIDTH_FOR_A_DEVICE => DeviceChoice::Cpu,
            choice => choice.clone(),
        }
    }

    /// The one device that a stage learns on, whose products see tf32 on a CUDA device.
    pub fn open_one(&self) -> Result<Device> {
        if let DeviceChoice::Cuda(numbers) = self
            && numbers.len() > 1
        {
            bail!("this stage computes on one device, but --device names {}", numbers.len());
        }
        let device = self.open(1)?.into_iter().next().context("no device")?;
        reduce_precision(device.is_cuda());
        Ok(device)
    }
}

/// A CUDA device with a stream of its own.
fn open_cuda(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    // Safety: tensors of a device are used and freed on its own stream alone, so that no use has to
    // be waited for.
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = &device {
        unsafe { device.disable_event_tracking() };
    }
    Ok(device)
}

/// Whether products of float32 on CUDA devices are computed in tf32.
fn reduce_precision(reduce: bool) {
    #[cfg(feature = "cuda")]
    candle_core::cuda::set_gemm_reduced_precision_f32(reduce);
    let _ = reduce;
}

choices! {
    /// Number type of the image encoder's products; their sums are float32.
    pub enum Precision {
        Float32 = "float32": "float32",
        Tf32 = "tf32": "float32 whose products see 10 bits of a mantissa; CUDA alone",
        Bfloat16 = "bfloat16": "Products in bfloat16, norms in float32; CUDA, and CPUs with AMX or AVX512-BF16",
    }
}

impl Precision {
    /// What a device computes in unless it is told: on CUDA bfloat16, whose embeddings have a cosine
    /// of at least 0.9999 with those of float32.
    pub fn usual(device: &Device) -> Self {
        if device.is_cuda() { Precision::Bfloat16 } else { Precision::Float32 }
    }

    /// What the products' weights are kept in.
    pub fn dtype(self) -> DType {
        match self {
            Precision::Float32 | Precision::Tf32 => DType::F32,
            Precision::Bfloat16 => DType::BF16,
        }
    }

    /// Sets products up for this precision on `devices`.
    pub fn prepare(self, devices: &[Device]) -> Result<()> {
        if devices.iter().any(Device::is_cpu) {
            match self {
                Precision::Float32 => (),
                Precision::Tf32 => bail!("the CPU computes in float32 or bfloat16: --dtype tf32 takes a CUDA device"),
                Precision::Bfloat16 => drop(Unit::detect()?),
            }
        }
        reduce_precision(self == Precision::Tf32);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_of_narrow_text_encoders_are_learned_on_the_cpu_unless_a_device_is_named() {
        assert_eq!(DeviceChoice::Auto.for_prompts(64), DeviceChoice::Cpu);
        assert_eq!(DeviceChoice::Auto.for_prompts(512), DeviceChoice::Auto);
        assert_eq!(DeviceChoice::Cuda(vec![0]).for_prompts(64), DeviceChoice::Cuda(vec![0]));
    }

    #[test]
    fn devices_are_read() {
        for (text, expected) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(vec![0])),
            ("cuda:0,3", DeviceChoice::Cuda(vec![0, 3])),
        ] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:1,1"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text:?}");
        }
    }
}
