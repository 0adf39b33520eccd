//! The instructions that multiply in bfloat16, and what they do to tiles. All that is unsafe about
//! products in bfloat16 is here.

use std::{marker::PhantomData, ops::Range};

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

/// As long as it is there, this thread may multiply.
pub struct Tiles {
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    unit: Unit,
    of_this_thread: PhantomData<*const ()>,
}

impl Tiles {
    /// `sums` = a block of the left side, of which the first `rows` rows count, times the block `b` of
    /// the right side. Meanwhile `between` is called for parts of 0..32, in order. A sum is added up in
    /// the same order whatever stands beside it.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, unused_mut))]
    pub fn multiply(
        &self,
        a: &[Step],
        rows: usize,
        b: &[Step],
        ahead: Ahead,
        sums: &mut Sums,
        mut between: impl FnMut(Range<usize>),
    ) {
        assert!(!b.is_empty() && a.len() == b.len() && (1..=BLOCK).contains(&rows));
        // Safety: this machine has the instructions, since nothing else makes a unit, tiles are
        // configured, and the lengths were checked.
        match self.unit.0 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Instructions::Amx => unsafe { x86::multiply_amx(a, b, ahead, sums, between) },
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => {
                unsafe { x86::multiply_avx512(a, rows, b, ahead, sums) };
                between(0..BLOCK);
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self.unit.0 == Instructions::Amx {
            // Safety: there are tiles, since they were configured.
            unsafe { x86::release_tiles() };
        }
    }
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

    /// Lets this thread multiply, until what is returned is dropped.
    pub fn tiles(self) -> Tiles {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self.0 == Instructions::Amx {
            // Safety: this machine has AMX and this process may use it, since nothing else makes a unit.
            unsafe { x86::configure_tiles() };
        }
        Tiles { unit: self, of_this_thread: PhantomData }
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

    /// Rounds up to 16 rows, and zeros for what there are fewer, into the tile `tile` of steps of the
    /// right side, as columns. `room` holds as many steps.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn round_transposed(self, x: &[&[f32]], tile: usize, steps: &mut [Step], room: &mut [Step]) {
        assert!(x.len() <= 16 && room.len() == steps.len());
        self.round(x, room, 0);
        for (step, rounded) in steps.iter_mut().zip(room) {
            rounded.0[0][x.len()..].fill([bf16::ZERO; DEPTH]);
            // Safety: this machine has the instructions.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                x86::transpose(&rounded.0[0], &mut step.0[tile]);
            }
        }
    }

    /// Rounds two rows of as many values into the pair `pair` of blocks of the right side, whose first
    /// steps are `stride` apart.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn round_pair(self, x: [&[f32]; 2], pair: usize, steps: &mut [Step], stride: usize) {
        assert!(x[0].len() == x[1].len() && x[0].len().div_ceil(BLOCK) <= steps.len().div_ceil(stride));
        // Safety: this machine has the instructions, and the lengths were checked.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            x86::round_pair(x, pair, steps, stride);
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

    /// What comes between two maps is made, and multiplied, so many values at a time.
    pub fn values_at_once(self) -> usize {
        match self.0 {
            // so that they stay in the second cache beside what they are added to
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Instructions::Amx => 1536,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => usize::MAX,
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
    /// this one meets the left side's block `i`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn ahead(self, i: usize, steps: usize) -> Range<usize> {
        match self.0 {
            // an eighth with each of eight blocks
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Instructions::Amx => (i * steps / 8).min(steps)..steps,
            // all with the first block, which may be the only one
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => (i.min(1) * steps)..steps,
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

    use half::bf16;

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
    /// The machine has AMX and this process may use it.
    #[cfg(target_os = "linux")]
    pub unsafe fn configure_tiles() {
        // Safety: reads 64 bytes.
        unsafe { asm!("ldtilecfg [{tiles}]", tiles = in(reg) &TILES, options(nostack)) };
    }

    /// # Safety
    ///
    /// The machine has AMX and this process may use it.
    #[cfg(target_os = "linux")]
    pub unsafe fn release_tiles() {
        // Safety: touches no memory.
        unsafe { asm!("tilerelease", options(nostack)) };
    }

    /// # Safety
    ///
    /// Tiles are configured, and `a` is as long as `b`.
    #[inline(always)]
    #[cfg(target_os = "linux")]
    pub unsafe fn multiply_amx(
        a: &[Step],
        b: &[Step],
        ahead: Ahead,
        sums: &mut Sums,
        mut between: impl FnMut(Range<usize>),
    ) {
        let mut line = ahead.right.as_ptr().cast::<u8>();
        let (steps, mut due, mut done) = (b.len(), 0, 0); // rows of the block before, times steps
        // Safety: reads a step of each side, 2 KB, at a time, and writes the block of sums, 4 KB; a
        // prefetch of any address does no harm. Nothing else keeps anything in tiles.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
            for (a, b) in a.iter().zip(b) {
                asm!(
                    "tileloadd tmm4, [{a} + {stride}]",
                    "tileloadd tmm6, [{b} + {stride}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {stride} + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a} + {stride} + 1024]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "prefetcht1 [{ahead}]",
                    "prefetcht1 [{ahead} + 64]",
                    "prefetcht1 [{ahead} + 128]",
                    "prefetcht1 [{ahead} + 192]",
                    a = in(reg) a,
                    b = in(reg) b,
                    ahead = in(reg) line,
                    stride = in(reg) 64usize,
                    options(nostack)
                );
                line = line.wrapping_add(256);
                due += BLOCK;
                if due - done >= steps {
                    let rows = done / steps..due / steps;
                    done = rows.end * steps;
                    if let Some((onto, stride)) = ahead.onto {
                        for row in rows.clone() {
                            let onto = onto.wrapping_add(row * stride);
                            _mm_prefetch::<_MM_HINT_T0>(onto.cast());
                            _mm_prefetch::<_MM_HINT_T0>(onto.wrapping_add(16).cast());
                        }
                    }
                    between(rows);
                }
            }
            debug_assert_eq!(done, BLOCK * steps);
            asm!(
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                "tilestored [{sums} + {stride} + 2048], tmm2",
                "tilestored [{sums} + {stride} + 2112], tmm3",
                sums = in(reg) sums,
                stride = in(reg) 128usize,
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

    /// 16 rows of 16 pairs to 16 pairs of 16 columns.
    ///
    /// # Safety
    ///
    /// The machine has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose(from: &[[bf16; DEPTH]; 16], to: &mut [[bf16; DEPTH]; 16]) {
        // Safety: 64 bytes each.
        let r: [__m512i; 16] = std::array::from_fn(|i| unsafe { _mm512_loadu_si512(from[i].as_ptr().cast()) });
        let mut s = r; // pairs of two rows side by side, then of four
        for i in 0..8 {
            s[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            s[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        let mut t = s;
        for i in (0..16).step_by(4) {
            for j in 0..2 {
                t[i + 2 * j] = _mm512_unpacklo_epi64(s[i + j], s[i + j + 2]);
                t[i + 2 * j + 1] = _mm512_unpackhi_epi64(s[i + j], s[i + j + 2]);
            }
        }
        for j in 0..4 {
            // of four quarters the even and the odd ones
            let even = [0, 8].map(|i| _mm512_shuffle_i32x4::<0x88>(t[i + j], t[i + j + 4]));
            let odd = [0, 8].map(|i| _mm512_shuffle_i32x4::<0xdd>(t[i + j], t[i + j + 4]));
            let columns = [
                (j, _mm512_shuffle_i32x4::<0x88>(even[0], even[1])),
                (j + 4, _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1])),
                (j + 8, _mm512_shuffle_i32x4::<0xdd>(even[0], even[1])),
                (j + 12, _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1])),
            ];
            for (pair, column) in columns {
                // Safety: 64 bytes.
                unsafe { _mm512_storeu_si512(to[pair].as_mut_ptr().cast(), column) };
            }
        }
    }

    /// # Safety
    ///
    /// The machine has AVX512-BF16, both rows have as many values, and there is a step for each 32 of
    /// them, `stride` apart.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn round_pair(x: [&[f32]; 2], pair: usize, steps: &mut [Step], stride: usize) {
        for (i, at) in (0..x[0].len()).step_by(16).enumerate() {
            let values = (x[0].len() - at).min(16);
            // Safety: no more than there are values is read, and a row of a tile is 64 bytes, aligned.
            unsafe {
                let [first, second] = x.map(|x| {
                    let x = _mm512_maskz_loadu_ps(((1u32 << values) - 1) as u16, x.as_ptr().add(at));
                    _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)))
                });
                let both = _mm512_or_si512(first, _mm512_slli_epi32::<16>(second));
                _mm512_store_si512(steps[i / 2 * stride].0[i % 2][pair].as_mut_ptr().cast(), both);
            }
        }
    }

    /// Rows whose sums are kept in registers: with two vectors of columns 16 of the 32.
    const ROWS: usize = 8;

    /// # Safety
    ///
    /// The machine has AVX512-BF16, and `a` is as long as `b`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn multiply_avx512(a: &[Step], rows: usize, b: &[Step], ahead: Ahead, sums: &mut Sums) {
        let Range { start: mut line, end } = ahead.right.as_ptr_range();
        for first in (0..rows).step_by(ROWS) {
            if let Some((onto, stride)) = ahead.onto {
                for row in first..first + ROWS {
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
