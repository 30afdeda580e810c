//! Everything that is checked and loaded before the first step.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use fathom_data::{Dataset, Loader, LoaderOptions};
use fathom_kernels::Compute;
use fathom_model::accounting::Parameters;
use fathom_model::differentiable::{AdapterOptions, DifferentiableModel};
use fathom_tensor::{Context, Packing, Precision};

use super::trouble::Trouble;
use super::{
    Event, Kind, Length, Observer, Plan, Progress, Records, Resume, Summary, Trainer, Work, conversations,
    machine, resume, save,
};
use crate::checkpoints::{Checkpoints, Saved, TrainingState};
use crate::config::{Dtype, ModelSource};
use crate::metrics::{self, FILE_NAME, Git, Record};
use crate::optimizer::{Average, Optimizer};
use crate::{Error, Result};

/// A run that could begin.
pub(super) struct Start<'a> {
    plan: &'a Plan,
    source: ModelSource,
    dataset: Dataset,
    validates: bool,
    model: DifferentiableModel,
    optimizer: Optimizer,
    average: Option<Average>,
    loader: Loader,
    checkpoints: Checkpoints,
    resumed: Option<(Saved, TrainingState)>,
    length: Length,
}

impl Plan {
    /// Whether a token sees its own document only.
    pub(super) fn document_mask(&self) -> bool {
        self.config.data.document_mask.unwrap_or(self.kind == Kind::FineTuning)
    }

    /// Whether what is left of a document that began before its row is learnt.
    fn learn_cut_documents(&self) -> bool {
        self.config.data.learn_cut_documents.unwrap_or(self.kind == Kind::Pretraining)
    }
}

impl<'a> Start<'a> {
    /// Checks run file, data, model and checkpoint against each other, cheap things first, and loads them.
    pub(super) fn check(plan: &'a Plan, observer: &mut dyn Observer) -> Result<Self> {
        let config = &plan.config;
        let checkpoints = Checkpoints::of(&plan.out);
        refuse_a_second_run(plan, &checkpoints)?;
        check_kind(plan)?;
        let source = config.model.source(&plan.file)?;
        check_shape(plan, &source)?;
        let resumed = resume::checkpoint(plan, &checkpoints)?;
        let dataset = conversations::open(plan, observer)?;
        check_tokenizer(plan, &source, &dataset)?;
        let loader = loader(plan, &dataset)?;
        let validates = dataset.validation_batches(1, config.batch.seq_len).is_ok();
        let length = length(plan, &loader);
        let model = load_model(plan, &source, resumed.as_ref().map(|(saved, _)| saved.path.as_path()))?;
        let optimizer = Optimizer::new(&config.optimizer, model.trainable());
        let average = config.ema.as_ref().map(|ema| Average::new(ema.decay, model.trainable()));
        checkpoints.require_space(save::checkpoint_bytes(&model, &optimizer, average.as_ref()))?;
        let start = Self {
            plan,
            source,
            dataset,
            validates,
            model,
            optimizer,
            average,
            loader,
            checkpoints,
            resumed,
            length,
        };
        observer.event(Event::Ready(&start.summary()));
        Ok(start)
    }

    fn summary(&self) -> Summary {
        let parameters = Parameters::of(self.model.config());
        let elements =
            |parameter: &fathom_tensor::Parameter| parameter.shape().iter().product::<usize>() as u64;
        let trained: u64 = self.model.trainable().iter().map(elements).sum();
        let average = self.average.as_ref().map_or(0, |average| average.bytes() as u64);
        Summary {
            parameters: parameters.total + parameters.mtp,
            active_parameters: parameters.active,
            trained_parameters: trained,
            data_tokens: self.dataset.tokens(),
            validation: self.validates,
            steps: self.length.steps,
            tokens: self.length.tokens,
            first_step: self.resumed.as_ref().map_or(0, |(saved, _)| saved.step),
            checkpoint_bytes: save::checkpoint_bytes(&self.model, &self.optimizer, self.average.as_ref()),
            state_bytes: self.model.saved_bytes() + 4 * trained + self.optimizer.bytes() as u64 + average,
        }
    }

    /// Opens the record and goes to where the run stands.
    pub(super) fn begin(mut self, observer: &mut dyn Observer) -> Result<Trainer<'a>> {
        let (plan, config) = (self.plan, &self.plan.config);
        std::fs::create_dir_all(&plan.out).map_err(Error::io(&plan.out, "create"))?;
        let lock = lock(&plan.out)?;
        let mut progress = Progress::default();
        let mut trouble = Trouble::new(&config.trouble, &[], 0);
        if let Some((saved, state)) = &self.resumed {
            let file = saved.path.join(save::OPTIMIZER);
            self.optimizer.restore(&file, state.optimizer_steps, self.average.as_mut())?;
            self.loader.seek(&state.position)?;
            self.checkpoints.forget_after(saved.step)?;
            trouble = Trouble::new(&config.trouble, &state.recent_losses, state.skips);
            progress = Progress {
                step: state.step,
                tokens: state.tokens,
                seconds: state.seconds,
                best: state.best,
                validated: None,
                saved: Some(saved.clone()),
            };
        }
        let peak = machine::peak(self.model.context().compute(), config.dtype);
        let model = self.model.config();
        let mtp = config.mtp.lambda > 0.0 || config.mtp.lambda_later > 0.0;
        let work = Work::of(model, config.batch.seq_len, mtp, config.lora.is_some(), peak);
        let mut records = Records::open(&plan.out, self.resumed.as_ref().map(|(saved, _)| saved.step))?;
        records.add(self.first_record(peak), observer)?;
        Ok(Trainer {
            plan,
            source: self.source,
            dataset: self.dataset,
            validates: self.validates,
            model: self.model,
            optimizer: self.optimizer,
            average: self.average,
            loader: self.loader,
            checkpoints: self.checkpoints,
            records,
            trouble,
            work,
            progress,
            length: self.length,
            _lock: lock,
        })
    }

    /// What the record begins or goes on with.
    fn first_record(&self, peak: f64) -> Record {
        let machine = machine::describe(self.model.context().compute(), peak);
        let git = Git::of(Path::new("."));
        if let Some((saved, _)) = &self.resumed {
            let path = saved.path.strip_prefix(&self.plan.out).unwrap_or(&saved.path);
            let path = path.display().to_string();
            return Record::Resume(metrics::Resume { step: saved.step, path, git, machine });
        }
        let summary = self.summary();
        let model = self.model.config();
        let layers = 0..model.layers_with_mtp();
        let name = self.plan.out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Record::Run(Box::new(metrics::Run {
            name,
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            config: toml::to_string(&self.plan.config)
                .unwrap_or_else(|_| self.plan.config.to_json().to_string()),
            parameters: summary.parameters,
            active_parameters: summary.active_parameters,
            total_steps: self.length.steps,
            moe_layers: layers.filter(|&layer| model.is_moe(layer)).collect(),
            git,
            machine,
        }))
    }
}

/// One process at a time: held until the file is closed, however the process ends.
fn lock(out: &Path) -> Result<File> {
    let path = out.join("lock");
    let file = File::create(&path).map_err(Error::io(&path, "create"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { path: out.to_owned() }),
        Err(TryLockError::Error(error)) => Err(Error::io(&path, "lock")(error)),
    }
}

/// A directory holds one run, which is begun once.
fn refuse_a_second_run(plan: &Plan, checkpoints: &Checkpoints) -> Result<()> {
    let there = !checkpoints.list()?.is_empty() || plan.out.join(FILE_NAME).exists();
    if there && plan.resume == Resume::No {
        return Err(Error::AlreadyARun { path: plan.out.clone() });
    }
    Ok(())
}

fn check_kind(plan: &Plan) -> Result<()> {
    let config = &plan.config;
    if plan.kind == Kind::FineTuning && config.model.from.is_none() {
        let problem = "fine-tuning begins from weights: give a model's directory";
        return Err(Error::config(&plan.file, "model.from", problem));
    }
    if config.lora.is_some() && !config.samples.prompts.is_empty() {
        let problem = "samples are written by whole models, and this run saves adapters: leave them out";
        return Err(Error::config(&plan.file, "samples.prompts", problem));
    }
    Ok(())
}

/// What the model's shape forbids.
fn check_shape(plan: &Plan, source: &ModelSource) -> Result<()> {
    let (config, model) = (&plan.config, &source.config);
    let fail = |field: &str, problem: String| Err(Error::config(&plan.file, field, problem));
    let (seq_len, context) = (config.batch.seq_len, model.max_position_embeddings);
    if seq_len > context {
        return fail(
            "batch.seq_len",
            format!("{seq_len} is beyond the model's max_position_embeddings = {context}"),
        );
    }
    let per_device = [("device", config.balance.device), ("communication", config.balance.communication)];
    for (field, factor) in per_device {
        if factor > 0.0 && model.n_group < 2 {
            let problem =
                format!("it balances groups of experts, and the model has n_group = {}", model.n_group);
            return fail(&format!("balance.{field}"), problem);
        }
    }
    let modules = model.num_nextn_predict_layers;
    if modules > 0 && seq_len <= modules {
        return fail(
            "batch.seq_len",
            format!("{seq_len} leaves the {modules} MTP modules nothing to predict"),
        );
    }
    Ok(())
}

fn check_tokenizer(plan: &Plan, source: &ModelSource, dataset: &Dataset) -> Result<()> {
    let (ids, vocab_size) = (dataset.vocab_size(), source.config.vocab_size);
    if ids > vocab_size {
        let problem = format!(
            "the data's tokenizer gives ids up to {}, and the model ({}) has vocab_size = {vocab_size}: prepare the data \
             with the model's tokenizer, or give the model a larger vocabulary",
            ids - 1,
            source.file.display()
        );
        return Err(Error::config(&plan.file, "model", problem));
    }
    let of_model = source.weights.as_ref().or(plan.config.model.tokenizer.as_ref());
    match of_model.filter(|dir| dir.join("tokenizer.json").is_file()) {
        Some(dir) => Ok(dataset.check_tokenizer_of(dir)?),
        None => Ok(()),
    }
}

fn loader(plan: &Plan, dataset: &Dataset) -> Result<Loader> {
    let config = &plan.config;
    let options = LoaderOptions {
        batch: config.batch.micro_batch(),
        seq: config.batch.seq_len,
        seed: config.seed,
        shuffle: config.data.shuffle,
        learn_cut_documents: plan.learn_cut_documents(),
    };
    Ok(Loader::new(dataset, options)?)
}

/// Steps and tokens of the whole run.
fn length(plan: &Plan, loader: &Loader) -> Length {
    let (config, batch) = (&plan.config, &plan.config.batch);
    match (config.steps, config.tokens, config.epochs) {
        (Some(steps), _, _) => Length { steps, tokens: batch.tokens_of(steps) },
        (None, tokens, epochs) => {
            let of_epochs = || epochs.unwrap_or(1.0) * loader.rows_per_epoch() as f64 * batch.seq_len as f64;
            let (steps, tokens) = batch.steps_for(tokens.unwrap_or_else(|| of_epochs().ceil() as u64));
            Length { steps, tokens }
        }
    }
}

/// The model at the beginning of this sitting.
fn load_model(plan: &Plan, source: &ModelSource, resumed: Option<&Path>) -> Result<DifferentiableModel> {
    let config = &plan.config;
    let precision = match config.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    };
    let packing = if config.pack_each_use { Packing::EachUse } else { Packing::Once };
    let context = Context::with_packing(Compute::new(config.threads)?, precision, packing);
    let mtp = config.mtp.lambda > 0.0 || config.mtp.lambda_later > 0.0;
    if let (Some(lora), Some(base)) = (&config.lora, &source.weights) {
        let adapters = AdapterOptions {
            rank: lora.rank,
            scale: lora.scale() as f32,
            target_modules: lora.target_modules.clone(),
            seed: config.seed,
        };
        let model = DifferentiableModel::load_with(base, &context, false, Some(adapters))?;
        if let Some(checkpoint) = resumed {
            model.load_adapters(checkpoint)?;
        }
        return Ok(model);
    }
    let modules = source.config.num_nextn_predict_layers > 0;
    match resumed.or(source.weights.as_deref()) {
        Some(directory) => Ok(DifferentiableModel::load(directory, &context, mtp && modules)?),
        None => {
            let mut model = source.config.clone();
            if !mtp {
                model.num_nextn_predict_layers = 0;
            }
            Ok(DifferentiableModel::random(model, &context, config.init_std as f32, config.seed)?)
        }
    }
}
