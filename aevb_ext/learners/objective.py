"""What a learner ascends, as one module: what several processes synchronise, and what could be compiled."""

from typing import NamedTuple

from torch import Tensor, nn

from ..models import VAE
from ..nn import ELBOTerms

__all__ = ["Ascent", "Objective"]


class Ascent(NamedTuple):
    """What an objective gives.

    Attributes:
        ascended: ``[B]``, whose gradient a step follows.
        terms: what of it is told, each ``[B]``: the bound, where that is what is ascended.
    """

    ascended: Tensor
    terms: ELBOTerms


class Objective(nn.Module):
    """What a learner ascends: x and noise keys to an :class:`Ascent`, called ``objective(x, key)``.

    x is ``[B, *event]`` as the data set has it; the key ``[2]`` or ``[B, 2]``, None: a fresh one. Whatever parameters
    and buffers it has beside the model's are in the checkpoints of a run.

    Args:
        model: the VAE.
    """

    has_prior = True
    """Whether the parameters that it learns have the prior N(0, I) (MAP)."""

    current_beta = 1.0
    """The weight of the divergence at the next step."""

    def __init__(self, model: VAE):
        super().__init__()
        self.model = model

    @property
    def learnt(self) -> list[Tensor]:
        """The parameters in which it is ascended."""
        return [p for p in self.parameters() if p.requires_grad]

    def own_state(self) -> dict[str, Tensor]:
        """What there is to keep of it beside the model, by name."""
        return {name: t for name, t in self.state_dict().items() if not name.startswith("model.")}

    def count_step(self) -> None:
        """After each update of the parameters."""
