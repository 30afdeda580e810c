//! The tape's promises: who gets a gradient, how sums gather, what a step allocates.

use crate::testing::{context, random};
use crate::{Parameter, Tape};

#[test]
fn a_parameter_gathers_gradients_over_passes_until_they_are_cleared() {
    let context = context();
    let weight = Parameter::new("weight", context.tensor([1, 2], &[1.0, 2.0]));
    let pass = || {
        let tape = Tape::new(&context);
        let x = tape.constant(context.tensor([1, 2], &[3.0, 4.0]));
        tape.backward(&x.linear(&tape.parameter(&weight)).sum_all());
    };
    pass();
    pass();
    assert_eq!(weight.gradient().unwrap().values(), [6.0, 8.0]);
    weight.clear_gradient();
    assert!(weight.gradient().is_none());
    pass();
    assert_eq!(weight.gradient().unwrap().values(), [3.0, 4.0]);
}

#[test]
fn packed_weights_follow_an_update() {
    let context = context();
    let weight = Parameter::new("weight", context.tensor([2, 2], &[1.0, 0.0, 0.0, 1.0]));
    let product = || {
        let tape = Tape::without_gradients(&context);
        let x = tape.constant(context.tensor([1, 2], &[3.0, 4.0]));
        x.linear(&tape.parameter(&weight)).value().values().to_vec()
    };
    assert_eq!(product(), [3.0, 4.0]);
    weight.update(|values, _| values.iter_mut().for_each(|value| *value *= 2.0));
    assert_eq!(product(), [6.0, 8.0]);
}

#[test]
fn nothing_flows_through_constants_detached_values_and_frozen_parameters() {
    let context = context();
    let frozen = Parameter::new("frozen", context.tensor([2, 2], &random(4, 1)));
    frozen.set_trainable(false);
    let tape = Tape::new(&context);
    let x = tape.input(context.tensor([1, 2], &random(2, 2)));
    let y = x.detach().linear(&tape.parameter(&frozen));
    assert!(!y.needs_gradient());
    let gradients = tape.backward(&y.sum_all().add(&x.sum_all()));
    assert_eq!(gradients.of(&x).unwrap().values(), [1.0, 1.0]);
    assert!(frozen.gradient().is_none());
}

#[test]
fn a_steady_step_allocates_no_buffer() {
    let context = context();
    let weight = Parameter::new("weight", context.tensor([64, 64], &random(64 * 64, 1)));
    let step = || {
        let tape = Tape::new(&context);
        let x = tape.constant(context.tensor([32, 64], &random(32 * 64, 2)));
        let hidden = x.linear(&tape.parameter(&weight)).silu();
        tape.backward(&hidden.mul(&hidden).mean_all());
        weight.update(|values, gradient| values.iter_mut().zip(gradient).for_each(|(w, g)| *w -= 0.1 * g));
        weight.clear_gradient();
    };
    step();
    step();
    let before = context.allocations();
    (0..5).for_each(|_| step());
    assert_eq!(context.allocations(), before);
}

#[test]
#[should_panic(expected = "`weight` changes while a tape holds it")]
fn an_update_under_a_living_tape_is_refused() {
    let context = context();
    let weight = Parameter::new("weight", context.tensor([1], &[1.0]));
    let tape = Tape::new(&context);
    let _held = tape.parameter(&weight);
    weight.update(|values, _| values[0] = 2.0);
}
