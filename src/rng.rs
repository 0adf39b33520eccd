//! The project's one source of randomness.
//!
//! A stream is named by the run's seed and a key (what is drawn, and for which class, task or
//! epoch), never by the order in which streams are opened: results do not depend on the number
//! of threads, nor on what else is computed beside them.

use crate::dense::vector::{ln, sin_cos, vectorised};

/// What a stream is drawn for: the first part of its key. Where that has a class, it is
/// `Class::key`.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Draw {
    /// Initial weights of a class's VAE; key: class.
    VaeWeights = 1,
    /// Batches and posterior noise of a class's VAE; key: class.
    VaeBatches = 2,
    /// Initial context vectors; key: class.
    Context = 3,
    /// Initial weights of the context generator.
    ContextGenerator = 4,
    /// Rows of the embedding stream; key: task, epoch, class.
    Embeddings = 5,
    /// Order of an epoch's rows; key: task, epoch.
    Batches = 6,
    /// Classes that a step's rows are held against; key: task, epoch, step.
    Candidates = 32,
    /// The random projection of a ridge regression.
    Projection = 12,
    /// Rows that are held out to choose a ridge; key: class.
    HeldOut = 13,
    /// Rows that a linear head is trained on; key: number of classes known, epoch, class.
    ReplayRows = 14,
    /// Order of a linear head's rows; key: number of classes known, epoch.
    ReplayBatches = 15,
    /// Generated rows whose quality is measured; key: class.
    QualityGenerated = 20,
    /// Training rows that are measured beside them; key: class.
    QualityReal = 21,
    /// Rows that a class's mixture begins with; key: class.
    MixtureSeeds = 7,
    /// Initial weights of a class's diffusion model; key: class.
    DiffusionWeights = 8,
    /// Batches, times and noise of a class's diffusion model; key: class.
    DiffusionBatches = 9,
    /// Generated rows by which replay noise is fitted; key: class.
    NoiseRows = 27,
    /// Noise on generated rows; key: task, epoch, class.
    ReplayNoise = 28,
    /// Noise on generated rows whose quality is measured; key: class.
    QualityNoise = 29,
    /// The training rows of a class that are its shots; key: class.
    Shots = 30,
    /// Rows that stand for earlier ones where a class has more; key: class, task.
    EarlierRows = 31,
    /// Initial context vectors that all classes share.
    SharedContext = 25,
    /// Initial weights of the meta-net.
    MetaNet = 26,
}

/// xoshiro256++ (Blackman and Vigna, 2019), seeded through SplitMix64.
///
/// ```
/// use cgil::rng::{Draw, Rng};
/// let mut a = Rng::new(7, Draw::Context, &[0]);
/// let mut b = Rng::new(7, Draw::Context, &[0]);
/// assert_eq!(a.normals(3), b.normals(3));
/// ```
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of `seed` for `draw` and `key`.
    pub fn new(seed: u64, draw: Draw, key: &[u64]) -> Self {
        let mut hash = split_mix(seed);
        for part in std::iter::once(draw as u64).chain(key.iter().copied()) {
            hash = split_mix(hash ^ split_mix(part));
        }
        let state = std::array::from_fn(|i| split_mix(hash.wrapping_add(i as u64)));
        Rng { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), in steps of 2⁻²⁴.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Uniform in 0..n, without bias. Panics if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let bits = self.bits();
            if bits < limit {
                return (bits % n) as usize;
            }
        }
    }

    /// `n` standard normal values (Box and Muller, 1958). Draws an even number, and keeps none.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (0..n.next_multiple_of(2)).map(|_| self.uniform()).collect();
        vectorised(
            #[inline(always)]
            || {
                for pair in values.as_chunks_mut::<2>().0 {
                    let radius = (-2.0 * ln(1.0 - pair[0])).sqrt(); // 1 - u is never 0
                    let (sin, cos) = sin_cos(pair[1]);
                    *pair = [radius * cos, radius * sin];
                }
            },
        );
        values.truncate(n);
        values
    }

    /// A random order of 0..n (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

fn split_mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_the_moments_of_a_standard_normal() {
        let n = 200_000;
        let draws = Rng::new(1, Draw::Embeddings, &[]).normals(n);
        let mean = draws.iter().sum::<f32>() / n as f32;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n as f32;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn streams_differ_by_seed_draw_and_key() {
        let first = |seed, draw, key: &[u64]| Rng::new(seed, draw, key).bits();
        let base = first(0, Draw::VaeWeights, &[1, 2]);
        for other in [
            first(1, Draw::VaeWeights, &[1, 2]),
            first(0, Draw::VaeBatches, &[1, 2]),
            first(0, Draw::VaeWeights, &[2, 1]),
            first(0, Draw::VaeWeights, &[1]),
        ] {
            assert_ne!(base, other);
        }
    }
}
