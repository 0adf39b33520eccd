//! Multi-head attention over queries, keys and values that lie side by side, (N, 3W): heads are
//! strides, nothing is copied but what is rounded.

use std::{cell::RefCell, ops::Range};

use crate::dense::{
    bfloat16::{Packed, Rows, Unit},
    huge_pages::HugePages,
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

/// What rows of logits are padded to: whole vectors.
const LANES: usize = 16;

thread_local! {
    /// What a head multiplies in bfloat16: queries or weights with keys, values.
    static ROUNDED: RefCell<Option<(Rows, [Packed; 2])>> = RefCell::default();
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
            vectorised(
                #[inline(always)]
                || logits.chunks_exact_mut(t).for_each(softmax),
            );
            Product::on(Threads::One).into(&mut mixed[at..], w, Matrix::new(logits, t), part(2, t));
        }
    }

    /// As [`Heads::image`], with products in bfloat16. `logits` is a buffer.
    pub fn image_rounded(&self, unit: Unit, qkv: &[f32], mixed: &mut [f32], logits: &mut HugePages<f32>) {
        let (w, d) = (self.width, self.d());
        let (t, queries) = (qkv.len() / (3 * w), mixed.len() / w);
        let padded = t.next_multiple_of(LANES);
        let logits = logits.room(queries * padded);
        ROUNDED.with_borrow_mut(|rounded| {
            if rounded.as_ref().is_none_or(|(_, [keys, _])| keys.unit() != unit) {
                *rounded = None;
            }
            let (left, [keys, values]) =
                rounded.get_or_insert_with(|| (Rows::default(), [(); 2].map(|()| Packed::empty(unit))));
            for at in (0..w).step_by(d) {
                let part = |i: usize, rows: usize| Matrix::strided(&qkv[i * w + at..], rows, d, 3 * w);
                left.set(unit, part(0, queries));
                keys.set_transposed(part(1, t), padded);
                keys.scaled(left, self.scale(), logits, padded);
                vectorised(
                    #[inline(always)]
                    || {
                        for row in logits.chunks_exact_mut(padded) {
                            row[t..].fill(f32::NEG_INFINITY);
                            softmax(row);
                        }
                    },
                );
                left.set(unit, Matrix::new(logits, padded));
                values.set(part(2, t), padded);
                values.scaled(left, 1.0, &mut mixed[at..], w);
            }
        });
    }

    /// What one query (W), scaled, sees of T positions: keys and values (T, 2W) → mixed (W).
    /// `logits` holds T values.
    pub fn pool(&self, query: &[f32], kv: &[f32], mixed: &mut [f32], logits: &mut [f32]) {
        let (w, d) = (self.width, self.d());
        vectorised(
            #[inline(always)]
            || {
                for at in (0..w).step_by(d) {
                    for (logit, row) in logits.iter_mut().zip(kv.chunks_exact(2 * w)) {
                        *logit = dot(&query[at..][..d], &row[at..][..d]);
                    }
                    softmax(logits);
                    let mixed = &mut mixed[at..][..d];
                    mixed.fill(0.0);
                    for (p, row) in logits.iter().zip(kv.chunks_exact(2 * w)) {
                        add_scaled(mixed, *p, &row[w + at..][..d]);
                    }
                }
            },
        );
    }

    /// A query as [`Heads::pool`] wants it.
    pub fn scaled(&self, mut query: Vec<f32>) -> Vec<f32> {
        let scale = self.scale();
        query.iter_mut().for_each(|x| *x *= scale);
        query
    }

    /// What a text's last Q positions see of all its T: qkv (T, 3W) → mixed (Q, W), attention
    /// (heads, Q, T).
    pub fn whole_text(&self, qkv: &[f32], mixed: &mut [f32], attention: &mut [f32]) {
        let (w, d) = (self.width, self.d());
        let (t, queries) = (qkv.len() / (3 * w), mixed.len() / w);
        for (at, p) in (0..w).step_by(d).zip(attention.chunks_exact_mut(queries * t)) {
            let part = |i: usize, rows: Range<usize>| {
                Matrix::strided(&qkv[3 * w * rows.start + i * w + at..], rows.len(), d, 3 * w)
            };
            let q = part(0, t - queries..t);
            Product::on(Threads::One).scaled(self.scale()).into(p, t, q, part(1, 0..t).t());
            vectorised(
                #[inline(always)]
                || p.chunks_exact_mut(t).for_each(softmax),
            );
            Product::on(Threads::One).into(&mut mixed[at..], w, Matrix::new(p, t), part(2, 0..t));
        }
    }

    /// Backward pass of [`Heads::whole_text`]: dqkv (T, 3W) from dmixed (Q, W).
    pub fn whole_text_backward(&self, qkv: &[f32], attention: &[f32], dmixed: &[f32], dqkv: &mut [f32]) {
        let (w, d, scale) = (self.width, self.d(), self.scale());
        let (t, queries) = (qkv.len() / (3 * w), dmixed.len() / w);
        let mut ds = vec![0f32; queries * t];
        dqkv.fill(0.0);
        for (at, p) in (0..w).step_by(d).zip(attention.chunks_exact(queries * t)) {
            let part = |i: usize, rows: Range<usize>| {
                Matrix::strided(&qkv[3 * w * rows.start + i * w + at..], rows.len(), d, 3 * w)
            };
            let (p_rows, dmixed) = (Matrix::new(p, t), Matrix::strided(&dmixed[at..], queries, d, w));
            Product::on(Threads::One).into(&mut dqkv[2 * w + at..], 3 * w, p_rows.t(), dmixed);
            Product::on(Threads::One).into(&mut ds, t, dmixed, part(2, 0..t).t());
            // back through the softmax and the scale, in place
            vectorised(
                #[inline(always)]
                || {
                    for (ds, p) in ds.chunks_exact_mut(t).zip(p.chunks_exact(t)) {
                        let mean = dot(p, ds);
                        ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = scale * p * (*ds - mean));
                    }
                },
            );
            let ds = Matrix::new(&ds, t);
            Product::on(Threads::One).into(&mut dqkv[3 * w * (t - queries) + at..], 3 * w, ds, part(1, 0..t));
            Product::on(Threads::One).into(&mut dqkv[w + at..], 3 * w, ds.t(), part(0, t - queries..t));
        }
    }

    /// What a text's last Q positions see of the start, of those before them and of themselves: qkv
    /// (rows, 3W) → mixed (Q, W), attention (heads, Q, 1 + rows).
    pub fn text(&self, qkv: &[f32], start: &Start, mixed: &mut [f32], attention: &mut [f32]) {
        let (w, d, scale) = (self.width, self.d(), self.scale());
        let (t, queries) = (qkv.len() / (3 * w), mixed.len() / w);
        vectorised(
            #[inline(always)]
            || {
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
            },
        );
    }

    /// Backward pass of [`Heads::text`]: dqkv (rows, 3W) from dmixed (Q, W).
    pub fn text_backward(&self, qkv: &[f32], start: &Start, attention: &[f32], dmixed: &[f32], dqkv: &mut [f32]) {
        let (w, d, scale) = (self.width, self.d(), self.scale());
        let (t, queries) = (qkv.len() / (3 * w), dmixed.len() / w);
        let mut dp = vec![0f32; t + 1];
        dqkv.fill(0.0);
        vectorised(
            #[inline(always)]
            || {
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
            },
        );
    }
}
