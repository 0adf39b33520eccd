//! The optimisers, on candle's variables.

use anyhow::Result;
use candle_core::{Tensor, Var, backprop::GradStore};
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW};

#[cfg(feature = "cuda")]
use crate::dense::adam::{BETA1, BETA2};
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
    Sgd {
        lr: f64,
        velocities: Vec<Tensor>,
    },
    Adam(AdamW),
    #[cfg(feature = "cuda")]
    CudaAdam(CudaAdam),
}

impl Optimiser {
    /// Of `vars`, before the first step.
    pub fn new(config: &PromptConfig, vars: Vec<Var>) -> Result<Self> {
        let PromptConfig { lr, weight_decay, .. } = *config;
        let adam = |weight_decay| -> Result<Rule> {
            #[cfg(feature = "cuda")]
            if vars.iter().any(|var| var.device().is_cuda()) {
                return Ok(Rule::CudaAdam(CudaAdam::new(&vars, lr, weight_decay)?));
            }
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
            #[cfg(feature = "cuda")]
            Rule::CudaAdam(adam) => adam.step(&self.vars, gradients)?,
        }
        Ok(())
    }
}

/// AdamW in one pass over each variable.
#[cfg(feature = "cuda")]
struct CudaAdam {
    lr: f64,
    weight_decay: f64,
    moments: Vec<[Tensor; 2]>,
    steps: i32,
}

#[cfg(feature = "cuda")]
impl CudaAdam {
    fn new(vars: &[Var], lr: f64, weight_decay: f64) -> Result<Self> {
        let moments = vars.iter().map(|var| Ok([var.zeros_like()?, var.zeros_like()?])).collect::<Result<_>>()?;
        Ok(CudaAdam { lr, weight_decay, moments, steps: 0 })
    }

    fn step(&mut self, vars: &[Var], gradients: &GradStore) -> Result<()> {
        self.steps += 1;
        let rate = self.lr / (1.0 - BETA1.powi(self.steps));
        let correction = (1.0 - BETA2.powi(self.steps)).sqrt().recip();
        let Some(var) = vars.first() else { return Ok(()) };
        let factors = Tensor::new(&[1.0, rate as f32, correction as f32], var.device())?;
        let [on, rate, correction] = [factors.get(0)?, factors.get(1)?, factors.get(2)?];
        for (var, [first, second]) in vars.iter().zip(&self.moments) {
            if let Some(gradient) = gradients.get(var) {
                let (gradient, decay) = (gradient.contiguous()?, self.lr * self.weight_decay);
                crate::cuda::adam(var, [first, second], &gradient, [&on, &rate, &correction], decay)?;
            }
        }
        Ok(())
    }
}
