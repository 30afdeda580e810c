//! The loss on text that is not trained on.

use fathom_tensor::Tape;

use super::{Observer, Trainer, step};
use crate::Result;
use crate::metrics::{Record, Validation};

impl Trainer<'_> {
    /// The plain next-token loss over the first batches of the validation split, always the same ones.
    pub(super) fn validate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let batch = &self.config().batch;
        let batches = self.dataset.validation_batches(batch.micro_batch(), batch.seq_len)?;
        let (mut sum, mut count) = (0.0, 0.0);
        for batch in batches.take(self.config().validation.batches as usize) {
            let batch = batch?;
            let tape = Tape::without_gradients(self.model.context());
            let losses = self.model.losses(&tape, &self.pass_batch(&batch), &self.pass_options(false))?;
            let learnt = step::learnt(&batch) as f64;
            sum += f64::from(losses.main) * learnt;
            count += learnt;
        }
        let loss = sum / count.max(1.0);
        self.progress.validated = Some(loss);
        let validation = self.dataset.validation();
        let tokens_per_byte = validation.tokens() as f64 / validation.text_bytes().max(1) as f64;
        // Where only some tokens are learnt, their bytes are not known.
        let bits_per_byte = (!self.dataset.is_masked() && validation.text_bytes() > 0)
            .then(|| loss * tokens_per_byte / std::f64::consts::LN_2);
        let record = Validation { step: self.progress.step, loss, bits_per_byte };
        self.records.add(Record::Validation(record), observer)
    }
}
