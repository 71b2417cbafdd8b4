"""Linear-Gaussian factor analysis: a VAE whose evidence, posterior and bound are known in closed form."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from .. import functional as F
from .._checks import check_sizes
from ..nn import GaussianDecoder, Linear
from .vae import VAE

__all__ = ["FactorAnalysis", "LinearEncoder", "factor_analysis_vae"]


class FactorAnalysis(GaussianDecoder):
    r""":math:`z \sim N(0, I)`, :math:`x | z \sim N(W z + b, \mathrm{diag}(\psi))`.

    A :class:`~aevb_ext.nn.GaussianDecoder` whose network is one linear layer: W is ``net.weight`` ``[x_dim, latent]``,
    b is ``net.bias`` and psi is ``logvar.exp()``. The closed-form results are differentiable, in the parameters' dtype.

    W is initialised from independent N(0, 1 / latent), b with 0 and psi with 1.

    Args:
        x_dim, latent: the dimensions of x and z.
        generator: a CPU generator for W. Default: PyTorch's.

    Raises:
        ValueError: a size is below 1.
    """

    net: Linear
    logvar: nn.Parameter

    def __init__(self, x_dim: int, latent: int, *, generator: torch.Generator | None = None):
        check_sizes(x_dim=x_dim, latent=latent)
        super().__init__(Linear(latent, x_dim), logvar=torch.zeros(x_dim), sigmoid=False)
        with torch.no_grad():
            self.net.weight.normal_(0, latent**-0.5, generator=generator)
            self.net.bias.zero_()

    @torch.no_grad()
    def start_(self, x: Tensor) -> None:
        """Set b and psi to the mean and the variances of x ``[N, x_dim]``, which is the best fit without z.

        Raises:
            ValueError: a feature of x is constant, so that its psi would go to 0.
        """
        variance, mean = torch.var_mean(x, 0, correction=0)
        if constant := (variance == 0).nonzero().flatten().tolist():
            some = ", ".join(map(str, constant[:5])) + (", ..." if len(constant) > 5 else "")
            raise ValueError(f"x has {len(constant)} constant features ({some}): their variance psi would go to 0")
        self.net.bias.copy_(mean)
        self.logvar.copy_(variance.log())

    def marginal(self) -> LowRankMultivariateNormal:
        r""":math:`p(x) = N(b, W W^T + \mathrm{diag}(\psi))`: its ``log_prob`` is the evidence, without an integral."""
        return LowRankMultivariateNormal(self.net.bias, self.net.weight, self.logvar.exp())

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z | x), of batch shape ``[N]``, for x ``[N, x_dim]``."""
        mean = torch.linalg.solve(self.precision(), self.evidence_for(x), left=False)
        return MultivariateNormal(mean, precision_matrix=self.precision())

    def precision(self) -> Tensor:
        r""":math:`\Lambda = I + W^T \mathrm{diag}(\psi)^{-1} W`, ``[latent, latent]``: the same for each data point."""
        weight = self.net.weight
        return torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device) + self._weighed().T @ weight

    def evidence_for(self, x: Tensor) -> Tensor:
        r""":math:`h = W^T \mathrm{diag}(\psi)^{-1} (x - b)`, ``[N, latent]``: p(z | x) has the mean Lambda^-1 h."""
        return (x - self.net.bias) @ self._weighed()

    def bound(self, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        r"""The bound of x under q(z) = N(mu, diag(exp(logvar))), without sampling.

        .. math:: \log N(x; W \mu + b, \psi) - \tfrac12 \sum_j \sigma_j^2 (W^T \mathrm{diag}(\psi)^{-1} W)_{jj}
                  - D_{KL}(q(z) \| p(z)),

        which is the expectation of estimators A and B (Kingma & Welling 2014, eqs. 6 and 7).

        Args:
            x: ``[N, x_dim]``.
            mu, logvar: ``[N, latent]``; logvar may broadcast to it.

        Returns:
            ``[N]``, in nats.
        """
        spread = (self._weighed() * self.net.weight).sum(0)
        at_mean = F.gaussian_log_prob(x, self.net(mu), self.logvar)
        return at_mean - 0.5 * logvar.exp().expand_as(mu) @ spread - F.gaussian_kl(mu, logvar)

    def gap(self) -> Tensor:
        r"""How far the best diagonal q stays below the evidence, in nats: the same for each data point.

        .. math:: \min_q D_{KL}(q(z) \| p(z | x)) = \tfrac12 \Big(\sum_j \log \Lambda_{jj} - \log \det \Lambda\Big),

        reached at the exact mean and the variances :math:`1 / \Lambda_{jj}`. It is 0 if Lambda is diagonal.
        """
        precision = self.precision()
        return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))

    @torch.no_grad()
    def align_(self) -> None:
        """Rotate z so that Lambda is diagonal, with the largest precision first.

        p(x) stays the same, and the best diagonal q becomes exact. The columns of W become orthogonal in the inner
        product that weights features by 1 / psi.
        """
        directions = torch.linalg.eigh(self.precision()).eigenvectors.flip(1)
        self.net.weight.copy_(self.net.weight @ directions)

    def _weighed(self) -> Tensor:
        """diag(psi)^-1 W."""
        return self.net.weight / self.logvar.exp()[:, None]


class LinearEncoder(nn.Module):
    """q(z | x) = N(A x + a, diag(exp(logvar))): the form of the best diagonal q of factor analysis.

    A starts small, a and logvar at 0, so that q starts near the prior.

    Args:
        x_dim, latent: the dimensions of x and z.
        generator: a CPU generator for A. Default: PyTorch's.
    """

    def __init__(self, x_dim: int, latent: int, *, generator: torch.Generator | None = None):
        super().__init__()
        self.mean = Linear(x_dim, latent)
        self.logvar = nn.Parameter(torch.zeros(latent))
        with torch.no_grad():
            self.mean.weight.normal_(0, 0.01, generator=generator)
            self.mean.bias.zero_()

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, logvar), each ``[N, latent]``, for x ``[N, x_dim]``."""
        mu = self.mean(x)
        return mu, self.logvar.expand_as(mu)


def factor_analysis_vae(x_dim: int, *, latent: int, generator: torch.Generator | None = None) -> VAE:
    """Factor analysis as a VAE: :class:`LinearEncoder` and :class:`FactorAnalysis`.

    Args:
        x_dim, latent: the dimensions of x and z.
        generator: a CPU generator for the initial parameters. Default: PyTorch's.

    Raises:
        ValueError: a size is below 1.
    """
    decoder = FactorAnalysis(x_dim, latent, generator=generator)
    return VAE(LinearEncoder(x_dim, latent, generator=generator), decoder, latent)
