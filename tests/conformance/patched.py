"""A pytest plugin: another package's own tests, each with our patch of the package in force, or without.

    git clone --branch v0.1.2 https://github.com/clementchadebec/benchmark_VAE && cd benchmark_VAE
    PYTHONPATH=.../tests/conformance python -m pytest -p patched --patch pythae tests

At the end it says how many tests there were, in how many of them our operators were reached, and by which calls.
``--report FILE`` keeps that as JSON: each test's outcome, and its calls.
"""

import collections
import importlib
import json
from pathlib import Path

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("aevb_ext")
    group.addoption("--patch", help="a module of aevb_ext.integrations; default: none")
    group.addoption("--report", type=Path, help="the JSON file to write")


def pytest_configure(config):
    config.pluginmanager.register(_Patched(config.getoption("--patch"), config.getoption("--report")))


class _Patched:
    def __init__(self, name, report):
        self.patch = importlib.import_module(f"aevb_ext.integrations.{name}").patch if name else None
        self.report = report
        self.outcomes, self.calls = {}, collections.defaultdict(collections.Counter)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if self.patch is None:
            return (yield)
        with self.patch() as applied:
            result = yield
        self.calls[item.nodeid].update({label: count for label, count in applied.calls.items() if count})
        return result

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome

    def pytest_terminal_summary(self, terminalreporter):
        reached = sum(map(bool, self.calls.values()))
        calls = sum(self.calls.values(), collections.Counter())
        terminalreporter.write_line(f"{len(self.outcomes)} tests, our operators reached in {reached}: {dict(calls)}")
        if self.report:
            self.report.write_text(json.dumps({"outcomes": self.outcomes, "calls": self.calls}))
