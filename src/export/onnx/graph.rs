//! A graph of ONNX's operators. Numbers of fields and types are those of its onnx.proto.

use std::collections::{HashMap, hash_map::Entry};

use super::wire::Message;

/// Version of the file format, and of the operators that go with it (ONNX 1.12).
const FORMAT: i64 = 8;
const OPERATORS: i64 = 17;

/// What numbers are stored as.
#[derive(Clone, Copy)]
pub enum Number {
    Float = 1,
    Byte = 2,
    Int = 7,
    Double = 11,
}

/// A side of a tensor: its size, or a name for any.
pub enum Side<'a> {
    Any(&'a str),
    Of(usize),
}

/// An attribute of an operator.
pub enum Attribute<'a> {
    Float(f32),
    Int(i64),
    Ints(&'a [i64]),
}

/// A value in the graph, by its name.
pub type Value = String;

/// A graph that grows, operator by operator.
#[derive(Default)]
pub struct Graph {
    nodes: Vec<Message>,
    tensors: Vec<Message>,
    places: HashMap<String, usize>, // of the tensors, by name
    inputs: Vec<Message>,
    outputs: Vec<Message>,
}

impl Graph {
    /// Takes numbers from outside.
    pub fn input(&mut self, name: &str, number: Number, shape: &[Side]) -> Value {
        self.inputs.push(value_info(name, number, shape));
        name.to_owned()
    }

    /// Gives a value out, as float32.
    pub fn output(&mut self, name: &str, value: &Value, shape: &[Side]) {
        self.outputs.push(value_info(name, Number::Float, shape));
        self.add("Cast", &[value], &[("to", Attribute::Int(Number::Float as i64))], name);
    }

    /// Values that are stored in float32, as float64.
    pub fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        let stored = self.float(name, shape, values);
        self.double(&stored)
    }

    /// Values in float32.
    pub fn float(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.stored(name, shape, Number::Float, &bytes)
    }

    /// A row of numbers.
    pub fn row(&mut self, name: &str, values: &[f64]) -> Value {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.stored(name, &[values.len()], Number::Double, &bytes)
    }

    /// A row of places, or of sides.
    pub fn places(&mut self, name: &str, values: &[i64]) -> Value {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.stored(name, &[values.len()], Number::Int, &bytes)
    }

    /// A tensor; one that is there already has to be the same.
    fn stored(&mut self, name: &str, shape: &[usize], number: Number, bytes: &[u8]) -> Value {
        let tensor = Message::default().ints(1, shape.iter().map(|&side| side as i64));
        let tensor = tensor.int(2, number as i64).text(8, name).bytes(9, bytes);
        match self.places.entry(name.to_owned()) {
            Entry::Occupied(there) => assert!(self.tensors[*there.get()] == tensor, "two tensors are called {name}"),
            Entry::Vacant(place) => {
                place.insert(self.tensors.len());
                self.tensors.push(tensor);
            }
        }
        name.to_owned()
    }

    /// A value in float64.
    pub fn double(&mut self, value: &Value) -> Value {
        self.node("Cast", &[value], &[("to", Attribute::Int(Number::Double as i64))])
    }

    /// What an operator makes of values.
    pub fn node(&mut self, operator: &str, inputs: &[&Value], attributes: &[(&str, Attribute)]) -> Value {
        let name = format!("{}_{}", operator.to_lowercase(), self.nodes.len());
        self.add(operator, inputs, attributes, &name);
        name
    }

    fn add(&mut self, operator: &str, inputs: &[&Value], attributes: &[(&str, Attribute)], output: &str) {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let attributes: Vec<Message> = attributes.iter().map(|(name, value)| attribute(name, value)).collect();
        self.nodes.push(node.text(2, output).text(3, output).text(4, operator).messages(5, &attributes));
    }

    /// The file: the graph, and pairs of metadata.
    pub fn model(self, metadata: &[(&str, &str)]) -> Vec<u8> {
        let graph = Message::default().messages(1, &self.nodes).text(2, "cgil");
        let graph = self.tensors.into_iter().fold(graph, |graph, tensor| graph.message(5, &tensor)); // frees each
        let graph = graph.messages(11, &self.inputs).messages(12, &self.outputs);
        let pairs: Vec<Message> =
            metadata.iter().map(|(key, value)| Message::default().text(1, key).text(2, value)).collect();
        let operators = Message::default().text(1, "").int(2, OPERATORS);
        let model = Message::default().int(1, FORMAT).text(2, "cgil").text(3, env!("CARGO_PKG_VERSION"));
        model.message(7, &graph).message(8, &operators).messages(14, &pairs).into_bytes()
    }
}

fn attribute(name: &str, value: &Attribute) -> Message {
    const FLOAT: i64 = 1;
    const INT: i64 = 2;
    const INTS: i64 = 7;
    let attribute = Message::default().text(1, name);
    match value {
        Attribute::Float(value) => attribute.float(2, *value).int(20, FLOAT),
        Attribute::Int(value) => attribute.int(3, *value).int(20, INT),
        Attribute::Ints(values) => attribute.ints(8, values.iter().copied()).int(20, INTS),
    }
}

/// What goes in or out: numbers in a shape.
fn value_info(name: &str, number: Number, shape: &[Side]) -> Message {
    let side = |side: &Side| match side {
        Side::Of(size) => Message::default().int(1, *size as i64),
        Side::Any(name) => Message::default().text(2, name),
    };
    let sides: Vec<Message> = shape.iter().map(side).collect();
    let tensor = Message::default().int(1, number as i64).message(2, &Message::default().messages(1, &sides));
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}
