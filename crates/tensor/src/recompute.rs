//! Activation recomputation: memory bought with a second forward pass (Chen et al., arXiv 1604.06174).

use std::cell::RefCell;
use std::rc::Rc;

use crate::{GradientSlot, Gradients, Tape, Tensor, Var};

impl Tape {
    /// Runs `forward` on the inputs without recording it, keeps only inputs and results, and runs it again when the
    /// gradients are asked for. `forward` is called twice and must compute the same both times; what else it does, it
    /// may want to do on a tape that does not record only ([`Tape::records`]).
    pub fn recompute(
        &self,
        inputs: &[&Var],
        forward: impl Fn(&Tape, &[Var]) -> Vec<Var> + 'static,
    ) -> Vec<Var> {
        let context = self.context();
        let quiet = Tape::without_gradients(context);
        let values: Vec<Tensor> = inputs.iter().map(|input| input.value().clone()).collect();
        let constants: Vec<Var> = values.iter().map(|value| quiet.constant(value.clone())).collect();
        let results: Vec<Tensor> =
            forward(&quiet, &constants).iter().map(|var| var.value().clone()).collect();
        if !self.records() {
            return results.into_iter().map(|value| self.constant(value)).collect();
        }
        let slots: Vec<GradientSlot> = inputs.iter().map(|input| input.slot()).collect();
        let arrived: Rc<RefCell<Vec<Option<Tensor>>>> = Rc::new(RefCell::new(vec![None; results.len()]));
        let gathered = Rc::clone(&arrived);
        // Results stand behind this node on the tape, so all their gradients have arrived when its turn comes.
        let again = self.always(context.zeros([0]), move |_, gradients: &mut Gradients| {
            let tape = Tape::new(gradients.context());
            let inputs: Vec<Var> = values.into_iter().map(|value| tape.input(value)).collect();
            let results = forward(&tape, &inputs);
            let gathered = gathered.take();
            let pairs: Vec<(&Var, Tensor)> =
                results.iter().zip(gathered).filter_map(|(var, gradient)| Some((var, gradient?))).collect();
            let inner = tape.backward_from(&pairs);
            for (input, slot) in inputs.iter().zip(&slots) {
                if let Some(gradient) = inner.of(input) {
                    gradients.add(slot, gradient.clone());
                }
            }
        });
        let node = |(index, value): (usize, Tensor)| {
            let (arrived, again) = (Rc::clone(&arrived), again.slot());
            self.always(value, move |gradient, gradients: &mut Gradients| {
                arrived.borrow_mut()[index] = Some(gradient);
                let signal = gradients.context().zeros([0]);
                gradients.add(&again, signal);
            })
        };
        results.into_iter().enumerate().map(node).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, context, random};
    use crate::{Parameter, Tape, Var};

    /// Two results that share an input and a parameter.
    fn layer(vars: &[Var], weight: &Var) -> Vec<Var> {
        let hidden = vars[0].linear(weight).silu();
        vec![hidden.mul(&vars[1]), hidden.sum_all()]
    }

    #[test]
    fn gradients_are_the_same_to_the_bit() {
        let context = context();
        let weight = Parameter::new("weight", context.tensor([3, 4], &random(12, 1)));
        let mut found = Vec::new();
        for recompute in [false, true] {
            let tape = Tape::new(&context);
            let x = tape.input(context.tensor([2, 4], &random(8, 2)));
            let y = tape.input(context.tensor([2, 3], &random(6, 3)));
            let results = if recompute {
                let weight = weight.clone();
                tape.recompute(&[&x, &y], move |tape, vars| layer(vars, &tape.parameter(&weight)))
            } else {
                layer(&[x.clone(), y.clone()], &tape.parameter(&weight))
            };
            weight.clear_gradient();
            let gradients = tape.backward(&results[0].sum_all().add(&results[1].scale(0.5)));
            let of = |var| gradients.of(var).unwrap().values().to_vec();
            found.push([of(&x), of(&y), weight.gradient().unwrap().values().to_vec()]);
        }
        assert_eq!(found[0], found[1]);
    }

    #[test]
    fn a_result_that_nobody_uses_has_no_gradient() {
        check_gradients(&[&[2, 3]], |vars| {
            let results =
                vars[0].tape().recompute(&[&vars[0]], |_, vars| vec![vars[0].silu(), vars[0].scale(2.0)]);
            results[1].clone()
        });
    }
}
