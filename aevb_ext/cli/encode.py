"""``aevb encode``."""

from ..bar import bar
from ..uses import writing_npz
from . import again
from .files import file_to_write

__all__ = ["add"]


def add(verbs) -> None:
    """The verb."""
    parser = verbs.add_parser(
        "encode",
        help="the representation of data points: arrays of mean and log variance",
        description="Writes the arrays mean and logvar of q(z | x) and, where they are known, labels.",
    )
    parser.set_defaults(run=_encode)
    again.add_uses_flags(parser, "train")
    parser.add_argument("--out", required=True, type=file_to_write(".npz"), metavar="FILE.npz", help="what to write")


def _encode(a) -> None:
    model, data = again.encoder_and_data(a)
    x, labels = data.split(a.split)
    with bar("encoding", len(x)) as told:
        mean, logvar = model.encode(x, seed=a.seed, progress=told)
    arrays = {"mean": mean, "logvar": logvar} | ({} if labels is None else {"labels": labels})
    with writing_npz(a.out) as write:
        for name, array in arrays.items():
            write(name, [array], len(x))
    print(f"written to {a.out}: {', '.join(f'{name} {list(array.shape)}' for name, array in arrays.items())}")
