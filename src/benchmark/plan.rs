//! What there is to compute for a benchmark, before any of it is.

use std::time::Instant;

use super::Benchmark;
use crate::{
    clip::Config,
    dense::product::{Matrix, Product, Threads},
    generator::VaeConfig,
    prompt::PromptConfig,
    rows::{Split, Train},
};

/// Tokens of a class's name in its prompt, with start and end, about.
const TOKENS_OF_A_NAME: usize = 8;

/// What there is to compute, all seeds and methods together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Images to be encoded.
    pub images: usize,
    /// Rows that pass through generators that are fitted.
    pub generator_rows: usize,
    /// Steps of prompts that are trained.
    pub prompt_steps: usize,
    /// Prompts that these encode, forwards and backwards.
    pub prompts: usize,
}

/// Multiply-adds of each.
#[derive(Clone, Copy, Debug)]
pub struct MultiplyAdds {
    /// Of the images.
    pub images: f64,
    /// Of the generators.
    pub generators: f64,
    /// Of the prompts.
    pub prompts: f64,
}

impl Benchmark {
    /// The work on data of so many rows in each split, of so many classes.
    pub fn work(&self, rows: impl Fn(&str) -> usize, classes: usize) -> Work {
        let images = crate::rows::SPLITS.into_iter().map(&rows).sum();
        let sizes = self.cut().sizes(classes).unwrap_or_default();
        Work { images, ..Work::of_methods(&self.methods, &self.fit_vae, self.seeds.len(), &sizes, rows(Train::NAME)) }
    }
}

impl Work {
    /// Of methods under so many seeds, on tasks of these numbers of classes and so many training rows;
    /// `fit_vae` has options of the generators.
    pub fn of_methods(methods: &[String], fit_vae: &str, seeds: usize, sizes: &[usize], rows: usize) -> Self {
        let epochs = option(fit_vae, "epochs").unwrap_or(VaeConfig::DEFAULT.epochs);
        let trained: Vec<&String> = methods.iter().filter(|method| is_trained(method)).collect();
        let mut work = Work::default();
        if trained.iter().any(|method| method.starts_with("cgil")) {
            work.generator_rows = rows * epochs * seeds;
        }
        let default = PromptConfig::default();
        for method in trained {
            let of = |key: &str, default: usize| option(method, key).unwrap_or(default);
            let (epochs, samples) = (of("epochs", default.epochs), of("samples", default.samples));
            let batch_size = of("batch-size", default.batch_size);
            let mut seen = 0;
            for size in sizes {
                seen += size;
                let steps = seeds * epochs * (seen * samples).div_ceil(batch_size);
                work.prompt_steps += steps;
                work.prompts += steps * seen.min(of("classes-per-step", seen).max(batch_size.min(seen)));
            }
        }
        work
    }

    /// The multiply-adds of the work with a CLIP of these sizes.
    pub fn multiply_adds(&self, config: &Config) -> MultiplyAdds {
        let block = |width: usize, intermediate: usize, tokens: usize| {
            (4 * width * width + 2 * width * intermediate) as f64 * tokens as f64
                + 2.0 * (tokens * tokens * width) as f64
        };
        let (vision, text) = (&config.vision_config, &config.text_config);
        let patches = (vision.image_size / vision.patch_size.max(1)).pow(2);
        let image = vision.num_hidden_layers as f64 * block(vision.hidden_size, vision.intermediate_size, patches + 1);
        let tokens = PromptConfig::default().vectors() + TOKENS_OF_A_NAME;
        let prompt = text.num_hidden_layers as f64 * block(text.hidden_size, text.intermediate_size, tokens);
        let VaeConfig { hidden, latent, .. } = VaeConfig::DEFAULT;
        let vae = 2 * hidden * (config.projection_dim + hidden) + 3 * hidden * latent;
        MultiplyAdds {
            images: self.images as f64 * image,
            // backwards, a product with the weights and one with the rows
            generators: self.generator_rows as f64 * 3.0 * vae as f64,
            // whose weights are frozen
            prompts: self.prompts as f64 * 2.0 * prompt,
        }
    }
}

/// Multiply-adds a second of this machine's CPU, measured for a tenth of one.
pub fn multiply_adds_per_second() -> f64 {
    const SIDE: usize = 768;
    let (a, b) = (vec![1.0f32; SIDE * SIDE], vec![1.0f32; SIDE * SIDE]);
    let mut out = vec![0.0f32; SIDE * SIDE];
    let (start, mut products) = (Instant::now(), 0);
    while products < 2 || start.elapsed().as_millis() < 100 {
        Product::on(Threads::All).into(&mut out, SIDE, Matrix::new(&a, SIDE), Matrix::new(&b, SIDE));
        products += 1;
    }
    std::hint::black_box(&out);
    (products * SIDE * SIDE * SIDE) as f64 / start.elapsed().as_secs_f64()
}

/// Whether prompts are trained for a method.
fn is_trained(method: &str) -> bool {
    ["cgil", "joint", "finetune"].contains(&method.split(',').next().unwrap_or_default())
}

/// A number among options such as `lr=0.05,epochs=60`.
fn option(options: &str, key: &str) -> Option<usize> {
    options.split(',').filter_map(|option| option.split_once('=')).find(|(own, _)| *own == key)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_a_recipe_is_counted() {
        let (name, text) = Benchmark::text("isic").unwrap();
        let mut benchmark = Benchmark::parse(&name, &text).unwrap();
        benchmark.seeds.truncate(2);
        benchmark.methods = vec!["cgil,epochs=3,samples=10,batch-size=16".into(), "lda".into()];
        let work = benchmark.work(|split| if split == "train" { 100 } else { 30 }, 6);
        // steps of an epoch: 20, 40 and 60 rows in batches of 16; of each seed 3 epochs
        let (steps, prompts) = (2 * 3 * (2 + 3 + 4), 2 * 3 * (2 * 2 + 3 * 4 + 4 * 6));
        assert_eq!(work, Work { images: 130, generator_rows: 100 * 750 * 2, prompt_steps: steps, prompts });
        benchmark.methods.remove(0);
        assert_eq!(benchmark.work(|_| 5, 6), Work { images: 10, ..Work::default() });
    }
}
