//! Multi-head attention over queries, keys and values that lie side by side, (N, 3W): heads are
//! strides, nothing is copied.

use crate::dense::{
    product::{Matrix, Product, Threads},
    softmax::softmax,
    vector::{add_scaled, dot, vectorised},
};

/// W = heads × d.
#[derive(Clone, Copy)]
pub struct Heads {
    pub heads: usize,
    pub width: usize,
}

/// Keys and values (W each) of the start of text, which stands in front of every text and never
/// changes.
pub struct Start {
    pub key: Vec<f32>,
    pub value: Vec<f32>,
}

/// The rows of a text in a packed table: `rows` of them from `first` on, the last is the end of
/// text.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    pub first: usize,
    pub rows: usize,
}

impl Text {
    pub fn end(&self) -> usize {
        self.first + self.rows - 1
    }
}

impl Heads {
    /// Values per head.
    fn d(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d() as f32).sqrt()
    }

    /// What the first `queries` of an image's T positions see of all T: qkv (T, 3W) → mixed
    /// (queries, W). `logits` holds queries × T values.
    pub fn image(&self, qkv: &[f32], mixed: &mut [f32], logits: &mut [f32]) {
        let (w, d) = (self.width, self.d());
        let (t, queries) = (qkv.len() / (3 * w), mixed.len() / w);
        for at in (0..w).step_by(d) {
            let part = |i: usize, rows: usize| Matrix::strided(&qkv[i * w + at..], rows, d, 3 * w);
            Product::on(Threads::One).scaled(self.scale()).into(logits, t, part(0, queries), part(1, t).t());
            vectorised(|| logits.chunks_exact_mut(t).for_each(softmax));
            Product::on(Threads::One).into(&mut mixed[at..], w, Matrix::new(logits, t), part(2, t));
        }
    }

    /// Values of [`Heads::text`]'s `attention` for a text and its queries.
    pub fn attention_values(&self, text: Text, queries: usize) -> usize {
        self.heads * queries * (text.rows + 1)
    }

    /// What a text's last Q positions see of the start, of those before them and of themselves: qkv
    /// (rows, 3W) → mixed (Q, W), attention (heads, Q, 1 + rows).
    pub fn text(&self, qkv: &[f32], start: &Start, mixed: &mut [f32], attention: &mut [f32]) {
        let (w, d, scale) = (self.width, self.d(), self.scale());
        let (t, queries) = (qkv.len() / (3 * w), mixed.len() / w);
        vectorised(|| {
            for (head, attention) in attention.chunks_exact_mut(queries * (t + 1)).enumerate() {
                let of = |part: usize, row: usize| &qkv[(3 * row + part) * w + head * d..][..d];
                let (start_key, start_value) = (&start.key[head * d..][..d], &start.value[head * d..][..d]);
                for (i, p) in attention.chunks_exact_mut(t + 1).enumerate() {
                    let row = t - queries + i;
                    let (seen, unseen) = p.split_at_mut(row + 2);
                    seen[0] = scale * dot(of(0, row), start_key);
                    for (j, p) in seen[1..].iter_mut().enumerate() {
                        *p = scale * dot(of(0, row), of(1, j));
                    }
                    softmax(seen);
                    unseen.fill(0.0);
                    let mixed = &mut mixed[i * w + head * d..][..d];
                    mixed.fill(0.0);
                    add_scaled(mixed, seen[0], start_value);
                    for (j, p) in seen[1..].iter().enumerate() {
                        add_scaled(mixed, *p, of(2, j));
                    }
                }
            }
        });
    }

    /// Backward pass of [`Heads::text`]: dqkv (rows, 3W) from dmixed (Q, W).
    pub fn text_backward(&self, qkv: &[f32], start: &Start, attention: &[f32], dmixed: &[f32], dqkv: &mut [f32]) {
        let (w, d, scale) = (self.width, self.d(), self.scale());
        let (t, queries) = (qkv.len() / (3 * w), dmixed.len() / w);
        let mut dp = vec![0f32; t + 1];
        dqkv.fill(0.0);
        vectorised(|| {
            for (head, attention) in attention.chunks_exact(queries * (t + 1)).enumerate() {
                let column = |part: usize, row: usize| (3 * row + part) * w + head * d;
                let of = |part: usize, row: usize| &qkv[column(part, row)..][..d];
                let (start_key, start_value) = (&start.key[head * d..][..d], &start.value[head * d..][..d]);
                for (i, p) in attention.chunks_exact(t + 1).enumerate() {
                    let row = t - queries + i;
                    let (p, dp) = (&p[..row + 2], &mut dp[..row + 2]);
                    let dmixed = &dmixed[i * w + head * d..][..d];
                    dp[0] = dot(dmixed, start_value);
                    for j in 0..=row {
                        dp[1 + j] = dot(dmixed, of(2, j));
                        add_scaled(&mut dqkv[column(2, j)..][..d], p[1 + j], dmixed);
                    }
                    // back through the softmax and the scale, in place
                    let mean = dot(p, dp);
                    dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = scale * p * (*dp - mean));
                    let dq = column(0, row);
                    add_scaled(&mut dqkv[dq..][..d], dp[0], start_key);
                    for j in 0..=row {
                        add_scaled(&mut dqkv[dq..][..d], dp[1 + j], of(1, j));
                        add_scaled(&mut dqkv[column(1, j)..][..d], dp[1 + j], of(0, row));
                    }
                }
            }
        });
    }
}
