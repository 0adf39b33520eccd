//! Memory in pages of 2 MB, which Linux gives where it is asked to. Weights that are read from beyond
//! the caches for every batch, and what lies between them, are found sooner there: in pages of 4 KB
//! tens of thousands of addresses have to be looked up.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    slice,
};

use memmap2::MmapMut;

/// Bytes of a page.
const PAGE: usize = 2 << 20;

/// A type of which bytes of zero are a value, aligned to no more than a page.
///
/// # Safety
///
/// They are.
pub unsafe trait Plain: Copy {}

/// Values that stay where they are.
pub struct HugePages<T> {
    memory: MmapMut,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> HugePages<T> {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("memory").max(1);
        // of whole pages the kernel chooses an address that is one's
        let bytes = if bytes < PAGE / 2 { bytes } else { bytes.next_multiple_of(PAGE) };
        let memory = MmapMut::map_anon(bytes).expect("memory");
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage); // where there are none, small ones do
        HugePages { memory, len, of: PhantomData }
    }
}

impl<T: Plain> Default for HugePages<T> {
    /// Nothing yet.
    fn default() -> Self {
        HugePages::zeros(0)
    }
}

// Safety: zeros are zeros.
unsafe impl Plain for f32 {}

impl HugePages<f32> {
    /// The first `n` values of a buffer, which grows where it has fewer: whatever they are.
    pub fn room(&mut self, n: usize) -> &mut [f32] {
        if self.len < n {
            *self = HugePages::zeros(n);
        }
        &mut self[..n]
    }
}

impl<T: Plain> Deref for HugePages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // Safety: as many values as there is memory for, which is zeros at first.
        unsafe { slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for HugePages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // Safety: as above, and nobody else has it.
        unsafe { slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}
