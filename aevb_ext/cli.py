"""``aevb``: train, sample, evaluate, doctor."""

import argparse
from itertools import count
from pathlib import Path

import torch

from . import __version__, plots
from . import data as datasets
from ._library import build_info
from .estimators import ESTIMATORS, evaluate_bound
from .learners.aevb import OPTIMIZERS
from .models import LIKELIHOODS, mlp_vae
from .train import NonFiniteBound, PeerFailed, fit, joined, load_checkpoint

# What the paper trains on MNIST and Frey Face (its Figure 2), and the like for the digits.
DEFAULTS = {
    "digits": {"latent": 5, "hidden": 200, "likelihood": "bernoulli", "samples_seen": 1_000_000},
    "mnist": {"latent": 20, "hidden": 500, "likelihood": "bernoulli", "samples_seen": 10_000_000},
    "freyface": {"latent": 10, "hidden": 200, "likelihood": "gaussian", "samples_seen": 10_000_000},
}


def main(argv: list[str] | None = None) -> int:
    """Run ``aevb`` with ``argv`` (default: the process's). Returns the exit status."""
    with joined() as processes:
        try:
            with processes.only_first_prints():
                arguments = _parser().parse_args(argv)
                return arguments.run(arguments) or 0
        except (ValueError, TypeError, OSError, ImportError, NonFiniteBound, PeerFailed) as error:
            processes.tell(f"aevb: error: {error}")
            return 1
        except KeyboardInterrupt as error:
            processes.tell(f"aevb: {str(error) or 'interrupted'}")
            return 130


def _train(a) -> None:
    defaults = DEFAULTS[a.data]
    latent, hidden, likelihood = (
        defaults[key] if getattr(a, key) is None else getattr(a, key) for key in ("latent", "hidden", "likelihood")
    )
    if a.download and a.data_dir is None:
        raise ValueError("--download needs --data-dir, the folder to download to")
    if a.download:
        datasets.download(a.data, a.data_dir)
    data = datasets.load(a.data, a.data_dir)
    samples_seen = a.samples_seen or defaults["samples_seen"]
    if a.epochs is not None:
        samples_seen = round(a.epochs * len(data.train))
    model = mlp_vae(
        data.dim,
        latent=latent,
        hidden=hidden,
        likelihood=likelihood,
        x_scale=data.x_scale,
        generator=torch.Generator().manual_seed(a.seed),
    )
    out = _next_folder(a.data) if a.out is None else Path(a.out)
    result = fit(
        model,
        data,
        samples_seen=samples_seen,
        batch_size=a.batch_size,
        estimator=a.estimator,
        n_samples=a.samples,
        optimizer=a.optimizer,
        lr=a.lr,
        precision="bf16" if a.bf16 else "float32",
        seed=a.seed,
        device=a.device or _default_device(),
        out=out,
    )
    print(f"train bound {result.train} nats ({result.train.count} points)")
    print(f"test bound  {result.test} nats ({result.test.count} points)")
    print(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _sample(a) -> None:
    checkpoint = load_checkpoint(a.checkpoint)
    if checkpoint.image_shape is None:
        raise ValueError(f"{a.checkpoint} was trained on {checkpoint.data}, whose data points are not images")
    plots.samples(a.out, checkpoint.model, checkpoint.image_shape, a.n, a.seed)
    print(f"written to {a.out}")


def _evaluate(a) -> None:
    checkpoint = load_checkpoint(a.checkpoint)
    data = datasets.load(checkpoint.data, a.data_dir)
    device = a.device or _default_device()
    model, data = checkpoint.model.to(device), data.to(device)
    for name, x in (("train", data.train), ("test", data.test)):
        bound = evaluate_bound(model, x, estimator=a.estimator, n_samples=a.samples, seed=a.seed)
        print(f"{name} bound {bound} nats ({bound.count} points)")


def _doctor(_) -> int | None:
    from . import doctor

    return doctor.main()


def _next_folder(name: str) -> Path:
    return next(path for i in count(1) if not (path := Path("runs") / f"{name}-{i}").exists())


def _default_device() -> str:
    """CUDA where both this machine and the compiled library have it."""
    return "cuda" if torch.cuda.is_available() and build_info()["cuda"] else "cpu"


def _count(text: str) -> int:
    """A number of samples; 1e6 is one too."""
    value = float(text)
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aevb", description="Auto-Encoding Variational Bayes (Kingma & Welling 2014)."
    )
    parser.add_argument("--version", action="version", version=f"aevb {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="train | sample | evaluate | doctor")

    train = verbs.add_parser("train", help="train a VAE on a data set")
    train.set_defaults(run=_train)
    train.add_argument("--data", choices=datasets.NAMES, default="digits", help="default: digits, which is embedded")
    train.add_argument("--data-dir", metavar="DIR", help="where the files of mnist or freyface are")
    train.add_argument("--download", action="store_true", help="fetch them into --data-dir first, where missing")
    train.add_argument("--out", metavar="DIR", help="a new or empty folder; default: the next of runs/DATA-1, 2, ...")
    train.add_argument("--latent", type=_count, metavar="J", help=f"latent dimensions; default: {_by_data('latent')}")
    train.add_argument("--hidden", type=_count, metavar="H", help=f"hidden units; default: {_by_data('hidden')}")
    train.add_argument("--likelihood", choices=LIKELIHOODS, help=f"default: {_by_data('likelihood')}")
    train.add_argument("--batch-size", type=_count, default=100, metavar="M", help="default: %(default)s")
    train.add_argument("--optimizer", choices=OPTIMIZERS, default="adagrad", help="default: %(default)s")
    stepsizes = ", ".join(f"{name} {lr:g}" for name, lr in OPTIMIZERS.items())
    train.add_argument("--lr", type=float, help=f"stepsize; default: {stepsizes}")
    train.add_argument("--bf16", action="store_true", help="compute under autocast to bfloat16")
    length = train.add_mutually_exclusive_group()
    length.add_argument(
        "--samples-seen", type=_count, metavar="N", help=f"training length; default: {_by_data('samples_seen')}"
    )
    length.add_argument("--epochs", type=float, help="training length, in passes over the training data")
    _add_estimate(train)

    sample = verbs.add_parser("sample", help="a picture of samples from a checkpoint's model")
    sample.set_defaults(run=_sample)
    sample.add_argument("checkpoint", help="the folder of a run (its best model), or one of its checkpoints")
    sample.add_argument("--out", required=True, metavar="FILE.png", help="the picture to write")
    sample.add_argument("--n", type=_count, default=100, help="how many samples; default: %(default)s")
    sample.add_argument("--seed", type=int, default=0, help="default: %(default)s")

    evaluate = verbs.add_parser("evaluate", help="the train and test bound of a checkpoint's model")
    evaluate.set_defaults(run=_evaluate)
    evaluate.add_argument("checkpoint", help="the folder of a run (its best model), or one of its checkpoints")
    evaluate.add_argument("--data-dir", metavar="DIR", help="where the files of mnist or freyface are")
    _add_estimate(evaluate)

    doctor = verbs.add_parser("doctor", help="what a bug report needs, and the cure of common faults")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_estimate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="b",
        help="of the bound: a (eq. 6) or b (eq. 7); default: %(default)s",
    )
    parser.add_argument(
        "--samples", type=_count, default=1, metavar="L", help="of z a data point; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")


def _by_data(key: str) -> str:
    return ", ".join(f"{name} {defaults[key]}" for name, defaults in DEFAULTS.items())
