"""A model whose evidence and posterior are known in closed form."""

import torch
from torch import nn
from torch.distributions import MultivariateNormal

import aevb_ext

LATENT, DIM = 3, 5


class LinearDecoder(nn.Module):
    """p(x | z) = N(x; z W, s^2 I): then p(x) = N(0, W'W + s^2 I), and p(z | x) is Gaussian too."""

    def __init__(self, generator, spread=0.7):
        super().__init__()
        # Orthogonal rows, so that the posterior of z is diagonal, as q(z | x) is.
        rows = torch.linalg.qr(torch.randn(DIM, LATENT, dtype=torch.float64, generator=generator))[0].T
        self.weight, self.spread = rows * torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64), spread

    def log_prob(self, x, z, x_scale=1.0):
        logvar = 2 * torch.tensor(self.spread, dtype=torch.float64).log()
        return aevb_ext.gaussian_log_prob(x, z @ self.weight, logvar, x_scale=x_scale)

    def evidence(self, x):
        covariance = self.weight.T @ self.weight + self.spread**2 * torch.eye(DIM, dtype=torch.float64)
        return MultivariateNormal(torch.zeros(DIM, dtype=torch.float64), covariance).log_prob(x)

    def posterior(self, x):
        precision = 1 + self.weight.square().sum(1) / self.spread**2
        return x @ self.weight.T / self.spread**2 / precision, -precision.log().expand(len(x), -1)
