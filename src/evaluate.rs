//! Test images against a classifier that has learned some of the classes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    calibration::Calibration,
    dense::{
        product::{Matrix, Product, Threads},
        vector::dot,
    },
    rows::{Rows, Test},
    run::Run,
    stream::Stream,
};

/// Images scored at a time, and scores of them that are held at most.
const BATCH: usize = 4096;
const SCORES: usize = 1 << 24;

/// The test images of a stream, source after source, each in the source's order.
pub struct TestSet {
    /// The source of each image, and its key there.
    pub sources: Vec<String>,
    /// The key of each image in its source.
    pub sample_ids: Vec<String>,
    /// Position of each image's class in learning order.
    pub classes: Vec<usize>,
    /// How many tasks there were when each image came: those with more images of known classes have
    /// some that earlier steps were not scored on.
    pub since: Vec<usize>,
    /// Embeddings (M, D) of the first M of them; those of the others were forgotten.
    pub rows: Rows<Test>,
    /// The sources whose test embeddings were forgotten.
    pub forgotten: Vec<String>,
}

/// What a classifier says of an image. Classes are positions in learning order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prediction {
    /// The class with the highest score: for an image of a seen class among the seen ones, else
    /// among all; none where the classifier cannot score the classes that it has not learned.
    pub class: Option<usize>,
    /// Its score, as the table `predictions` has it.
    pub score: Option<f32>,
    /// The class with the highest score among those of the image's own task, as if the task were
    /// known.
    pub in_task: Option<usize>,
    /// For an image of an unseen class: the class, where text features of unseen classes keep their
    /// length, as in the authors' code; none where the length is not known.
    pub raw: Option<usize>,
    /// The class with the highest score among all, learned or not, as a classifier in use answers;
    /// none where the classifier cannot score classes that it has not learned.
    pub open: Option<usize>,
    /// The best of the classes that are not learned; none where there is none, or as above.
    pub unseen: Option<Unseen>,
    /// How sure it is that the image is of a seen class at all; none before the first task.
    pub confidence: Option<f32>,
    /// For an image of a seen class: how likely the class is among the seen ones; none where scores
    /// are no logits.
    pub probability: Option<f32>,
    /// The same by the softmax alone, where the classifier is calibrated.
    pub uncalibrated: Option<f32>,
}

/// The class that is not learned with the highest score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unseen {
    /// The class.
    pub class: usize,
    /// Its score less that of the best seen class, by the open scores: above 0 the answer is the
    /// unseen class. None before the first task.
    pub margin: Option<f32>,
}

/// Text features (C, D) of all classes, which score those that are not seen.
#[derive(Clone, Copy)]
pub struct ZeroShot<'a> {
    /// (C, D), flat.
    pub features: &'a [f32],
    /// Whether they have the length that the encoder gives them.
    pub is_raw: bool,
}

/// Scores (N, n) of N embeddings for the n seen classes.
pub struct Scores {
    /// Those that the scores of unseen classes are compared with: cosines, unless `unseen` says
    /// otherwise.
    pub open: Vec<f32>,
    /// Those that decide among the seen classes, if not the same ones.
    pub seen: Option<Vec<f32>>,
    /// Those (N, C − n) of the classes that are not seen, if not the cosines with their text.
    pub unseen: Option<Vec<f32>>,
    /// How sure it is (N) that embeddings are of a seen class at all, if not the highest of the
    /// scores that decide among these.
    pub confidence: Option<Vec<f32>>,
    /// How those that decide among the seen classes become probabilities; none where they cannot.
    pub logits: Option<Logits>,
}

/// Scores that are logits, but for a factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logits {
    /// What they are multiplied with.
    pub scale: f32,
    /// What was learned of how sure they are.
    pub calibration: Option<Calibration>,
}

impl From<Vec<f32>> for Scores {
    fn from(open: Vec<f32>) -> Self {
        Scores { open, seen: None, unseen: None, confidence: None, logits: None }
    }
}

impl Scores {
    /// Scores whose softmax, of `scale` times them, is a probability.
    pub fn logits(scores: Vec<f32>, scale: f32) -> Self {
        Scores { logits: Some(Logits { scale, calibration: None }), ..scores.into() }
    }
}

impl Logits {
    /// The probability of the class with the highest of these scores (n), and the same by the softmax
    /// alone where there is a calibration.
    fn highest(self, scores: &[f32]) -> (f32, Option<f32>) {
        let by = |calibration: Calibration| {
            calibration.highest(scores.iter().map(|&score| f64::from(self.scale * score))) as f32
        };
        let plain = by(Calibration::NONE);
        self.calibration.map_or((plain, None), |calibration| (by(calibration), Some(plain)))
    }
}

impl Scores {
    /// An error where a score is no number.
    fn check(&self) -> Result<()> {
        [Some(&self.open), self.seen.as_ref(), self.unseen.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(|x| require_finite(x))
    }

    /// Without some of the n seen classes, whose scores may be anything.
    fn leave_out(&mut self, classes: &[usize], n: usize) -> Result<()> {
        let set = |scores: &mut Vec<f32>, value: f32| {
            for row in scores.chunks_exact_mut(n.max(1)) {
                classes.iter().for_each(|&class| row[class] = value);
            }
        };
        for value in [0.0, f32::NEG_INFINITY] {
            [Some(&mut self.open), self.seen.as_mut()].into_iter().flatten().for_each(|scores| set(scores, value));
            if value == 0.0 {
                self.check()?;
            }
        }
        Ok(())
    }
}

impl TestSet {
    /// The test images of the stream: of every task, or none at all, where nothing is scored.
    pub fn read(run: &Run, stream: &Stream) -> Result<Self> {
        let (mut sources, mut sample_ids, mut classes, mut since, mut values) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut dim, mut gone, mut forgotten) = (stream.embeddings(run, 0)?.plan.dim, Vec::new(), Vec::new());
        for source in stream.sources() {
            let tasks: Vec<usize> = (0..stream.tasks()).filter(|&t| stream.source(t) == Some(source)).collect();
            let embeddings = stream.embeddings(run, tasks[0])?;
            let of_task = |&t: &usize| {
                stream.source_labels(t).into_iter().zip(stream.learns(t)).map(move |own| (own.0, (own.1, t + 1)))
            };
            let class_of: BTreeMap<i64, (usize, usize)> = tasks.iter().flat_map(of_task).collect();
            for (sample_id, label) in embeddings.forgotten_test_rows()? {
                gone.extend(class_of.get(&label).map(|(class, came)| (source.to_owned(), sample_id, *class, *came)));
            }
            if embeddings.is_forgotten::<Test>() {
                forgotten.push(source.to_owned());
                continue;
            }
            let found = embeddings.test_rows(&class_of.keys().copied().collect::<BTreeSet<_>>())?;
            ensure!(
                values.is_empty() || found.rows.dim() == dim,
                "{} has embeddings of {} values, others of the stream have {dim}",
                embeddings.dir().display(),
                found.rows.dim()
            );
            dim = found.rows.dim();
            sources.extend(vec![source.to_owned(); found.labels.len()]);
            sample_ids.extend(found.sample_ids);
            for label in &found.labels {
                let (class, came) = class_of.get(label).with_context(|| {
                    format!(
                        "{} has a test row of label {label}, which it had not before: make it again",
                        embeddings.dir().display()
                    )
                })?;
                classes.push(*class);
                since.push(*came);
            }
            values.extend(found.rows.into_values());
        }
        for (source, sample_id, class, came) in gone {
            sources.push(source);
            sample_ids.push(sample_id);
            classes.push(class);
            since.push(came);
        }
        let test = TestSet { sources, sample_ids, classes, since, rows: Rows::new(dim, values), forgotten };
        let images = test.per_task(stream);
        // a delivery without test images is not scored; a class that others of its source have none beside is missed
        let has_tests = |t: usize| stream.source(t).is_some_and(|source| test.sources.iter().any(|own| own == source));
        let without = (0..stream.tasks()).find(|&t| images[t] == 0 && !stream.task(t).is_empty() && has_tests(t));
        if let Some(task) = without.filter(|_| !test.is_empty()) {
            let names: Vec<&str> = stream.classes_of(task).iter().map(|c| c.name.as_str()).collect();
            bail!(
                "task {} has no test images to be scored on: add some of {}, or use fewer tasks",
                task + 1,
                names.join(", ")
            );
        }
        Ok(test)
    }

    /// Whether an image can be scored after `learned` tasks, when `known` were there: one of a class
    /// that is learned once it came, until its class is taken out or it is forgotten.
    pub fn is_scored(&self, image: usize, learned: usize, known: usize, stream: &Stream) -> bool {
        let class = self.classes[image];
        let came_by = if class < stream.seen(learned) { learned } else { known };
        image < self.rows.len() && self.since[image] <= came_by && stream.is_candidate(class, learned)
    }

    /// Whether there is nothing to score on.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Images of each task.
    pub fn per_task(&self, stream: &Stream) -> Vec<usize> {
        let mut images = vec![0; stream.tasks()];
        self.classes.iter().for_each(|&class| images[stream.task_of(class)] += 1);
        images
    }

    /// Values per embedding, D.
    pub fn dim(&self) -> usize {
        self.rows.dim()
    }
}

/// Predicts every test image's class after `learned` tasks. `scores` takes embeddings (N, D) to
/// scores for the n seen classes; it is not called before the first task. Images of unseen classes
/// are answered where `zero_shot` is given: the open scores say whether the class is a seen one,
/// and then those for seen classes say which.
pub fn evaluate(
    test: &TestSet,
    stream: &Stream,
    learned: usize,
    zero_shot: Option<ZeroShot>,
    mut scores: impl FnMut(&[f32]) -> Result<Scores>,
) -> Result<Vec<Option<Prediction>>> {
    let (d, seen) = (test.dim(), stream.seen(learned));
    let unseen = zero_shot.map_or(&[][..], |zero_shot| &zero_shot.features[seen * d..]); // (C - n, D)
    let lengths: Vec<f32> = unseen.chunks_exact(d).map(|row| dot(row, row).sqrt()).collect();

    let (step, removed): (usize, Vec<usize>) = (learned, stream.removed(learned).collect());
    let mut predictions = Vec::with_capacity(test.classes.len());
    let batch = (SCORES / stream.classes.len().max(1)).clamp(1, BATCH);
    for (images, classes) in test.rows.values().chunks(batch * d).zip(test.classes[..test.rows.len()].chunks(batch)) {
        let mut learned = if seen > 0 { scores(images)? } else { Vec::new().into() }; // (rows, n)
        learned.leave_out(&removed, seen)?;
        let decisive = learned.seen.as_ref().unwrap_or(&learned.open); // (rows, n)
        let mut others = vec![0.0; classes.len() * lengths.len()]; // (rows, C - n)
        Product::on(Threads::All).into(&mut others, lengths.len(), Matrix::new(images, d), Matrix::new(unseen, d).t());
        for (i, &class) in classes.iter().enumerate() {
            let among_seen = &decisive[i * seen..(i + 1) * seen];
            if !test.is_scored(predictions.len(), step, stream.tasks(), stream) {
                predictions.push(None);
                continue;
            }
            let best = (seen > 0).then(|| highest(among_seen, 0..seen));
            let confidence = learned.confidence.as_ref().map(|sure| sure[i]).or(best.map(|(_, score)| score));
            let silent = Prediction { confidence, ..Prediction::default() };
            if class >= seen && zero_shot.is_none() {
                predictions.push(Some(silent));
                continue;
            }
            let own = stream.task(stream.task_of(class));
            let image = &images[i * d..(i + 1) * d];
            let length = dot(image, image).sqrt();
            let raw = others[i * lengths.len()..][..lengths.len()].iter().map(|x| x / length);
            let open = &learned.open[i * seen..(i + 1) * seen];
            // scores of all classes (C), with text features as long as they are, and at length 1
            let with_length = || open.iter().copied().chain(raw.clone()).collect::<Vec<f32>>();
            let cosines = raw.clone().zip(&lengths).map(|(x, length)| x / length);
            let normal: Vec<f32> = match &learned.unseen {
                Some(unseen) => [open, &unseen[i * lengths.len()..][..lengths.len()]].concat(),
                None => open.iter().copied().chain(cosines).collect(),
            };
            require_finite(&normal[seen..])?;
            let (answer, unseen) = among_all(&normal, among_seen);
            let answered = zero_shot.map(|_| answer);
            predictions.push(Some(if class < seen {
                let (class, score) = best.unzip();
                let in_task = Some(highest(among_seen, own).0);
                let (probability, plain) = learned.logits.map(|logits| logits.highest(among_seen)).unzip();
                let uncalibrated = plain.flatten();
                Prediction { class, score, in_task, open: answered, unseen, probability, uncalibrated, ..silent }
            } else {
                let is_raw = zero_shot.is_some_and(|zero_shot| zero_shot.is_raw);
                let raw = is_raw.then(|| among_all(&with_length(), among_seen).0);
                let in_task = Some(highest(&normal, own).0);
                let (class, score) = (Some(answer), Some(normal[answer]));
                Prediction { class, score, in_task, raw, open: answered, unseen, ..silent }
            }));
        }
    }
    predictions.resize(test.classes.len(), None); // those that were forgotten
    Ok(predictions)
}

/// The answer where all classes are candidates: by the `open` scores (C) whether it is a seen one,
/// and which of the others, by the `decisive` ones (n) which of the seen. With it the best unseen
/// class.
fn among_all(open: &[f32], decisive: &[f32]) -> (usize, Option<Unseen>) {
    let seen = decisive.len();
    let known = (seen > 0).then(|| highest(open, 0..seen).1);
    let unseen = (seen < open.len()).then(|| highest(open, seen..open.len()));
    let unseen = unseen.map(|(class, score)| Unseen { class, margin: known.map(|known| score - known) });
    let answer = match unseen {
        Some(unseen) if unseen.margin.is_none_or(|margin| margin > 0.0) => unseen.class,
        _ => highest(decisive, 0..seen).0,
    };
    (answer, unseen)
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
    bail!("the scores of a test image are not finite numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Class;

    /// Three classes in tasks of two and one, on the axes of three dimensions.
    fn stream() -> Stream {
        let classes: Vec<Class> = (0..3).map(|i| Class { label: 10 + i, name: format!("c{i}") }).collect();
        Stream::of_sizes(&classes, &[2, 1]).unwrap()
    }

    fn test(classes: &[usize], rows: &[f32]) -> TestSet {
        TestSet {
            sources: vec!["base".into(); classes.len()],
            sample_ids: (0..classes.len()).map(|i| i.to_string()).collect(),
            classes: classes.to_vec(),
            since: classes.iter().map(|&class| 1 + class / 2).collect(),
            rows: Rows::new(3, rows.to_vec()),
            forgotten: Vec::new(),
        }
    }

    /// Text features: class 2's is twice as long as the others'.
    const TEXT: [f32; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0];

    fn said(predictions: Vec<Option<Prediction>>) -> Vec<(usize, usize, Option<usize>)> {
        let answered = predictions.into_iter().flatten().filter_map(|p| Some((p.class?, p.in_task?, p.raw)));
        answered.collect()
    }

    #[test]
    fn before_the_first_task_every_class_is_told_by_its_text() {
        // the second is nearest to class 1 by angle, and to class 2 by the text feature's length
        let test = test(&[0, 1], &[2.0, 1.0, 0.0, 0.0, 1.0, 0.75]);
        let zero_shot = ZeroShot { features: &TEXT, is_raw: true };
        let predictions =
            evaluate(&test, &stream(), 0, Some(zero_shot), |_| unreachable!("nothing is learned")).unwrap();
        assert_eq!((predictions[1].unwrap().score, predictions[1].unwrap().confidence), (Some(0.8), None));
        assert_eq!(said(predictions), [(0, 0, Some(0)), (1, 1, Some(2))]);
    }

    #[test]
    fn seen_images_are_told_among_seen_classes_and_within_their_task() {
        let test = test(&[0, 1, 2], &[0.0; 9].map(|_| 1.0));
        // after both tasks: image 0 is taken for class 2, image 1 for class 2 but in its task for
        // 0, image 2 has a tie
        let scores = vec![1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 3.0, 3.0, 3.0];
        let predictions = evaluate(&test, &stream(), 2, None, |_| Ok(scores.clone().into())).unwrap();
        assert_eq!(said(predictions), [(2, 1, None), (2, 0, None), (0, 2, None)]);
    }

    #[test]
    fn open_scores_say_whether_a_class_is_unseen_and_decisive_ones_which_seen_one_it_is() {
        // images of the unseen class 2: one along its text, one along class 0; and one of class 1
        let test = test(&[2, 2, 1], &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.8, 0.6]);
        let zero_shot = ZeroShot { features: &TEXT, is_raw: false };
        let open = vec![0.1, 0.2, 0.9, 0.3, 0.4, 0.5];
        let seen = vec![-1.0, -2.0, -5.0, -3.0, -1.0, -7.0];
        let mut scores = |_: &[f32]| Ok(Scores { seen: Some(seen.clone()), ..open.clone().into() });
        let predictions = evaluate(&test, &stream(), 1, Some(zero_shot), &mut scores).unwrap();
        let scores_said: Vec<f32> = predictions.iter().flatten().filter_map(|p| p.score).collect();
        // the second is a seen class by the open scores (0.9), and then class 1 by the decisive
        // ones: its own open score is told
        let open = |p: &Prediction| (p.open, p.unseen.map(|unseen| (unseen.class, unseen.margin)));
        let found: Vec<_> = predictions.iter().flatten().map(open).collect();
        // the third is of class 1, nearer to class 2 (0.6) than to what is seen (0.5)
        let margins = [1.0 - 0.2, 0.0 - 0.9, 0.6f32 - 0.5].map(|margin| Some((2, Some(margin))));
        assert_eq!(found, [Some(2), Some(1), Some(2)].into_iter().zip(margins).collect::<Vec<_>>());
        assert_eq!(said(predictions), [(2, 2, None), (1, 2, None), (0, 0, None)]);
        assert_eq!(scores_said, [1.0, 0.3, -1.0]);
        // a classifier that knows nothing of unseen classes says nothing of their images
        let predictions = evaluate(&test, &stream(), 1, None, |_| Ok(seen.clone().into())).unwrap();
        assert!(predictions.iter().flatten().all(|p| (p.open, p.unseen) == (None, None)));
        let sure: Vec<_> = predictions.iter().flatten().map(|p| (p.class, p.score, p.in_task, p.confidence)).collect();
        let silent = |sure: f32| (None, None, None, Some(sure));
        assert_eq!(sure, [silent(-1.0), silent(-3.0), (Some(0), Some(-1.0), Some(0), Some(-1.0))]);
        // before the first task all classes are unseen, after the last none is
        let nothing = |_: &[f32]| unreachable!();
        let before = evaluate(&test, &stream(), 0, Some(zero_shot), nothing).unwrap();
        assert_eq!(before[0].map(|p| (p.open, p.unseen)), Some((Some(2), Some(Unseen { class: 2, margin: None }))));
        let all = |_: &[f32]| Ok(vec![0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.7, 0.8, 0.6].into());
        let after = evaluate(&test, &stream(), 2, Some(zero_shot), all).unwrap();
        assert_eq!(after[0].map(|p| (p.class, p.open, p.unseen)), Some((Some(2), Some(2), None)));
    }

    #[test]
    fn images_are_counted_task_by_task() {
        assert_eq!(test(&[2, 0, 1, 1], &[1.0; 12]).per_task(&stream()), [3, 1]);
    }

    #[test]
    fn images_of_seen_classes_have_a_probability_where_scores_are_logits() {
        // images of the classes 0, 1 and, unseen, 2; logits 4 ln 3 apart, and 0
        let test = test(&[0, 1, 2], &[0.0; 9].map(|_| 1.0));
        let third = 3f32.ln();
        let rows = vec![2.0 * third, 0.0, 0.5, 0.5, 2.0 * third, 0.0];
        let zero_shot = ZeroShot { features: &TEXT, is_raw: false };
        let said = |scores: &dyn Fn() -> Scores| -> Vec<[Option<f32>; 3]> {
            let predictions = evaluate(&test, &stream(), 1, Some(zero_shot), |_| Ok(scores())).unwrap();
            let of = |p: Prediction| {
                [p.confidence, p.probability, p.uncalibrated].map(|x| x.map(|x| (x * 1e5).round() / 1e5))
            };
            predictions.into_iter().flatten().map(of).collect()
        };
        let most = Some((2.0 * third * 1e5).round() / 1e5);
        let plain = said(&|| Scores::logits(rows.clone(), 0.5));
        assert_eq!(plain, [[most, Some(0.75), None], [Some(0.5), Some(0.5), None], [most, None, None]]);
        // the first row's standard deviation is ln 3, and the second's 0
        let calibration = Some(Calibration { temperature: 2.0 / f64::from(third).sqrt(), power: 0.5, even: 0.2 });
        let tempered = said(&|| Scores {
            confidence: Some(vec![7.0, 8.0, 9.0]),
            logits: Some(Logits { scale: 1.0, calibration }),
            ..rows.clone().into()
        });
        let (first, second) = ([Some(7.0), Some(0.7), Some(0.9)], [Some(8.0), Some(0.5), Some(0.5)]);
        assert_eq!(tempered, [first, second, [Some(9.0), None, None]]);
        assert!(said(&|| rows.clone().into()).iter().all(|row| row[1..] == [None, None]));
    }

    #[test]
    fn scores_that_are_no_numbers_are_refused() {
        let test = test(&[0], &[1.0, 0.0, 0.0]);
        assert!(evaluate(&test, &stream(), 1, None, |_| Ok(vec![f32::NAN, 0.0].into())).is_err());
    }
}
