"""Initial parameters."""

import torch
from torch import nn

__all__ = ["glorot_uniform_", "he_normal_", "paper_normal_"]


@torch.no_grad()
def paper_normal_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """All parameters from N(0, 0.01^2), as the paper does (section 5)."""
    for parameter in model.parameters():
        parameter.normal_(0, 0.01, generator=generator)


def glorot_uniform_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    r"""Weights of linear layers from U(-a, a), a^2 = 6 / (inputs + outputs); biases 0.

    (Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 16.)
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def he_normal_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    r"""Weights from N(0, 2 / n), n being how many numbers each output is a sum over; biases 0.

    (He et al. 2015, arXiv 1502.01852, eq. 10: what a rectifier, which halves the second moment, keeps from vanishing
    or growing with depth.) A transposed convolution sums over 1 / stride^2 of its kernel at each output.
    """
    for layer in model.modules():
        match layer:
            case nn.Linear() | nn.Conv2d():
                n = layer.weight[0].numel()
            case nn.ConvTranspose2d():
                n = layer.weight[:, 0].numel() / (layer.stride[0] * layer.stride[1])
            case _:
                continue
        layer.weight.normal_(0, (2 / n) ** 0.5, generator=generator)
        layer.bias.zero_()
