"""Heads that turn a network's output into a distribution: an encoder's posterior, a decoder's likelihood."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import functional as F
from .._arguments import described, explain, explained, is_number
from ..distributions import Bernoulli, DiagonalGaussian
from ..distributions.gaussian import check_clamp, check_spread, clamp_logvar
from .linear import Linear

__all__ = ["BernoulliDecoder", "GaussianDecoder", "GaussianPosterior"]


class GaussianPosterior(nn.Module):
    r"""q(z | x), a diagonal Gaussian whose mean and spread are the two halves of a network's output.

    (Kingma & Welling 2014, appendix C.2.) The halves are not copied, and their gradients are written as one tensor.

    Args:
        net: x to packed ``[B, ..., 2 * C, ...]``: mu, then log sigma^2 (or what ``spread`` says).
        dim: the dimension of its output that has the two halves: features, or the channels of a convolution.
        clamp, soft: bounds of the spread, as in
            :meth:`DiagonalGaussian.from_params <aevb_ext.distributions.DiagonalGaussian.from_params>`.
        spread: what the second half is: ``"logvar"`` | ``"log_std"`` | ``"std"`` | ``"var"``.
    """

    def __init__(
        self,
        net: nn.Module,
        dim: int = 1,
        *,
        clamp: tuple[float, float] | None = None,
        soft: bool = False,
        spread: str = "logvar",
    ):
        super().__init__()
        explain(GaussianPosterior, locals(), clamp=check_clamp)
        check_spread(spread)
        self.net, self.dim, self.clamp, self.soft, self.spread = net, dim, clamp, soft, spread

    if TYPE_CHECKING:

        def __call__(self, *x: Tensor) -> DiagonalGaussian: ...

    def forward(self, *x: Tensor) -> DiagonalGaussian:
        """q(z | x) with batch shape ``[B]``; the arguments are passed to ``net``.

        Raises:
            IndexError: net's output has no dimension ``dim``.
            ValueError: that dimension has an odd size; what :class:`~aevb_ext.distributions.DiagonalGaussian` raises.
        """
        return DiagonalGaussian.from_params(
            self.net(*x), self.dim, clamp=self.clamp, soft=self.soft, spread=self.spread
        )

    def extra_repr(self) -> str:
        return f"dim={self.dim}, clamp={self.clamp}, soft={self.soft}, spread={self.spread!r}"


# If the last layer's output has at least this many elements, it is not kept in memory (docs/large-batches.md).
_LARGE = {"cpu": 2**23, "cuda": 2**28}


class Decoder(nn.Module):
    """The base class of the likelihoods: the network sees a flat batch of z, whatever sample dimensions z has."""

    def __init__(self, net: nn.Module, latent_dims: int):
        super().__init__()
        explain(Decoder, locals())
        if latent_dims < 1:
            raise ValueError(f"latent_dims must be at least 1, got {latent_dims}")
        self.net, self.latent_dims = net, latent_dims

    if TYPE_CHECKING:

        def __call__(self, z: Tensor) -> Any: ...

        def log_prob(self, x: Tensor, z: Tensor, x_scale: float = 1.0) -> Tensor: ...

        def mean(self, z: Tensor) -> Tensor: ...

        def check_support(self, x: Tensor, x_scale: float, name: str) -> None: ...

    def _rows(self, z: Tensor) -> torch.Size:
        if z.dim() < self.latent_dims:
            raise ValueError(f"z must have latent_dims={self.latent_dims} dimensions at least, got {list(z.shape)}")
        return z.shape[: z.dim() - self.latent_dims]

    def _decode(self, z: Tensor) -> Tensor:
        """``net(z)``, ``[*samples, B, *]`` for z ``[*samples, B, *latent]``.

        net sees ``[N, *latent]``, the form that convolutions and batch norms need.
        """
        return self._through(self.net, z)

    def _through(self, net: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        rows = self._rows(z)
        return net(z.flatten(0, len(rows) - 1)).unflatten(0, rows) if len(rows) > 1 else net(z)

    def _large_layer(self, x: Tensor, z: Tensor) -> tuple[Tensor, nn.Linear] | None:
        """The input of net's last layer, ``[*samples, B, H]``, and that layer, if its output should not be kept.

        The layer has to be a plain linear layer for x ``[B, D]``, whose output only the likelihood uses.
        """
        if type(self.net) is not nn.Sequential or not len(self.net) or x.dim() != 2:
            return None
        last = self.net[-1]
        if not (type(last) is nn.Linear or (type(last) is Linear and not last.tanh)):
            return None
        if math.prod(self._rows(z)) * last.out_features < _LARGE.get(z.device.type, math.inf):
            return None
        if has_hooks(self.net) or has_hooks(last):
            return None
        # An exported or traced program has to work for any batch size: it computes layer and likelihood separately.
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            return None
        body = list(self.net)[:-1]
        return self._through(lambda batch: through(body, batch), z), last


class BernoulliDecoder(Decoder):
    r""":math:`p(x | z) = \prod_i \mathrm{Bernoulli}(x_i; \mathrm{sigmoid}(l_i(z)))` (Kingma & Welling 2014, app. C.1).

    Calling it with z returns the distribution; :meth:`log_prob` is fused and takes data as bytes.

    Args:
        net: ``z [N, *latent]`` to logits ``[N, *event]``, without a sigmoid at its end.
        latent_dims: the number of dimensions of a data point's z; all before them are samples and data points.

    Raises:
        ValueError: ``latent_dims`` is below 1; net ends in a sigmoid, or in another module that bounds the logits.
    """

    def __init__(self, net: nn.Module, *, latent_dims: int = 1):
        super().__init__(net, latent_dims)
        check_unbounded(net, "logits")

    if TYPE_CHECKING:

        def __call__(self, z: Tensor) -> Bernoulli: ...

    @explained()
    def forward(self, z: Tensor) -> Bernoulli:
        """p(x | z) for z ``[*samples, B, *latent]``: batch shape ``[*samples, B]``, event shape that of x."""
        return Bernoulli(logits=self._decode(z), batch_dims=len(self._rows(z)))

    @explained()
    def log_prob(self, x: Tensor, z: Tensor, x_scale: float = 1.0) -> Tensor:
        """log p(x | z): x ``[B, *event]``, z ``[*samples, B, *latent]``; gives ``[*samples, B]``, in nats.

        x and ``x_scale`` are as in :func:`aevb_ext.bernoulli_log_prob`, and so are the errors.
        """
        if large := self._large_layer(x, z):
            h, last = large
            return F.linear_bernoulli_log_prob(x, h, last.weight, last.bias, x_scale=x_scale)
        return F.bernoulli_log_prob(x, self._decode(z), x_scale=x_scale)

    @explained()
    def mean(self, z: Tensor) -> Tensor:
        """E[x | z], ``[*samples, B, *event]``."""
        return self._decode(z).sigmoid()

    @explained()
    def check_support(self, x: Tensor, x_scale: float, name: str) -> None:
        """Raise ValueError naming ``name`` unless all of ``x * x_scale`` is in [0, 1]."""
        low, high = _finite_range(x, x_scale, name, "Bernoulli")
        _check_unit(low, high, x_scale, name, "the support [0, 1] of the Bernoulli likelihood")


class GaussianDecoder(Decoder):
    r""":math:`p(x | z) = N(x; m(z), \sigma^2(z) I)` (Kingma & Welling 2014, appendix C.2), diagonal.

    Calling it with z returns the distribution; :meth:`log_prob` is fused and takes data as bytes.

    Args:
        net: ``z [N, *latent]`` to packed ``[N, ..., 2 * C, ...]``: the mean (before the sigmoid), then log sigma^2.
            With ``logvar``, to the mean alone, ``[N, *event]``.
        dim: the dimension of its output that has the two halves: features, or the channels of a convolution.
        logvar: the initial value of a log sigma^2 that is learnt with the networks and does not depend on z (Rybkin et
            al. 2021, "sigma-VAE", arXiv 2006.13202): a number, one for all of x; or a tensor that broadcasts to
            ``[*event]``, one for each feature or channel. None: log sigma^2 is the second half of net's output.
        sigmoid: whether a sigmoid squashes the mean to (0, 1), as in the paper.
        clamp, soft: bounds of log sigma^2, as in
            :meth:`DiagonalGaussian.from_params <aevb_ext.distributions.DiagonalGaussian.from_params>`. A lower bound
            keeps the likelihood from growing without limit where the mean fits exactly.
        latent_dims: the number of dimensions of a data point's z; all before them are samples and data points.

    Raises:
        ValueError: ``latent_dims`` is below 1; with ``sigmoid``, net itself ends in a sigmoid or another module that
            bounds its output.
    """

    logvar: nn.Parameter | None

    def __init__(
        self,
        net: nn.Module,
        dim: int = 1,
        *,
        logvar: float | Tensor | None = None,
        sigmoid: bool = True,
        clamp: tuple[float, float] | None = None,
        soft: bool = False,
        latent_dims: int = 1,
    ):
        super().__init__(net, latent_dims)
        explain(GaussianDecoder, locals(), clamp=check_clamp, logvar=None)
        if sigmoid:
            check_unbounded(net, "the mean before the sigmoid (sigmoid=True)")
        self.dim, self.sigmoid, self.clamp, self.soft = dim, sigmoid, clamp, soft
        if logvar is not None:
            if not (isinstance(logvar, Tensor) or is_number(logvar)):
                raise TypeError(f"logvar must be a number or a tensor, got {described(logvar)}")
            logvar = nn.Parameter(torch.as_tensor(logvar).detach().to(torch.get_default_dtype(), copy=True))
        self.register_parameter("logvar", logvar)

    if TYPE_CHECKING:

        def __call__(self, z: Tensor) -> DiagonalGaussian: ...

    @explained()
    def forward(self, z: Tensor) -> DiagonalGaussian:
        """p(x | z) for z ``[*samples, B, *latent]``: batch shape ``[*samples, B]``, event shape that of x."""
        return DiagonalGaussian(*self._mean_logvar(z), batch_dims=len(self._rows(z)))

    @explained()
    def log_prob(self, x: Tensor, z: Tensor, x_scale: float = 1.0) -> Tensor:
        """log p(x | z): x ``[B, *event]``, z ``[*samples, B, *latent]``; gives ``[*samples, B]``, in nats.

        x and ``x_scale`` are as in :func:`aevb_ext.gaussian_log_prob`, and so are the errors.
        """
        if self._is_plain and (large := self._large_layer(x, z)):
            h, last = large
            return F.linear_gaussian_log_prob(
                x, h, last.weight, last.bias, self.logvar, sigmoid=self.sigmoid, x_scale=x_scale
            )
        return F.gaussian_log_prob(x, *self._mean_logvar(z), x_scale=x_scale)

    @explained()
    def mean(self, z: Tensor) -> Tensor:
        """E[x | z], ``[*samples, B, *event]``."""
        return self._mean_logvar(z)[0]

    @explained()
    def check_support(self, x: Tensor, x_scale: float, name: str) -> None:
        """Raise ValueError naming ``name`` unless all of x is finite and, if the mean has a sigmoid, in [0, 1]."""
        low, high = _finite_range(x, x_scale, name, "Gaussian")
        if self.sigmoid:
            _check_unit(low, high, x_scale, name, "[0, 1], to which the sigmoid squashes the Gaussian decoder's mean")

    @property
    def _is_plain(self) -> bool:
        """Whether mean and log sigma^2 are features of net's output without a clamp, or log sigma^2 is learnt."""
        one_event_dim = self.dim in (1, -1) if self.logvar is None else self.logvar.dim() < 2
        return self.clamp is None and one_event_dim

    def _mean_logvar(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and log sigma^2 of p(x | z)."""
        logvar: Tensor
        if self.logvar is None:
            # A dimension counted from the front is that of a batch without sample dimensions.
            dim = self.dim if self.dim < 0 else self.dim + len(self._rows(z)) - 1
            mean, logvar = F.halves(self._decode(z), dim)
        else:
            mean, logvar = self._decode(z), self.logvar
        if self.clamp is not None:
            logvar = clamp_logvar(logvar, self.clamp, self.soft)
        return mean.sigmoid() if self.sigmoid else mean, logvar

    def extra_repr(self) -> str:
        start = "" if self.logvar is None else f", logvar={list(self.logvar.shape)}"
        return f"dim={self.dim}, sigmoid={self.sigmoid}, clamp={self.clamp}, soft={self.soft}{start}"


# Modules whose output is bounded above or below, and modules that leave values as they are.
_BOUNDING = (
    *(nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Softsign, nn.ReLU, nn.Softplus),
    *(nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax),
)
_RESHAPING = (nn.Flatten, nn.Unflatten, nn.Identity)


def check_unbounded(net: nn.Module, what: str, taken: str = "sigmoid") -> None:
    """Raise ValueError if net's last module bounds the values of which the likelihood takes the sigmoid, or the like.

    A Bernoulli decoder that ends in its own sigmoid would train without an error, to probabilities from 0.5 to 0.73.
    The last module is known only of an ``nn.Sequential``.

    Args:
        net: a decoder's network.
        what, taken: what its output is, and what the likelihood takes of it, for the message.
    """
    last = _last(net)
    has_tanh = isinstance(last, Linear) and last.tanh
    # A wide Hardtanh is allowed: it only keeps logits from the far ends of the sigmoid.
    is_wide = isinstance(last, nn.Hardtanh) and last.min_val <= -5 and last.max_val >= 5
    if has_tanh or (isinstance(last, _BOUNDING) and not is_wide):
        raise ValueError(
            f"the decoder's net ends in {last}, which bounds its output: expected {what}, any real numbers; the "
            f"likelihood itself takes their {taken}. Remove {'tanh=True' if has_tanh else f'that {last}'}"
        )


def _last(net: nn.Module) -> nn.Module | None:
    """The module that computes net's output, as far as it is known; None for an empty nn.Sequential."""
    net = getattr(net, "_orig_mod", net)  # the module inside torch.compile's
    if not isinstance(net, nn.Sequential) or type(net).forward is not nn.Sequential.forward:
        return net
    ends = [each for each in net if not isinstance(each, _RESHAPING)]
    return _last(ends[-1]) if ends else None


def _finite_range(x: Tensor, x_scale: float, name: str, likelihood: str) -> tuple[float, float]:
    """The smallest and the largest value of ``x * x_scale``; 0 and 1 if x is empty.

    Raises:
        ValueError: they are not finite; the message names ``name``.
    """
    if not x.numel():
        return 0.0, 1.0
    low, high = (bound.item() * x_scale for bound in x.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} has values that are not finite; the {likelihood} likelihood needs finite numbers")
    return low, high


# Resampling and noise may move values of [0, 1] this far outside.
_ROUNDED = 0.05


def _check_unit(low: float, high: float, x_scale: float, name: str, where: str) -> None:
    """Raise ValueError naming ``name`` and a remedy unless a range lies in [0, 1]."""
    # 1e-6 allows for rounding, as of 255 * float(1 / 255).
    if low >= 0 and high <= 1 + 1e-6:
        return
    if low > -_ROUNDED and high < 1 + _ROUNDED:
        helps = "clip the values just outside, clamp(0, 1)"
    elif low < 0:
        helps = "no x_scale moves negative values there: rescale the data, to (x + 1) / 2 if it is in [-1, 1]"
    else:
        helps = "x_scale should map the largest value to 1, as 1/255 does of grey bytes"
        if x_scale == 1 and high == int(high):
            helps += "; counts have likelihoods of their own, as negative_binomial"
    raise ValueError(
        f"{name} * x_scale lies in [{low:.6g}, {high:.6g}], outside {where} (x_scale is {x_scale:.6g}): {helps}; or "
        'take a Gaussian whose mean is any number: likelihood="gaussian" with mean_activation="identity" of make_model '
        "and aevb train, GaussianDecoder(net, sigmoid=False)"
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has hooks on its inputs or outputs."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def through(modules: Iterable[nn.Module], h: Tensor) -> Any:
    """Apply the modules to h one after another: a part of an ``nn.Sequential``."""
    for module in modules:
        h = module(h)
    return h
