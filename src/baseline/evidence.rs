//! Evidence from class statistics, beside text: counts, means and one scatter of unit rows, means
//! shrunk towards what their text predicts, and a heavy-tailed log ratio to the background. How far
//! the covariance is shrunk, what the evidence weighs and how unseen classes are told is chosen by
//! leaving out rows of the current task, and from sums of hits on earlier ones. No row is kept.

mod map;
mod model;

use anyhow::{Result, bail, ensure};

use self::{
    map::{Text, product},
    model::{Model, Spread},
};
use super::{
    classifier::{Classifier, Examples, State, Stored, take},
    statistics::ClassStatistics,
};
use crate::{dense::product::Matrix, evaluate::Scores};

/// Least shrinkages that are tried, each not below oracle approximating shrinkage.
const SHRINKAGES: [f64; 5] = [0.0, 0.1, 0.2, 0.3, 0.5];

/// Weights of the evidence that are tried, where text counts 1.
const WEIGHTS: [f64; 12] = [0.05, 0.07, 0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 2.0, 4.0, 16.0];

/// Biases of unseen classes that are tried: from −4 in halves.
const BIASES: usize = 41;

/// What the evidence weighs where seen and unseen classes are told apart.
const GATE: f64 = 0.05;

/// Classes from which on text predicts means.
const FEWEST_FOR_TEXT: usize = 4;

/// Rows that are judged at a time.
const BATCH: usize = 1024;

fn bias_at(place: usize) -> f64 {
    -4.0 + 0.5 * place as f64
}

/// What was chosen after a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// How far the covariance is shrunk towards a multiple of the identity, 0 to 1.
    pub shrinkage: f64,
    /// What the evidence weighs among seen classes, where text counts 1.
    pub weight: f64,
    /// What unseen classes' logits are raised by.
    pub bias: f64,
}

/// Text and class statistics of classes that are learned task by task.
pub struct Evidence {
    statistics: ClassStatistics, // of unit rows
    text: Vec<f64>,              // (C, D), of length 1, in learning order
    logit_scale: f64,
    tally: Tally,
    chosen: Chosen,
    model: Option<Model>,
}

/// Sums of hits, over the rows or the tasks so far.
#[derive(Clone)]
struct Tally {
    hits: Vec<f64>,   // (shrinkages, weights), rows
    unseen: Vec<f64>, // (biases), shares of the rows of a task before it was learned, over tasks
    seen: Vec<f64>,   // (biases), shares of the rows of a task after that, each left out, over tasks
    tasks: [f64; 2],  // that `unseen` and `seen` are sums over
}

/// Scores of rows, of text and evidence together.
struct Together {
    seen: Vec<f64>, // (N, n), among the seen classes
    all: Vec<f64>,  // (N, C), over all classes, by which seen and unseen ones are told apart
}

impl Evidence {
    /// For the classes whose zero-shot text features are `text` (C, D), of length 1, in the order
    /// in which they will be learned. `logit_scale` is what cosines are multiplied with.
    pub fn new(text: Vec<f64>, dim: usize, logit_scale: f64) -> Self {
        Evidence {
            statistics: ClassStatistics::new(dim),
            text,
            logit_scale,
            tally: Tally {
                hits: vec![0.0; SHRINKAGES.len() * WEIGHTS.len()],
                unseen: vec![0.0; BIASES],
                seen: vec![0.0; BIASES],
                tasks: [0.0; 2],
            },
            chosen: Chosen { shrinkage: 0.0, weight: 0.25, bias: 4.0 },
            model: None,
        }
    }

    /// What was chosen after the last task.
    pub fn chosen(&self) -> Chosen {
        self.chosen
    }

    /// Learns the unit rows of the next classes: (N, D) of each.
    fn learn_rows(&mut self, classes: &[&[f64]]) -> Result<()> {
        let (dim, before) = (self.statistics.dim(), self.seen());
        let rows = classes.concat(); // (N, D)
        let truth: Vec<usize> =
            (before..).zip(classes).flat_map(|(class, rows)| vec![class; rows.len() / dim]).collect(); // (N)
        if let Some(model) = &self.model
            && before >= FEWEST_FOR_TEXT
        {
            let hits = self.unseen_hits(model, &rows, &truth);
            self.tally.unseen.iter_mut().zip(hits).for_each(|(sum, hits)| *sum += hits / truth.len() as f64);
            self.tally.tasks[0] += 1.0;
        }
        self.statistics.add(classes);
        let spread = Spread::of(&self.statistics)?;
        let mut models: Vec<(f64, Model)> = Vec::new();
        let map = self.map()?;
        let places: Vec<usize> = SHRINKAGES
            .iter()
            .map(|least| {
                let shrinkage = least.max(spread.oas);
                models.iter().position(|(there, _)| *there == shrinkage).unwrap_or_else(|| {
                    models.push((shrinkage, self.fit(&spread, shrinkage, map.as_ref())));
                    models.len() - 1
                })
            })
            .collect();
        let judged = self.judge(&models, &rows, &truth);
        for (hits, &place) in self.tally.hits.chunks_exact_mut(WEIGHTS.len()).zip(&places) {
            hits.iter_mut().zip(&judged[place].hits).for_each(|(hits, own)| *hits += own);
        }
        let best = first_highest(&self.tally.hits);
        let place = places[best / WEIGHTS.len()];
        if self.seen() < self.classes() {
            let share = |hits: &f64| hits / truth.len() as f64;
            self.tally.seen.iter_mut().zip(&judged[place].seen).for_each(|(sum, hits)| *sum += share(hits));
            self.tally.tasks[1] += 1.0;
            if let Some(bias) = self.tally.bias() {
                self.chosen.bias = bias;
            }
        }
        let (shrinkage, model) = models.swap_remove(place);
        self.chosen = Chosen { shrinkage, weight: WEIGHTS[best % WEIGHTS.len()], ..self.chosen };
        self.model = Some(model);
        Ok(())
    }

    /// Scores of embeddings (N, D), of any length, for learned and unlearned classes. `prompts` are
    /// their cosines (N, n) with learned prompts of the seen classes; zero-shot text is half of what
    /// counts then.
    pub fn open_scores(&self, embeddings: &[f32], prompts: Option<&[f32]>) -> Scores {
        let Together { seen, all } = self.together(&unit_rows(embeddings, self.statistics.dim()), prompts);
        let rows = || all.chunks_exact(self.classes());
        Scores {
            open: rows().flat_map(|row| &row[..self.seen()]).map(|&x| x as f32).collect(),
            seen: Some(seen.into_iter().map(|x| x as f32).collect()),
            unseen: Some(rows().flat_map(|row| &row[self.seen()..]).map(|&x| x as f32).collect()),
        }
    }

    /// As [`Evidence::open_scores`], of rows of length 1.
    fn together(&self, rows: &[f64], prompts: Option<&[f32]>) -> Together {
        let (n, all) = (self.seen(), self.classes());
        let mut over_all = self.logits(rows, &self.text); // (N, C)
        let mut seen: Vec<f64> = over_all.chunks_exact(all).flat_map(|row| &row[..n]).copied().collect(); // (N, n)
        if let Some(prompts) = prompts {
            let prompted = prompts.iter().map(|&cosine| self.logit_scale * f64::from(cosine));
            seen.iter_mut().zip(prompted).for_each(|(text, prompt)| *text = 0.5 * (*text + prompt));
        }
        let Some(model) = &self.model else { return Together { seen, all: over_all } };
        let evidence = model.evidence(rows); // (N, C)
        for ((seen, over_all), evidence) in
            seen.chunks_exact_mut(n).zip(over_all.chunks_exact_mut(all)).zip(evidence.chunks_exact(all))
        {
            seen.iter_mut().zip(evidence).for_each(|(x, evidence)| *x += self.chosen.weight * evidence);
            over_all.iter_mut().zip(evidence).for_each(|(x, evidence)| *x += GATE * evidence);
            over_all[n..].iter_mut().for_each(|x| *x += self.chosen.bias);
        }
        Together { seen, all: over_all }
    }

    /// Number of classes learned, n.
    pub fn seen(&self) -> usize {
        self.statistics.counts().len()
    }

    /// Number of all classes, C.
    pub fn classes(&self) -> usize {
        self.text.len() / self.statistics.dim()
    }

    /// What maps the text of seen classes to means, where there are enough.
    fn map(&self) -> Result<Option<Text>> {
        let (n, dim) = (self.seen(), self.statistics.dim());
        (n >= FEWEST_FOR_TEXT).then(|| Text::new(&self.text[..n * dim], dim)).transpose()
    }

    fn fit(&self, spread: &Spread, shrinkage: f64, map: Option<&Text>) -> Model {
        Model::fit(&self.statistics, spread, shrinkage, &self.text, map)
    }

    /// Logits (N, k) of unit rows (N, D) for text features (k, D) of length 1.
    fn logits(&self, rows: &[f64], text: &[f64]) -> Vec<f64> {
        let dim = self.statistics.dim();
        let mut logits = product(Matrix::new(rows, dim), Matrix::new(text, dim).t());
        logits.iter_mut().for_each(|x| *x *= self.logit_scale);
        logits
    }

    /// For each bias the rows (N, D) of classes that are not learned yet, `truth` (N), that are
    /// answered right where all classes are candidates.
    fn unseen_hits(&self, model: &Model, rows: &[f64], truth: &[usize]) -> Vec<f64> {
        let (dim, seen, mut found) = (self.statistics.dim(), self.seen(), vec![0.0; BIASES]);
        for (rows, truth) in rows.chunks(BATCH * dim).zip(truth.chunks(BATCH)) {
            let mut scores = self.logits(rows, &self.text); // (B, C)
            scores.iter_mut().zip(model.evidence(rows)).for_each(|(x, evidence)| *x += GATE * evidence);
            for (scores, &class) in scores.chunks_exact(self.classes()).zip(truth) {
                let (best, unseen) = highest(scores[seen..].iter().copied());
                if seen + best == class {
                    let known = highest(scores[..seen].iter().copied()).1;
                    for (place, hits) in found.iter_mut().enumerate() {
                        *hits += f64::from(u8::from(unseen + bias_at(place) > known));
                    }
                }
            }
        }
        found
    }

    /// What each model hits of rows of the classes `truth`, each left out.
    fn judge(&self, models: &[(f64, Model)], rows: &[f64], truth: &[usize]) -> Vec<Judged> {
        let (dim, n, all) = (self.statistics.dim(), self.seen(), self.classes());
        let mut judged = vec![Judged { hits: vec![0.0; WEIGHTS.len()], seen: vec![0.0; BIASES] }; models.len()];
        for (rows, truth) in rows.chunks(BATCH * dim).zip(truth.chunks(BATCH)) {
            let logits = self.logits(rows, &self.text); // (B, C)
            for (judged, (_, model)) in judged.iter_mut().zip(models) {
                let evidence = model.left_out(rows, truth); // (B, C)
                for ((logits, evidence), &class) in logits.chunks_exact(all).zip(evidence.chunks_exact(all)).zip(truth)
                {
                    judged.add(logits, evidence, class, n);
                }
            }
        }
        judged
    }
}

impl Classifier for Evidence {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        let (seen, all) = (self.seen(), self.classes());
        if let Some(examples) = classes.get(all - seen) {
            bail!("{} has no text feature: there are {all} only", examples.class);
        }
        self.statistics.admit(classes)?;
        let rows: Vec<Vec<f64>> =
            classes.iter().map(|examples| unit_rows(examples.rows.values(), self.statistics.dim())).collect();
        self.learn_rows(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        let scores = self.together(&unit_rows(embeddings, self.statistics.dim()), None);
        scores.seen.into_iter().map(|x| x as f32).collect()
    }

    fn state(&self) -> State {
        let mut state = self.statistics.state();
        let Tally { hits, unseen, seen, tasks } = &self.tally;
        let Chosen { shrinkage, weight, bias } = self.chosen;
        let flat = |values: &[f64]| (vec![values.len()], values.to_vec());
        state.insert("hits".into(), (vec![SHRINKAGES.len(), WEIGHTS.len()], hits.clone()));
        state.insert("unseen_hits".into(), flat(unseen));
        state.insert("seen_hits".into(), flat(seen));
        state.insert("tasks".into(), flat(tasks));
        state.insert("chosen".into(), flat(&[shrinkage, weight, bias]));
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        let tally = Tally {
            hits: take(&mut state, "hits", &[SHRINKAGES.len(), WEIGHTS.len()])?,
            unseen: take(&mut state, "unseen_hits", &[BIASES])?,
            seen: take(&mut state, "seen_hits", &[BIASES])?,
            tasks: take(&mut state, "tasks", &[2])?.try_into().unwrap_or_default(),
        };
        let chosen = take(&mut state, "chosen", &[3])?;
        let chosen = Chosen { shrinkage: chosen[0], weight: chosen[1], bias: chosen[2] };
        ensure!((0.0..=1.0).contains(&chosen.shrinkage), "tensor \"chosen\" holds the shrinkage {}", chosen.shrinkage);
        let statistics = ClassStatistics::from_state(state, self.statistics.dim())?;
        let (classes, all) = (statistics.counts().len(), self.classes());
        ensure!(classes <= all, "the statistics are of {classes} classes, but there are {all} text features");
        (self.statistics, self.tally, self.chosen, self.model) = (statistics, tally, chosen, None);
        if classes > 0 {
            let spread = Spread::of(&self.statistics)?;
            self.model = Some(self.fit(&spread, chosen.shrinkage, self.map()?.as_ref()));
        }
        Ok(())
    }

    fn stored(&self) -> Stored {
        let Stored { per_class, shared } = self.statistics.stored();
        let Tally { hits, unseen, seen, .. } = &self.tally;
        Stored { per_class, shared: shared + (hits.len() + unseen.len() + seen.len() + 5) * size_of::<f64>() }
    }
}

/// Rows (N, D) at length 1; those of length 0 stay.
fn unit_rows(rows: &[f32], dim: usize) -> Vec<f64> {
    let mut unit: Vec<f64> = rows.iter().map(|&x| f64::from(x)).collect();
    for row in unit.chunks_exact_mut(dim) {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x /= length);
        }
    }
    unit
}

/// Hits of one model on rows of a task.
#[derive(Clone)]
struct Judged {
    hits: Vec<f64>, // (weights)
    seen: Vec<f64>, // (biases), as images of seen classes
}

impl Judged {
    /// Counts a row of a class, from its logits (C) and its evidence (C), of which n are seen.
    fn add(&mut self, logits: &[f64], evidence: &[f64], class: usize, n: usize) {
        for (hits, weight) in self.hits.iter_mut().zip(WEIGHTS) {
            let scores = logits[..n].iter().zip(evidence).map(|(logit, evidence)| logit + weight * evidence);
            *hits += f64::from(u8::from(highest(scores).0 == class));
        }
        let score = |c: usize| logits[c] + GATE * evidence[c];
        let (best, seen) = highest((0..n).map(score));
        if best == class && n < logits.len() {
            let unseen = highest((n..logits.len()).map(score)).1;
            for (place, hits) in self.seen.iter_mut().enumerate() {
                *hits += f64::from(u8::from(seen >= unseen + bias_at(place)));
            }
        }
    }
}

impl Tally {
    /// The bias at which the worse of seen and unseen classes is told best; none where no task has
    /// been tested before it was learned, or nothing was hit.
    fn bias(&self) -> Option<f64> {
        let [unseen_tasks, seen_tasks] = self.tasks;
        let worse =
            self.unseen.iter().zip(&self.seen).map(|(unseen, seen)| (unseen / unseen_tasks).min(seen / seen_tasks));
        let (place, best) = highest(worse);
        (unseen_tasks > 0.0 && best > 0.0).then(|| bias_at(place))
    }
}

/// The first of the highest scores: its place and itself.
fn highest(scores: impl Iterator<Item = f64>) -> (usize, f64) {
    scores.enumerate().fold((0, f64::NEG_INFINITY), |best, (place, x)| if x > best.1 { (place, x) } else { best })
}

fn first_highest(scores: &[f64]) -> usize {
    highest(scores.iter().copied()).0
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::Path};

    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::{
        baseline::covariance::add_scatter,
        dense::symmetric::Cholesky,
        evaluate::{TestSet, ZeroShot, evaluate},
        rng::{Draw, Rng},
        rows::{Rows, Train},
        stream::Stream,
        task::Class,
    };

    fn golden() -> HashMap<String, Tensor> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/evidence.safetensors");
        candle_core::safetensors::load(file, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max);
        assert!(worst <= tolerance, "{what}: off by {worst:e}");
    }

    /// The rows of each class of a task of the golden file.
    fn classes(rows: &[f64], labels: &[f64], dim: usize) -> Vec<Vec<f64>> {
        let mut classes: Vec<Vec<f64>> = Vec::new();
        for ((row, label), before) in rows.chunks_exact(dim).zip(labels).zip([f64::NAN].iter().chain(labels)) {
            if label != before {
                classes.push(Vec::new());
            }
            classes.last_mut().unwrap().extend(row);
        }
        classes
    }

    /// What is answered by these scores where all classes are candidates.
    fn answers(scores: &Together, rows: &[f64], seen: usize, dim: usize) -> Vec<f64> {
        let (n, all) = (rows.len() / dim, scores.all.len() / (rows.len() / dim));
        let classes: Vec<Class> = (0..all).map(|i| Class { label: i as i64, name: format!("c{i}") }).collect();
        let stream = Stream::of_sizes(&classes, &[seen, all - seen]).unwrap();
        let test = TestSet {
            sources: vec!["base".into(); n],
            sample_ids: (0..n).map(|i| i.to_string()).collect(),
            classes: vec![0; n],
            rows: Rows::new(dim, rows.iter().map(|&x| x as f32).collect()),
        };
        let single = |values: &mut dyn Iterator<Item = &f64>| values.map(|&x| x as f32).collect::<Vec<_>>();
        let given = |_: &[f32]| {
            Ok(Scores {
                open: single(&mut scores.all.chunks_exact(all).flat_map(|row| &row[..seen])),
                seen: Some(single(&mut scores.seen.iter())),
                unseen: Some(single(&mut scores.all.chunks_exact(all).flat_map(|row| &row[seen..]))),
            })
        };
        let zero_shot = ZeroShot { features: &vec![1.0; all * dim], is_raw: false };
        let found = evaluate(&test, &stream, 1, Some(zero_shot), given).unwrap();
        found.into_iter().map(|p| p.unwrap().open.unwrap() as f64).collect()
    }

    /// With more classes than dimensions the other one of the two matrices is decomposed, of the
    /// same text in more dimensions, all 0, the first.
    #[test]
    fn the_map_is_the_same_with_more_classes_than_dimensions() {
        let (n, dim, wide) = (9, 3, 12);
        let noise: Vec<f64> =
            Rng::new(5, Draw::Embeddings, &[]).normals(2 * n * dim + dim * dim).into_iter().map(f64::from).collect();
        let (text, rest) = noise.split_at(n * dim);
        let (means, whitener) = rest.split_at(n * dim);
        let padded = |rows: &[f64]| -> Vec<f64> {
            rows.chunks_exact(dim).flat_map(|row| row.iter().copied().chain(vec![0.0; wide - dim])).collect()
        };
        let mut wide_whitener = padded(whitener);
        wide_whitener.resize(wide * wide, 0.0);
        let narrow = Text::new(text, dim).unwrap().map(means, whitener);
        let wider = Text::new(&padded(text), wide).unwrap().map(&padded(means), &wide_whitener);
        assert_close("residuals", &padded(&narrow.residuals), &wider.residuals, 1e-9);
        assert_close("means", &padded(&narrow.predict(text)), &wider.predict(&padded(text)), 1e-9);
        assert!(narrow.residuals.iter().any(|x| x.abs() > 1e-3));
    }

    #[test]
    fn the_bias_is_where_the_worse_share_is_best_and_stays_where_nothing_is_hit() {
        let tally = |unseen: [f64; 3], seen: [f64; 3], tasks: [f64; 2]| {
            let fill = |shares: [f64; 3]| (0..BIASES).map(|place| shares[place / 20]).collect::<Vec<_>>();
            Tally { hits: Vec::new(), unseen: fill(unseen), seen: fill(seen), tasks }.bias()
        };
        // after 4 tasks, of which 2 were tested before: 0.2 and 0.9, 0.6 and 0.5, 0.8 and 0.1
        assert_eq!(tally([0.4, 1.2, 1.6], [3.6, 2.0, 0.4], [2.0, 4.0]), Some(bias_at(20)));
        assert_eq!(tally([0.0; 3], [4.0; 3], [2.0, 4.0]), None);
        assert_eq!(tally([0.0; 3], [4.0; 3], [0.0, 4.0]), None);
    }

    #[test]
    fn scores_and_what_is_chosen_are_the_references() {
        let golden = golden();
        let at = |name: &str| values(&golden[name]);
        let text = at("text");
        let dim = golden["text"].dims()[1];
        let mut evidence = Evidence::new(text, dim, at("logit_scale")[0]);
        for t in 0..3 {
            let own = |name: &str| at(&format!("task_{t}.{name}"));
            let (rows, labels) = (own("rows"), own("labels"));
            let classes = classes(&rows, &labels, dim);
            evidence.learn_rows(&classes.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
            let Chosen { shrinkage, weight, bias } = evidence.chosen();
            let expected = own("chosen");
            assert_close("shrinkage", &[shrinkage], &expected[..1], 1e-12);
            assert_eq!([weight, bias], expected[1..], "task {t}");
            let truth: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
            let left_out = evidence.model.as_ref().unwrap().left_out(&rows, &truth);
            assert_close("left out", &left_out, &own("left_out"), 1e-6);
            // float32 is what prompts' cosines are
            let cosines = product(Matrix::new(&at("test"), dim), Matrix::new(&own("prompts"), dim).t());
            let cosines: Vec<f32> = cosines.into_iter().map(|x| x as f32).collect();
            let scores = evidence.together(&at("test"), Some(&cosines));
            assert_close("among seen", &scores.seen, &own("seen"), 1e-6);
            assert_close("over all", &scores.all, &own("over_all"), 1e-6);
            assert_eq!(answers(&scores, &at("test"), evidence.seen(), dim), own("predicted"), "task {t}");
        }
    }

    /// Rows (N, D) of a class around a direction of its own.
    fn drawn(class: usize, n: usize, dim: usize) -> (Class, Rows<Train>) {
        let noise = Rng::new(1, Draw::Embeddings, &[class as u64]).normals(n * dim);
        let own = |j: usize| if j == class % dim { 6.0 } else { 0.0 };
        let rows = noise.into_iter().enumerate().map(|(i, x)| own(i % dim) + x).collect();
        (Class { label: class as i64, name: format!("class {class}") }, Rows::new(dim, rows))
    }

    /// Text features of `classes` classes, not far from their directions.
    fn text(classes: usize, dim: usize) -> Vec<f64> {
        let text: Vec<f32> = (0..classes).flat_map(|class| drawn(class, 1, dim).1.into_values()).collect();
        unit_rows(&text, dim)
    }

    fn learn(evidence: &mut Evidence, classes: &[(Class, Rows<Train>)]) {
        let examples: Vec<Examples> = classes.iter().map(|(class, rows)| Examples { class, rows }).collect();
        evidence.learn(&examples).unwrap();
    }

    /// Leaving a row out in closed form is as computing its class's mean and the scatter without
    /// it, where the shrinkage, the map and the spread are held.
    #[test]
    fn a_row_that_is_left_out_was_never_there() {
        let (dim, sizes) = (8, [3, 5, 2, 6, 4]);
        let classes: Vec<_> = sizes.iter().enumerate().map(|(class, &n)| drawn(class, n, dim)).collect();
        let mut evidence = Evidence::new(text(7, dim), dim, 20.0);
        learn(&mut evidence, &classes);
        let rows: Vec<f64> = classes.iter().flat_map(|(_, rows)| unit_rows(rows.values(), dim)).collect();
        let truth: Vec<usize> = sizes.iter().enumerate().flat_map(|(class, &n)| vec![class; n]).collect();
        let model = evidence.model.as_ref().unwrap();
        let found = model.left_out(&rows, &truth);

        let (shrinkage, n) = (evidence.chosen().shrinkage, truth.len());
        let freedom = (n - sizes.len()) as f64;
        let identity: Vec<f64> = (0..dim * dim).map(|i| f64::from(u8::from(i % (dim + 1) == 0))).collect();
        let mean = evidence.statistics.scatter().diagonal().sum::<f64>() / freedom / dim as f64;
        // out of the whitened space: x = y W⁻¹, where W Wᵀ is the inverse of the covariance
        let back = |y: &[f64]| -> Vec<f64> {
            let covariance =
                of_scatter(&evidence.statistics.scatter().whole(), dim, shrinkage, freedom, mean, &identity);
            let turned = product(Matrix::new(y, dim), Matrix::new(&model.whitener, dim).t()); // y Wᵀ
            product(Matrix::new(&turned, dim), Matrix::new(&covariance, dim))
        };
        for row in 0..20 {
            let own = truth[row];
            let others: Vec<usize> = (0..n).filter(|&i| i != row && truth[i] == own).collect();
            let without = |class: usize| -> Vec<f64> {
                (0..n)
                    .filter(|&i| i != row && truth[i] == class)
                    .flat_map(|i| rows[i * dim..][..dim].to_vec())
                    .collect()
            };
            let mut scatter = vec![0.0; dim * dim];
            for class in 0..sizes.len() {
                let kept = without(class);
                add_scatter(&mut scatter, &kept, &map::mean_of(&kept, dim));
            }
            let covariance = of_scatter(&scatter, dim, shrinkage, freedom, mean, &identity);
            let distance = |from: &[f64]| -> f64 {
                let offset: Vec<f64> = (0..dim).map(|j| rows[row * dim + j] - from[j]).collect();
                let mut solved = offset.clone();
                Cholesky::factor(&mut covariance.clone(), dim, 0.0).unwrap().solve(&mut solved, 1);
                offset.iter().zip(&solved).map(|(a, b)| a * b).sum()
            };
            let background = distance(&back(&model.centre));
            let k = model.trust[own] / sizes[own] as f64 * others.len() as f64;
            let own_mean = map::mean_of(&without(own), dim);
            let prior = back(&model.prior[own * dim..][..dim]);
            for class in 0..7 {
                let mu = match class == own {
                    true => (0..dim).map(|j| (k * own_mean[j] + prior[j]) / (1.0 + k)).collect(),
                    false => back(&model.mu[class * dim..][..dim]),
                };
                let expected = -0.5 * dim as f64 * (distance(&mu) / background).ln();
                let found = found[row * 7 + class];
                assert!(
                    (found - expected).abs() < 1e-9 * expected.abs().max(1.0),
                    "row {row}: {found}, not {expected}"
                );
            }
        }
    }

    /// The shrunk covariance (D, D) that a scatter makes.
    fn of_scatter(scatter: &[f64], dim: usize, shrinkage: f64, freedom: f64, mean: f64, identity: &[f64]) -> Vec<f64> {
        (0..dim * dim)
            .map(|i| {
                let (row, column) = (i / dim, i % dim);
                let value = scatter[row.max(column) * dim + row.min(column)] / freedom;
                (1.0 - shrinkage) * value + shrinkage * mean * identity[i]
            })
            .collect()
    }

    #[test]
    fn few_classes_few_rows_equal_rows_and_many_dimensions_are_defined() {
        let equal = |class: usize, n: usize| {
            let (class, row) = drawn(class, 1, 6);
            (class, Rows::new(6, row.values().repeat(n)))
        };
        for (what, tasks) in [
            ("tasks of one class", (0..6).map(|class| vec![drawn(class, 4, 6)]).collect::<Vec<_>>()),
            ("one row each", vec![(0..3).map(|c| drawn(c, 1, 6)).collect(), (3..6).map(|c| drawn(c, 1, 6)).collect()]),
            ("a task of one row", vec![(0..5).map(|c| drawn(c, 4, 6)).collect(), vec![drawn(5, 1, 6)]]),
            ("equal rows", vec![(0..4).map(|c| equal(c, 5)).collect(), vec![equal(4, 1), equal(5, 2)]]),
            ("the same class twice", vec![vec![drawn(0, 3, 6)], vec![(drawn(1, 1, 6).0, drawn(0, 3, 6).1)]]),
        ] {
            let mut evidence = Evidence::new(text(6, 6), 6, 20.0);
            for classes in &tasks {
                learn(&mut evidence, classes);
                let scores = evidence.together(&text(6, 6), None);
                assert!(scores.seen.iter().chain(&scores.all).all(|x| x.is_finite()), "{what}");
                let Chosen { shrinkage, weight, bias } = evidence.chosen();
                assert!((0.0..=1.0).contains(&shrinkage) && weight > 0.0 && bias.is_finite(), "{what}");
                // rows that are all equal are told from the others by them alone
                if what == "equal rows" {
                    for (c, (_, rows)) in classes.iter().enumerate() {
                        let (n, scores) = (evidence.seen(), evidence.scores(rows.row(0)));
                        assert_eq!(highest(scores.iter().map(|&x| x.into())).0, n - classes.len() + c, "{what}");
                    }
                }
            }
            assert_eq!(evidence.seen(), tasks.iter().map(Vec::len).sum::<usize>());
        }
        // 40 values, 12 rows
        let mut evidence = Evidence::new(text(6, 40), 40, 20.0);
        learn(&mut evidence, &(0..6).map(|class| drawn(class, 2, 40)).collect::<Vec<_>>());
        let scores = evidence.scores(drawn(2, 2, 40).1.values());
        for scores in scores.chunks_exact(6) {
            assert_eq!(highest(scores.iter().map(|&x| x.into())).0, 2);
        }
    }

    #[test]
    fn a_state_that_was_stored_goes_on_as_what_it_is_of() {
        let first: Vec<_> = (0..5).map(|class| drawn(class, 6, 8)).collect();
        let next: Vec<_> = (5..8).map(|class| drawn(class, 3, 8)).collect();
        let mut evidence = Evidence::new(text(9, 8), 8, 20.0);
        learn(&mut evidence, &first);
        let mut restored = Evidence::new(text(9, 8), 8, 20.0);
        restored.restore(evidence.state()).unwrap();
        for evidence in [&mut evidence, &mut restored] {
            learn(evidence, &next);
        }
        let rows = drawn(6, 4, 8).1.into_values();
        assert_eq!(restored.scores(&rows), evidence.scores(&rows));
        assert_eq!(restored.state(), evidence.state());
        assert_eq!(restored.chosen(), evidence.chosen());
        let bytes: usize = evidence.state().values().map(|(_, values)| values.len() * size_of::<f64>()).sum();
        assert_eq!(evidence.stored().total(8) + 8 * 4 * size_of::<f64>(), bytes); // labels and keys do not count
        for (name, values) in [("hits", vec![0.0; 59]), ("chosen", vec![1.5, 0.1, 0.0]), ("tasks", vec![f64::NAN, 1.0])]
        {
            let mut state = evidence.state();
            state.insert(name.into(), (vec![values.len()], values));
            assert!(restored.restore(state).is_err(), "{name}");
        }
        assert!(Evidence::new(text(7, 8), 8, 20.0).restore(evidence.state()).is_err());
    }
}
