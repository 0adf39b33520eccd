//! Test images against a classifier that has learned some of the classes.

use anyhow::{Result, bail};

use crate::{
    dense::{
        product::{Matrix, Product, Threads},
        vector::dot,
    },
    table::embeddings::Embeddings,
    task::Curriculum,
};

/// Images scored at a time.
const BATCH: usize = 4096;

/// The test images of a run, in the source's order.
pub struct TestSet {
    pub sample_ids: Vec<String>,
    /// Position of each image's class in learning order.
    pub classes: Vec<usize>,
    /// Embeddings (N, D), flat, as the image encoder gives them.
    pub embeddings: Vec<f32>,
    /// Values per embedding, D.
    pub dim: usize,
}

/// What a classifier says of an image. Classes are positions in learning order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The class with the highest score: for an image of a seen class among the seen ones, else among all.
    pub class: usize,
    /// Its score.
    pub score: f32,
    /// The class with the highest score among those of the image's own task, as if the task were known.
    pub in_task: usize,
    /// For an image of an unseen class: the class, where text features of unseen classes keep their length, as in the
    /// authors' code; none where the length is not known.
    pub raw: Option<usize>,
}

/// Text features (C, D) of all classes, which score those that are not seen.
#[derive(Clone, Copy)]
pub struct ZeroShot<'a> {
    pub features: &'a [f32],
    /// Whether they have the length that the encoder gives them.
    pub is_raw: bool,
}

/// Scores (N, n) of N embeddings for the n seen classes.
pub struct Scores {
    /// Those that unseen classes are compared with: where there are such, cosines.
    pub open: Vec<f32>,
    /// Those that decide among the seen classes, if not the same ones.
    pub seen: Option<Vec<f32>>,
}

impl From<Vec<f32>> for Scores {
    fn from(open: Vec<f32>) -> Self {
        Scores { open, seen: None }
    }
}

impl TestSet {
    /// The test images; every task needs some.
    pub fn read(embeddings: &Embeddings, curriculum: &Curriculum) -> Result<Self> {
        let rows = embeddings.read("test", |_| true)?;
        let class = |label: &i64| curriculum.position(*label);
        let classes = rows.labels.iter().map(class).collect::<Result<_>>()?;
        let dim = embeddings.manifest.dim;
        let test = TestSet { sample_ids: rows.sample_ids, classes, embeddings: rows.embeddings, dim };
        if let Some(task) = test.per_task(curriculum).iter().position(|&images| images == 0) {
            let names: Vec<&str> = curriculum.classes[curriculum.task(task)].iter().map(|c| c.name.as_str()).collect();
            bail!(
                "task {} has no test images to be scored on: add some of {}, or use fewer tasks",
                task + 1,
                names.join(", ")
            );
        }
        Ok(test)
    }

    /// Images of each task.
    pub fn per_task(&self, curriculum: &Curriculum) -> Vec<usize> {
        let mut images = vec![0; curriculum.tasks()];
        for &class in &self.classes {
            images[curriculum.task_of(class)] += 1;
        }
        images
    }
}

/// Predicts every test image's class after `learned` tasks. `scores` takes embeddings (N, D) to scores for the n seen
/// classes; it is not called before the first task. Images of unseen classes are predicted where `zero_shot` is given: the
/// open scores say whether the class is a seen one, and then those for seen classes say which.
pub fn evaluate(
    test: &TestSet,
    curriculum: &Curriculum,
    learned: usize,
    zero_shot: Option<ZeroShot>,
    mut scores: impl FnMut(&[f32]) -> Result<Scores>,
) -> Result<Vec<Option<Prediction>>> {
    let (d, all) = (test.dim, curriculum.classes.len());
    let seen = if learned > 0 { curriculum.seen(learned - 1) } else { 0 };
    let unseen = zero_shot.map_or(&[][..], |zero_shot| &zero_shot.features[seen * d..]); // (C - n, D)
    let lengths: Vec<f32> = unseen.chunks_exact(d).map(|row| dot(row, row).sqrt()).collect();

    let mut predictions = Vec::with_capacity(test.classes.len());
    for (images, classes) in test.embeddings.chunks(BATCH * d).zip(test.classes.chunks(BATCH)) {
        let learned = if seen > 0 { scores(images)? } else { Vec::new().into() }; // (rows, n)
        let decisive = learned.seen.as_ref().unwrap_or(&learned.open); // (rows, n)
        let mut others = vec![0.0; classes.len() * lengths.len()]; // (rows, C - n)
        Product::on(Threads::All).into(&mut others, lengths.len(), Matrix::new(images, d), Matrix::new(unseen, d).t());
        for (i, &class) in classes.iter().enumerate() {
            let among_seen = &decisive[i * seen..(i + 1) * seen];
            if class >= seen && zero_shot.is_none() {
                predictions.push(None);
                continue;
            }
            let own = &curriculum.task(curriculum.task_of(class));
            if class < seen {
                require_finite(among_seen)?;
                let (class, score) = highest(among_seen, 0..seen);
                let in_task = highest(among_seen, own.clone()).0;
                predictions.push(Some(Prediction { class, score, in_task, raw: None }));
                continue;
            }
            let image = &images[i * d..(i + 1) * d];
            let length = dot(image, image).sqrt();
            let raw = others[i * lengths.len()..][..lengths.len()].iter().map(|x| x / length);
            let mut row = learned.open[i * seen..(i + 1) * seen].to_vec();
            row.extend(raw.clone());
            require_finite(&row)?;
            let answer = |row: &[f32]| match highest(row, 0..all) {
                (class, score) if class < seen => (highest(among_seen, 0..seen).0, score),
                unseen => unseen,
            };
            let with_length = answer(&row).0;
            row.truncate(seen);
            row.extend(raw.zip(&lengths).map(|(x, length)| x / length));
            let (class, score) = answer(&row);
            let in_task = highest(&row, own.clone()).0;
            let raw = zero_shot.is_some_and(|zero_shot| zero_shot.is_raw).then_some(with_length);
            predictions.push(Some(Prediction { class, score, in_task, raw }));
        }
    }
    Ok(predictions)
}

/// The first of the highest scores within `range`.
fn highest(scores: &[f32], range: std::ops::Range<usize>) -> (usize, f32) {
    let first = (range.start, f32::NEG_INFINITY);
    range.fold(first, |best, i| if scores[i] > best.1 { (i, scores[i]) } else { best })
}

fn require_finite(scores: &[f32]) -> Result<()> {
    if scores.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    bail!("the classifier's scores are not finite: use a smaller --lr, or look whether the checkpoint is whole")
}
