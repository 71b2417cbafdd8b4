"""python -m benchmarks [--device cpu|cuda] [--json FILE]: times every row, prints the table, writes the figures."""

import argparse
import json
import platform
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import torch

import aevb_ext

from .cases import rows
from .measure import Result, copy_bandwidth, measure

RIVALS = ("eager", "distributions", "compiled")


def cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict:
    """What the figures depend on."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        "threads": None if on_gpu else torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "aevb_ext": aevb_ext.build_info(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def header() -> str:
    columns = f"{'forward + backward':58} {'ours':>9}"
    columns += "".join(f"{'vs ' + name:>18}" for name in RIVALS)
    return columns + f"{'GB/s':>8}{'of copy':>9}{'x floor':>9}   peak MB: ours, " + ", ".join(RIVALS)


def line(result: Result, bandwidth: float) -> str:
    cells = f"{result.row!s:58} {result.seconds['ours'] * 1e6:7.1f}us"
    for name in RIVALS:
        cells += f"{result.ratio(name):17.2f}x" if name in result.seconds else f"{'-':>18}"
    cells += (
        f"{result.gb_per_second:8.1f}{result.gb_per_second * 1e9 / bandwidth:9.2f}{1 / result.ratio('copy'):9.2f}   "
    )
    peak = (result.peak_bytes.get(name) for name in ("ours", *RIVALS))
    return cells + ", ".join("-" if p is None else f"{p / 1e6:.2f}" for p in peak)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    about, bandwidth = environment(device), copy_bandwidth(device)
    where = about["device"] + (f", {about['threads']} threads" if about["threads"] else "")
    print(f"{where}, torch {about['torch']}; a large copy moves {bandwidth / 1e9:.1f} GB/s", flush=True)
    print("vs: how many times as long as ours. of copy: GB/s of the floor (the fewest bytes) against the large copy.")
    print("x floor: time against that of copying as many bytes as the floor.", header(), sep="\n", flush=True)
    results = []
    for row in rows(device.type):
        results.append(measure(row, device))
        print(line(results[-1], bandwidth), flush=True)
        for name, why in results[-1].failures.items():
            print(f"    {name} does not run here: {why}")
    if arguments.json:
        figures = {**about, "copy_bytes_per_second": bandwidth, "rows": [r.summary() for r in results]}
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
