//! The instructions that multiply in bfloat16, and what they do to tiles. All that is unsafe about
//! products in bfloat16 is here.

use std::ops::Range;

use half::bf16;

/// Rows of a block, and columns: a block of sums is two tiles by two.
pub const BLOCK: usize = 32;

/// What is summed over in one step: the width of a tile.
pub const DEPTH: usize = 32;

/// What a step takes of one side: its block's rows (of the right side columns) in two tiles of 16.
/// In a tile of the left side lie 16 rows of 32 values, in one of the right side 16 pairs of values
/// of 16 columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Step(pub [[[bf16; DEPTH]; 16]; 2]);

/// Sums of a block.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Sums(pub [[f32; BLOCK]; BLOCK]);

/// What is wanted soon and may come into the cache meanwhile. Nothing is read from the addresses.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub struct Ahead<'a> {
    /// Steps of the right side.
    pub right: &'a [Step],
    /// The first of the rows that sums go to, 32 values of each, and how many values they are apart.
    pub onto: Option<(*const f32, usize)>,
}

/// Instructions that this machine has: there is none without them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit(Instructions);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Instructions {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Step {
    pub const ZERO: Step = Step([[[bf16::ZERO; DEPTH]; 16]; 2]);
}

impl Sums {
    pub const ZERO: Sums = Sums([[0.0; BLOCK]; BLOCK]);
}

impl Unit {
    /// All that this machine has, the fastest first.
    pub fn all() -> Vec<Self> {
        let known: &[(Instructions, bool)] = &[
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            (Instructions::Amx, x86::has_amx() && std::arch::is_x86_feature_detected!("avx512bf16")),
            #[cfg(target_arch = "x86_64")]
            (Instructions::Avx512, std::arch::is_x86_feature_detected!("avx512bf16")),
        ];
        known.iter().filter(|(_, is_there)| *is_there).map(|(instructions, _)| Unit(*instructions)).collect()
    }

    /// `sums[i]` = the block i of the left side times the one block `b` of the right side, of the first
    /// `rows` rows of the left side at least. Both are the steps of a block, those of the left side
    /// block after block. Whatever the number of blocks, a sum is added up in the same order.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn multiply(self, a: &[Step], rows: usize, b: &[Step], ahead: Ahead, sums: &mut [Sums]) {
        assert!(!b.is_empty() && a.len() == b.len() * sums.len() && rows.div_ceil(BLOCK) >= sums.len());
        // Safety: this machine has the instructions, since nothing else makes a unit, and the
        // lengths were checked.
        match self.0 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Instructions::Amx => unsafe { x86::multiply_amx(a, b, ahead.right, sums) },
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { x86::multiply_avx512(a, rows, b, ahead, sums) },
        }
    }

    /// Rounds rows of values to the nearest bfloat16, of two the even one, into as many steps as each
    /// fills, followed by zeros, from `row` on. What is too small for a normal float32 becomes 0.
    pub fn round(self, x: &[&[f32]], steps: &mut [Step], row: usize) {
        assert!(row + x.len() <= BLOCK && x.iter().all(|x| x.len().div_ceil(DEPTH) == steps.len()));
        // Safety: this machine has the instructions, and the lengths were checked.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            x86::round(x, steps, row);
        }
    }

    /// As [`Unit::round`], of the first `rows` rows of sums into a step.
    pub fn round_sums(self, sums: &Sums, rows: usize, step: &mut Step) {
        // Safety: this machine has the instructions.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            x86::round_sums(sums, rows, step);
        }
    }

    /// Rows that a batch should have at most.
    pub fn rows_at_once(self) -> usize {
        match self.0 {
            // what is between products stays in the second cache
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Instructions::Amx => 256,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => 400,
        }
    }

    /// Blocks of the left side, of so many steps each, that meet every block of the right side before
    /// others do.
    pub fn blocks_at_once(self, steps: usize) -> usize {
        match self.0 {
            // so fast that the right side, from beyond the caches, has to come once
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Instructions::Amx => usize::MAX,
            // what fits half of the second cache
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => ((512 << 10) / (steps.max(1) * size_of::<Step>())).max(1),
        }
    }

    /// Of the `steps` that the next block of the right side has, those to come into the cache while
    /// this one meets the left side's group `group` of four blocks.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn ahead(self, group: usize, steps: usize) -> Range<usize> {
        match self.0 {
            // a half with each of two groups
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Instructions::Amx => (group * steps / 2).min(steps)..steps,
            // all with the first group, which may be the only one
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => (group.min(1) * steps)..steps,
        }
    }

    /// Its name among the features of a CPU.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Instructions::Amx => "amx_bf16",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "avx512_bf16",
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::{asm, x86_64::*},
        ops::Range,
    };

    use super::{Ahead, BLOCK, DEPTH, Step, Sums};

    /// Whether the CPU has AMX with bfloat16 and Linux lets this process use it, which it has to ask
    /// for: tiles make the state of a thread 8 KB larger.
    #[cfg(target_os = "linux")]
    pub fn has_amx() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let features = raw_cpuid::CpuId::new().get_extended_feature_info();
        if !features.is_some_and(|has| has.has_amx_tile() && has.has_amx_bf16()) {
            return false;
        }
        let result: i64;
        // Safety: arch_prctl(ARCH_REQ_XCOMP_PERM, …) touches no memory of this process.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack)
            );
        }
        result == 0
    }

    /// What `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct TileConfiguration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static TILES: TileConfiguration = TileConfiguration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// # Safety
    ///
    /// The machine has AMX and this process may use it; `b` is not empty, and `a` has its length for
    /// each of `sums`.
    #[cfg(target_os = "linux")]
    pub unsafe fn multiply_amx(a: &[Step], b: &[Step], ahead: &[Step], sums: &mut [Sums]) {
        if sums.is_empty() {
            return;
        }
        // Safety: reads as many steps as both sides have, 2 KB each, and writes as many blocks of
        // sums, 4 KB each; a prefetch of any address does no harm. Tiles have a state from the first
        // instruction to the last alone, and nothing else keeps anything in them.
        unsafe {
            asm!(
                "ldtilecfg [{tiles}]",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "mov {right}, {b}",
                "mov {step}, {steps}",
                "mov {stride}, 64",
                "3:",
                "tileloadd tmm4, [{a} + {stride}]",
                "tileloadd tmm6, [{right} + {stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {stride} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {stride} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "prefetcht1 [{ahead} + 128]",
                "prefetcht1 [{ahead} + 192]",
                "add {ahead}, 256",
                "add {a}, 2048",
                "add {right}, 2048",
                "dec {step}",
                "jnz 3b",
                "mov {stride}, 128",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                "tilestored [{sums} + {stride} + 2048], tmm2",
                "tilestored [{sums} + {stride} + 2112], tmm3",
                "add {sums}, 4096",
                "dec {blocks}",
                "jnz 2b",
                "tilerelease",
                tiles = in(reg) &TILES,
                a = inout(reg) a.as_ptr() => _,
                b = in(reg) b.as_ptr(),
                steps = in(reg) b.len(),
                blocks = inout(reg) sums.len() => _,
                sums = inout(reg) sums.as_mut_ptr() => _,
                ahead = inout(reg) ahead.as_ptr() => _,
                right = out(reg) _,
                step = out(reg) _,
                stride = out(reg) _,
                options(nostack)
            );
        }
    }

    /// # Safety
    ///
    /// The machine has AVX512-BF16, a block has as many rows from `row` on, and `steps` are as many as
    /// each of `x` fills.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn round(x: &[&[f32]], steps: &mut [Step], row: usize) {
        for (i, step) in steps.iter_mut().enumerate() {
            for (x, rounded) in x.iter().zip(&mut step.0.as_flattened_mut()[row..]) {
                let x = &x[i * DEPTH..];
                // Safety: no more than there are values is read, and a row of a step is 64 bytes, aligned.
                unsafe {
                    let half = |i: usize| {
                        let values = x.len().saturating_sub(16 * i).min(16);
                        _mm512_maskz_loadu_ps(((1u32 << values) - 1) as u16, x.as_ptr().wrapping_add(16 * i))
                    };
                    let values: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(half(1), half(0)));
                    _mm512_store_si512(rounded.as_mut_ptr().cast(), values);
                }
            }
        }
    }

    /// # Safety
    ///
    /// The machine has AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn round_sums(sums: &Sums, rows: usize, step: &mut Step) {
        for (sums, row) in sums.0.iter().zip(step.0.as_flattened_mut()).take(rows) {
            // Safety: 32 values each.
            unsafe {
                let [low, high] = [0, 16].map(|first| _mm512_loadu_ps(sums.as_ptr().add(first)));
                let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_store_si512(row.as_mut_ptr().cast(), rounded);
            }
        }
    }

    /// Rows whose sums are kept in registers: with two vectors of columns 16 of the 32.
    const ROWS: usize = 8;

    /// # Safety
    ///
    /// The machine has AVX512-BF16, and `a` has the length of `b` for each of `sums`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn multiply_avx512(a: &[Step], rows: usize, b: &[Step], ahead: Ahead, sums: &mut [Sums]) {
        let Range { start: mut line, end } = ahead.right.as_ptr_range();
        for (i, (a, sums)) in a.chunks_exact(b.len()).zip(sums).enumerate() {
            for first in (0..BLOCK.min(rows - i * BLOCK)).step_by(ROWS) {
                if let Some((onto, stride)) = ahead.onto {
                    for row in i * BLOCK + first..i * BLOCK + first + ROWS {
                        let row = onto.wrapping_add(row * stride);
                        _mm_prefetch::<_MM_HINT_T0>(row.cast());
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(16).cast());
                    }
                }
                let mut total = [[_mm512_setzero_ps(); 2]; ROWS];
                for (a, b) in a.iter().zip(b) {
                    let a = &a.0[first / 16][first % 16..][..ROWS];
                    for pair in 0..DEPTH / 2 {
                        if line < end {
                            _mm_prefetch::<_MM_HINT_T1>(line.cast());
                            line = line.wrapping_byte_add(64);
                        }
                        // Safety: a row of a tile of the right side is 64 bytes, aligned.
                        let b: [__m512bh; 2] = std::array::from_fn(|i| unsafe {
                            std::mem::transmute(_mm512_load_si512(b.0[i][pair].as_ptr().cast()))
                        });
                        for (total, a) in total.iter_mut().zip(a) {
                            // Safety: two values of 16 bits of a row of 32, which is aligned.
                            let a: __m512bh =
                                unsafe { std::mem::transmute(_mm512_set1_epi32(*a.as_ptr().cast::<i32>().add(pair))) };
                            for (total, b) in total.iter_mut().zip(b) {
                                *total = _mm512_dpbf16_ps(*total, a, b);
                            }
                        }
                    }
                }
                for (total, sums) in total.iter().zip(&mut sums.0[first..]) {
                    for (total, sums) in total.iter().zip(sums.as_chunks_mut::<16>().0) {
                        // Safety: 16 values.
                        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
                    }
                }
            }
        }
    }
}
