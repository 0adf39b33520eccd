//! "None of these": how well confidence tells images of learned classes, the known ones, from those
//! of classes to come.

/// The share of known images that is kept, where the other one is looked at.
const KEPT: f64 = 0.95;

/// What confidence tells, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// The area under the receiver operating characteristic: how often a known image has a higher
    /// confidence than an unknown one; equal ones count half.
    pub auroc: f64,
    /// The unknown images that are kept too where at least 95 % of the known ones are.
    pub fpr95: f64,
}

/// Of the confidences in `known` and in `unknown` images; none unless there are both.
///
/// ```
/// use cgil::metrics::{Detection, detection};
/// // 4 of the 6 pairs are right and one is a tie; all of the known are at 1 or above, two thirds of the others too
/// assert_eq!(detection(vec![3.0, 1.0], vec![0.0, 1.0, 2.0]), Some(Detection { auroc: 75.0, fpr95: 200.0 / 3.0 }));
/// assert_eq!(detection(vec![3.0], vec![]), None);
/// ```
pub fn detection(mut known: Vec<f32>, mut unknown: Vec<f32>) -> Option<Detection> {
    if known.is_empty() || unknown.is_empty() {
        return None;
    }
    known.sort_by(f32::total_cmp);
    unknown.sort_by(f32::total_cmp);
    let below = |x: f32| unknown.partition_point(|&other| other < x) as f64;
    let up_to = |x: f32| unknown.partition_point(|&other| other <= x) as f64;
    let pairs: f64 = known.iter().map(|&x| 0.5 * (below(x) + up_to(x))).sum();
    let refused = ((1.0 - KEPT) * known.len() as f64 + 1e-9).floor() as usize;
    let n = unknown.len() as f64;
    Some(Detection { auroc: 100.0 * pairs / (known.len() as f64 * n), fpr95: 100.0 * (n - below(known[refused])) / n })
}
