//! The optimisers, on candle's variables.

use anyhow::Result;
use candle_core::{Tensor, Var, backprop::GradStore};
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW};

use crate::{
    dense::sgd::MOMENTUM,
    prompt::{Optimizer, PromptConfig},
};

/// What a step changes the variables by.
pub struct Optimiser {
    vars: Vec<Var>,
    rule: Rule,
    /// Weight decay in the gradients.
    l2: f64,
}

enum Rule {
    Sgd { lr: f64, velocities: Vec<Tensor> },
    Adam(AdamW),
}

impl Optimiser {
    /// Of `vars`, before the first step.
    pub fn new(config: &PromptConfig, vars: Vec<Var>) -> Result<Self> {
        let PromptConfig { lr, weight_decay, .. } = *config;
        let adam = |weight_decay| -> Result<Rule> {
            Ok(Rule::Adam(AdamW::new(vars.clone(), ParamsAdamW { lr, weight_decay, ..Default::default() })?))
        };
        let (rule, l2) = match config.optimizer {
            Optimizer::Sgd => {
                let velocities = vars.iter().map(|var| Ok(var.zeros_like()?)).collect::<Result<_>>()?;
                (Rule::Sgd { lr, velocities }, weight_decay)
            }
            Optimizer::Adam => (adam(0.0)?, weight_decay),
            Optimizer::Adamw => (adam(weight_decay)?, 0.0),
        };
        Ok(Optimiser { vars, rule, l2 })
    }

    /// A step with the gradients, which it adds the weight decay to.
    pub fn step(&mut self, gradients: &mut GradStore) -> Result<()> {
        if self.l2 > 0.0 {
            for var in &self.vars {
                if let Some(gradient) = gradients.remove(var) {
                    gradients.insert(var, (gradient + (var.as_tensor() * self.l2)?)?);
                }
            }
        }
        match &mut self.rule {
            Rule::Sgd { lr, velocities } => {
                for (var, velocity) in self.vars.iter().zip(velocities) {
                    if let Some(gradient) = gradients.get(var) {
                        *velocity = ((&*velocity * MOMENTUM)? + gradient)?.detach();
                        var.set(&(var.as_tensor() - (&*velocity * *lr)?)?)?;
                    }
                }
            }
            Rule::Adam(adam) => adam.step(gradients)?,
        }
        Ok(())
    }
}
