"""MNIST with minibatches of 100 and of 8192: bound and time with the rule of docs/learning-rate.md.

python -m benchmarks.large_batch --data-dir DIR [--batch-sizes 100 8192] [--seeds 0] [--samples-seen 1e7]

Prints that page's table, a row as soon as its run is done. On two CPU cores a run takes minutes.
"""

import argparse
from dataclasses import replace

import torch

from aevb_ext.data import Data, load
from aevb_ext.models import make_model
from aevb_ext.train import Record, fit

from .machine import cpu_name

MODEL = {"architecture": "deep-mlp", "depth": 1, "hidden": 500, "latent": 20}
TARGET = -105.0
EVALUATE_EVERY = 250_000
HEADER = f"""\
| M | lr | seed | samples | steps | test bound | seconds | samples to {TARGET:g} | seconds to {TARGET:g} |
|---|---|---|---|---|---|---|---|---|"""


def rule(batch_size: int, samples_seen: float) -> dict:
    """The settings that docs/learning-rate.md recommends in place of minibatches of 100 and so many samples."""
    times = batch_size / 100
    samples = round(samples_seen * times ** (1 / 3))
    return {
        "samples_seen": samples,
        "batch_size": batch_size,
        "optimizer": "adam",
        "lr": 1e-3 * times ** (2 / 3),
        "lr_warmup": round(0.1 * samples / batch_size),
        "schedule": "cosine",
    }


def train(data: Data, settings: dict, seed: int, device: str) -> list[Record]:
    generator = torch.Generator().manual_seed(seed)
    model = make_model(image_shape=data.image_shape, x_scale=data.x_scale, generator=generator, **MODEL)
    run = {"seed": seed, "device": device, "evaluate_every": EVALUATE_EVERY, "progress": False}
    return fit(model, data, **run, **settings).history


def row(history: list[Record], settings: dict, seed: int) -> str:
    last, reached = history[-1], next((record for record in history if record.test >= TARGET), None)
    cells = [settings["batch_size"], f"{settings['lr']:.2g}", seed, f"{last.samples_seen:,}", f"{last.steps:,}"]
    cells += [f"{last.test:.2f} +- {last.test_stderr:.2f}", f"{last.seconds:.0f}"]
    cells += [f"{reached.samples_seen:,}", f"{reached.seconds:.0f}"] if reached else ["not reached", ""]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="where the files of MNIST are")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[100, 8192])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples-seen", type=float, default=1e7, help="with minibatches of 100; default: %(default)g")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    # The valid split is not used.
    data = replace(load("mnist", a.data_dir), valid=None)
    where = cpu_name() if a.device == "cpu" else torch.cuda.get_device_name(a.device)
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}\n\n{HEADER}", flush=True)
    for seed in a.seeds:
        for batch_size in a.batch_sizes:
            settings = rule(batch_size, a.samples_seen)
            print(row(train(data, settings, seed, a.device), settings, seed), flush=True)


if __name__ == "__main__":
    main()
