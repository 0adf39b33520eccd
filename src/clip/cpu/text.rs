//! The text encoder: fed with token embeddings, differentiable in them.
//!
//! CLIP's attention is causal, so what stands after an end of text does not count, and what stands
//! first, the start of text, never changes: texts lie packed, without padding, each from its second
//! token to its end, and the start is computed once. SigLIP's sees everything: its texts have all
//! positions, padding too, and the state of the last is the text's.

use anyhow::Result;
use rayon::prelude::*;

use super::{
    affine::Pass,
    attention::{Heads, Start, Text},
    block::{Block, Norm},
};
use crate::{
    clip::{
        Tokenizer,
        config::{Config, Family},
        layout::Tower,
        weights::Weights,
    },
    dense::{
        layers,
        product::{Matrix, Threads},
        room,
        vector::add_scaled,
    },
};

/// Texts encoded at a time; the parts of a batch are computed side by side.
pub(crate) const PART: usize = 16;

/// A frozen text encoder. W is its width, P the projection's dimension.
pub struct TextEncoder {
    token_embedding: Vec<f32>,    // (V, W)
    position_embedding: Vec<f32>, // (positions, W)
    blocks: Vec<Block>,
    final_norm: Norm,
    projection: Vec<f32>,      // (P, W)
    projection_bias: Vec<f32>, // (P), of SigLIP; else 0
    heads: Heads,
    /// exp(logit_scale): what cosines are multiplied with.
    pub logit_scale: f32,
    /// Dimension P of the features.
    pub dim: usize,
    sight: Sight,
}

/// What the positions of a text see.
enum Sight {
    /// Those before them, the first of which is the start of text, in every block, and themselves.
    Causal(Vec<Start>),
    /// All.
    Whole,
}

/// What the backward pass needs of the forward pass of C texts, N rows, and buffers; kept from step
/// to step.
#[derive(Default)]
pub struct State {
    texts: Vec<Text>,
    blocks: Vec<BlockState>,
    end: Vec<f32>, // (C, W), before the final norm
    buffers: [Vec<f32>; 4],
}

/// R is N, and C in the last block.
#[derive(Default)]
struct BlockState {
    input: Vec<f32>,         // (N, W)
    qkv: Vec<f32>,           // (N, 3W)
    attention: Vec<f32>,     // per text (heads, queries, positions)
    middle: Vec<f32>,        // (R, W), after the attention's residual
    preactivation: Vec<f32>, // (R, F)
}

impl TextEncoder {
    /// `start` is the start-of-text token, which every text of a CLIP begins with.
    pub(in crate::clip) fn new(config: &Config, weights: &Weights, start: Option<u32>) -> Result<Self> {
        let c = &config.text_config;
        let (w, dim) = (c.hidden_size, config.projection_dim);
        let model = weights.at("text_model");
        let embeddings = model.at("embeddings");
        let (projection, projection_bias) = match config.family {
            Family::Clip => (weights.at("text_projection").values("weight", &[dim, w])?, vec![0.0; dim]),
            Family::Siglip => {
                weights.number("logit_bias")?; // nothing to the softmax over classes: all logits have it
                (model.at("head").values("weight", &[dim, w])?, model.at("head").values("bias", &[dim])?)
            }
        };
        let mut encoder = TextEncoder {
            token_embedding: embeddings.at("token_embedding").values("weight", &[c.vocab_size, w])?,
            position_embedding: embeddings
                .at("position_embedding")
                .values("weight", &[c.max_position_embeddings, w])?,
            blocks: Block::all(&model, &c.size(), Pass::Both)?,
            final_norm: Norm::new(&model.at("final_layer_norm"), w, c.layer_norm_eps)?,
            projection,
            projection_bias,
            heads: Heads { heads: c.num_attention_heads, width: w },
            logit_scale: weights.number("logit_scale")?.exp(),
            dim,
            sight: Sight::Whole,
        };
        weights.require_all_read(Tower::Text)?;
        if let Some(start) = start {
            encoder.sight = Sight::Causal(encoder.start(start));
        }
        Ok(encoder)
    }

    /// Width W of the token embeddings.
    pub fn width(&self) -> usize {
        self.heads.width
    }

    /// Embedding (W) of a token.
    pub fn embed(&self, id: u32) -> &[f32] {
        &self.token_embedding[id as usize * self.width()..][..self.width()]
    }

    /// Positions that are the same in every text, and first: the start of text.
    fn starts(&self) -> usize {
        match self.sight {
            Sight::Causal(_) => 1,
            Sight::Whole => 0,
        }
    }

    /// Keys and values of the start of text in every block: it sees itself alone, so its attention
    /// gives its values.
    fn start(&self, id: u32) -> Vec<Start> {
        let (w, all) = (self.width(), Threads::All);
        let mut x = self.embed(id).to_vec(); // (W)
        add_scaled(&mut x, 1.0, &self.position_embedding[..w]);
        let (mut normal, mut qkv) = (vec![0.0; w], vec![0.0; 3 * w]);
        let start = |block: &Block| {
            block.norm1.forward(&x, &mut normal);
            block.qkv.forward(&normal, &mut qkv, all);
            let start = Start { key: qkv[w..2 * w].to_vec(), value: qkv[2 * w..].to_vec() };
            block.out.add(&start.value, &mut x, all);
            let mut hidden = vec![0.0; block.fc1.bias.len()];
            block.norm2.forward(&x, &mut normal);
            block.fc1.forward(&normal, &mut hidden, all);
            block.activation.forward_in_place(&mut hidden);
            block.fc2.add(&hidden, &mut x, all);
            start
        };
        self.blocks.iter().map(start).collect()
    }

    /// Token embeddings x (N, W), without positions, of texts of `lengths` rows, N in all, to
    /// features (C, P), not normalised. A text's rows are those after the start of text, to its
    /// end.
    pub fn encode(&self, x: &[f32], lengths: &[usize], state: &mut State) -> Vec<f32> {
        let all = Threads::All;
        let (w, heads) = (self.width(), &self.heads);
        let (n, c) = (x.len() / w, lengths.len());
        let State { texts, blocks, end, buffers: [normal, mixed, hidden, output] } = state;
        texts.clear();
        let mut first = 0;
        for &rows in lengths {
            texts.push(Text { first, rows });
            first += rows;
        }
        blocks.resize_with(self.blocks.len(), BlockState::default);

        let embedded = room(&mut blocks[0].input, n * w); // (N, W)
        embedded.copy_from_slice(x);
        for text in &*texts {
            let rows = &mut embedded[text.first * w..][..text.rows * w];
            add_scaled(rows, 1.0, &self.position_embedding[self.starts() * w..]);
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let last = i + 1 == self.blocks.len();
            let (state, next) = blocks[i..].split_first_mut().expect("a state for every block");
            let r = if last { c } else { n };
            let BlockState { input, qkv, attention, middle, preactivation } = state;
            let (input, qkv) = (&input[..n * w], room(qkv, n * 3 * w));
            let normal = room(normal, n * w);
            block.norm1.forward(input, normal);
            block.qkv.forward(normal, qkv, all);

            let queries = |text: &Text| if last { 1 } else { text.rows };
            let values = |text: &Text| heads.heads * queries(text) * (self.starts() + text.rows);
            let attention = room(attention, texts.iter().map(values).sum());
            let mixed = room(mixed, r * w); // (R, W)
            let (mut attention, mut rest) = (attention, &mut *mixed);
            for text in &*texts {
                let (p, others) = attention.split_at_mut(values(text));
                let (mixed, below) = rest.split_at_mut(queries(text) * w);
                let qkv = &qkv[text.first * 3 * w..][..text.rows * 3 * w];
                match &self.sight {
                    Sight::Causal(start) => heads.text(qkv, &start[i], mixed, p),
                    Sight::Whole => heads.whole_text(qkv, mixed, p),
                }
                (attention, rest) = (others, below);
            }

            let middle = room(middle, r * w);
            if last {
                let ends = room(output, c * w); // (C, W)
                gather_ends(texts, input, ends, w);
                block.out.forward_onto(ends, mixed, middle, all);
            } else {
                block.out.forward_onto(input, mixed, middle, all);
            }
            let f = block.fc1.bias.len();
            let (preactivation, hidden) = (room(preactivation, r * f), room(hidden, r * f)); // (R, F)
            let normal = &mut normal[..r * w];
            block.norm2.forward(middle, normal);
            block.fc1.forward(normal, preactivation, all);
            block.activation.forward(preactivation, hidden);
            let output = if last { room(end, c * w) } else { room(&mut next[0].input, n * w) };
            block.fc2.forward_onto(middle, hidden, output, all);
        }

        let normal = room(normal, c * w); // (C, W)
        self.final_norm.forward(&end[..c * w], normal);
        let mut features = self.projection_bias.repeat(c); // (C, P)
        layers::add_linear(normal, Matrix::new(&self.projection, w).t(), &mut features, all);
        features
    }

    /// Gradient of the token embeddings (N, W) of the texts that `state` holds, from that of their
    /// features (C, P).
    pub fn backward(&self, state: &mut State, grad: &[f32]) -> Vec<f32> {
        let all = Threads::All;
        let (w, heads) = (self.width(), &self.heads);
        let State { texts, blocks, end, buffers: [narrow, mixed, wide, dqkv] } = state;
        let c = texts.len();
        let n = texts.last().map_or(0, |text| text.end() + 1);

        let mut dx = vec![0.0; n * w]; // (R, W), of the block's output, then of its input
        let normal = room(narrow, c * w); // (C, W)
        layers::affine_backward_input(&self.projection, grad, normal, self.dim, all);
        self.final_norm.backward(&end[..c * w], normal, &mut dx[..c * w]);

        for (i, block) in self.blocks.iter().enumerate().rev() {
            let last = i + 1 == self.blocks.len();
            let r = if last { c } else { n };
            let f = block.fc1.bias.len();
            let BlockState { input, qkv, attention, middle, preactivation } = &blocks[i];
            let (narrow, wide) = (room(narrow, n * w), room(wide, r * f)); // (N, W), (R, F)
            block.fc2.backward(&dx[..r * w], wide, all);
            block.activation.backward(&preactivation[..r * f], wide);
            block.fc1.backward(wide, &mut narrow[..r * w], all);
            block.norm2.backward(&middle[..r * w], &narrow[..r * w], &mut dx[..r * w]);

            let mixed = room(mixed, r * w); // (R, W)
            block.out.backward(&dx[..r * w], mixed, all);
            let dqkv = room(dqkv, n * 3 * w); // (N, 3W)
            let (mut attention, mut mixed) = (&attention[..], &*mixed);
            for text in &*texts {
                let queries = if last { 1 } else { text.rows };
                let (p, others) = attention.split_at(heads.heads * queries * (self.starts() + text.rows));
                let (dmixed, below) = mixed.split_at(queries * w);
                let rows = text.first * 3 * w..(text.end() + 1) * 3 * w;
                match &self.sight {
                    Sight::Causal(start) => {
                        heads.text_backward(&qkv[rows.clone()], &start[i], p, dmixed, &mut dqkv[rows]);
                    }
                    Sight::Whole => heads.whole_text_backward(&qkv[rows.clone()], p, dmixed, &mut dqkv[rows]),
                }
                (attention, mixed) = (others, below);
            }
            block.qkv.backward(dqkv, narrow, all);
            if last {
                spread_ends(texts, &mut dx, w);
            }
            block.norm1.backward(&input[..n * w], narrow, &mut dx);
        }
        dx
    }

    /// Features (C, P) of C texts, not normalised.
    pub fn features(&self, tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<f32>> {
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, 0)).collect::<Result<_>>()?;
        let parts: Vec<Vec<f32>> = ids
            .par_chunks(PART)
            .map(|part| {
                let lengths: Vec<usize> = part.iter().map(|ids| ids.len() - self.starts()).collect();
                let rows = part.iter().flat_map(|ids| &ids[self.starts()..]);
                let x: Vec<f32> = rows.flat_map(|&id| self.embed(id)).copied().collect(); // (N, W)
                self.encode(&x, &lengths, &mut State::default())
            })
            .collect();
        Ok(parts.concat())
    }
}

/// The rows of the ends of text, (C, W) of (N, W).
fn gather_ends(texts: &[Text], x: &[f32], ends: &mut [f32], w: usize) {
    for (end, text) in ends.chunks_exact_mut(w).zip(texts) {
        end.copy_from_slice(&x[text.end() * w..][..w]);
    }
}

/// The first C rows of (N, W) to the rows of the ends of text, and 0 elsewhere, in place.
fn spread_ends(texts: &[Text], x: &mut [f32], w: usize) {
    for (i, text) in texts.iter().enumerate().rev() {
        x.copy_within(i * w..(i + 1) * w, text.end() * w);
        x[text.first * w..text.end() * w].fill(0.0);
    }
}
