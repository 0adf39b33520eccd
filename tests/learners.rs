//! The learners of prompts, on slices and on tensors: gradients against finite differences,
//! optimisers against torch's, one learner against the other.

use std::{fs, ops::Range};

use candle_core::{Device, Tensor, Var};
use cgil::{
    clip::Checkpoint,
    dense::cosine::normalise,
    prompt::{
        Batch, Candidates, Context, Learner, Learning, Optimizer, PromptConfig, TrainPrompts, cpu,
        parameters::Parameters, tensor,
    },
    task::Class,
};
use serde_json::Value;

use crate::support::{assert_close, golden, values};

const CONTEXTS: [Context; 5] =
    [Context::Class, Context::General, Context::Generated, Context::Image, Context::Combined];

/// Values per embedding of the golden checkpoint.
const DIM: usize = 48;

fn config(context: Context, n_ctx: usize) -> PromptConfig {
    PromptConfig { context, n_ctx, ..PromptConfig::default() }
}

/// Six classes, whose names are of different lengths.
fn classes() -> Vec<Class> {
    let names = ["forest", "annual crop land", "2012 Tesla Model S", "red_fox", "black-footed albatross", "river"];
    names.iter().zip(0..).map(|(name, label)| Class { label, name: (*name).into() }).collect()
}

fn on_the_cpu(config: &PromptConfig) -> cpu::Prompts {
    let checkpoint = Checkpoint::open(&golden("checkpoint")).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let encoder = checkpoint.text_encoder(&tokenizer).unwrap();
    cpu::Prompts::new(encoder, &tokenizer, &classes(), config, 5).unwrap()
}

fn on_tensors(config: &PromptConfig) -> tensor::Prompts {
    let checkpoint = Checkpoint::open(&golden("checkpoint")).unwrap();
    let encoder = checkpoint.text_encoder_on(&Device::Cpu).unwrap();
    tensor::Prompts::new(encoder, &checkpoint.tokenizer().unwrap(), &classes(), config, 5).unwrap()
}

fn wave(n: usize, frequency: f32) -> Vec<f32> {
    (0..n).map(|i| (frequency * i as f32 + 0.3).sin()).collect()
}

/// Normalised embeddings (n, P), and labels among `classes` classes.
fn batch(n: usize, classes: usize) -> (Vec<f32>, Vec<u32>) {
    let mut embeddings = wave(n * DIM, 0.7);
    normalise(&mut embeddings, DIM);
    (embeddings, (0..n).map(|i| (i * i % classes) as u32).collect())
}

/// A learner whose loss and gradient, over all parameters, can be asked for.
trait Differentiable: Learner {
    fn differentiate(&mut self, n: usize, embeddings: &[f32], labels: &[u32]) -> (f64, Vec<f32>);
}

impl Differentiable for cpu::Prompts {
    fn differentiate(&mut self, n: usize, embeddings: &[f32], labels: &[u32]) -> (f64, Vec<f32>) {
        let loss = self.loss(n, embeddings, labels);
        let end = self.parameters().unwrap().values.len();
        (loss.into(), self.gradient(0..end).to_vec())
    }
}

impl Differentiable for tensor::Prompts {
    fn differentiate(&mut self, n: usize, embeddings: &[f32], labels: &[u32]) -> (f64, Vec<f32>) {
        let embeddings = Tensor::from_slice(embeddings, (labels.len(), DIM), &Device::Cpu).unwrap();
        let labels = Tensor::new(labels, &Device::Cpu).unwrap();
        let (loss, gradients) = self.loss(n, &embeddings, &labels).unwrap();
        let gradient = |var: &Var| values(gradients.get(var).expect("a gradient"));
        (loss.to_scalar::<f32>().unwrap().into(), self.vars().iter().flat_map(gradient).collect())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The place of a parameter.
fn place(parameters: &Parameters, name: &str) -> Range<usize> {
    parameters.fields().find(|(found, ..)| *found == name).expect("a parameter").2
}

/// Compares the gradients of a learner with central differences of its loss, parameter by
/// parameter.
fn differences(what: &str, learner: &mut dyn Differentiable) {
    let (embeddings, labels) = batch(7, 4);
    let mut parameters = learner.parameters().unwrap();
    // contexts as long as words, and activations that stay on their side of the kinks of SELU and
    // ReLU
    for (name, _, range) in parameters.clone().fields() {
        let values = &mut parameters.values[range];
        match name {
            "contexts" => values.iter_mut().for_each(|x| *x *= 10.0),
            "generator.1.weight" | "generator.4.weight" | "generator.7.weight" => values.fill(0.7),
            "generator.1.bias" | "generator.4.bias" | "generator.7.bias" | "meta_net.0.bias" => {
                values.iter_mut().enumerate().for_each(|(i, x)| *x = [2.5, -2.5][i % 2]);
            }
            _ => {}
        }
    }
    learner.set_parameters(parameters.clone()).unwrap();
    let (loss, gradient) = learner.differentiate(4, &embeddings, &labels);
    for (name, _, range) in parameters.fields() {
        let own = &gradient[range.clone()];
        let length = dot(own, own).sqrt();
        let mut random = wave(range.len(), 1.9);
        normalise(&mut random, range.len());
        for sign in [1.0, -1.0] {
            // steep, and with a part in every dimension
            let direction: Vec<f32> = own.iter().zip(&random).map(|(x, r)| x / length as f32 + sign * r).collect();
            let mut at = |h: f64| {
                let mut moved = parameters.clone();
                for (value, d) in moved.values[range.clone()].iter_mut().zip(&direction) {
                    *value += h as f32 * d;
                }
                learner.set_parameters(moved).unwrap();
                learner.differentiate(4, &embeddings, &labels).0
            };
            // steps between those that round and those that bend
            let errors = [0.01, 0.003, 0.001].map(|effect| {
                let h = effect * loss.max(1.0) / length;
                let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                (dot(own, &direction) - numeric).abs() / length
            });
            assert!(errors.iter().any(|error| *error <= 1e-3), "{what}: {name}: relative errors {errors:?}");
        }
    }
}

#[test]
fn gradients_are_those_of_the_loss() {
    for context in CONTEXTS {
        for (n_ctx, ortho) in [(2, 0.0), (2, 0.01), (1, 0.01)] {
            let config = PromptConfig { ortho, ..config(context, n_ctx) };
            differences(&format!("{config:?} on the CPU"), &mut on_the_cpu(&config));
            differences(&format!("{config:?} on tensors"), &mut on_tensors(&config));
        }
    }
}

#[test]
fn both_learners_have_the_same_loss_gradients_and_scores() {
    // more images than have their prompts in hand at a time
    let (embeddings, labels) = batch(300, 4);
    for context in CONTEXTS {
        let config = PromptConfig { ortho: 0.1, ..config(context, 2) };
        let (mut a, mut b) = (on_the_cpu(&config), on_tensors(&config));
        assert_eq!(a.parameters().unwrap().tensors(6), b.parameters().unwrap().tensors(6));
        let (loss, gradient) = a.differentiate(4, &embeddings, &labels);
        let (tensor_loss, tensor_gradient) = b.differentiate(4, &embeddings, &labels);
        assert!((loss - tensor_loss).abs() <= 1e-5 * loss, "{context:?}: {loss} {tensor_loss}");
        for (name, _, range) in a.parameters().unwrap().fields() {
            let what = format!("{context:?}: gradient of {name}");
            assert_close(&what, &tensor_gradient[range.clone()], &gradient[range], 1e-3);
        }
        let scores = a.scores(4, &embeddings).unwrap();
        assert_eq!(scores.len(), 300 * 4);
        assert!(scores.iter().all(|x| x.abs() <= 1.0 + 1e-5));
        assert_close("scores", &b.scores(4, &embeddings).unwrap(), &scores, 1e-4);
        assert_close("keys", &b.keys(4).unwrap(), &a.keys(4).unwrap(), 1e-4);
    }
}

#[test]
fn without_its_meta_net_an_image_has_the_prompts_of_all() {
    let (embeddings, _) = batch(9, 4);
    let mut shared = on_the_cpu(&config(Context::General, 2));
    let mut image = on_the_cpu(&config(Context::Image, 2));
    let mut parameters = image.parameters().unwrap();
    let contexts = shared.parameters().unwrap().values;
    assert_eq!(parameters.values[parameters.contexts()], contexts);
    let with = image.scores(6, &embeddings).unwrap();
    let (weight, bias) = (place(&parameters, "meta_net.2.weight"), place(&parameters, "meta_net.2.bias"));
    parameters.values[weight].fill(0.0);
    parameters.values[bias].fill(0.0);
    image.set_parameters(parameters).unwrap();
    let expected = shared.scores(6, &embeddings).unwrap();
    assert_close("scores", &image.scores(6, &embeddings).unwrap(), &expected, 1e-5);
    assert!(with.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-2), "the meta-net does nothing");
    // what a score is: the cosine with the text feature of the prompt
    let keys = shared.keys(6).unwrap();
    let cosines = embeddings.chunks(DIM).flat_map(|x| keys.chunks(DIM).map(move |key| dot(x, key) as f32));
    assert_close("scores", &expected, &cosines.collect::<Vec<_>>(), 1e-5);
}

#[test]
fn the_penalty_is_that_of_its_definition() {
    // three vectors of two values in one group, then in groups of one
    let vectors = [1.0, 2.0, 0.5, -1.0, 0.0, 3.0];
    let excess = |i: usize, j: usize| {
        dot(&vectors[2 * i..2 * i + 2], &vectors[2 * j..2 * j + 2]) - if i == j { 1.0 } else { 0.0 }
    };
    let all: f64 = (0..9).map(|k| excess(k / 3, k % 3).powi(2)).sum();
    let alone: f64 = (0..3).map(|i| excess(i, i).powi(2)).sum();
    for (group, expected) in [(3, all), (1, alone)] {
        let expected = 0.7 * expected / 3.0;
        let found = cgil::prompt::orthogonal::penalise(&vectors, group, 2, 0.7, &mut [0.0; 6]);
        assert!((f64::from(found) - expected).abs() < 1e-4, "{found} {expected}");
        let tensor = Tensor::from_slice(&vectors, (3, 2), &Device::Cpu).unwrap();
        let found = cgil::prompt::orthogonal::penalty(&tensor, group, 0.7).unwrap().to_scalar::<f32>().unwrap();
        assert!((f64::from(found) - expected).abs() < 1e-4, "{found} {expected}");
    }
    // which vectors make a group
    for (context, n_ctx, expected) in [
        (Context::Class, 2, (8, 2)),
        (Context::Class, 1, (4, 4)),
        (Context::Combined, 1, (8, 2)),
        (Context::Generated, 1, (4, 4)),
        (Context::General, 3, (3, 3)),
        (Context::Image, 1, (1, 1)),
    ] {
        assert_eq!(cgil::prompt::orthogonal::groups(&config(context, n_ctx), 4), expected, "{context:?} {n_ctx}");
    }
}

/// What torch's optimisers make of some values.
fn torch() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("optimisers.json")).unwrap()).unwrap()
}

#[test]
fn optimisers_take_torchs_steps() {
    let facts = torch();
    let floats = |value: &Value| serde_json::from_value::<Vec<f32>>(value.clone()).unwrap();
    let (before, n) = (floats(&facts["before"]), 6);
    let runs = facts["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 6);
    for run in runs {
        let config = PromptConfig {
            optimizer: serde_json::from_value(run["optimiser"].clone()).unwrap(),
            weight_decay: run["weight_decay"].as_f64().unwrap(),
            lr: facts["lr"].as_f64().unwrap(),
            ..PromptConfig::default()
        };
        // on slices beside values that do not learn
        let mut slice = [&before[..], &before, &before].concat();
        let mut on_slices = cpu::optimiser::Optimiser::new(&config, 3 * n);
        let var = Var::from_slice(&before, n, &Device::Cpu).unwrap();
        let mut on_tensors = tensor::optimiser::Optimiser::new(&config, vec![var.clone()]).unwrap();
        for (step, after) in run["after"].as_array().unwrap().iter().enumerate() {
            let what = format!("{:?}, weight decay {}, step {step}", config.optimizer, config.weight_decay);
            let (gradient, after) = (floats(&facts["gradients"][step]), floats(after));
            let mut gradients = [&gradient[..], &gradient, &gradient].concat();
            on_slices.step(&[0..n, 2 * n..3 * n], &mut slice, &mut gradients);
            assert_close(&what, &slice[..n], &after, 1e-6);
            assert_eq!((&slice[n..2 * n], &slice[2 * n..]), (&before[..], &slice[..n]), "{what}");

            let gradient = Tensor::from_slice(&gradient, n, &Device::Cpu).unwrap();
            let loss = (var.as_tensor() * gradient).unwrap().sum_all().unwrap();
            on_tensors.step(&mut loss.backward().unwrap()).unwrap();
            assert_close(&what, &values(&var), &after, 1e-6);
        }
    }
}

/// Against some classes a step has the loss and the gradients of their softmax, in which each that was
/// drawn counts for several.
#[test]
fn a_step_against_some_classes_is_that_of_their_softmax() {
    check_candidates(&Candidates { classes: vec![0, 2, 3], more: vec![0.0, 0.7, 0.0] }, [0, 3]);
    // of which none learns where prompts of earlier classes stay
    check_candidates(&Candidates { classes: vec![0, 1], more: vec![0.0, 0.4] }, [0, 1]);
}

/// Holds a step of both learners, with rows of two of the candidates, to the definition.
fn check_candidates(candidates: &Candidates, own: [u32; 2]) {
    let (embeddings, labels) = batch(6, 4);
    let labels: Vec<u32> = labels.iter().map(|label| own[*label as usize % 2]).collect();
    for context in [Context::Class, Context::General, Context::Generated, Context::Combined] {
        for train_prompts in [TrainPrompts::All, TrainPrompts::Current] {
            let config = PromptConfig { train_prompts, ..config(context, 2) };
            let what = format!("{:?} of {context:?} {train_prompts:?}", candidates.classes);
            let (mut slices, mut tensors) = (on_the_cpu(&config), on_tensors(&config));
            slices.begin(&Learning::after(2)).unwrap();
            tensors.begin(&Learning::after(2)).unwrap();

            let keys = slices.keys(4).unwrap();
            let scale = slices.logit_scale();
            let loss = embeddings.chunks(DIM).zip(&labels).map(|(row, label)| {
                let logit = |(class, more): (&usize, &f32)| {
                    (dot(row, &keys[class * DIM..][..DIM]) * f64::from(scale) + f64::from(*more), *class)
                };
                let logits: Vec<(f64, usize)> = candidates.classes.iter().zip(&candidates.more).map(logit).collect();
                let own = logits.iter().find(|(_, class)| *class == *label as usize).unwrap().0;
                logits.iter().map(|(logit, _)| logit.exp()).sum::<f64>().ln() - own
            });
            let expected = (loss.sum::<f64>() / labels.len() as f64) as f32;
            let found = slices.loss_among(candidates, &embeddings, &labels);
            assert_close(&what, &[found], &[expected], 1e-4);

            let rows = Tensor::from_slice(&embeddings, (labels.len(), DIM), &Device::Cpu).unwrap();
            let (loss, gradients) = tensors.loss_among(candidates, &rows, &labels).unwrap();
            assert_close(&what, &[loss.to_scalar().unwrap()], &[expected], 1e-4);
            let parameters = slices.parameters().unwrap();
            for ((name, shape, place), var) in parameters.fields().zip(tensors.vars()) {
                let found = slices.gradient(place).to_vec();
                let own = values(gradients.get(var).expect("a gradient"));
                let frozen = if train_prompts == TrainPrompts::Current && context == Context::Class { 2 } else { 0 };
                for (class, (found, own)) in
                    found.chunks(found.len() / shape[0]).zip(own.chunks(found.len() / shape[0])).enumerate()
                {
                    if name == "contexts" && shape[0] > 1 && (class < frozen || !candidates.classes.contains(&class)) {
                        assert!(found.iter().chain(own).all(|x| *x == 0.0), "{what}: class {class}");
                    }
                }
                assert_close(&format!("{what}: {name}"), &found, &own, 1e-3);
            }
        }
    }
}

/// Steps against the first four classes, of which two are past.
fn learn(learner: &mut dyn Learner) -> Parameters {
    learn_as(learner, &Learning::after(2))
}

/// As [`learn`], of what is to learn; no row is of a class that was taken out.
fn learn_as(learner: &mut dyn Learner, learning: &Learning) -> Parameters {
    let (embeddings, mut labels) = batch(40, 4);
    labels.iter_mut().filter(|label| learning.removed.contains(&(**label as usize))).for_each(|label| *label = 3);
    let batches: Vec<Vec<usize>> = (0..40).collect::<Vec<_>>().chunks(10).map(<[usize]>::to_vec).collect();
    let batches: Vec<Batch> = batches.iter().map(|rows| Batch::of(rows)).collect();
    learner.begin(learning).unwrap();
    let losses = learner.steps(4, &embeddings, &labels, &batches).unwrap();
    assert!(losses.len() == 4 && losses.iter().all(|loss| loss.is_finite()));
    learner.parameters().unwrap()
}

#[test]
fn contexts_that_are_frozen_or_not_seen_do_not_move() {
    for context in CONTEXTS {
        for optimizer in [Optimizer::Sgd, Optimizer::Adam, Optimizer::Adamw] {
            for train_prompts in [TrainPrompts::All, TrainPrompts::Current] {
                let config =
                    PromptConfig { optimizer, train_prompts, weight_decay: 0.1, lr: 0.01, ..config(context, 2) };
                for learner in [&mut on_the_cpu(&config) as &mut dyn Learner, &mut on_tensors(&config)] {
                    let before = learner.parameters().unwrap();
                    let after = learn(learner);
                    let what = format!("{context:?} {optimizer:?} {train_prompts:?}");
                    for (name, shape, range) in before.fields() {
                        let rows = range.len() / shape[0];
                        let (before, after) = (&before.values[range.clone()], &after.values[range]);
                        if name != "contexts" || shape[0] == 1 {
                            assert!(before != after, "{what}: {name} does not learn");
                            continue;
                        }
                        let learning = if train_prompts == TrainPrompts::All { 0..4 } else { 2..4 };
                        for (class, (before, after)) in before.chunks(rows).zip(after.chunks(rows)).enumerate() {
                            assert_eq!(before != after, learning.contains(&class), "{what}: class {class}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn both_learners_learn_the_same() {
    for context in CONTEXTS {
        let config = PromptConfig {
            optimizer: Optimizer::Sgd,
            train_prompts: TrainPrompts::Current,
            weight_decay: 0.01,
            ortho: 0.01,
            lr: 0.002,
            ..config(context, 2)
        };
        let (a, b) = (learn(&mut on_the_cpu(&config)), learn(&mut on_tensors(&config)));
        for (name, _, range) in a.fields() {
            let what = format!("{context:?}: {name}");
            assert_close(&what, &b.values[range.clone()], &a.values[range], 1e-4);
        }
    }
}

#[test]
fn a_class_that_learns_alone_moves_nothing_else() {
    let alone = Learning { alone: Some(1), ..Learning::after(2) };
    for context in [Context::Class, Context::Combined] {
        for optimizer in [Optimizer::Sgd, Optimizer::Adam, Optimizer::Adamw] {
            let config = PromptConfig { optimizer, weight_decay: 0.1, lr: 0.01, ..config(context, 2) };
            let learned = [&mut on_the_cpu(&config) as &mut dyn Learner, &mut on_tensors(&config)].map(|learner| {
                let (before, after) = (learner.parameters().unwrap(), learn_as(learner, &alone));
                let contexts = before.contexts();
                let own = contexts.len() / 6;
                for (i, (before, after)) in before.values.chunks(own).zip(after.values.chunks(own)).enumerate() {
                    assert_eq!(before != after, i == 1, "{context:?} {optimizer:?}: values {}", i * own);
                }
                after.values[own..2 * own].to_vec()
            });
            assert_close(&format!("{context:?} {optimizer:?}"), &learned[1], &learned[0], 1e-3);
        }
    }
}

#[test]
fn a_class_that_was_taken_out_is_as_if_it_were_not_there() {
    for context in CONTEXTS {
        let config = PromptConfig { optimizer: Optimizer::Sgd, lr: 0.002, ..config(context, 2) };
        let without = Learning { removed: vec![0], ..Learning::after(2) };
        let learners = [&mut on_the_cpu(&config) as &mut dyn Learner, &mut on_tensors(&config)];
        let [a, b] = learners.map(|learner| {
            let (before, after) = (learner.parameters().unwrap(), learn_as(learner, &without));
            if !context.is_shared() && context != Context::Generated {
                let own = before.contexts().len() / 6;
                assert!(before.values[..own] == after.values[..own], "{context:?}: it learned");
            }
            after
        });
        for (name, _, range) in a.fields() {
            assert_close(&format!("{context:?}: {name}"), &b.values[range.clone()], &a.values[range], 1e-4);
        }
    }
}

#[test]
fn features_of_frozen_classes_are_kept_where_nothing_in_their_prompts_learns() {
    let (embeddings, labels) = batch(12, 4);
    let frozen = PromptConfig { train_prompts: TrainPrompts::Current, ortho: 0.1, ..config(Context::Class, 2) };
    let all = PromptConfig { train_prompts: TrainPrompts::All, ..frozen.clone() };
    fn check(frozen: &mut dyn Differentiable, all: &mut dyn Differentiable, (embeddings, labels): (&[f32], &[u32])) {
        frozen.begin(&Learning::after(2)).unwrap();
        all.begin(&Learning::after(2)).unwrap();
        let (loss, gradient) = frozen.differentiate(4, embeddings, labels);
        let (expected_loss, expected) = all.differentiate(4, embeddings, labels);
        assert!((loss - expected_loss).abs() <= 1e-6 * loss, "{loss} {expected_loss}");
        let per_class = expected.len() / 6;
        assert_close(
            "gradient",
            &gradient[2 * per_class..4 * per_class],
            &expected[2 * per_class..4 * per_class],
            1e-5,
        );
        assert_close("keys", &frozen.keys(4).unwrap(), &all.keys(4).unwrap(), 1e-6);
        assert_close("keys", &frozen.keys(1).unwrap(), &all.keys(1).unwrap(), 1e-6);
    }
    check(&mut on_the_cpu(&frozen), &mut on_the_cpu(&all), (&embeddings, &labels));
    check(&mut on_tensors(&frozen), &mut on_tensors(&all), (&embeddings, &labels));
}
