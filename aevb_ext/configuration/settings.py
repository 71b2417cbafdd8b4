"""``Settings``: every number that determines a run."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from .._checks import check_count, check_name, is_python_integer, is_python_number
from .choices import ESTIMATORS, LEARNER_TRAITS, NON_FINITE, OPTIMIZERS, PRECISIONS, SCHEDULES, SCORES

__all__ = ["CHOICES", "Settings"]

# The settings that are one of several names.
CHOICES = {
    "learner": tuple(LEARNER_TRAITS),
    "estimator": ESTIMATORS,
    "optimizer": tuple(OPTIMIZERS),
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "non_finite": NON_FINITE,
    "score": SCORES,
}


@dataclass(frozen=True)
class Settings:
    """Everything that determines a run, beside the data, the model and its initial parameters.

    Two runs with equal settings take the same steps, on the CPU with the same number of threads bit for bit.

    Attributes:
        learner: ``"aevb"`` (Kingma & Welling 2014, Algorithm 1), ``"wake-sleep"`` (Hinton et al. 1995), ``"mcem"``,
            Monte Carlo EM (Kingma & Welling 2014, app. E), or ``"full-vb"``, a posterior over the decoder's parameters
            too (app. F).
        samples_seen: the number of data points to train on, counted with repetition; for mcem, each evaluation of a
            point's likelihood counts, hmc_steps + weight_updates times a step.
        batch_size: M, data points per step, over all processes.
        accumulate: compute a minibatch in this many equal parts, one after another (gradient accumulation): memory for
            M / accumulate, the gradient of M.
        estimator: ``"a"`` (Kingma & Welling 2014, eq. 6), ``"b"`` (eq. 7) or ``"iwae"`` (Burda et al. 2016, eq. 8).
        n_samples: samples of z for each data point: L, or the k of iwae.
        hmc_steps: for mcem: leapfrog steps of a transition.
        weight_updates: for mcem: updates of the decoder in a step.
        sample_block: samples of each data point computed at a time: memory for this many, the gradient of all, the
            decoder evaluated up to twice. None: all at once.
        optimizer: ``"adagrad"`` (the paper's), ``"adam"`` or ``"sgd"``.
        lr: the learning rate. None: the optimizer's default, which is then filled in.
        schedule: the learning rate after the warm-up: ``"constant"``, or ``"cosine"``: half a cosine down to 0 at the
            end of the run (Loshchilov & Hutter 2017, eq. 5, without restarts).
        lr_warmup: the learning rate grows linearly to lr over this many steps.
        clip: the largest norm of the gradient of the *mean* bound; a longer gradient is scaled down to it. None: no
            limit.
        ema: the decay per step of an exponential moving average of the parameters, which evaluations, pictures and the
            result then use. None: no average.
        beta: the weight of the KL; 1 is the bound.
        beta_warmup: beta grows linearly from 0 over this many steps.
        free_bits: nats of each latent dimension's KL that cost nothing; 0: none.
        precision: ``"float32"`` | ``"tf32"`` | ``"bf16"`` | ``"fp16"``: of the matrix products. Parameters are always
            float32.
        non_finite: what to do when the bound of a data point is NaN or infinite: ``"stop"``, or ``"skip"`` the step,
            and in evaluations the data point. Skipped ones are counted and reported.
        seed: of the order of the data, and of all noise: an integer of 64 bits, from -2**63 to 2**64 - 1 (negative ones
            count modulo 2**64).
        score: what is evaluated: ``"bound"``; or ``"marginal"``, the marginal log-likelihood of the first 1000 data
            points of each split (Kingma & Welling 2014, app. D), which needs no encoder and few latent dimensions.
        log_every: steps between two logs of the running bound. Each log waits for the device.
        evaluate_every: samples between two evaluations. None: evenly in the logarithm of the samples seen, eight per
            decade as in the paper's Figure 2, or two per decade for the marginal likelihood, which takes minutes.
        patience: early stopping after this many evaluations without a better bound (of the valid split, or of test if
            there is none). None: train to the end.
    """

    learner: str = "aevb"
    samples_seen: int = 1_000_000
    batch_size: int = 100
    accumulate: int = 1
    estimator: str = "b"
    n_samples: int = 1
    hmc_steps: int = 10
    weight_updates: int = 5
    sample_block: int | None = None
    optimizer: str = "adagrad"
    lr: float | None = None
    schedule: str = "constant"
    lr_warmup: int = 0
    clip: float | None = None
    ema: float | None = None
    beta: float = 1.0
    beta_warmup: int = 0
    free_bits: float = 0.0
    precision: str = "float32"
    non_finite: str = "stop"
    seed: int = 0
    score: str = "bound"
    log_every: int = 100
    evaluate_every: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("samples_seen", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("n_samples", 1),
            ("hmc_steps", 1),
            ("weight_updates", 1),
            ("sample_block", 1),
            ("lr_warmup", 0),
            ("beta_warmup", 0),
            ("log_every", 1),
            ("evaluate_every", 1),
            ("patience", 1),
        ):
            value = getattr(self, name)
            optional = name in ("sample_block", "evaluate_every", "patience")
            if not (optional and value is None):
                check_count(name, value, least)
        for name, names in CHOICES.items():
            check_name(name, getattr(self, name), names)
        if not (is_python_integer(self.seed) and -(2**63) <= self.seed < 2**64):
            raise ValueError(f"seed must be an integer of 64 bits, from -2**63 to 2**64 - 1, got {self.seed!r}")
        if self.lr is None:
            object.__setattr__(self, "lr", OPTIMIZERS[self.optimizer])
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not (is_python_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.ema is not None and not (is_python_number(self.ema) and 0 < self.ema < 1):
            raise ValueError(f"ema must be in (0, 1), got {self.ema!r}")
        for name in ("beta", "free_bits"):
            value = getattr(self, name)
            if not (is_python_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}")
        if self.estimator != "b" and (self.beta != 1 or self.beta_warmup or self.free_bits):
            raise ValueError(f'beta, beta_warmup and free_bits need estimator "b", got {self.estimator!r}')
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size {self.batch_size}, got {self.accumulate}")
        self._check_learner()

    def _check_learner(self) -> None:
        """Raise ValueError if a setting that the learner does not have differs from its default.

        Also if the score needs an encoder that the learner does not train.
        """
        if self.score == "bound" and not LEARNER_TRAITS[self.learner].encodes:
            raise ValueError(
                f'score "bound" needs an encoder, and the learner {self.learner!r} trains none: set score to "marginal"'
            )
        default = {field.name: field.default for field in fields(self)}
        for name in dict.fromkeys(name for traits in LEARNER_TRAITS.values() for name in traits.options):
            value = getattr(self, name)
            # Every run has a seed, even if its learner has no such option.
            if name != "seed" and name not in LEARNER_TRAITS[self.learner].options and value != default[name]:
                having = ", ".join(repr(other) for other, traits in LEARNER_TRAITS.items() if name in traits.options)
                raise ValueError(
                    f"{name} means nothing to the learner {self.learner!r}: it is for {having}; leave it at "
                    f"{default[name]!r}, got {value!r}"
                )

    @property
    def steps(self) -> int:
        """The number of steps of the run."""
        return math.ceil(self.samples_seen / self.samples_per_step)

    @property
    def samples_per_step(self) -> int:
        """How many data points a step counts as: each as often as its likelihood is evaluated."""
        return self.batch_size * LEARNER_TRAITS[self.learner].passes(self)

    def as_dict(self) -> dict[str, Any]:
        """Names and values, all of types that JSON and TOML have."""
        return asdict(self)
