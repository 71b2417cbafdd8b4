"""Compares results with the targets of each case in benchmarks/cases.py, training.py and users.py."""

from dataclasses import dataclass

from .cases import LARGE_COPY_ELEMENTS, OF_COPY, Case, cases
from .measure import OURS_COMPILED, kind_of
from .training import Training, trainings
from .users import Compared, compared


@dataclass(frozen=True)
class Verdict:
    case: str
    against: str
    measured: float | None  # None: not measured, which counts as missed
    asked: float

    @property
    def score(self) -> float:
        """Measured over target: 1 or more is reached."""
        return 0.0 if self.measured is None else self.measured / self.asked

    def __str__(self):
        measured = "not measured" if self.measured is None else f"{self.measured:.2f}"
        return f"{self.score:5.2f}  {self.case:62} {self.against:34} {measured:>12}, asked {self.asked:.3g}"


def best(figures: dict[str, float], kind: str) -> tuple[str, float] | None:
    """The rival of a kind with the smallest value of a figure."""
    of_kind = [(value, name) for name, value in figures.items() if kind_of(name) == kind]
    return min(of_kind)[::-1] if of_kind else None


def best_rival(figures: dict[str, float]) -> float | None:
    return min((value for name, value in figures.items() if name not in ("ours", OURS_COMPILED, "copy")), default=None)


def ratio(figures: dict[str, float], kind: str) -> float | None:
    found = best(figures, kind)
    return found and found[1] / figures["ours"]


def verdicts(results: dict) -> list[Verdict]:
    """The verdicts on every case of that device, worst first."""
    tables = [results.get(name, []) for name in ("cases", "training", "users")]
    measured = {figures["case"]: figures for table in tables for figures in table}
    found, device = [], results["type"]
    for case in [*cases(device), *trainings(device), *compared(device)]:
        found += of_case(case, measured.get(str(case)), results)
    return sorted(found, key=lambda verdict: verdict.score)


def of_case(case: Case | Training | Compared, figures: dict | None, results: dict) -> list[Verdict]:
    if figures is None:
        return [Verdict(str(case), "everything asked of it", None, 1.0)]

    def verdict(against, measured, asked):
        return Verdict(str(case), against, measured, asked)

    seconds = figures["seconds"]
    found = [verdict(f"times as fast as {kind}", ratio(seconds, kind), asked) for kind, asked in case.asked.items()]
    if isinstance(case, Case) and results["type"] == "cpu":
        found += _compiled(case, seconds, verdict)
    if case.memory:
        peaks = figures["peak_bytes"]
        leanest = best_rival(peaks)
        found.append(verdict("peak of the leanest rival / ours", leanest and leanest / peaks["ours"], case.memory))
    if results["type"] == "cuda":
        found += _on_gpu(case, figures, results["copy_bytes_per_second"], verdict)
    return found


def _compiled(case, seconds, verdict) -> list[Verdict]:
    ours, rival = seconds.get(OURS_COMPILED), best(seconds, "compile")
    found = [verdict("compiled, times as fast as compile", ours and rival and rival[1] / ours, 1.0)]
    if case.compiled:
        found.append(verdict("compiled, times as fast as in eager", ours and seconds["ours"] / ours, case.compiled))
    return found


def _on_gpu(case, figures, bandwidth, verdict) -> list[Verdict]:
    if isinstance(case, Training):
        waits = figures.get("synchronisations")
        return [verdict("1 where the host never waits", None if waits is None else float(waits == 0), 1.0)]
    if case.shape.elements < LARGE_COPY_ELEMENTS:
        hosts = figures.get("host_seconds")
        return [verdict("launches: eager's time / ours", hosts and ratio(hosts, "eager"), 1.0)]
    if case.reduction == "mean":
        return []
    found = []
    for name in ("forward", "backward"):
        one = figures.get("kernels", {}).get(name)
        reached = one and one["floor_bytes"] / one["seconds"] / bandwidth
        found.append(verdict(f"{name}'s part of the copy's speed", reached, OF_COPY))
    return found


def report(results: dict) -> tuple[str, bool]:
    """Every verdict, worst first, and whether all targets are reached."""
    found = verdicts(results)
    missed = sum(verdict.score < 1 for verdict in found)
    lines = [" of 1  case", *map(str, found), f"{len(found) - missed} of {len(found)} reached"]
    return "\n".join(lines), not missed
