"""Tables of results: a line for each case as it is measured, and Markdown for docs/performance.md."""

from .check import best, best_rival, ratio
from .measure import OURS_COMPILED

KINDS = {"eager": "eager", "compile": "torch.compile", "jax": "JAX"}


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"


def where(results: dict) -> str:
    threads = f", {results['threads']} threads ({results['aevb_ext']['cpu_in_use']})" if results["threads"] else ""
    jax = f", JAX {results['jax']}" if results["jax"] else ""
    commit = results["aevb_ext"]["commit"]
    return f"{results['device']}{threads}, torch {results['torch']}{jax}, aevb_ext {commit}"


def line(figures: dict) -> str:
    """The lines printed during the measurements."""
    seconds = figures["seconds"]
    if not seconds:
        return f"{figures['case']:64} not measured"
    cells = [f"{figures['case']:64} {duration(seconds['ours']):>10}"]
    for kind in KINDS:
        if found := best(seconds, kind):
            cells.append(f"{KINDS[kind]} {found[1] / seconds['ours']:.2f}x ({found[0].partition(': ')[2]})")
    if OURS_COMPILED in seconds:
        cells.append(f"compiled {duration(seconds[OURS_COMPILED])}")
    if "copy" in seconds:
        cells.append(f"{seconds['ours'] / seconds['copy']:.2f}x its floor")
    return "  ".join(cells)


def _times(figures: dict[str, float], kind: str) -> str:
    found = ratio(figures, kind)
    return "-" if found is None else _bold_below_one(found)


def _bold_below_one(found: float) -> str:
    return f"{found:.2f}x" if found >= 1 else f"**{found:.2f}x**"


def markdown(results: dict) -> str:
    """The tables. Ratios of rivals that are faster are bold."""
    lines = [f"{where(results)}; a large copy moves {results['copy_bytes_per_second'] / 1e9:.0f} GB/s.", ""]
    lines += ["| forward + backward | ours | eager | torch.compile | ours / floor | peak MB: ours, leanest rival |"]
    lines += ["|---|---|---|---|---|---|"]
    for figures in results["cases"]:
        seconds, peaks = figures["seconds"], figures["peak_bytes"]
        cells = [figures["case"], duration(seconds["ours"]), _times(seconds, "eager"), _times(seconds, "compile")]
        cells.append(f"{seconds['ours'] / seconds['copy']:.2f}")
        leanest = best_rival(peaks)
        cells.append(f"{peaks['ours'] / 1e6:.2f}, {leanest / 1e6:.2f}" if leanest else f"{peaks['ours'] / 1e6:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    if results["training"]:
        lines += ["", "| a whole step | ours | eager | torch.compile | JAX |", "|---|---|---|---|---|"]
    for figures in results["training"]:
        seconds = figures["seconds"]
        cells = [figures["case"], duration(seconds["ours"]), *(_times(seconds, kind) for kind in KINDS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + compiled(results) + users(results) + by_batch(results) + integrations(results))


def compiled(results: dict) -> list[str]:
    """The operators inside torch.compile."""
    table = [figures for figures in results["cases"] if OURS_COMPILED in figures["seconds"]]
    lines = ["", "| inside torch.compile | ours | of its time in eager | without ours |", "|---|---|---|---|"]
    for figures in table:
        seconds = figures["seconds"]
        ours = seconds[OURS_COMPILED]
        cells = [
            figures["case"],
            duration(ours),
            f"{ours / seconds['ours']:.2f}",
            _times({**seconds, "ours": ours}, "compile"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if table else []


def users(results: dict) -> list[str]:
    """A user's steps, eager and compiled."""
    table = results.get("users", [])
    lines = ["", "| a user's step | with ours | without |", "|---|---|---|"]
    for figures in table:
        seconds = figures["seconds"]
        without = _bold_below_one(best_rival(seconds) / seconds["ours"])
        lines.append(f"| {figures['case']} | {duration(seconds['ours'])} | {without} |")
    return lines if table else []


def by_batch(results: dict) -> list[str]:
    """A training step against the minibatch."""
    table = results.get("by_batch", [])
    if not table:
        return []
    heads = [name for kind, name in KINDS.items() if any(best(figures["seconds"], kind) for figures in table)]
    lines = ["", f"| M | data points a second | {' | '.join(heads)} | peak MB: ours, eager, torch.compile |"]
    lines += ["|" + "---|" * (len(heads) + 3)]
    for figures in table:
        seconds, peaks = figures["seconds"], figures["peak_bytes"]
        held = [best(peaks, kind)[1] / 1e6 for kind in ("ours", "eager", "compile")]
        cells = [f"{figures['batch']}", f"{figures['batch'] / seconds['ours']:,.0f}"]
        cells += [_times(seconds, kind) for kind, name in KINDS.items() if name in heads]
        lines.append(f"| {' | '.join([*cells, ', '.join(f'{mb:,.0f}' for mb in held)])} |")
    return lines


def integrations(results: dict) -> list[str]:
    """Third-party programs, with our patch and without."""
    measured = [figures for figures in results.get("integrations", []) if figures["seconds"]]
    if not measured:
        return []
    lines = ["", "| a step of | with the patch | without | compiled, without | peak MB: with, without, compiled |"]
    lines += ["|---|---|---|---|---|"]
    for figures in measured:
        seconds = figures["seconds"]
        peaks = [f"{held / 1e6:.2f}" for held in figures["peak_bytes"].values()]
        cells = [figures["case"], duration(seconds["ours"]), *(_times(seconds, kind) for kind in ("eager", "compile"))]
        lines.append(f"| {' | '.join([*cells, ', '.join(peaks)])} |")
    return lines
