"""What a run says of itself, in its folder."""

import json
import platform

import torch

from .. import __version__
from .._files import write_whole
from .._library import build_info
from .callbacks import Callback

__all__ = ["Written"]


class Written(Callback):
    """config.toml: where the data is from, the settings and the model; environment.json: versions and device."""

    def on_start(self, run) -> None:
        source = run.data.source or {"data": run.data.name}
        config = {**source, **run.settings.as_dict(), "model": run.model.config or {}}
        environment = {
            "aevb_ext": __version__,
            "commit": build_info()["commit"],
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(next(run.model.parameters()).device),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "processes": run.processes.world_size,
        }
        for name, text in (("config.toml", _toml(config)), ("environment.json", json.dumps(environment, indent=2))):
            write_whole(run.folder / name, text.encode() + b"\n")


def _toml(table: dict) -> str:
    """Strings, numbers, booleans and lists of them are TOML as JSON writes them; what is None is left out."""
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if value is not None and not _is_table(value)]
    for key, inner in table.items():
        if _is_table(inner):
            lines += ["", f"[{key}]", _toml(inner)]
    return "\n".join(lines)


def _is_table(value) -> bool:
    return isinstance(value, dict)


def _value(value) -> str:
    # DEL alone may stand as it is in JSON but not in TOML.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
