//! The kernels that the stages spend their time in, on random data of the sizes of CLIP ViT-L/14
//! where the size is free, and on the embedded CLIP where a checkpoint is needed. `make bench`.

use std::path::Path;

use candle_core::{DType, Device};
use cgil::{
    baseline::{Evidence, Examples, Incremental},
    clip::{Checkpoint, image::Workspace},
    dense::cosine::normalise,
    generator::{Vae, VaeConfig},
    prompt::{PromptConfig, cpu::Prompts},
    rng::{Draw, Rng},
    rows::{Rows, Train},
    task::Class,
};
use divan::{Bencher, counter::ItemsCount};

fn main() {
    // Safety: no other thread runs yet.
    unsafe { cgil::prepare() };
    divan::main();
}

fn demo() -> Checkpoint {
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo/clip")).expect("the embedded CLIP")
}

fn noise(n: usize) -> Vec<f32> {
    Rng::new(0, Draw::Embeddings, &[]).normals(n)
}

/// One step of a VAE on a batch of 64 rows of `dim` values.
#[divan::bench(args = [64, 512, 768])]
fn vae_step(bencher: Bencher, dim: usize) {
    let mut vae = Vae::new(dim, &VaeConfig::DEFAULT, 0, 0);
    let (x, eps) = (noise(64 * dim), noise(64 * 256));
    bencher.counter(ItemsCount::new(64usize)).bench_local(|| vae.step(&x, &eps, 2e-4));
}

/// Loss and gradients of the prompts of `classes` classes, on 128 embeddings, with the embedded
/// CLIP.
#[divan::bench(args = [4, 20, 100])]
fn prompt_step(bencher: Bencher, classes: usize) {
    let checkpoint = demo();
    let tokenizer = checkpoint.tokenizer().expect("tokenizer");
    let encoder = checkpoint.text_encoder(&tokenizer).expect("text encoder");
    let names: Vec<Class> = (0..classes).map(|i| Class { label: i as i64, name: format!("red star {i}") }).collect();
    let embeddings = noise(128 * encoder.dim);
    let mut prompts = Prompts::new(encoder, &tokenizer, &names, &PromptConfig::default(), 0).expect("prompts");
    let labels: Vec<u32> = (0..128).map(|i| i % classes as u32).collect();
    bencher.bench_local(|| prompts.loss(classes, &embeddings, &labels));
}

/// Evidence of classes in 10 tasks: learning each, and scoring 1,000 embeddings after it.
#[divan::bench(args = [100, 1000], sample_count = 1, sample_size = 1)]
fn evidence(bencher: Bencher, classes: usize) {
    const DIM: usize = 768;
    const ROWS: usize = 20;
    let names: Vec<Class> = (0..classes).map(|i| Class { label: i as i64, name: format!("class {i}") }).collect();
    let mut text = noise(classes * DIM);
    normalise(&mut text, DIM);
    let own = noise(classes * ROWS * DIM);
    let rows: Vec<Rows<Train>> = own.chunks_exact(ROWS * DIM).map(|rows| Rows::new(DIM, rows.to_vec())).collect();
    bencher.counter(ItemsCount::new(classes)).bench_local(|| {
        let mut evidence = Evidence::new(text.iter().map(|&x| x.into()).collect(), DIM, 100.0);
        for (names, rows) in names.chunks(classes / 10).zip(rows.chunks(classes / 10)) {
            let task: Vec<Examples> = names.iter().zip(rows).map(|(class, rows)| Examples { class, rows }).collect();
            evidence.learn(&task).expect("rows that can be learned");
            evidence.open_scores(&own[..1000 * DIM], None);
        }
    });
}

/// A batch of images through the embedded CLIP's image encoder, on one thread.
#[divan::bench]
fn encode_batch(bencher: Bencher) {
    let checkpoint = demo();
    let encoder = checkpoint.image_encoder(&Device::Cpu, DType::F32).expect("image encoder");
    let normalisation = checkpoint.preprocess().expect("preprocessing").normalisation();
    let side = checkpoint.config.vision_config.image_size;
    let pixels: Vec<u8> = noise(encoder.batch() * 3 * side * side).iter().map(|x| (x * 64.0 + 128.0) as u8).collect();
    let mut workspace = Workspace::default();
    bencher
        .counter(ItemsCount::new(encoder.batch()))
        .bench_local(|| encoder.encode(&pixels, &normalisation, &mut workspace).expect("embeddings"));
}
