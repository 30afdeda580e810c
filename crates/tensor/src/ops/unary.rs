//! One value, element by element.

use super::arithmetic::{map, map2};
use crate::Var;

impl Var {
    /// `-x`.
    pub fn neg(&self) -> Var {
        self.scale(-1.0)
    }

    /// `x · factor`.
    pub fn scale(&self, factor: f32) -> Var {
        let y = map(self.context(), self.value(), |x| x * factor);
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx = map(gradients.context(), &dy, |dy| dy * factor);
            gradients.add(&slot, dx);
        })
    }

    /// `x + number`.
    pub fn add_number(&self, number: f32) -> Var {
        let y = map(self.context(), self.value(), |x| x + number);
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| gradients.add(&slot, dy))
    }

    /// `x²`.
    pub fn square(&self) -> Var {
        self.of_input(|x| x * x, |x| 2.0 * x)
    }

    /// `1 / x`.
    pub fn reciprocal(&self) -> Var {
        self.of_input(|x| 1.0 / x, |x| -1.0 / (x * x))
    }

    /// `√x`.
    pub fn sqrt(&self) -> Var {
        self.of_result(f32::sqrt, |y| 0.5 / y)
    }

    /// `1 / √x`.
    pub fn rsqrt(&self) -> Var {
        self.of_result(|x| 1.0 / x.sqrt(), |y| -0.5 * y * y * y)
    }

    /// `e^x`.
    pub fn exp(&self) -> Var {
        self.of_result(f32::exp, |y| y)
    }

    /// The natural logarithm.
    pub fn ln(&self) -> Var {
        self.of_input(f32::ln, |x| 1.0 / x)
    }

    /// `1 / (1 + e^-x)`.
    pub fn sigmoid(&self) -> Var {
        self.of_result(sigmoid, |y| y * (1.0 - y))
    }

    /// `tanh x`.
    pub fn tanh(&self) -> Var {
        self.of_result(f32::tanh, |y| 1.0 - y * y)
    }

    /// `max(x, 0)`; its gradient at 0 is 0.
    pub fn relu(&self) -> Var {
        self.of_input(|x| x.max(0.0), |x| if x > 0.0 { 1.0 } else { 0.0 })
    }

    /// `x · sigmoid(x)` (Elfwing et al., arXiv 1702.03118).
    pub fn silu(&self) -> Var {
        self.of_input(|x| x * sigmoid(x), |x| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))))
    }

    /// GELU in its `tanh` form (Hendrycks and Gimpel, arXiv 1606.08415).
    pub fn gelu(&self) -> Var {
        const SCALE: f32 = 0.797_884_6; // sqrt(2 / pi)
        let inner = |x: f32| (SCALE * (x + 0.044_715 * x * x * x)).tanh();
        self.of_input(
            move |x| 0.5 * x * (1.0 + inner(x)),
            move |x| {
                let tanh = inner(x);
                let slope = SCALE * (1.0 + 3.0 * 0.044_715 * x * x);
                0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
            },
        )
    }

    /// `ln(1 + e^x)`, without overflow.
    pub fn softplus(&self) -> Var {
        self.of_input(|x| x.max(0.0) + (-x.abs()).exp().ln_1p(), sigmoid)
    }

    /// `f(x)`, whose derivative is told from `x`.
    fn of_input(
        &self,
        f: impl Fn(f32) -> f32 + Sync,
        derivative: impl Fn(f32) -> f32 + Sync + 'static,
    ) -> Var {
        let x = self.value().clone();
        let y = map(self.context(), &x, f);
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx = map2(gradients.context(), &dy, &x, |dy, x| dy * derivative(x));
            gradients.add(&slot, dx);
        })
    }

    /// `f(x)`, whose derivative is told from `f(x)`: `x` need not be kept.
    fn of_result(
        &self,
        f: impl Fn(f32) -> f32 + Sync,
        derivative: impl Fn(f32) -> f32 + Sync + 'static,
    ) -> Var {
        let y = map(self.context(), self.value(), f);
        let slot = self.slot();
        self.tape().record(y.clone(), &[self], move |dy, gradients| {
            let dx = map2(gradients.context(), &dy, &y, |dy, y| dy * derivative(y));
            gradients.add(&slot, dx);
        })
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use crate::Var;
    use crate::testing::{check_gradients, check_gradients_at, random};

    #[test]
    fn gradients_of_functions_everywhere() {
        let functions: [fn(&Var) -> Var; 8] =
            [Var::neg, Var::square, Var::exp, Var::sigmoid, Var::tanh, Var::silu, Var::gelu, Var::softplus];
        for function in functions {
            check_gradients(&[&[2, 7]], |vars| function(&vars[0]));
        }
        check_gradients(&[&[7]], |vars| vars[0].scale(-2.5).add_number(3.0));
    }

    #[test]
    fn gradients_of_functions_of_positive_numbers() {
        let positive: Vec<f32> = random(9, 5).iter().map(|x| x + 2.0).collect();
        let functions: [fn(&Var) -> Var; 5] = [Var::sqrt, Var::rsqrt, Var::ln, Var::reciprocal, Var::relu];
        for function in functions {
            check_gradients_at(&[&[9]], std::slice::from_ref(&positive), |vars| function(&vars[0]));
        }
        let negative = positive.iter().map(|x| -x).collect();
        check_gradients_at(&[&[9]], &[negative], |vars| vars[0].relu());
    }
}
