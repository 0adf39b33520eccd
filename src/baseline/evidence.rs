//! Evidence from class statistics, beside text: counts, means and one scatter of unit rows, means
//! shrunk towards what their text predicts, and a heavy-tailed log ratio to the background. How far
//! the covariance is shrunk, what the evidence weighs and how unseen classes are told is chosen by
//! leaving out rows of the current task, and from sums of hits on earlier ones. No row is kept.

mod map;
mod matrix;
mod model;
mod open;
mod whitened;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use self::open::{Chosen, ClassifierAbout, OpenClassifier};
pub(crate) use self::whitened::EXACT;
use self::{
    map::Text,
    model::{Model, Spread},
    open::{GATE, Together, logits, unit_rows},
};
use super::{
    classifier::{
        Classifier, Examples, Incremental, OpenSet, State, Stored, require_texts, require_texts_of_state, take,
    },
    statistics::ClassStatistics,
};
use crate::{calibration::Calibration, evaluate::Scores, task::Class, tensors::Tensors};

/// Least shrinkages that are tried, each not below oracle approximating shrinkage.
const SHRINKAGES: [f64; 5] = [0.0, 0.1, 0.2, 0.3, 0.5];

/// Weights of the evidence that are tried, where text counts 1.
const WEIGHTS: [f64; 12] = [0.05, 0.07, 0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 2.0, 4.0, 16.0];

/// Temperatures that are tried, as [`Calibration`] has them.
const TEMPERATURES: [f64; 17] =
    [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 23.0, 32.0, 45.0, 64.0];

/// What all classes get that is tried with each.
const EVENS: [f64; 8] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4];

/// Quantiles of the highest scores of rows that are kept, from the lowest to the highest.
const QUANTILES: usize = 101;

/// The weight where no row can be left out, and text tells classes of one row no better than a guess:
/// a place in [`WEIGHTS`]. Where it does, the smallest.
const UNJUDGED: usize = 10;

/// Biases of unseen classes that are tried: from −4 in halves.
const BIASES: usize = 41;

/// The bias while no task has been tested before it was learned.
const UNTESTED: f64 = 4.0;

/// Classes from which on text predicts means.
const FEWEST_FOR_TEXT: usize = 4;

/// Rows that are judged at a time.
const BATCH: usize = 1024;

fn bias_at(place: usize) -> f64 {
    -4.0 + 0.5 * place as f64
}

/// Text and class statistics of classes that are learned task by task.
pub struct Evidence {
    statistics: ClassStatistics, // of unit rows
    text: Vec<f64>,              // (C, D), of length 1, in learning order
    logit_scale: f64,
    tally: Tally,
    chosen: Chosen,
    model: Option<Model>,
    removed: Vec<usize>, // classes that are no candidates, as positions
}

/// Sums of hits, over the rows or the tasks so far.
#[derive(Clone)]
struct Tally {
    hits: Vec<f64>,   // (shrinkages, weights), rows
    unseen: Vec<f64>, // (biases), shares of the rows of a task before it was learned, over tasks
    seen: Vec<f64>,   // (biases), shares of the rows of a task after that, each left out, over tasks
    tasks: [f64; 2],  // that `unseen` and `seen` are sums over
    text: [f64; 2],   // rows that text alone tells among seen classes, and how many a guess would
    known: Vec<f64>,  // (quantiles), of the highest scores of the last task's rows, each left out; none before
    errors: Vec<f64>, // (temperatures, evens), cross-entropies of the rows, each left out
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
                text: [0.0; 2],
                known: Vec::new(),
                errors: vec![0.0; TEMPERATURES.len() * EVENS.len()],
            },
            chosen: Chosen { shrinkage: 0.0, weight: WEIGHTS[0], bias: UNTESTED, calibration: Calibration::NONE },
            model: None,
            removed: Vec::new(),
        }
    }

    /// What was chosen after the last task.
    pub fn chosen(&self) -> Chosen {
        self.chosen
    }

    /// Learns the unit rows (N, D) of the next classes, class after class: so many of each place in
    /// learning order, the new ones first.
    fn learn_rows(&mut self, rows: &[f64], counts: &[(usize, usize)]) -> Result<()> {
        let (dim, before) = (self.statistics.dim(), self.seen());
        let truth: Vec<usize> = counts.iter().flat_map(|&(class, count)| vec![class; count]).collect(); // (N)
        let unseen = truth.iter().filter(|&&class| class >= before).count();
        if let Some(model) = &self.model
            && before >= FEWEST_FOR_TEXT
            && unseen > 0
        {
            let hits = self.unseen_hits(model, &rows[..unseen * dim], &truth[..unseen]);
            self.tally.unseen.iter_mut().zip(hits).for_each(|(sum, hits)| *sum += hits / unseen as f64);
            self.tally.tasks[0] += 1.0;
        }
        let mut rest = rows;
        let of_class = |&(class, count): &(usize, usize)| (class, rest.split_off(..count * dim).unwrap_or_default());
        self.statistics.add(&counts.iter().map(of_class).collect::<Vec<_>>());
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
        let judged = self.judge(&models, rows, &truth);
        for (hits, &place) in self.tally.hits.chunks_exact_mut(WEIGHTS.len()).zip(&places) {
            hits.iter_mut().zip(&judged[place].hits).for_each(|(hits, own)| *hits += own);
        }
        self.tally.text[0] += self.text_hits(rows, &truth);
        self.tally.text[1] += truth.len() as f64 / self.candidates() as f64;
        let best = match self.statistics.rows() == self.seen() {
            true if !self.tally.text_tells() => UNJUDGED,
            _ => first_highest(&self.tally.hits),
        };
        let place = places[best / WEIGHTS.len()];
        if self.seen() < self.classes() {
            let share = |hits: &f64| hits / truth.len() as f64;
            self.tally.seen.iter_mut().zip(&judged[place].seen).for_each(|(sum, hits)| *sum += share(hits));
            self.tally.tasks[1] += 1.0;
            // of classes of one row each the evidence says little, so there is little to make up for
            let untested = if self.statistics.rows() == self.seen() { 0.0 } else { UNTESTED };
            self.chosen.bias = self.tally.bias().unwrap_or(untested);
        }
        let ((shrinkage, model), weight) = (models.swap_remove(place), WEIGHTS[best % WEIGHTS.len()]);
        self.tally.discount(self.chosen.weight, weight);
        let known = self.add_errors(&model, weight, rows, &truth);
        // more rows of a few known classes say nothing of all
        if unseen > 0 || self.tally.known.is_empty() {
            self.tally.set_known(known);
        }
        self.chosen =
            Chosen { shrinkage, weight, calibration: self.tally.calibration(self.candidates()), ..self.chosen };
        self.model = Some(model);
        Ok(())
    }

    /// Scores of embeddings (N, D), of any length, for learned and unlearned classes. `prompts` are
    /// their cosines (N, n) with learned prompts of the seen classes; zero-shot text is half of what
    /// counts then.
    pub fn open_scores(&self, embeddings: &[f32], prompts: Option<&[f32]>) -> Scores {
        let rows = unit_rows(embeddings, self.statistics.dim());
        self.together(&rows, prompts).scores(self.classes(), self.seen(), self.chosen.calibration)
    }

    /// As [`Evidence::open_scores`], of rows of length 1.
    fn together(&self, rows: &[f64], prompts: Option<&[f32]>) -> Together {
        let logits = self.logits(rows, &self.text); // (N, C)
        let prompts: Option<Vec<f64>> =
            prompts.map(|cosines| cosines.iter().map(|&cosine| self.logit_scale * f64::from(cosine)).collect());
        let evidence = self.model.as_ref().map(|model| model.whitened.evidence(rows)); // (N, C)
        self.chosen.together(logits, prompts.as_deref(), evidence.as_deref(), self.classes(), self.seen())
    }

    /// What scores embeddings after the tasks so far, with learned `prompts` (n, D) of the seen
    /// classes or without; none before the first task.
    pub fn classifier(&self, prompts: Option<&[f32]>) -> Option<OpenClassifier> {
        let whitened = self.model.as_ref()?.whitened.clone();
        let prompts = prompts.map(|prompts| unit_rows(prompts, whitened.dim));
        let known = Some(&self.tally.known).filter(|known| !known.is_empty()).cloned();
        Some(OpenClassifier {
            text: self.text.clone(),
            prompts,
            whitened,
            seen: self.seen(),
            logit_scale: self.logit_scale,
            chosen: self.chosen,
            known,
        })
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

    /// Logits (N, k) of unit rows (N, D) for the text features (k, D), of length 1, of the first k
    /// classes; none of them of those that are no candidates.
    fn logits(&self, rows: &[f64], text: &[f64]) -> Vec<f64> {
        let dim = self.statistics.dim();
        let mut logits = logits(rows, text, dim, self.logit_scale);
        for row in logits.chunks_exact_mut(text.len() / dim).filter(|_| !self.removed.is_empty()) {
            self.removed.iter().for_each(|&class| row[class] = f64::NEG_INFINITY);
        }
        logits
    }

    /// Number of learned classes that are candidates.
    fn candidates(&self) -> usize {
        self.seen() - self.removed.len()
    }

    /// For each bias the rows (N, D) of classes that are not learned yet, `truth` (N), that are
    /// answered right where all classes are candidates.
    fn unseen_hits(&self, model: &Model, rows: &[f64], truth: &[usize]) -> Vec<f64> {
        let (dim, seen, mut found) = (self.statistics.dim(), self.seen(), vec![0.0; BIASES]);
        for (rows, truth) in rows.chunks(BATCH * dim).zip(truth.chunks(BATCH)) {
            let mut scores = self.logits(rows, &self.text); // (B, C)
            scores.iter_mut().zip(model.whitened.evidence(rows)).for_each(|(x, evidence)| *x += GATE * evidence);
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

    /// How many rows (N, D) of the classes `truth` (N) text alone tells among the seen ones.
    fn text_hits(&self, rows: &[f64], truth: &[usize]) -> f64 {
        let n = self.seen();
        let logits = self.logits(rows, &self.text[..n * self.statistics.dim()]); // (N, n)
        let told = logits.chunks_exact(n).zip(truth).filter(|(row, class)| first_highest(row) == **class);
        told.count() as f64
    }

    /// Adds, for each calibration, the cross-entropies of rows (N, D) of the classes `truth` (N), each
    /// left out, among the seen classes. One that is alone in its class has none. Returns their highest
    /// scores, which say what known rows have.
    fn add_errors(&mut self, model: &Model, weight: f64, rows: &[f64], truth: &[usize]) -> Vec<f64> {
        let candidates = self.candidates() as f64;
        let (dim, n, mut known) = (self.statistics.dim(), self.seen(), Vec::new());
        for (rows, truth) in rows.chunks(BATCH * dim).zip(truth.chunks(BATCH)) {
            let mut scores = self.logits(rows, &self.text); // (B, C)
            scores.iter_mut().zip(model.left_out(rows, truth)).for_each(|(x, evidence)| *x += weight * evidence);
            for (scores, &class) in scores.chunks_exact(self.classes()).zip(truth) {
                if self.statistics.counts()[class] > 1 {
                    let highest = highest(scores[..n].iter().copied()).1;
                    known.push(highest);
                    for (errors, temperature) in self.tally.errors.chunks_exact_mut(EVENS.len()).zip(TEMPERATURES) {
                        let power = |x: &f64| ((x - highest) / temperature).exp();
                        let own = power(&scores[class]) / scores[..n].iter().map(power).sum::<f64>();
                        for (error, even) in errors.iter_mut().zip(EVENS) {
                            *error -= ((1.0 - even) * own + even / candidates).ln();
                        }
                    }
                }
            }
        }
        known
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
                    judged.add(logits, evidence, class, n, self.statistics.counts()[class] == 1);
                }
            }
        }
        judged
    }
}

impl Incremental for Evidence {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        require_texts(classes.iter().map(|examples| examples.class), self.statistics.labels(), self.classes())?;
        let places = self.statistics.admit(classes)?;
        let dim = self.statistics.dim();
        let rows: Vec<f64> = classes.iter().flat_map(|examples| unit_rows(examples.rows.values(), dim)).collect();
        let counts = places.into_iter().zip(classes.iter().map(|examples| examples.rows.len()));
        self.learn_rows(&rows, &counts.collect::<Vec<_>>())
    }

    fn leave_out(&mut self, classes: Vec<usize>) {
        self.removed = classes;
    }

    fn state(&self) -> State {
        let mut state = self.statistics.state();
        let Tally { hits, unseen, seen, tasks, text, known, errors } = &self.tally;
        let Chosen { shrinkage, weight, bias, calibration: Calibration { temperature, even } } = self.chosen;
        let flat = |values: &[f64]| (vec![values.len()], values.to_vec());
        state.insert("hits".into(), (vec![SHRINKAGES.len(), WEIGHTS.len()], hits.clone()));
        state.insert("unseen_hits".into(), flat(unseen));
        state.insert("seen_hits".into(), flat(seen));
        state.insert("tasks".into(), flat(tasks));
        state.insert("text_hits".into(), flat(text));
        if !known.is_empty() {
            state.insert("known".into(), flat(known));
        }
        state.insert("errors".into(), (vec![TEMPERATURES.len(), EVENS.len()], errors.clone()));
        state.insert("chosen".into(), flat(&[shrinkage, weight, bias, temperature, even]));
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        let tally = Tally {
            hits: take(&mut state, "hits", &[SHRINKAGES.len(), WEIGHTS.len()])?,
            unseen: take(&mut state, "unseen_hits", &[BIASES])?,
            seen: take(&mut state, "seen_hits", &[BIASES])?,
            tasks: take(&mut state, "tasks", &[2])?.try_into().unwrap_or_default(),
            text: take(&mut state, "text_hits", &[2])?.try_into().unwrap_or_default(),
            known: match state.contains_key("known") {
                true => take(&mut state, "known", &[QUANTILES])?,
                false => Vec::new(),
            },
            errors: take(&mut state, "errors", &[TEMPERATURES.len(), EVENS.len()])?,
        };
        let chosen = take(&mut state, "chosen", &[5])?;
        let calibration = Calibration { temperature: chosen[3], even: chosen[4] };
        calibration.check().context("tensor \"chosen\"")?;
        let chosen = Chosen { shrinkage: chosen[0], weight: chosen[1], bias: chosen[2], calibration };
        ensure!((0.0..=1.0).contains(&chosen.shrinkage), "tensor \"chosen\" holds the shrinkage {}", chosen.shrinkage);
        let statistics = ClassStatistics::from_state(state, self.statistics.dim())?;
        let classes = statistics.counts().len();
        require_texts_of_state(classes, self.classes())?;
        (self.statistics, self.tally, self.chosen, self.model) = (statistics, tally, chosen, None);
        if classes > 0 {
            let spread = Spread::of(&self.statistics)?;
            self.model = Some(self.fit(&spread, chosen.shrinkage, self.map()?.as_ref()));
        }
        Ok(())
    }

    fn stored(&self) -> Stored {
        let Stored { per_class, shared } = self.statistics.stored();
        let Tally { hits, unseen, seen, known, errors, .. } = &self.tally;
        let numbers = hits.len() + unseen.len() + seen.len() + known.len() + errors.len() + 9;
        Stored { per_class, shared: shared + numbers * size_of::<f64>() }
    }
}

impl OpenSet for Evidence {
    fn scores_of_all(&self, embeddings: &[f32]) -> Scores {
        self.open_scores(embeddings, None)
    }

    fn file(&self, classes: &[Class], removed: &[usize]) -> Result<Option<(Tensors, Value)>> {
        self.classifier(None).map(|classifier| classifier.without(removed).file(classes)).transpose()
    }
}

impl Classifier for Evidence {
    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        let scores = self.together(&unit_rows(embeddings, self.statistics.dim()), None);
        scores.seen.into_iter().map(|x| x as f32).collect()
    }
}

/// Hits of one model on rows of a task.
#[derive(Clone)]
struct Judged {
    hits: Vec<f64>, // (weights)
    seen: Vec<f64>, // (biases), as images of seen classes
}

impl Judged {
    /// Counts a row of a class, from its logits (C) and its evidence (C), of which n are seen. One
    /// that is alone in its class says nothing of weights: without it the class has no mean.
    fn add(&mut self, logits: &[f64], evidence: &[f64], class: usize, n: usize, is_alone: bool) {
        for (hits, weight) in self.hits.iter_mut().zip(WEIGHTS).filter(|_| !is_alone) {
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
    /// Keeps the quantiles of the highest scores of the last task's rows.
    fn set_known(&mut self, mut scores: Vec<f64>) {
        scores.sort_by(f64::total_cmp);
        let Some(last) = scores.len().checked_sub(1) else { return };
        let quantile = |place: usize| {
            let at = last as f64 * place as f64 / (QUANTILES - 1) as f64;
            let (below, above) = (scores[at.floor() as usize], scores[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        self.known = (0..QUANTILES).map(quantile).collect();
    }

    /// Lets what was said of scores with the weight `before` count less, now that it is `now`: as much
    /// as the squared ratio of the two, the smaller over the larger.
    fn discount(&mut self, before: f64, now: f64) {
        let alike = (before.min(now) / before.max(now)).powi(2);
        self.errors.iter_mut().for_each(|error| *error *= alike);
    }

    /// The calibration among n classes of the least cross-entropy of the rows and of one more, which is
    /// told by nothing, as in the rule of succession: no number of rows says that none is ever wrong.
    /// The softmax as it is where no row could be left out, or there is one class.
    fn calibration(&self, n: usize) -> Calibration {
        if n < 2 || self.errors.iter().all(|error| *error == 0.0) {
            return Calibration::NONE;
        }
        let errors = self.errors.iter().zip(EVENS.iter().cycle()).map(|(error, even)| (even / n as f64).ln() - error);
        let place = highest(errors).0;
        Calibration { temperature: TEMPERATURES[place / EVENS.len()], even: EVENS[place % EVENS.len()] }
    }

    /// Whether text tells more rows than two standard deviations above a guess.
    fn text_tells(&self) -> bool {
        let [hits, chance] = self.text;
        hits > chance + 2.0 * chance.sqrt()
    }

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
mod tests;
