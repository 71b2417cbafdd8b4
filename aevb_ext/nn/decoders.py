"""Decoders of counts, of locations and scales, and of classes."""

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from .. import functional as F
from .._arguments import described, explain, explained, integer, is_number, number, tensor
from .._checks import check_positive, check_sizes
from .heads import Decoder, check_unbounded
from .likelihoods import (
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Laplace,
    Likelihood,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
)

__all__ = [
    "CategoricalDecoder",
    "ContinuousBernoulliDecoder",
    "CountDecoder",
    "DiscretizedLogisticDecoder",
    "LaplaceDecoder",
    "LikelihoodDecoder",
    "LocationDecoder",
    "NegativeBinomialDecoder",
    "PoissonDecoder",
    "StudentTDecoder",
    "ZeroInflatedNegativeBinomialDecoder",
]


class LikelihoodDecoder(Decoder):
    """The base class of these decoders: from net's output to the parameters of a likelihood.

    Calling one with z gives a :class:`~aevb_ext.nn.likelihoods.Likelihood`, which has ``parameters``, ``mean``,
    ``log_prob`` and ``sample``.
    """

    likelihood: ClassVar[type[Likelihood]]

    if TYPE_CHECKING:

        def __call__(self, z: Tensor) -> Likelihood: ...

    def _parameters_at(self, z: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    @explained()
    def forward(self, z: Tensor) -> Likelihood:
        """p(x | z) for z ``[*samples, B, *latent]``."""
        return self.likelihood(**self._parameters_at(z))

    @explained(x=None)
    def log_prob(self, x: Tensor, z: Tensor, x_scale: float = 1.0) -> Tensor:
        """log p(x | z): x ``[B, *event]``, z ``[*samples, B, *latent]``; gives ``[*samples, B]``, in nats.

        x and ``x_scale`` are as in the likelihood's function, and so are the errors.
        """
        return self.likelihood(**self._parameters_at(z)).log_prob(x, x_scale)

    @explained()
    def mean(self, z: Tensor) -> Tensor:
        """E[x | z], ``[*samples, B, *event]``."""
        return self(z).mean

    def check_support(self, x: Tensor, x_scale: float, name: str) -> None:
        """Raise ValueError naming ``name`` and the first number of ``x * x_scale`` that is outside the support."""
        explain(LikelihoodDecoder.check_support, locals(), x=tensor())
        self.likelihood.check(x, x_scale, name)


# The least logarithm of a mean: e^-80 and its reciprocal are numbers of float32.
_LEAST = -80.0


def _learned(name: str, value: float | Tensor) -> nn.Parameter:
    """A parameter that starts at a number or a tensor."""
    if not (isinstance(value, Tensor) or is_number(value)):
        raise TypeError(f"{name} must be a number or a tensor, got {described(value)}")
    return nn.Parameter(torch.as_tensor(value).detach().to(torch.get_default_dtype(), copy=True))


class CountDecoder(LikelihoodDecoder):
    r"""The base class of the decoders of counts, which have a mean :math:`\mu(z)`.

    Args:
        net: ``z [N, *latent]`` to ``[N, *event]``: any real numbers :math:`a`.
        library_size: None: :math:`\mu = e^a`. A number: as in scVI (Lopez et al. 2018), :math:`\mu` is the sum of the
            data point's own counts, its *library size*, times the softmax of :math:`a` over the event, so that z
            describes proportions alone; the log-likelihood is then that of x given its sum. The number is the sum that
            a data point generated from z has on average.
        latent_dims: the number of dimensions of a data point's z; all before them are samples and data points.

    Raises:
        ValueError: ``latent_dims`` is below 1; ``library_size`` is not positive; net ends in a module that bounds its
            output.
    """

    # How many numbers net gives for each element of x.
    outputs: ClassVar[int] = 1

    def __init__(self, net: nn.Module, *, library_size: float | None = None, latent_dims: int = 1):
        super().__init__(net, latent_dims)
        explain(CountDecoder, locals(), library_size=number)
        check_unbounded(net, "the logarithm of a mean", "exponential or softmax")
        if library_size is not None:
            check_positive("library_size", library_size)
        self.library_size = library_size

    def _of_output(self, log_mean: Tensor) -> dict[str, Tensor]:
        """The parameters of the likelihood, given the logarithm of its mean."""
        raise NotImplementedError

    def _parameters_at(self, z: Tensor, total: Tensor | float | None = None) -> dict[str, Tensor]:
        """The parameters for data points of these sums, ``[B]``; None: of the library size."""
        out = self._decode(z)
        # The logarithm of a count needs more digits than halves have.
        out = out.float() if out.dtype in (torch.float16, torch.bfloat16) else out
        return self._with_total(out, len(self._rows(z)), total)

    def _with_total(self, out: Tensor, rows: int, total: Tensor | float | None) -> dict[str, Tensor]:
        if self.library_size is None:
            return self._of_output(out)
        proportions = out.flatten(rows).log_softmax(-1).view_as(out)
        if not isinstance(total, Tensor):
            return self._of_output(proportions + math.log(self.library_size))
        each = total.to(out.dtype).log()
        return self._of_output(proportions + each.view(-1, *[1] * (out.dim() - rows)))

    @explained(x=None)
    def log_prob(self, x: Tensor, z: Tensor, x_scale: float = 1.0) -> Tensor:
        """log p(x | z), given the sum of x if there is a library size: x ``[B, *event]``, z ``[*samples, B, *latent]``.

        Gives ``[*samples, B]``, in nats. x are counts of any dtype of :func:`aevb_ext.poisson_log_prob`.
        """
        total = None
        if self.library_size is not None:
            half = x.dtype in (torch.float16, torch.bfloat16)
            total = x.flatten(1).sum(1, dtype=torch.float32 if half else None) * x_scale
        return self.likelihood(**self._parameters_at(z, total)).log_prob(x, x_scale)

    def extra_repr(self) -> str:
        return f"library_size={self.library_size}"


class PoissonDecoder(CountDecoder):
    r""":math:`p(x | z) = \prod_i \mathrm{Poisson}(x_i; \mu_i(z))`, with a mean as in :class:`CountDecoder`."""

    likelihood = Poisson

    def _of_output(self, log_mean: Tensor) -> dict[str, Tensor]:
        return {"log_rate": log_mean}


class NegativeBinomialDecoder(CountDecoder):
    r""":math:`p(x | z) = \prod_i \mathrm{NB}(x_i; \mu_i(z), \theta_i)`, of variance :math:`\mu + \mu^2 / \theta`.

    Args:
        net, library_size, latent_dims: as in :class:`CountDecoder`.
        log_dispersion: the initial value of :math:`\log \theta`, the logarithm of the inverse dispersion, which is
            learned and does not depend on z: a number, one for all of x; or a tensor that broadcasts to ``[*event]``,
            one for each gene.
    """

    likelihood: ClassVar[type[Likelihood]] = NegativeBinomial

    def __init__(
        self,
        net: nn.Module,
        *,
        library_size: float | None = None,
        log_dispersion: float | Tensor = 0.0,
        latent_dims: int = 1,
    ):
        super().__init__(net, library_size=library_size, latent_dims=latent_dims)
        self.log_dispersion = _learned("log_dispersion", log_dispersion)

    def _of_output(self, log_mean: Tensor) -> dict[str, Tensor]:
        # A mean that is 0 in float32 would give a count of 1 the probability 0.
        mean = log_mean.clamp(min=_LEAST).exp()
        return {"mean": mean, "dispersion": self.log_dispersion.exp()}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, log_dispersion={list(self.log_dispersion.shape)}"


class ZeroInflatedNegativeBinomialDecoder(NegativeBinomialDecoder):
    """The same with additional zeros, whose logits are the second half of net's output (scVI's gate).

    Args:
        net: ``z [N, *latent]`` to packed ``[N, ..., 2 * C, ...]``: :math:`a`, then the logits of a zero that is not
            the negative binomial's.
        dim: the dimension of its output that has the two halves: features, or the channels of a convolution.
        library_size, log_dispersion, latent_dims: as in :class:`NegativeBinomialDecoder`.
    """

    likelihood = ZeroInflatedNegativeBinomial
    outputs = 2

    def __init__(
        self,
        net: nn.Module,
        dim: int = 1,
        *,
        library_size: float | None = None,
        log_dispersion: float | Tensor = 0.0,
        latent_dims: int = 1,
    ):
        super().__init__(net, library_size=library_size, log_dispersion=log_dispersion, latent_dims=latent_dims)
        explain(ZeroInflatedNegativeBinomialDecoder, locals())
        self.dim = dim

    def _with_total(self, out: Tensor, rows: int, total: Tensor | float | None) -> dict[str, Tensor]:
        out, gate_logits = F.halves(out, _dim_of_samples(self.dim, rows))
        return {**super()._with_total(out, rows, total), "gate_logits": gate_logits}


def _dim_of_samples(dim: int, rows: int) -> int:
    """A dimension of net's output, counted from the front of a batch without samples, in ``[*samples, B, *]``."""
    return dim if dim < 0 else dim + rows - 1


class LocationDecoder(LikelihoodDecoder):
    r"""The base class of the decoders of a location :math:`\mu(z)` and a scale.

    Args:
        net: ``z [N, *latent]`` to packed ``[N, ..., 2 * C, ...]``: the location (before the sigmoid), then the
            logarithm of the scale. With ``log_scale``, to the location alone, ``[N, *event]``.
        dim: the dimension of its output that has the two halves: features, or the channels of a convolution.
        log_scale: the initial value of a log scale that is learned and does not depend on z: a number, one for all of
            x; or a tensor that broadcasts to ``[*event]``. None: it is the second half of net's output.
        sigmoid: whether a sigmoid squashes the location to (0, 1), for data in [0, 1].
        latent_dims: the number of dimensions of a data point's z; all before them are samples and data points.

    Raises:
        ValueError: ``latent_dims`` is below 1; with ``sigmoid``, net itself ends in a module that bounds its output.
    """

    log_scale: nn.Parameter | None
    # What the likelihood's function calls the scale.
    scale: ClassVar[str] = "scale"

    def __init__(
        self,
        net: nn.Module,
        dim: int = 1,
        *,
        log_scale: float | Tensor | None = None,
        sigmoid: bool = True,
        latent_dims: int = 1,
    ):
        super().__init__(net, latent_dims)
        explain(LocationDecoder, locals(), log_scale=None)  # a number, too
        if sigmoid:
            check_unbounded(net, "the location before the sigmoid (sigmoid=True)")
        self.dim, self.sigmoid = dim, sigmoid
        self.register_parameter("log_scale", None if log_scale is None else _learned("log_scale", log_scale))

    def _parameters_at(self, z: Tensor) -> dict[str, Tensor]:
        out = self._decode(z)
        if self.log_scale is None:
            mu, log_scale = F.halves(out, _dim_of_samples(self.dim, len(self._rows(z))))
        else:
            mu, log_scale = out, self.log_scale
        return {"mu": mu.sigmoid() if self.sigmoid else mu, self.scale: log_scale}

    def extra_repr(self) -> str:
        learned = "" if self.log_scale is None else f", log_scale={list(self.log_scale.shape)}"
        return f"dim={self.dim}, sigmoid={self.sigmoid}{learned}"


class LaplaceDecoder(LocationDecoder):
    r""":math:`p(x | z) = \prod_i \mathrm{Laplace}(x_i; \mu_i(z), b_i)`: the L1 distance with a scale that is learned.

    Arguments are those of :class:`LocationDecoder`.
    """

    likelihood = Laplace


class StudentTDecoder(LocationDecoder):
    r""":math:`p(x | z) = \prod_i t_\nu(x_i; \mu_i(z), s_i)`, whose tails forgive outliers.

    Args:
        net, dim, log_scale, sigmoid, latent_dims: as in :class:`LocationDecoder`.
        df: the initial degrees of freedom :math:`\nu`, whose logarithm is learned: a number, one for all of x; or a
            tensor that broadcasts to ``[*event]``.

    Raises:
        ValueError: ``df`` is not positive; what :class:`LocationDecoder` raises.
    """

    likelihood = StudentT

    def __init__(
        self,
        net: nn.Module,
        dim: int = 1,
        *,
        log_scale: float | Tensor | None = None,
        df: float | Tensor = 5.0,
        sigmoid: bool = True,
        latent_dims: int = 1,
    ):
        super().__init__(net, dim, log_scale=log_scale, sigmoid=sigmoid, latent_dims=latent_dims)
        self.log_df = _learned("df", df)
        # Of the number itself: a model that is only described has parameters without numbers (torch.device("meta")).
        if not ((df > 0).all() if isinstance(df, Tensor) else df > 0):
            raise ValueError(f"df must be positive, got {df}")
        with torch.no_grad():
            self.log_df.log_()

    def _parameters_at(self, z: Tensor) -> dict[str, Tensor]:
        return {**super()._parameters_at(z), "df": self.log_df.exp()}


class DiscretizedLogisticDecoder(LocationDecoder):
    r"""The 256 grey levels of a logistic distribution (Kingma et al. 2016, appendix), by location and scale.

    Arguments are those of :class:`LocationDecoder`; the location is on the scale where the levels are k / 255.
    """

    likelihood = DiscretizedLogistic
    scale = "log_scale"


class ContinuousBernoulliDecoder(LikelihoodDecoder):
    r""":math:`p(x | z) = \prod_i \mathrm{CB}(x_i; l_i(z))`, a density of data in [0, 1] (Loaiza-Ganem et al. 2019).

    Args:
        net: ``z [N, *latent]`` to logits ``[N, *event]``, without a sigmoid at its end.
        latent_dims: the number of dimensions of a data point's z; all before them are samples and data points.

    Raises:
        ValueError: ``latent_dims`` is below 1; net ends in a module that bounds the logits.
    """

    likelihood = ContinuousBernoulli

    def __init__(self, net: nn.Module, *, latent_dims: int = 1):
        super().__init__(net, latent_dims)
        check_unbounded(net, "logits")

    def _parameters_at(self, z: Tensor) -> dict[str, Tensor]:
        return {"logits": self._decode(z)}


class CategoricalDecoder(LikelihoodDecoder):
    r""":math:`p(x | z) = \prod_i \mathrm{Categorical}(x_i; l_i(z))`, for classes from 0 on.

    Args:
        net: ``z [N, *latent]`` to logits ``[N, ..., classes * C, ...]``: the logits of class 0 for all of x, then those
            of class 1, and so on.
        classes: how many classes there are.
        dim: the dimension of its output that has these parts: features, or the channels of a convolution.
        latent_dims: the number of dimensions of a data point's z; all before them are samples and data points.

    Raises:
        ValueError: ``latent_dims`` or ``classes`` is below 1; net ends in a module that bounds the logits.
    """

    likelihood = Categorical

    def __init__(self, net: nn.Module, classes: int, dim: int = 1, *, latent_dims: int = 1):
        super().__init__(net, latent_dims)
        explain(CategoricalDecoder, locals(), classes=integer)
        check_sizes(classes=classes)
        check_unbounded(net, "logits", "softmax")
        self.classes, self.dim = classes, dim

    def _parameters_at(self, z: Tensor) -> dict[str, Tensor]:
        out = self._decode(z)
        dim = _dim_of_samples(self.dim, len(self._rows(z))) % out.dim()
        # A view: the classes become the last dimension.
        return {"logits": out.unflatten(dim, (self.classes, -1)).movedim(dim, -1)}

    def check_support(self, x: Tensor, x_scale: float, name: str) -> None:
        """Raise ValueError naming ``name`` and the first number of ``x * x_scale`` that is no class."""
        explain(CategoricalDecoder.check_support, locals(), x=tensor())
        Categorical.check_classes(x, self.classes, x_scale, name)

    def extra_repr(self) -> str:
        return f"classes={self.classes}, dim={self.dim}"
