//! The optimisers, on parameters that lie in one slice.

use std::ops::Range;

use crate::{
    dense::{
        adam::Adam,
        sgd::Sgd,
        vector::{add_scaled, vectorised},
    },
    prompt::{Optimizer, PromptConfig},
};

/// What a step changes the parameters by.
pub struct Optimiser {
    rule: Rule,
    lr: f64,
    /// Weight decay in the gradients.
    l2: f64,
}

enum Rule {
    Sgd(Sgd),
    Adam(Adam),
}

impl Optimiser {
    /// A new one for so many `parameters`.
    pub fn new(config: &PromptConfig, parameters: usize) -> Self {
        let PromptConfig { lr, weight_decay, .. } = *config;
        let (rule, l2) = match config.optimizer {
            Optimizer::Sgd => (Rule::Sgd(Sgd::new(parameters)), weight_decay),
            Optimizer::Adam => (Rule::Adam(Adam::new(parameters)), weight_decay),
            Optimizer::Adamw => (Rule::Adam(Adam::decaying(parameters, weight_decay)), 0.0),
        };
        Optimiser { rule, lr, l2 }
    }

    /// A step of the parameters at `places` with their gradients, which it adds the weight decay
    /// to.
    pub fn step(&mut self, places: &[Range<usize>], values: &mut [f32], gradients: &mut [f32]) {
        if self.l2 > 0.0 {
            for place in places {
                let (gradients, values) = (&mut gradients[place.clone()], &values[place.clone()]);
                vectorised(
                    #[inline(always)]
                    || add_scaled(gradients, self.l2 as f32, values),
                );
            }
        }
        match &mut self.rule {
            Rule::Sgd(sgd) => {
                for place in places.iter().cloned() {
                    sgd.update_shared(self.lr, place.start, &mut values[place.clone()], &gradients[place]);
                }
            }
            Rule::Adam(adam) => {
                let rate = adam.begin(self.lr);
                for place in places.iter().cloned() {
                    adam.update_shared(rate, place.start, &mut values[place.clone()], &gradients[place]);
                }
            }
        }
    }
}
