//! The classifier as an ONNX graph: `embedding` (N, D) of any length in, `logits` and
//! `probabilities` (N, C) out. In between it computes in float64, as
//! [`OpenClassifier`](crate::baseline::OpenClassifier) does. With the image encoder before it
//! `pixels` (N, S, S, 3) go in.

mod encoder;
mod graph;
mod wire;

use std::{io::Write, path::Path};

use anyhow::{Result, ensure};

use self::graph::{Attribute, Graph, Number, Side, Value};
use super::head::{Head, KEY};
use crate::{
    atomic,
    baseline::{ClassifierAbout, EXACT},
};

/// What a row is divided by at least, so that one of zeros stays one.
const TINY: f64 = 1e-300;

/// Most bytes of a message that its readers take.
const MOST: usize = i32::MAX as usize;

pub(super) fn write(head: &Head, path: &Path) -> Result<()> {
    if let Some(checkpoint) = &head.encoder {
        let [bytes, _] = checkpoint.parameters().map(|numbers| numbers * size_of::<f32>());
        ensure!(
            bytes <= MOST,
            "the image encoder has {bytes} bytes, and an ONNX file has {MOST} at most: leave --with-encoder out, and \
             give the graph embeddings"
        );
    }
    let model = graph(head)?.model(&[(KEY, &head.json()?.to_string())]);
    ensure!(model.len() <= MOST, "the graph would have {} bytes, and an ONNX file has {MOST} at most", model.len());
    atomic::write_file(path, |file| Ok(file.write_all(&model)?))
}

/// The formulas of `schemas/classifier.md`.
fn graph(head: &Head) -> Result<Graph> {
    let ClassifierAbout {
        classes, seen, logit_scale, weight, text_weight, gate, bias, temperature, power, even, ..
    } = &head.about;
    let (all, seen) = (classes.len(), *seen);
    let mut g = Operators(Graph::default());
    let embedding = match &head.encoder {
        Some(checkpoint) => encoder::embeddings(&mut g.0, checkpoint)?,
        None => g.0.input("embedding", Number::Float, &[Side::Any("N"), Side::Of(head.dim)]),
    };
    let scale = g.number("logit_scale", *logit_scale);
    let unit = g.unit(&embedding);
    let text = g.tensor(head, "text");
    let logits = g.logits(&unit, &text, &scale);
    let evidence = g.evidence(&unit, head);

    // where learned and other classes are told apart
    let gate = g.number("gate", *gate);
    let biases: Vec<f64> = (0..all).map(|class| if class < seen { 0.0 } else { *bias }).collect();
    let biases = g.0.row("biases", &biases);
    let open = g.mul(&evidence, &gate);
    let open = g.of("Add", &logits, &open);
    let open = g.of("Add", &open, &biases); // (N, C)

    // among learned classes
    let [start, end, last, axis] = [("start", 0), ("seen", seen), ("all", all), ("axis", 1)]
        .map(|(name, place)| g.0.places(name, &[place as i64]));
    let learned = |g: &mut Operators, of: &Value| g.0.node("Slice", &[of, &start, &end, &axis], &[]); // (N, n)
    let mut among = learned(&mut g, &logits);
    let text_weight = g.number("text_weight", *text_weight);
    among = g.mul(&among, &text_weight);
    if head.tensors.contains_key("prompts") {
        let prompts = g.tensor(head, "prompts");
        let prompts = g.logits(&unit, &prompts, &scale);
        let both = g.of("Add", &among, &prompts);
        let half = g.number("half", 0.5);
        among = g.mul(&both, &half);
    }
    let weight = g.number("weight", *weight);
    let own = learned(&mut g, &evidence);
    let own = g.mul(&own, &weight);
    let among = g.of("Add", &among, &own);

    // on one scale
    let open_learned = learned(&mut g, &open);
    let highest = [g.highest(&open_learned), g.highest(&among)];
    let below = g.of("Sub", &among, &highest[1]);
    let temperature = g.number("temperature", *temperature);
    let spread = g.power_of_deviation(&among, seen, *power);
    let divisor = g.mul(&spread, &temperature);
    let tiny = g.number("tiny", TINY);
    let divisor = g.of("Max", &divisor, &tiny);
    let below = g.of("Div", &below, &divisor);
    let among = g.of("Add", &below, &highest[0]);
    let others = g.0.node("Slice", &[&open, &end, &last, &axis], &[]); // (N, C - n)
    let together = g.0.node("Concat", &[&among, &others], &[("axis", Attribute::Int(1))]);
    let classwise = |g: &mut Operators, operator| g.0.node(operator, &[&together], &[("axis", Attribute::Int(1))]);
    let mut probabilities = classwise(&mut g, "Softmax");
    let mut logits = classwise(&mut g, "LogSoftmax");
    if *even > 0.0 {
        let [rest, part] = [("rest", 1.0 - even), ("even", even / all as f64)].map(|(name, x)| g.number(name, x));
        let rest = g.mul(&probabilities, &rest);
        probabilities = g.of("Add", &rest, &part);
        logits = g.0.node("Log", &[&probabilities], &[]);
    }
    for (name, value) in [("logits", logits), ("probabilities", probabilities)] {
        g.0.output(name, &value, &[Side::Any("N"), Side::Of(all)]);
    }
    Ok(g.0)
}

/// A graph, and what its operators make together.
struct Operators(Graph);

impl Operators {
    fn of(&mut self, operator: &str, a: &Value, b: &Value) -> Value {
        self.0.node(operator, &[a, b], &[])
    }

    fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.of("Mul", a, b)
    }

    /// A tensor of a classifier.
    fn tensor(&mut self, head: &Head, name: &str) -> Value {
        head.tensors.get(name).map_or_else(String::new, |(shape, values)| self.0.tensor(name, shape, values))
    }

    fn number(&mut self, name: &str, value: f64) -> Value {
        self.0.row(name, &[value])
    }

    /// The sum of squares of each row (N, 1).
    fn square(&mut self, rows: &Value) -> Value {
        self.0.node("ReduceSumSquare", &[rows], &[("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(1))])
    }

    /// The highest of each row (N, 1).
    fn highest(&mut self, rows: &Value) -> Value {
        self.0.node("ReduceMax", &[rows], &[("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(1))])
    }

    /// A power of the standard deviation of each row (N, 1) of n values.
    fn power_of_deviation(&mut self, rows: &Value, n: usize, power: f64) -> Value {
        let by_row = [("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(1))];
        let mean = self.0.node("ReduceMean", &[rows], &by_row);
        let away = self.of("Sub", rows, &mean);
        let sum = self.square(&away);
        let [n, half] = [("n", n as f64), ("half_power", power / 2.0)].map(|(name, value)| self.number(name, value));
        let variance = self.of("Div", &sum, &n);
        self.of("Pow", &variance, &half)
    }

    /// a bᵀ (N, k) of rows (N, D) and (k, D).
    fn product(&mut self, a: &Value, b: &Value) -> Value {
        self.0.node("Gemm", &[a, b], &[("transB", Attribute::Int(1))])
    }

    /// Rows (N, D) in float64 at length 1.
    fn unit(&mut self, embedding: &Value) -> Value {
        let rows = self.0.double(embedding);
        let square = self.square(&rows);
        let length = self.0.node("Sqrt", &[&square], &[]);
        let tiny = self.number("tiny", TINY);
        let length = self.of("Max", &length, &tiny);
        self.of("Div", &rows, &length)
    }

    /// Logits (N, k) of unit rows (N, D) for text features (k, D).
    fn logits(&mut self, unit: &Value, text: &Value, scale: &Value) -> Value {
        let cosines = self.product(unit, text);
        self.mul(&cosines, scale)
    }

    /// Evidence (N, C) of unit rows (N, D).
    fn evidence(&mut self, unit: &Value, head: &Head) -> Value {
        let [whitener, means, centre] = ["whitener", "means", "centre"].map(|name| self.tensor(head, name));
        let z = self.of("MatMul", unit, &whitener);
        let own = self.square(&z);
        // ‖z − μ‖² = ‖z‖² − 2 z·μ + ‖μ‖²
        let squares = self.0.node(
            "ReduceSumSquare",
            &[&means],
            &[("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(0))],
        );
        let [two, exact] = [("two", 2.0), ("exact", EXACT)].map(|(name, value)| self.number(name, value));
        let cross = self.product(&z, &means);
        let cross = self.mul(&cross, &two);
        let distance = self.of("Sub", &own, &cross);
        let distance = self.of("Add", &distance, &squares); // (N, C)
        let away = self.of("Sub", &z, &centre);
        let background = self.square(&away); // (N, 1)
        let least = self.mul(&own, &exact);
        let [distance, background] = [distance, background].map(|square| self.of("Max", &square, &least));
        let ratio = self.of("Div", &distance, &background);
        let log = self.0.node("Log", &[&ratio], &[]);
        let factor = self.number("half_dim", -0.5 * head.dim as f64);
        self.mul(&log, &factor)
    }
}
