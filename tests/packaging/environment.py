"""An environment of its own, in which a person has nothing but torch, and no compiler."""

import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


class Environment:
    """Made by venv in a folder, with the torch that the tests run with."""

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.install(f"torch=={torch.__version__}")

    def run(self, *command: str | Path, compiler: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment where no source folder is; without ``compiler`` PATH has no other one."""
        path = [str(self.folder / "bin"), *os.environ["PATH"].split(os.pathsep) * compiler]
        ours = [name for name in os.environ if name == "PYTHONPATH" or name.startswith("AEVB")]
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=self.folder,
            env={**kept, "PATH": os.pathsep.join(path), **variables},
            capture_output=True,
            text=True,
        )

    def install(self, *words: str | Path, **how) -> None:
        done = self.run("pip", "install", "-q", "--disable-pip-version-check", *words, **how)
        assert done.returncode == 0, done.stdout + done.stderr

    def python(self, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-c", program, **variables)


def metadata(wheel: Path) -> Message:
    """What pip reads of a wheel."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return Parser().parsestr(file.read(name).decode())
