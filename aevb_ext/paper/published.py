"""Values that the paper reports in its Figures 2 and 3, and the whole curves if there is a file of them."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._types import StrPath

__all__ = ["FIGURE2", "FIGURE3", "IWAE_NLL", "LEARNERS", "curves2", "curves3"]

# The names of the paper's learners in the files of its curves.
LEARNERS = {"aevb": "AEVB", "wake-sleep": "WakeSleep", "mcem": "MCEM"}
_DATA = {"mnist": "MNIST", "freyface": "FreyFace"}

# Figure 2: (data, latent dimensions, learner) to {samples: (test, train)}, in nats per data point, as read off the
# vector graphics of arXiv 1312.6114.
_WAKE_SLEEP_FREY = {10**6: (567, 577), 10**7: (569, 578), 10**8: (569, 579)}
FIGURE2: dict[tuple[Any, ...], dict[Any, Any]] = {
    ("mnist", 3, "aevb"): {10**6: (-152.9, -155.3), 10**7: (-138.0, -138.3), 10**8: (-133.4, -130.3)},
    ("mnist", 3, "wake-sleep"): {10**6: (-155.1, -157.1), 10**7: (-144.8, -146.1), 10**8: (-138.9, -140.2)},
    ("mnist", 5, "aevb"): {10**6: (-138.9, -141.0), 10**7: (-124.1, -123.7), 10**8: (-119.1, -116.5)},
    ("mnist", 5, "wake-sleep"): {10**6: (-142.2, -145.6), 10**7: (-127.2, -128.1), 10**8: (-121.9, -122.2)},
    ("mnist", 10, "aevb"): {10**6: (-128.3, -129.6), 10**7: (-108.5, -107.7), 10**8: (-103.7, -100.7)},
    ("mnist", 10, "wake-sleep"): {10**6: (-134.9, -137.3), 10**7: (-113.5, -113.7), 10**8: (-107.6, -106.9)},
    ("mnist", 20, "aevb"): {10**6: (-124.2, -126.3), 10**7: (-104.8, -104.2), 10**8: (-100.2, -98.3)},
    ("mnist", 20, "wake-sleep"): {10**6: (-130.8, -134.2), 10**7: (-108.3, -108.3), 10**8: (-104.6, -104.1)},
    ("mnist", 200, "aevb"): {10**6: (-119.9, -121.8), 10**7: (-103.9, -103.4), 10**8: (-100.2, -98.4)},
    ("mnist", 200, "wake-sleep"): {10**6: (-130.8, -133.5), 10**7: (-109.1, -109.0), 10**8: (-104.6, -104.0)},
    ("freyface", 2, "aevb"): {10**6: (673, 664), 10**7: (823, 835), 10**8: (872, 935)},
    ("freyface", 5, "aevb"): {10**6: (761, 729), 10**7: (1044, 1076), 10**8: (1115, 1234)},
    ("freyface", 10, "aevb"): {10**6: (792, 758), 10**7: (1171, 1217), 10**8: (1307, 1463)},
    ("freyface", 20, "aevb"): {10**6: (754, 715), 10**7: (1200, 1255), 10**8: (1312, 1488)},
    **{("freyface", latent, "wake-sleep"): _WAKE_SLEEP_FREY for latent in (2, 5, 10, 20)},
}

# Figure 3: (training points, learner) to {samples: (train, test)}: the marginal log-likelihood, in nats per data point.
FIGURE3 = {
    (1000, "aevb"): {10**7: (-114.4, -142.9), 6 * 10**7: (-109.1, -143.2)},
    (1000, "mcem"): {10**7: (-118.3, -142.4), 6 * 10**7: (-109.2, -141.6)},
    (1000, "wake-sleep"): {10**7: (-128.3, -146.6), 6 * 10**7: (-125.5, -144.8)},
    (50000, "aevb"): {10**7: (-135.5, -142.3), 6 * 10**7: (-131.1, -138.1)},
    (50000, "mcem"): {6 * 10**7: (-148.8, -150.4)},
    (50000, "wake-sleep"): {10**7: (-140.8, -143.2), 6 * 10**7: (-137.1, -140.8)},
}

# Burda et al. 2016 (arXiv 1509.00519): the test NLL of one stochastic layer on the fixed binarisation, by k.
IWAE_NLL = {1: 88.71, 5: 87.63, 50: 87.10}

Curve = tuple[list[float], list[float]]


def curves2(data_dir: StrPath | None) -> dict[tuple[str, int, str, str], Curve]:
    """The curves of Figure 2 from ``data_dir/paper/figure2_digitised.csv``; none if there is no such file.

    Returns:
        (data, latent dimensions, learner, split) to (samples, bounds).
    """
    return _read(
        data_dir, "figure2_digitised.csv", lambda name, latent, *rest: (_named(_DATA, name), int(latent), *rest)
    )


def curves3(data_dir: StrPath | None) -> dict[tuple[int, str, str], Curve]:
    """The curves of Figure 3 from its file: (training points, learner, split) to (samples, log-likelihoods)."""
    found = _read(data_dir, "figure3_digitised.csv", lambda n, *rest: (int(n), *rest))
    return {key: ([1e6 * s for s in samples], values) for key, (samples, values) in found.items()}


def _read(data_dir: StrPath | None, name: str, key: Callable[..., Any]) -> dict[Any, Curve]:
    path = None if data_dir is None else Path(data_dir) / "paper" / name
    if path is None or not path.is_file():
        return {}
    found: dict[Any, Curve] = {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows, None)
        try:
            for *about, learner, split, samples, value in rows:
                curve = found.setdefault(key(*about, _named(LEARNERS, learner), split), ([], []))
                curve[0].append(float(samples))
                curve[1].append(float(value))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged in line {rows.line_num}: {error}") from None
    return found


def _named(names: dict[str, str], theirs: str) -> str:
    return {value: name for name, value in names.items()}[theirs]
