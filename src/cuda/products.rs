//! Products by cuBLASLt, which adds a bias on the way. Residuals are added by the norm that follows:
//! with one in float32 these products take a quarter more time.

use std::{
    collections::HashMap,
    ffi::c_void,
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use candle_core::{
    CudaDevice, DType, Tensor,
    cuda::{
        cudarc::{
            cublaslt::{
                result,
                sys::{
                    cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue, cublasLtHandle_t as Handle,
                    cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulDesc_t as Description,
                    cublasLtMatmulDescAttributes_t as Attribute,
                    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
                    cublasLtMatrixLayout_t as MatrixLayout, cudaDataType as Type,
                },
            },
            driver::{CudaSlice, CudaStream, DevicePtr},
        },
        gemm_reduced_precision_f32,
    },
};

use super::engine;

/// Room that algorithms may use, in bytes: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// cuBLASLt on a device.
pub struct Products {
    handle: Handle,
    workspace: CudaSlice<u8>,
    stream: Arc<CudaStream>,
    plans: Mutex<HashMap<Product, Plan>>,
}

/// A kind of product, in cuBLASLt's column-major terms: D (m, n) = op(A) (m, k) · B (k, n), plus a
/// bias (m).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Product {
    m: usize,
    n: usize,
    k: usize,
    transposed: bool,
    bias: bool,
    dtype: DType,
    tf32: bool,
}

/// What cuBLASLt does for a product.
struct Plan {
    description: Description,
    a: MatrixLayout,
    b: MatrixLayout,
    d: MatrixLayout,
    algorithm: Algorithm,
}

/// Where the matrices are.
struct Places {
    a: u64,
    b: u64,
    bias: Option<u64>,
    d: u64,
}

// Safety: cuBLASLt's handles and descriptions may be used from any thread; plans are made under a
// lock and live as long as the handle.
unsafe impl Send for Products {}
unsafe impl Sync for Products {}

/// x (N, I) · weightᵀ (I, O), plus a bias (O), all of one number type.
pub fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let engine = engine(x)?;
    let ((n, k), (m, _)) = (x.dims2()?, weight.dims2()?);
    let (y, d) = engine.empty(&[n, m], x.dtype())?;
    let bias = bias.map(|bias| engine.place(bias)).transpose()?;
    let places = Places { a: engine.place(weight)?, b: engine.place(x)?, bias, d };
    let product = Product {
        m,
        n,
        k,
        transposed: true,
        bias: bias.is_some(),
        dtype: x.dtype(),
        tf32: gemm_reduced_precision_f32(),
    };
    engine.products.run(product, &places)?;
    Ok(y)
}

/// grad (N, O) · weight (O, I): the gradient of [`affine`]'s input.
pub fn affine_backward(grad: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let engine = engine(grad)?;
    let ((n, k), (_, m)) = (grad.dims2()?, weight.dims2()?);
    let (y, d) = engine.empty(&[n, m], grad.dtype())?;
    let places = Places { a: engine.place(weight)?, b: engine.place(grad)?, bias: None, d };
    let product =
        Product { m, n, k, transposed: false, bias: false, dtype: grad.dtype(), tf32: gemm_reduced_precision_f32() };
    engine.products.run(product, &places)?;
    Ok(y)
}

impl Products {
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread()?;
        // Safety: scratch room, which is never read before it is written.
        let workspace = unsafe { device.alloc::<u8>(WORKSPACE)? };
        Ok(Products { handle: result::create_handle()?, workspace, stream, plans: Mutex::default() })
    }

    fn run(&self, product: Product, places: &Places) -> Result<()> {
        self.stream.context().bind_to_thread()?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if !plans.contains_key(&product) {
            let plan = self.plan(&product).with_context(|| {
                format!("cuBLASLt has no product of ({}, {}) and ({}, {})", product.m, product.k, product.k, product.n)
            })?;
            plans.insert(product, plan);
        }
        let plan = &plans[&product];
        let (one, zero) = (1f32, 0f32);
        // Safety: the plan's layouts are those of the matrices at `places`, and the lock is held
        // until the product is in the stream.
        unsafe {
            if let Some(bias) = &places.bias {
                set(plan.description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
            }
            result::matmul(
                self.handle,
                plan.description,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                places.a as *const c_void,
                plan.a,
                places.b as *const c_void,
                plan.b,
                places.d as *const c_void,
                plan.d,
                places.d as *mut c_void,
                plan.d,
                &plan.algorithm,
                self.workspace.device_ptr(&self.stream).0 as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )?;
        }
        Ok(())
    }

    fn plan(&self, product: &Product) -> Result<Plan> {
        let Product { m, n, k, transposed, .. } = *product;
        let layout = |rows: usize, columns: usize| {
            result::create_matrix_layout(type_of(product.dtype), rows as u64, columns as u64, rows as i64)
        };
        let (rows, columns) = if transposed { (k, m) } else { (m, k) };
        let (a, b, d) = (layout(rows, columns)?, layout(k, n)?, layout(m, n)?);
        let compute = match product.tf32 && product.dtype == DType::F32 {
            true => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => Compute::CUBLAS_COMPUTE_32F,
        };
        let description = result::create_matmul_desc(compute, Type::CUDA_R_32F)?;
        // Safety: the handles are new, and the attributes have the types that cuBLASLt expects.
        let algorithm = unsafe {
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(transposed))?;
            if product.bias {
                set(description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &Epilogue::CUBLASLT_EPILOGUE_BIAS)?;
            }
            let preference = result::create_matmul_pref()?;
            let room = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, room, ptr::from_ref(&WORKSPACE).cast(), size_of::<usize>())?;
            let found = result::get_matmul_algo_heuristic(self.handle, description, a, b, d, d, preference);
            result::destroy_matmul_pref(preference)?;
            found?.algo
        };
        Ok(Plan { description, a, b, d, algorithm })
    }
}

unsafe fn set<T>(description: Description, attribute: Attribute, value: &T) -> Result<()> {
    unsafe { result::set_matmul_desc_attribute(description, attribute, ptr::from_ref(value).cast(), size_of::<T>())? };
    Ok(())
}

fn type_of(dtype: DType) -> Type {
    match dtype {
        DType::BF16 => Type::CUDA_R_16BF,
        _ => Type::CUDA_R_32F,
    }
}
