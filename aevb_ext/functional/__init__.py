"""The ELBO operations between a VAE's encoder and its loss.

All functions share these conventions:

* The first ``batch_dims`` dimensions (``B``) of a tensor with one row per data point index the *data points*; all
  later dimensions are the *event*. Dimensions before ``B`` are Monte Carlo samples (``*samples``).
* ``spread`` says how every spread argument (``logvar``, ``prior_logvar``) is parameterised: ``"logvar"`` (log sigma^2,
  the default), ``"log_std"``, ``"std"`` or ``"var"``.
* ``reduction`` is ``"sample"`` (sum over the event: one value per data point and sample; the default), ``"none"``
  (elementwise), ``"sum"`` (over everything) or ``"mean"`` (the mean of the per-sample sums, which is what the ELBO of
  a minibatch is).
* float64, float32, bfloat16 and float16 are accepted. Arithmetic is in float32 (float64 for float64), values come
  back in that type, gradients in the type of their input.
* The operands of a call (all but the data ``x``) have one dtype. Under ``torch.autocast`` they may differ: they are
  promoted to the widest of their dtypes, and each gradient has the dtype of its operand.
* Nothing here synchronises with the host, and the same inputs give the same bits.
* Under ``torch.func.vmap`` a vmapped ``key`` gives each element its own noise, and one that is not vmapped gives all
  elements the same noise. If no ``key`` is given, ``randomness`` means what it means for ``torch.randn``: ``"error"``
  (vmap's default) raises RuntimeError, ``"same"`` draws one key for all elements, and ``"different"`` draws one for
  each, the same keys that a loop over the elements would draw.

All values are in nats. Equation numbers are those of Kingma & Welling 2014 (arXiv 1312.6114).
"""

from .bernoulli import bernoulli_log_prob, bernoulli_log_prob_of_probs
from .continuous import (
    continuous_bernoulli_log_prob,
    discretized_logistic_log_prob,
    laplace_log_prob,
    student_t_log_prob,
)
from .counts import (
    negative_binomial_log_prob,
    poisson_log_prob,
    zero_inflated_negative_binomial_log_prob,
)
from .gaussian import gaussian_kl, gaussian_log_prob
from .layout import halves, unpack_bits
from .linear import linear_bernoulli_log_prob, linear_gaussian_log_prob
from .mixture import mixture_log_prob
from .sampling import binarize, noise_key, rsample, rsample_kl
from .sampling import key_for as key_for

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_log_prob_of_probs",
    "binarize",
    "continuous_bernoulli_log_prob",
    "discretized_logistic_log_prob",
    "gaussian_kl",
    "gaussian_log_prob",
    "halves",
    "laplace_log_prob",
    "linear_bernoulli_log_prob",
    "linear_gaussian_log_prob",
    "mixture_log_prob",
    "negative_binomial_log_prob",
    "noise_key",
    "poisson_log_prob",
    "rsample",
    "rsample_kl",
    "student_t_log_prob",
    "unpack_bits",
    "zero_inflated_negative_binomial_log_prob",
]
