"""``aevb probe``."""

from functools import partial

from ..bar import bar
from ..uses import L2S, probe_latents, probe_pixels
from . import again

__all__ = ["add"]


def add(verbs) -> None:
    """The verb."""
    parser = verbs.add_parser(
        "probe",
        help="how well a linear classifier does on latent means, and on pixels",
        description="Multinomial logistic regression, fitted to the train split, its regularisation chosen on the "
        "valid split (a fifth of train where there is none), its accuracy that of the test split. The data needs "
        "labels: the digits have them, MNIST and Fashion-MNIST where the files of labels are there, your own where "
        "there are folders of classes or arrays of labels.",
    )
    parser.set_defaults(run=_probe)
    again.add_run(parser)
    again.add_flags(parser)
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")


def _probe(a) -> None:
    model, data = again.encoder_and_data(a)
    for name, run in (("latent means", partial(probe_latents, model)), ("pixels", probe_pixels)):
        with bar(f"a classifier of {name}", len(L2S)) as told:
            found = run(data, progress=told)
        features = found.classifier.weight.shape[1]
        print(f"{name}: accuracy {found} ({found.count} points; {features} features, l2 {found.l2:g})", flush=True)
