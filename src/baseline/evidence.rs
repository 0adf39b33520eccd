//! Evidence from class statistics, beside text: counts, means and one scatter of unit rows, means
//! shrunk towards what their text predicts, and a heavy-tailed log ratio to the background. How far
//! the covariance is shrunk, what the evidence weighs and how unseen classes are told is chosen by
//! leaving out rows of the current task, and from sums over earlier ones. No row is kept. Where text
//! tells the learned classes no better than a guess, evidence without any text tells them: then the
//! likelihood of the rows chooses the shrinkage, and distances of means are normalised.

mod map;
mod matrix;
mod model;
mod open;
mod spread;
mod tally;
mod whitened;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use self::open::{Chosen, ClassifierAbout, OpenClassifier};
pub(crate) use self::whitened::EXACT;
use self::{
    map::Text,
    model::{Beside, Model},
    open::{GATE, Together, logits, unit_rows},
    spread::Spread,
    tally::{
        BIASES, EVENS, LOOC_SHRINKAGES, POWER, QUANTILES, SHRINKAGES, TEMPERATURES, Tally, WEIGHTS, bias_at,
        first_highest, highest,
    },
};
use super::{
    classifier::{
        Classifier, Examples, Incremental, OpenSet, State, Stored, require_texts, require_texts_of_state, take,
    },
    statistics::ClassStatistics,
};
use crate::{calibration::Calibration, evaluate::Scores, task::Class, tensors::Tensors};

/// The weight of evidence where text counts nothing.
const ALONE: f64 = 4.0;

/// Numbers of [`Chosen`], and which of them is the power, the last that came.
const CHOSEN: usize = 7;
const POWER_PLACE: usize = 5;

/// The bias while no task has been tested before it was learned.
const UNTESTED: f64 = 4.0;

/// Classes from which on text predicts means.
const FEWEST_FOR_TEXT: usize = 4;

/// Rows that are judged at a time.
const BATCH: usize = 1024;

/// Text and class statistics of classes that are learned task by task.
pub struct Evidence {
    statistics: ClassStatistics, // of unit rows
    text: Vec<f64>,              // (C, D), of length 1, in learning order
    logit_scale: f64,
    tally: Tally,
    /// As [`Calibration`] has it: [`POWER`], or 0 where a state of rule 7 is gone on from, whose
    /// cross-entropies are of scores that are divided by a temperature alone.
    power: f64,
    chosen: Chosen,
    model: Option<Model>,
    removed: Vec<usize>, // classes that are no candidates, as positions
}

impl Evidence {
    /// For the classes whose zero-shot text features are `text` (C, D), of length 1, in the order
    /// in which they will be learned. `logit_scale` is what cosines are multiplied with.
    pub fn new(text: Vec<f64>, dim: usize, logit_scale: f64) -> Self {
        Evidence {
            statistics: ClassStatistics::new(dim),
            text,
            logit_scale,
            tally: Tally::new(),
            power: POWER,
            chosen: Chosen {
                shrinkage: 0.0,
                weight: WEIGHTS[0],
                text_weight: 1.0,
                bias: UNTESTED,
                calibration: Calibration::NONE,
            },
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
        if self.statistics.varies() {
            let own = spread.log_likelihoods(&self.statistics, rows, &truth);
            self.tally.log_likelihoods.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        let beside_text = self.beside_text(&spread, rows, &truth)?;
        self.add_told(&rows[..unseen * dim], &truth[..unseen]);
        let tried = match self.text_counts(&truth[..unseen]) {
            true => beside_text,
            false => self.alone(&spread, rows, &truth)?,
        };
        if self.seen() < self.classes() {
            let share = |hits: &f64| hits / truth.len() as f64;
            self.tally.seen.iter_mut().zip(&tried.seen).for_each(|(sum, hits)| *sum += share(hits));
            self.tally.tasks[1] += 1.0;
            // of classes of one row each the evidence says little, so there is little to make up for
            let untested = if self.statistics.rows() == self.seen() { 0.0 } else { UNTESTED };
            self.chosen.bias = self.tally.bias().unwrap_or(untested);
        }
        let Tried { model, shrinkage, weight, text_weight, .. } = tried;
        let weights = [self.chosen.weight, self.chosen.text_weight];
        self.tally.discount((before, weights), (self.seen(), [weight, text_weight]));
        self.chosen = Chosen { shrinkage, weight, text_weight, ..self.chosen };
        let known = self.add_errors(&model, rows, &truth);
        // more rows of a few known classes say nothing of all
        if unseen > 0 || self.tally.known.is_empty() {
            self.tally.set_known(known);
        }
        self.chosen.calibration = self.tally.calibration(self.candidates(), text_weight > 0.0, self.power);
        self.model = Some(model);
        Ok(())
    }

    /// The model and the weight beside text of the most hits so far, those of rows (N, D) of the classes
    /// `truth` (N) added.
    fn beside_text(&mut self, spread: &Spread, rows: &[f64], truth: &[usize]) -> Result<Tried> {
        let (mut models, places) = self.models(spread, &self.beside(true)?);
        let mut judged = self.judge(&models, &WEIGHTS, rows, truth);
        for (hits, &place) in self.tally.hits.chunks_exact_mut(WEIGHTS.len()).zip(&places) {
            hits.iter_mut().zip(&judged[place].hits).for_each(|(hits, own)| *hits += own);
        }
        let best = first_highest(&self.tally.hits);
        let place = places[best / WEIGHTS.len()];
        let (shrinkage, model) = models.swap_remove(place);
        let seen = judged.swap_remove(place).seen;
        Ok(Tried { model, shrinkage, weight: WEIGHTS[best % WEIGHTS.len()], text_weight: 1.0, seen })
    }

    /// The model without text, and what it hits of rows (N, D) of the classes `truth` (N).
    fn alone(&self, spread: &Spread, rows: &[f64], truth: &[usize]) -> Result<Tried> {
        let shrinkage = self.tally.likeliest().max(spread.oas);
        let models = [(shrinkage, self.fit(spread, shrinkage, &self.beside(false)?))];
        let seen = self.judge(&models, &[], rows, truth).swap_remove(0).seen;
        let [(_, model)] = models;
        Ok(Tried { model, shrinkage, weight: ALONE, text_weight: 0.0, seen })
    }

    /// Whether text counts, now that rows of the new classes `truth` (N) are learned. It is said anew
    /// only of rows that can be left out, or where none ever could.
    fn text_counts(&self, truth: &[usize]) -> bool {
        let judges = truth.iter().any(|&class| self.statistics.counts()[class] > 1);
        match judges || self.statistics.rows() == self.seen() {
            true => self.tally.text_tells(),
            false => self.chosen.text_weight > 0.0,
        }
    }

    /// Scores of embeddings (N, D), of any length, for learned and unlearned classes. `prompts` are
    /// their cosines (N, n) with learned prompts of the seen classes, which count half then, and
    /// zero-shot text the other half.
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

    /// What there is to say of means: where text counts, what it predicts, as soon as there are enough
    /// classes.
    fn beside(&self, text_counts: bool) -> Result<Beside> {
        if !text_counts {
            return Ok(Beside::Nothing);
        }
        let (n, dim) = (self.seen(), self.statistics.dim());
        Ok(Beside::Text((n >= FEWEST_FOR_TEXT).then(|| Text::new(&self.text[..n * dim], dim)).transpose()?))
    }

    fn fit(&self, spread: &Spread, shrinkage: f64, beside: &Beside) -> Model {
        Model::fit(&self.statistics, spread, shrinkage, &self.text, beside)
    }

    /// The models that are tried, each with its shrinkage, and which of them each of [`SHRINKAGES`] is.
    fn models(&self, spread: &Spread, beside: &Beside) -> (Vec<(f64, Model)>, Vec<usize>) {
        let mut models: Vec<(f64, Model)> = Vec::new();
        let places = SHRINKAGES.iter().map(|least| {
            let shrinkage = least.max(spread.oas);
            models.iter().position(|(there, _)| *there == shrinkage).unwrap_or_else(|| {
                models.push((shrinkage, self.fit(spread, shrinkage, beside)));
                models.len() - 1
            })
        });
        let places = places.collect();
        (models, places)
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

    /// Adds how many more of the rows (N, D) of each new class, which `truth` (N) names class after
    /// class, text alone tells among the seen ones than a guess would.
    fn add_told(&mut self, rows: &[f64], truth: &[usize]) {
        let (n, dim, guess) = (self.seen(), self.statistics.dim(), 1.0 / self.candidates() as f64);
        if guess == 1.0 {
            return;
        }
        let mut rest = rows;
        for truth in truth.chunk_by(|a, b| a == b) {
            let own = rest.split_off(..truth.len() * dim).unwrap_or_default();
            let logits = self.logits(own, &self.text[..n * dim]); // (B, n)
            let told = logits.chunks_exact(n).filter(|row| first_highest(row) == truth[0]).count();
            let more = told as f64 / truth.len() as f64 - guess;
            self.tally.text.iter_mut().zip([1.0, more, more * more]).for_each(|(sum, own)| *sum += own);
        }
    }

    /// Adds, for each calibration, the cross-entropies of rows (N, D) of the classes `truth` (N), each
    /// left out, among the seen classes. One that is alone in its class has none. Returns their highest
    /// scores, which say what known rows have.
    fn add_errors(&mut self, model: &Model, rows: &[f64], truth: &[usize]) -> Vec<f64> {
        let (candidates, chosen) = (self.candidates() as f64, self.chosen);
        let (dim, n, mut known) = (self.statistics.dim(), self.seen(), Vec::new());
        for (rows, truth) in rows.chunks(BATCH * dim).zip(truth.chunks(BATCH)) {
            let mut scores = self.logits(rows, &self.text); // (B, C)
            scores.iter_mut().zip(model.left_out(rows, truth)).for_each(|(x, e)| *x = chosen.beside(*x, e));
            for (scores, &class) in scores.chunks_exact(self.classes()).zip(truth) {
                if self.statistics.counts()[class] > 1 {
                    let highest = highest(scores[..n].iter().copied()).1;
                    known.push(highest);
                    let divisor =
                        Calibration { power: self.power, ..Calibration::NONE }.divisor(scores[..n].iter().copied());
                    for (errors, temperature) in self.tally.errors.chunks_exact_mut(EVENS.len()).zip(TEMPERATURES) {
                        let exp = |x: &f64| ((x - highest) / (divisor * temperature)).exp();
                        let own = exp(&scores[class]) / scores[..n].iter().map(exp).sum::<f64>();
                        for (error, even) in errors.iter_mut().zip(EVENS) {
                            *error -= Calibration { even, ..Calibration::NONE }.with_even(own, candidates).ln();
                        }
                    }
                }
            }
        }
        known
    }

    /// What each model hits, with each of `weights`, of rows of the classes `truth`, each left out.
    fn judge(&self, models: &[(f64, Model)], weights: &[f64], rows: &[f64], truth: &[usize]) -> Vec<Judged> {
        let (dim, n, all) = (self.statistics.dim(), self.seen(), self.classes());
        let mut judged = vec![Judged { hits: vec![0.0; weights.len()], seen: vec![0.0; BIASES] }; models.len()];
        for (rows, truth) in rows.chunks(BATCH * dim).zip(truth.chunks(BATCH)) {
            let logits = self.logits(rows, &self.text); // (B, C)
            for (judged, (_, model)) in judged.iter_mut().zip(models) {
                let evidence = model.left_out(rows, truth); // (B, C)
                for ((logits, evidence), &class) in logits.chunks_exact(all).zip(evidence.chunks_exact(all)).zip(truth)
                {
                    // one that is alone in its class says nothing of weights: without it the class has no mean
                    let weights = if self.statistics.counts()[class] > 1 { weights } else { &[] };
                    judged.add(logits, evidence, class, n, weights);
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
        let Tally { hits, unseen, seen, tasks, log_likelihoods, text, known, errors } = &self.tally;
        let Chosen { shrinkage, weight, text_weight, bias, calibration: Calibration { temperature, power, even } } =
            self.chosen;
        let flat = |values: &[f64]| (vec![values.len()], values.to_vec());
        state.insert("hits".into(), (vec![SHRINKAGES.len(), WEIGHTS.len()], hits.clone()));
        state.insert("unseen_hits".into(), flat(unseen));
        state.insert("seen_hits".into(), flat(seen));
        state.insert("tasks".into(), flat(tasks));
        state.insert("log_likelihoods".into(), flat(log_likelihoods));
        state.insert("text_tells".into(), flat(text));
        if !known.is_empty() {
            state.insert("known".into(), flat(known));
        }
        state.insert("errors".into(), (vec![TEMPERATURES.len(), EVENS.len()], errors.clone()));
        let mut chosen = vec![shrinkage, weight, text_weight, bias, temperature, power, even];
        if self.power == 0.0 {
            chosen.remove(POWER_PLACE); // as rule 7 has it
        }
        state.insert("chosen".into(), flat(&chosen));
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        let tally = Tally {
            hits: take(&mut state, "hits", &[SHRINKAGES.len(), WEIGHTS.len()])?,
            unseen: take(&mut state, "unseen_hits", &[BIASES])?,
            seen: take(&mut state, "seen_hits", &[BIASES])?,
            tasks: take(&mut state, "tasks", &[2])?.try_into().unwrap_or_default(),
            log_likelihoods: take(&mut state, "log_likelihoods", &[LOOC_SHRINKAGES.len()])?,
            text: take(&mut state, "text_tells", &[3])?.try_into().unwrap_or_default(),
            known: match state.contains_key("known") {
                true => take(&mut state, "known", &[QUANTILES])?,
                false => Vec::new(),
            },
            errors: take(&mut state, "errors", &[TEMPERATURES.len(), EVENS.len()])?,
        };
        let has_power = state.get("chosen").is_none_or(|(_, chosen)| chosen.len() != CHOSEN - 1);
        let mut chosen = take(&mut state, "chosen", &[if has_power { CHOSEN } else { CHOSEN - 1 }])?;
        if !has_power {
            chosen.insert(POWER_PLACE, 0.0);
        }
        let calibration = Calibration { temperature: chosen[4], power: chosen[POWER_PLACE], even: chosen[6] };
        calibration.check().context("tensor \"chosen\"")?;
        let chosen =
            Chosen { shrinkage: chosen[0], weight: chosen[1], text_weight: chosen[2], bias: chosen[3], calibration };
        ensure!((0.0..=1.0).contains(&chosen.shrinkage), "tensor \"chosen\" holds the shrinkage {}", chosen.shrinkage);
        let statistics = ClassStatistics::from_state(state, self.statistics.dim())?;
        let classes = statistics.counts().len();
        require_texts_of_state(classes, self.classes())?;
        (self.statistics, self.tally, self.chosen, self.model) = (statistics, tally, chosen, None);
        self.power = if has_power { POWER } else { 0.0 };
        if classes > 0 {
            let spread = Spread::of(&self.statistics)?;
            let beside = self.beside(chosen.text_weight > 0.0)?;
            self.model = Some(self.fit(&spread, chosen.shrinkage, &beside));
        }
        Ok(())
    }

    fn stored(&self) -> Stored {
        let Stored { per_class, shared } = self.statistics.stored();
        let Tally { hits, unseen, seen, tasks, log_likelihoods, text, known, errors } = &self.tally;
        let small = log_likelihoods.len() + tasks.len() + text.len() + CHOSEN;
        let numbers = hits.len() + unseen.len() + seen.len() + known.len() + errors.len() + small;
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

/// A model that may be chosen, and what goes with it.
struct Tried {
    model: Model,
    shrinkage: f64,
    weight: f64,
    text_weight: f64,
    seen: Vec<f64>, // (biases), hits of the task's rows, each left out, as images of seen classes
}

/// Hits of one model on rows of a task.
#[derive(Clone)]
struct Judged {
    hits: Vec<f64>, // (weights)
    seen: Vec<f64>, // (biases), as images of seen classes
}

impl Judged {
    /// Counts a row of a class, from its logits (C) and its evidence (C), of which n are seen, with
    /// `weights` of the evidence.
    fn add(&mut self, logits: &[f64], evidence: &[f64], class: usize, n: usize, weights: &[f64]) {
        for (hits, weight) in self.hits.iter_mut().zip(weights) {
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

#[cfg(test)]
mod tests;
