"""``aevb factor-analysis``."""

from ..factor_analysis import compare, simulated, table
from .config import count, whole

__all__ = ["add"]


def add(verbs) -> None:
    """The verb."""
    parser = verbs.add_parser(
        "factor-analysis",
        help="AEVB beside coordinate ascent and the exact log p(x)",
        description="On linear-Gaussian factor analysis, simulated: the bounds of coordinate-ascent variational "
        "inference and of AEVB beside the exact log marginal likelihood, in nats (docs/factor-analysis.md).",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--n", type=count, default=1000, help="data points; default: %(default)s")
    parser.add_argument("--x-dim", type=count, default=10, help="features; default: %(default)s")
    parser.add_argument("--latent", type=count, default=3, help="latent dimensions; default: %(default)s")
    parser.add_argument(
        "--samples-seen", type=count, default=500_000, help="of each training by AEVB; default: %(default)s"
    )
    parser.add_argument("--seed", type=whole, default=0, help="default: %(default)s")


def _run(a) -> None:
    x = simulated(a.n, a.x_dim, a.latent, a.seed)
    print(table(compare(x, a.latent, samples_seen=a.samples_seen, seed=a.seed)))
