//! Classifies two pictures by the names of classes, with a CLIP checkpoint and nothing else: no run
//! and no tables.
//!
//! `cargo run --release --no-default-features --example classify`

use std::path::Path;

use anyhow::{Context, Result};
use cgil::{
    clip::{Checkpoint, image::Workspace},
    dense::{cosine, softmax::log_softmax},
    device::{DeviceChoice, Precision},
    source::{Source, SourceOptions},
    texts,
};

/// A picture's class, and the one that the texts say it is.
pub struct Guess {
    pub class: String,
    pub guess: String,
    pub probability: f32,
}

pub fn main() -> Result<()> {
    for Guess { class, guess, probability } in classify()? {
        println!("a {class}: {guess:?}, {:.0} %", 100.0 * probability);
    }
    Ok(())
}

/// The first test picture of the demo, and the one in the middle.
pub fn classify() -> Result<[Guess; 2]> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo");
    let checkpoint = Checkpoint::open(&demo.join("clip"))?;
    let (preprocess, tokenizer) = (checkpoint.preprocess()?, checkpoint.tokenizer()?);
    let encoder = checkpoint.image_encoder(&DeviceChoice::Cpu.open_one()?, Precision::Float32.dtype())?;
    let source = Source::open(&demo.join("pictures"), &SourceOptions::default())?;

    let prompts: Vec<String> = source.classes.iter().map(|class| texts::fill(texts::TEMPLATE, class)).collect();
    let text_encoder = checkpoint.text_encoder(&tokenizer)?;
    let mut keys = text_encoder.features(&tokenizer, &prompts)?; // (C, P)
    cosine::normalise(&mut keys, text_encoder.dim);

    let classify = |row: usize| -> Result<Guess> {
        let picture = source.read("test", row..row + 1)?.next().context("no such picture")??;
        let pixels = preprocess.pixels(&picture.image.map_err(anyhow::Error::msg)?)?; // (1, S, S, 3)
        let embedding = encoder.encode(&pixels, &preprocess.normalisation(), &mut Workspace::default())?; // (1, P)

        let mut scores = cosine::cosines(&embedding, &keys, encoder.dim()); // (1, C)
        scores.iter_mut().for_each(|score| *score *= text_encoder.logit_scale);
        log_softmax(&mut scores, source.classes.len());
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).context("no class")?;
        let class = source.classes.iter().find(|class| class.label == picture.label).context("no such class")?;
        Ok(Guess {
            class: texts::spoken(class),
            guess: texts::spoken(&source.classes[best]),
            probability: scores[best].exp(),
        })
    };
    Ok([classify(0)?, classify(source.rows["test"] / 2)?])
}
