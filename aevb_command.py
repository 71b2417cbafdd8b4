"""The command ``aevb``: its parser and its checks run before PyTorch is imported, which takes seconds.

``import aevb_ext`` imports PyTorch and registers the operators, which exported programs need. ``aevb_ext.cli`` needs
neither to find a mistake, so that here the package is entered into ``sys.modules`` before its ``__init__`` is run.
"""

import sys
from importlib.util import find_spec, module_from_spec


def main() -> int:
    """Run ``aevb`` with the arguments of the process. Returns the exit status."""
    spec = find_spec("aevb_ext")
    assert spec is not None and spec.loader is not None, "aevb_ext is installed beside this module"
    package = sys.modules["aevb_ext"] = module_from_spec(spec)
    run_init = spec.loader.exec_module

    from aevb_ext.cli import main as run

    return run(import_package=lambda: run_init(package))
