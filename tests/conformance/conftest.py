def pytest_addoption(parser):
    parser.addoption("--whole-suites", action="store_true", help="all of the packages' own tests, not a selection")


def pytest_terminal_summary(terminalreporter):
    """What test_own_tests.py has counted, in whatever process of pytest-xdist."""
    reports = [r for some in terminalreporter.stats.values() for r in some if getattr(r, "when", None) == "call"]
    for report in reports:
        for name, value in report.user_properties:
            if name == "own tests":
                terminalreporter.write_line(value)
