//! Memory in pages of 2 MB, of which Linux gives those to programs that ask for them. Weights that are
//! read from beyond the caches for every batch are found sooner for it: with pages of 4 KB their
//! addresses have to be looked up 40,000 times.

/// Asks for huge pages for what a vector has room for, which should not have been written to yet.
pub(super) fn ask_for<T>(vector: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let (start, bytes) = (vector.as_ptr() as usize, vector.capacity() * size_of::<T>());
        let (first, end) = (start.next_multiple_of(PAGE), (start + bytes) / PAGE * PAGE);
        if first < end {
            // Safety: pages that the vector has for itself, whose values stay what they are. Where
            // there are no huge pages the answer is an error, and nothing is lost.
            unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
        }
    }
    let _ = vector;
}
