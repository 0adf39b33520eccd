//! What is learned: context vectors, and the networks that make or shift them; in one slice, by
//! name.

use std::ops::Range;

use anyhow::{Result, bail};

use super::{Context, PromptConfig};
use crate::{
    dense::layers::BATCH_NORM_EPS,
    rng::{Draw, Rng},
    task::Class,
    tensors::{self, Tensors},
};

/// Positions of the affine maps in the context generator's PyTorch module. A frozen batch norm
/// follows each but the last.
const GENERATOR: [usize; 4] = [0, 3, 6, 9];

/// Positions of the affine maps in the meta-net's PyTorch module.
const META_NET: [usize; 2] = [0, 2];

/// How many times fewer values the meta-net's hidden layer has than an embedding.
const META_NET_SHRINKS: usize = 16;

/// Name of the learned context vectors, the first of the parameters where there are some.
const CONTEXTS: &str = "contexts";

/// 1 / deviation of the context generator's batch norms, frozen at their initial statistics (mean
/// 0, variance 1): a batch of class names has none to use.
pub(crate) const FROZEN_NORM: f32 = 1.0 - BATCH_NORM_EPS / 2.0; // 1 / √(1 + eps), but for less than float32 resolves

/// SELU's constants (Klambauer et al., 2017).
pub(crate) const SELU_ALPHA: f32 = 1.673_263_2;
/// SELU's scale.
pub(crate) const SELU_SCALE: f32 = 1.050_701;

/// The trainable parameters of the prompts of C classes. W is the text encoder's width, P the
/// features' dimension.
#[derive(Clone)]
pub struct Parameters {
    /// All of them, flat.
    pub values: Vec<f32>,
    fields: Vec<Field>,
}

#[derive(Clone)]
struct Field {
    name: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Field {
    /// Shape and place of what is of the first `n` classes, where classes have something of their
    /// own; else of all.
    fn of_classes(&self, n: usize) -> (Vec<usize>, Range<usize>) {
        let mut shape = self.shape.clone();
        if self.name == CONTEXTS && shape[0] > 1 {
            shape[0] = n.min(shape[0]);
        }
        let values = shape.iter().product::<usize>();
        (shape, self.range.start..self.range.start + values)
    }
}

/// A layer: an affine map, and the scale and shift of the norm that may follow it.
pub(crate) struct Layer {
    /// Weights (O, I).
    pub weight: Range<usize>,
    /// Offsets (O).
    pub bias: Range<usize>,
    /// Scale and shift (O) of the norm.
    pub norm: Option<[Range<usize>; 2]>,
}

impl Parameters {
    /// As `config` asks for, the affine maps initialised as PyTorch's:
    ///
    /// - contexts (C, n_ctx, W), of classes that share them (1, n_ctx, W), from N(0, 0.02²);
    /// - a context generator P → P → P → W → G·W for G vectors, with a norm's scale and shift after
    ///   each of the first three;
    /// - a meta-net P → P / 16 → W.
    pub fn initial(classes: &[Class], config: &PromptConfig, dim: usize, width: usize, seed: u64) -> Self {
        let mut all = Parameters { values: Vec::new(), fields: Vec::new() };
        let contexts: Vec<Vec<f32>> = match config.context {
            Context::Class | Context::Combined => classes
                .iter()
                .map(|class| Rng::new(seed, Draw::Context, &[class.key()]).normals(config.n_ctx * width))
                .collect(),
            Context::General | Context::Image => {
                vec![Rng::new(seed, Draw::SharedContext, &[]).normals(config.n_ctx * width)]
            }
            Context::Generated => Vec::new(),
        };
        if !contexts.is_empty() {
            let shape = vec![contexts.len(), config.n_ctx, width];
            all.push(CONTEXTS.into(), shape, contexts.into_iter().flatten().map(|x| 0.02 * x));
        }
        if config.generated() > 0 {
            let mut rng = Rng::new(seed, Draw::ContextGenerator, &[]);
            let sizes = [(dim, dim), (dim, dim), (dim, width), (width, config.generated() * width)];
            for (position, (inputs, out)) in GENERATOR.into_iter().zip(sizes) {
                all.push_affine(&format!("generator.{position}"), inputs, out, &mut rng);
                if position != GENERATOR[3] {
                    all.push(format!("generator.{}.weight", position + 1), vec![out], vec![1.0; out]);
                    all.push(format!("generator.{}.bias", position + 1), vec![out], vec![0.0; out]);
                }
            }
        }
        if config.context == Context::Image {
            let (mut rng, hidden) = (Rng::new(seed, Draw::MetaNet, &[]), (dim / META_NET_SHRINKS).max(1));
            for (position, (inputs, out)) in META_NET.into_iter().zip([(dim, hidden), (hidden, width)]) {
                all.push_affine(&format!("meta_net.{position}"), inputs, out, &mut rng);
            }
        }
        all
    }

    /// Weight and bias, uniform in ±1/√inputs.
    fn push_affine(&mut self, name: &str, inputs: usize, out: usize, rng: &mut Rng) {
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut uniform = |n: usize| -> Vec<f32> { (0..n).map(|_| bound * (2.0 * rng.uniform() - 1.0)).collect() };
        self.push(format!("{name}.weight"), vec![out, inputs], uniform(out * inputs));
        self.push(format!("{name}.bias"), vec![out], uniform(out));
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

    /// The place of the contexts (C, n_ctx, W) or (1, n_ctx, W), at the start; empty where none are
    /// learned.
    pub fn contexts(&self) -> Range<usize> {
        self.place(CONTEXTS).unwrap_or(0..0)
    }

    /// Bytes of what `n` of `classes` classes need: their own contexts, and what classes share.
    pub fn bytes(&self, n: usize, classes: usize, config: &PromptConfig) -> usize {
        let contexts = self.contexts().len();
        let own = if config.context.is_shared() { contexts } else { contexts / classes * n };
        (self.values.len() - contexts + own) * size_of::<f32>()
    }

    /// The places of the context generator's layers.
    pub(crate) fn generator(&self) -> Vec<Layer> {
        self.layers("generator", &GENERATOR)
    }

    /// The places of the meta-net's layers.
    pub(crate) fn meta_net(&self) -> Vec<Layer> {
        self.layers("meta_net", &META_NET)
    }

    /// The layers of a network that are there.
    fn layers(&self, network: &str, positions: &[usize]) -> Vec<Layer> {
        let layer = |&position: &usize| {
            let place = |position: usize, part: &str| self.place(&format!("{network}.{position}.{part}"));
            let norm = place(position + 1, "weight").zip(place(position + 1, "bias"));
            let (weight, bias) = (place(position, "weight")?, place(position, "bias")?);
            Some(Layer { weight, bias, norm: norm.map(|(scale, shift)| [scale, shift]) })
        };
        positions.iter().filter_map(layer).collect()
    }

    fn place(&self, name: &str) -> Option<Range<usize>> {
        Some(self.fields.iter().find(|field| field.name == name)?.range.clone())
    }

    /// The values by name, to be stored: of contexts that classes have of their own, those of the
    /// first `n` classes.
    pub fn tensors(&self, n: usize) -> Tensors {
        let tensor = |field: &Field| {
            let (shape, range) = field.of_classes(n);
            (field.name.clone(), (shape, self.values[range].to_vec()))
        };
        self.fields.iter().map(tensor).collect()
    }

    /// Sets the values to those that [`Parameters::tensors`] gave of the first `n` classes.
    /// Contexts of others stay.
    pub fn load(&mut self, mut stored: Tensors, n: usize) -> Result<()> {
        for field in &self.fields {
            let (expected, range) = field.of_classes(n);
            let (shape, values) = tensors::take(&mut stored, &field.name)?;
            if shape != expected {
                bail!("tensor {:?} should have shape {expected:?}, but has {shape:?}", field.name);
            }
            self.values[range].copy_from_slice(&values);
        }
        Ok(())
    }
}
