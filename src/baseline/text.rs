//! Zero-shot classification by the text features of several templates.

use anyhow::{Result, bail};

use super::classifier::unit;

/// The keys (C, P), of length 1, of the classifier that ensembles templates: per class the mean of
/// its text features at length 1, from features `text` (T, C, P) of T templates, as Radford et al.
/// (2021) do. Classify by [`cosines`](crate::dense::cosine::cosines).
///
/// ```
/// let text = [3.0, 0.0, 0.0, 1.0, /* the second template */ 0.0, 5.0, 0.0, 2.0]; // (2, 2, 2)
/// let half = 0.5f32.sqrt();
/// assert_eq!(cgil::baseline::text::zero_shot(&text, 2, 2).unwrap(), [half, half, 0.0, 1.0]);
/// ```
pub fn zero_shot(text: &[f32], classes: usize, dim: usize) -> Result<Vec<f32>> {
    if text.is_empty() || text.len().checked_rem(classes * dim) != Some(0) {
        bail!("{} values are no text features of {classes} classes with {dim} values for each template", text.len());
    }
    let mut keys = Vec::with_capacity(classes * dim); // (C, P)
    for class in 0..classes {
        let mut sum = vec![0.0; dim];
        for (template, features) in text.chunks_exact(classes * dim).enumerate() {
            let feature = features[class * dim..][..dim].iter().map(|&x| f64::from(x));
            let Some(feature) = unit(feature).filter(|x| x.clone().all(f64::is_finite)) else {
                bail!(
                    "the text feature of class {class} for template {template} has no direction: is the checkpoint whole?"
                );
            };
            sum.iter_mut().zip(feature).for_each(|(sum, x)| *sum += x);
        }
        let Some(mean) = unit(sum.iter().copied()) else {
            bail!("the text features of class {class} cancel out over the templates: use fewer templates");
        };
        keys.extend(mean.map(|x| x as f32));
    }
    Ok(keys)
}
