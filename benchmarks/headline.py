"""README's figures: a few cases of every committed results file of CPUs; its picture has the worst machine's.

python -m benchmarks.headline     prints README's table, and draws docs/performance/headline.png
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

from .check import ratio
from .plots import COLOURS, STYLE, _handles
from .report import KINDS

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "performance" / "headline.png"
# The names of cases in results files, and in README.
CASES = {
    "rsample_kl, 65536 x 128, float32, mean": "sampling and KL, 65536 x 128",
    "gaussian_log_prob, 8192 x 784, float32, mean": "Gaussian likelihood, 8192 x 784",
    "bernoulli_log_prob, 8192 x 784, float32, mean": "Bernoulli likelihood, 8192 x 784",
    "gaussian_kl, 65536 x 128, float32, mean": "KL of one tensor's halves, 65536 x 128",
    "rsample_kl, 100 x 20, float32, mean": "sampling and KL, 100 x 20",
    "training step, M = 8192": "whole training step, 8192 x 784",
    "training step, M = 100": "whole training step, 100 x 784",
}


def machines() -> list[dict]:
    """The committed results files of CPUs that have all cases."""
    files = (json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")))
    return [results for results in files if results["type"] == "cpu" and CASES.keys() <= _seconds(results).keys()]


def _seconds(results: dict) -> dict[str, dict]:
    measured = results.get("cases", []) + results.get("training", [])
    return {figures["case"]: figures["seconds"] for figures in measured}


def of_machines(results: list[dict]) -> dict[str, dict[str, list[float]]]:
    """For each case: the time of the fastest rival of each kind over ours, on each machine."""
    found = {}
    for case, name in CASES.items():
        ratios = {kind: [ratio(_seconds(one)[case], kind) for one in results] for kind in KINDS}
        found[name] = {kind: each for kind, each in ratios.items() if None not in each}
    return found


def worst(results: list[dict]) -> dict[str, dict[str, float]]:
    return {name: {kind: min(each) for kind, each in of.items()} for name, of in of_machines(results).items()}


def _told(times: float) -> str:
    return f"{times:.1f}" if times >= 2 else f"{times:.2f}"


def _cell(times: float) -> str:
    return f"{_told(times)}x" if times >= 1 else f"**{_told(times)}x**"


def about(results: list[dict]) -> str:
    """Each machine, with the versions that were measured."""
    return "; ".join(
        f"{one['device']}, {one['threads']} threads ({one['aevb_ext']['cpu_in_use']}), torch {one['torch']}, "
        f"JAX {one['jax']}, aevb_ext {one['aevb_ext']['commit']}"
        for one in results
    )


def markdown(results: list[dict]) -> str:
    """README's table, the machines side by side. Ratios of rivals that are faster are bold."""
    lines = [f"| forward + backward, float32 | {' | '.join(KINDS.values())} |", "|" + "---|" * (len(KINDS) + 1)]
    for name, ratios in of_machines(results).items():
        cells = [", ".join(map(_cell, ratios.get(kind, []))) for kind in KINDS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Measured on: {about(results)}."])


def draw(results: list[dict]):
    """The same as a bar chart."""
    table = worst(results)
    left = 0.9 * min([1.0, *(times for ratios in table.values() for times in ratios.values())])
    with plt.rc_context({**STYLE, "font.size": 10}):
        figure, axes = plt.subplots(figsize=(8.6, 4.3))
        place = 0.0
        for name, ratios in table.items():
            place += 0.35
            first = place
            for kind, times in ratios.items():
                axes.barh(place, times - 1, 0.9, left=1, color=COLOURS[kind])
                axes.text(max(times, 1) * 1.03, place, f"{_told(times)}×", va="center", fontsize=8.5, color="#222222")
                place += 1
            axes.text(0.98 * left, (first + place - 1) / 2, name, va="center", ha="right")
        axes.set_xscale("log")
        axes.set_xlim(left, 32)
        axes.set_ylim(place - 0.3, -0.6)
        axes.axvline(1, color="#222222", lw=1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xticks([1, 2, 5, 10, 20], ["as long", "2×", "5×", "10×", "20× as long"])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
        figure.legend(handles=_handles(KINDS, marker=False), ncols=3, loc="upper left", bbox_to_anchor=(0, 0.92))
        figure.text(0.01, 0.985, "Time of forward + backward, beside aevb_ext", ha="left", va="top", weight="bold")
        note = about(results).replace("; ", "\n")
        figure.text(0.01, 0.01, note, ha="left", va="bottom", fontsize=7.5, color="#666666")
        figure.tight_layout(rect=(0, 0.035 * len(results), 1, 0.87))
    return figure


def main() -> None:
    results = machines()
    print(markdown(results))
    figure = draw(results)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
