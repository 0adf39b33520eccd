//! What is learned: context vectors for every class, and the context generator; in one slice, by name.

use std::ops::Range;

use anyhow::{Result, bail};

use crate::{
    rng::{Draw, Rng},
    task::Class,
    tensors::{self, Tensors},
};

/// Positions of the affine maps in the context generator's PyTorch module. A frozen batch norm follows each but the last.
const LINEARS: [usize; 4] = [0, 3, 6, 9];

/// Name of the class contexts, the first of the parameters.
const CONTEXTS: &str = "contexts";

/// 1 / deviation of the context generator's batch norms, frozen at their initial statistics (mean 0,
/// variance 1): a batch of class names has none to use.
pub const FROZEN_NORM: f32 = 0.999_995; // 1 / sqrt(1 + 1e-5)

/// SELU's constants (Klambauer et al., 2017).
pub const SELU_ALPHA: f32 = 1.673_263_2;
pub const SELU_SCALE: f32 = 1.050_701;

/// The trainable parameters of the prompts of C classes. W is the text encoder's width, P the features' dimension.
#[derive(Clone)]
pub struct Parameters {
    pub values: Vec<f32>,
    fields: Vec<Field>,
}

#[derive(Clone)]
struct Field {
    name: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// A layer of the context generator: an affine map, and the scale and shift of the norm that follows it.
pub struct Layer {
    pub weight: Range<usize>, // (O, I)
    pub bias: Range<usize>,   // (O)
    pub norm: Option<[Range<usize>; 2]>,
}

impl Parameters {
    /// Contexts (C, n_ctx, W) from N(0, 0.02²), and a context generator P → P → P → W → W, initialised as PyTorch's layers
    /// are: per affine map weight and bias, uniform in ±1/√inputs; after each of the first three a norm's scale and shift.
    pub fn initial(classes: &[Class], n_ctx: usize, dim: usize, width: usize, seed: u64) -> Self {
        let mut all = Parameters { values: Vec::new(), fields: Vec::new() };
        let contexts = classes
            .iter()
            .flat_map(|class| Rng::new(seed, Draw::Context, &[class.label as u64]).normals(n_ctx * width));
        all.push(CONTEXTS.into(), vec![classes.len(), n_ctx, width], contexts.map(|x| 0.02 * x));

        let mut rng = Rng::new(seed, Draw::ContextGenerator, &[]);
        let sizes = [(dim, dim), (dim, dim), (dim, width), (width, width)];
        for (position, (inputs, out)) in LINEARS.into_iter().zip(sizes) {
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut uniform = |n: usize| -> Vec<f32> { (0..n).map(|_| bound * (2.0 * rng.uniform() - 1.0)).collect() };
            all.push(format!("generator.{position}.weight"), vec![out, inputs], uniform(out * inputs));
            all.push(format!("generator.{position}.bias"), vec![out], uniform(out));
            if position != LINEARS[3] {
                all.push(format!("generator.{}.weight", position + 1), vec![out], vec![1.0; out]);
                all.push(format!("generator.{}.bias", position + 1), vec![out], vec![0.0; out]);
            }
        }
        all
    }

    fn push(&mut self, name: String, shape: Vec<usize>, values: impl IntoIterator<Item = f32>) {
        let start = self.values.len();
        self.values.extend(values);
        self.fields.push(Field { name, shape, range: start..self.values.len() });
    }

    /// Name, shape and place of every parameter.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[usize], Range<usize>)> {
        self.fields.iter().map(|field| (field.name.as_str(), &field.shape[..], field.range.clone()))
    }

    /// The place of the contexts (C, n_ctx, W).
    pub fn contexts(&self) -> Range<usize> {
        self.fields[0].range.clone()
    }

    /// Learned context vectors per class.
    pub fn n_ctx(&self) -> usize {
        self.fields[0].shape[1]
    }

    /// The places of the context generator's layers.
    pub fn layers(&self) -> [Layer; LINEARS.len()] {
        std::array::from_fn(|i| {
            let range = |j: usize| self.fields[1 + 4 * i + j].range.clone();
            let norm = (i + 1 < LINEARS.len()).then(|| [range(2), range(3)]);
            Layer { weight: range(0), bias: range(1), norm }
        })
    }

    /// The values by name, to be stored.
    pub fn tensors(&self) -> Tensors {
        self.fields()
            .map(|(name, shape, range)| (name.to_owned(), (shape.to_vec(), self.values[range].to_vec())))
            .collect()
    }

    /// Sets the values to stored ones.
    pub fn load(&mut self, mut stored: Tensors) -> Result<()> {
        for field in &self.fields {
            let (shape, values) = tensors::take(&mut stored, &field.name)?;
            if shape != field.shape {
                bail!("tensor {:?} should have shape {:?}, but has {shape:?}", field.name, field.shape);
            }
            self.values[field.range.clone()].copy_from_slice(&values);
        }
        Ok(())
    }
}
