"""The factorised Bernoulli distribution: a Bernoulli decoder's p(x | z)."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import probs_to_logits
from torch.nn.functional import logsigmoid

from .. import functional as F
from .._arguments import check_dtype, explained
from .._types import Generators, Shape
from ..reference._common import _reduce
from .factorised import Factorised, samples, wide


class Bernoulli(Factorised):
    r"""Independent bits: a Bernoulli decoder's :math:`p(x | z)`.

    Like ``Independent(torch.distributions.Bernoulli(...), n)`` with n event dimensions.

    Args:
        probs, logits: one of the two, ``[*batch_shape, *event_shape]``: the probability of a 1, or its log odds;
            float64, float32, bfloat16 or float16.
        batch_dims: how many of its dimensions index data points (and samples: 2 for logits ``[L, B, *event]`` of L
            samples of z each); the later ones are the event.
        validate_args: True: probabilities outside [0, 1], NaN, and values that are neither 0 nor 1 raise ValueError, as
            in torch.distributions, for which the host waits for the device. None or False: only shapes and dtypes.

    Attributes:
        param: the given tensor.
        param_name: ``"probs"`` or ``"logits"``: which of the two was given.

    Raises:
        ValueError: both or neither of probs and logits are given, or ``batch_dims`` is out of range.
        TypeError: the parameter is not a tensor of a dtype above.
    """

    _element_support = constraints.boolean

    @explained()
    def __init__(
        self,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        *,
        batch_dims: int = 1,
        validate_args: bool | None = None,
    ):
        given = probs if logits is None else logits
        if given is None or (probs is not None and logits is not None):
            raise ValueError(f"give either probs or logits; got {'neither' if probs is None else 'both'}")
        self.param_name, self.param = "probs" if logits is None else "logits", given
        check_dtype(self.param_name, self.param)
        super().__init__(self.param.shape, self.param_name, batch_dims, validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        of_one = constraints.unit_interval if self.param_name == "probs" else constraints.real
        return {self.param_name: self._arg_constraint(of_one, self.param)}

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]  # a plain attribute in torch
        return not self.event_dims

    @property
    def probs(self) -> Tensor:
        """The probabilities of a 1, ``[*batch_shape, *event_shape]``, of the parameter's dtype."""
        return self.param if self.param_name == "probs" else self.param.sigmoid()

    @property
    def logits(self) -> Tensor:
        """The log odds, ``[*batch_shape, *event_shape]``, of the parameter's dtype.

        If probabilities were given, they are clamped to [eps, 1 - eps] first, as in torch.distributions, so that the
        logits are finite.
        """
        if self.param_name == "logits":
            return self.param
        return probs_to_logits(wide(self.param), is_binary=True).to(self.param.dtype)

    @property
    def mean(self) -> Tensor:
        """The probabilities of a 1, ``[*batch_shape, *event_shape]``, of the parameter's dtype."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The likelier of 0 and 1, or NaN if both are equally likely, as in torch.distributions; shape as the mean."""
        middle = 0.5 if self.param_name == "probs" else 0.0
        likelier = self.param.ge(middle).to(self.param.dtype)
        return likelier.masked_fill(self.param.eq(middle) | self.param.isnan(), torch.nan)

    @property
    def variance(self) -> Tensor:
        """p (1 - p), ``[*batch_shape, *event_shape]``, float32 for half parameters."""
        p, q = self._both_probs()
        return p * q

    @explained()
    def expand(self, batch_shape: Shape, _instance: Distribution | None = None) -> "Bernoulli":
        """The same distribution for a ``batch_shape`` to which its own broadcasts; nothing is copied."""
        param = self.param.expand((*batch_shape, *self._event_shape))
        return self._expanded(Bernoulli, _instance, **{self.param_name: param}, batch_dims=len(batch_shape))

    @explained()
    def sample(
        self, sample_shape: Shape = (), *, generator: Generators | None = None, key: Tensor | None = None
    ) -> Tensor:
        r"""Samples: 1 where the key's standard normal noise is below :math:`\Phi^{-1}(p)`, which has probability p.

        They are a pure function of the key, as for a Gaussian: the same in eager and compiled code. With a key or
        generator for each data point they do not depend on the batch.

        Args:
            sample_shape, generator, key: as in :meth:`DiagonalGaussian.rsample`.

        Returns:
            ``[*sample_shape, *batch_shape, *event_shape]``, of the parameter's dtype: 0 and 1, and NaN where the
            probability is not in [0, 1].
        """
        n_samples = samples(sample_shape)
        shape = (*sample_shape, *self.param.shape)
        with torch.no_grad():
            if n_samples == 0:
                return self.param.new_empty(shape)
            threshold = torch.special.ndtri(wide(self.probs))
            zero = threshold.new_zeros(())
            noise = F.rsample(
                zero.expand(self.param.shape),
                zero,
                n_samples=n_samples,
                **self._noise(self.param.device, key, generator),
            ).reshape(shape)
            return noise.less(threshold).to(self.param.dtype).masked_fill(threshold.isnan(), torch.nan)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-likelihood in nats: :func:`aevb_ext.bernoulli_log_prob`, or for probabilities
        :func:`aevb_ext.bernoulli_log_prob_of_probs`, which clamps logarithms at -100.

        Args:
            value: ``[*samples, *batch_shape, *event_shape]``, the batch's dimensions broadcasting; floating, integers
                or bool. Numbers between 0 and 1 (grey pixels as targets) are taken as they are, unless
                ``validate_args=True``.

        Returns:
            ``[*samples, *batch_shape]``; differentiable in the parameter and in a floating value.

        Raises:
            ValueError: the shape does not fit (or with ``validate_args=True``, a value is neither 0 nor 1).
            TypeError: value is no tensor of such a dtype.
        """
        value, shape = self._check_value(value, self.param.dtype)
        log_prob = F.bernoulli_log_prob_of_probs if self.param_name == "probs" else F.bernoulli_log_prob
        return log_prob(value, self.param.expand(shape), batch_dims=value.dim() - self.event_dims)

    def entropy(self) -> Tensor:
        r"""Entropy :math:`-\sum_i p_i \log p_i + (1 - p_i) \log(1 - p_i)` in nats, ``[*batch_shape]``."""
        if self.param_name == "probs":
            # Bits with p = 0 or 1 have entropy 0; their gradient, which would be infinite, is dropped.
            p = wide(self.param)
            sure = (p == 0) | (p == 1)
            p = p.masked_fill(sure, 0.5)
            entropy = -F.bernoulli_log_prob_of_probs(p, p, reduction="none", batch_dims=0)
            return _reduce(entropy.masked_fill(sure, 0), self.event_dims, "sample")
        # With a = |logit| it is log(1 + e^-a) + a / (1 + e^a), whose terms do not cancel.
        a = self._finite_logits().abs()
        return _reduce((-a).exp().log1p() + a * (-a).sigmoid(), self.event_dims, "sample")

    @explained()
    def kl(self, other: Distribution) -> Tensor:
        r"""KL divergence of this to ``other`` in nats: :math:`\sum_i p \log(p / q) + (1 - p) \log((1 - p) / (1 - q))`.

        If p and q are close, these terms cancel. There it is computed as the logarithm of
        :math:`1 + p \varphi((1 - p) d) + (1 - p) \varphi(-p d)`, where d is the difference of the log odds and
        :math:`\varphi(x) = e^x - 1 - x`; no term of it is negative.

        Args:
            other: a :class:`Bernoulli`, whose batch broadcasts with this one's, or ``Bernoulli`` or
                ``Independent(Bernoulli, n)`` of torch.distributions, as in :meth:`DiagonalGaussian.kl`.

        Returns:
            ``[*batch_shape]``, the two broadcast; infinite where q's probability is 0 or 1 and p's is not.

        Raises:
            ValueError: the events differ, or the batches do not broadcast.
        """
        if not isinstance(other, Bernoulli):
            return self._kl_to_another(other)
        self._common_shape(other)
        (p, not_p), (a, b) = self._both_probs(), (self._finite_logits(), other._finite_logits())
        d = b - a
        small = d.clamp(-1, 1)
        near = torch.log1p(p * _excess(not_p * small) + not_p * _excess(-p * small))
        far = p * (logsigmoid(a) - logsigmoid(b)) + not_p * (logsigmoid(-a) - logsigmoid(-b))
        # The clamp is for a p such as 1e-44, which may be 0 in one term and not in another.
        kl = torch.where(d.abs() < 1, near, far.clamp(min=0))
        never, always = (0, 1) if other.param_name == "probs" else (-torch.inf, torch.inf)
        ruled_out = (other.param == never) & (p > 0) | (other.param == always) & (not_p > 0)
        return _reduce(kl.masked_fill(ruled_out, torch.inf), self.event_dims, "sample")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """0 and 1 in a new leading dimension; NotImplementedError for events of more than one bit."""
        if self.event_dims:
            raise NotImplementedError(f"the support of events of shape {list(self._event_shape)} is not enumerated")
        values = torch.arange(2, dtype=self.param.dtype, device=self.param.device)
        values = values.reshape(2, *(1,) * len(self._batch_shape))
        return values.expand(2, *self._batch_shape) if expand else values

    def _finite_logits(self) -> Tensor:
        """The log odds, clamped to finite values so that p = 0 times them is 0; NaN if p is not in [0, 1]."""
        param = wide(self.param)
        limits = torch.finfo(param.dtype)
        if self.param_name == "logits":
            return param.clamp(-limits.max, limits.max)
        p = param.masked_fill((param < 0) | (param > 1), torch.nan).clamp(limits.tiny, 1 - limits.eps / 2)
        return p.log() - (-p).log1p()

    def _both_probs(self) -> tuple[Tensor, Tensor]:
        """p and 1 - p, each with all its digits even if it is small."""
        param = wide(self.param)
        return (param, 1 - param) if self.param_name == "probs" else (param.sigmoid(), (-param).sigmoid())

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.param_name}: {self.param.shape}, "
            f"batch_shape: {self._batch_shape}, event_shape: {self._event_shape})"
        )


def _excess(x: Tensor) -> Tensor:
    """e^x - 1 - x without cancellation: twice the KL divergence of N(0, e^x) to N(0, 1)."""
    return 2 * F.gaussian_kl(torch.zeros_like(x), x, reduction="none", batch_dims=0)
