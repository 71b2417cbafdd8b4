"""A pytest plugin for ``make gpu`` and ``make gpu-test``: which tests of the GPU run, in what order, and none twice."""

from pathlib import Path

# What tells most comes first, for the time may not be enough for all.
FIRST = ("values", "gradients", "cuda", "noise", "layouts", "extremes", "numbers", "speculative_gradient", "halves")


def pytest_addoption(parser):
    group = parser.getgroup("gpu")
    group.addoption("--smoke", action="store_true", help="one test of each operator and dtype, and those of capture")
    group.addoption("--passed", type=Path, help="a file of the tests that passed: these are left out, others added")


def pytest_configure(config):
    path = config.option.passed
    config.passed_before = set(path.read_text().splitlines()) if path and path.is_file() else set()
    if path and not hasattr(config, "workerinput"):  # and not in each of xdist's workers too
        config.pluginmanager.register(Recorder(path))


def pytest_collection_modifyitems(config, items):
    items.sort(key=_rank)
    kept = _smoke(items) if config.option.smoke else items
    kept = [item for item in kept if item.nodeid not in config.passed_before]
    left_out = set(items).difference(kept)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = kept


class Recorder:
    """Adds each test that passes to a file."""

    def __init__(self, path: Path):
        self._path = path

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            with self._path.open("a") as file:
                file.write(report.nodeid + "\n")


def _rank(item):
    name = item.path.stem.removeprefix("test_")
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _smoke(items):
    """Of values and gradients the first test of each operator and dtype; of test_cuda.py all that capture."""
    seen, kept = set(), []
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        if item.path.stem in ("test_values", "test_gradients") and case is not None:
            what = item.originalname, case.operator.name, case.dtype
            if what not in seen:
                kept.append(item)
            seen.add(what)
        elif item.path.stem == "test_cuda" and "capture" in item.name:
            kept.append(item)
    return kept
