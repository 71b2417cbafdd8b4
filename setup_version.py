"""The version of a build: the commit that it is of, and what it needs of torch.

A commit with the tag of its version (v0.1.0) is that release, 0.1.0. Every other commit comes before the release that
aevb_ext/_version.py names: 0.1.0.dev512+g0123456789ab is the 512th. So a later commit has a higher version, and pip
replaces an earlier one. An sdist and a wheel have the whole of it in their _version.py.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools.errors import PlatformError

ROOT = Path(__file__).resolve().parent
VERSION_FILE = Path("aevb_ext", "_version.py")
OLDEST_TORCH = "2.11"


def commit() -> str:
    """The commit, with "-dirty" if files were changed since; without git what AEVB_COMMIT or the sdist says."""
    if _has_git():
        return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or "unknown"
    given = os.environ.get("AEVB_COMMIT") or _commit_in(_written()) or "unknown"
    if not re.fullmatch(r"[\w.+/-]{1,100}", given, re.ASCII):
        raise PlatformError(f"AEVB_COMMIT={given}: expected a commit: letters, digits and _ . + - / alone")
    return given


def version() -> str:
    """The version by PEP 440."""
    written, here = _written(), commit()
    if not _has_git() or here == "unknown":
        return written
    tags = (_git("tag", "--points-at", "HEAD") or "").split()
    if f"v{written}" in tags and not here.endswith("-dirty"):
        return written
    return f"{written}.dev{_git('rev-list', '--count', 'HEAD')}+g{here.replace('-', '.')}"


def with_torch(version: str, torch, with_cuda: bool) -> str:
    """The version of a wheel for others, which lies beside those for other torches: 0.1.0+torch2.13.cu126."""
    accelerator = f"cu{torch.version.cuda.replace('.', '')}" if with_cuda else "cpu"
    return f"{version}{'.' if '+' in version else '+'}torch{minor(torch.__version__)}.{accelerator}"


def freeze(folder: Path, version: str) -> None:
    """Write the version into the package in a folder."""
    path = folder / VERSION_FILE
    text = path.read_text()
    path.unlink()  # it may be a link to the source folder's
    path.write_text(re.sub(r'(?<=__version__ = ").*(?=")', version, text))


def requirements() -> list[str]:
    """What the package needs: torch alone.

    A library fits the minor version of torch that it is compiled against, which pip is told. An sdist is compiled
    later, and what is built without a library (AEVB_BUILD=0) fits any.
    """
    here = torch_version()
    if here is None or "sdist" in sys.argv or os.environ.get("AEVB_BUILD") == "0":
        return [f"torch>={OLDEST_TORCH}"]
    public = here.partition("+")[0]
    released = re.fullmatch(r"\d+\.\d+(\.\d+)*", public)
    return [f"torch=={minor(public)}.*" if released else f"torch=={public}"]


def torch_version() -> str | None:
    """The version of torch, which takes seconds to import and is not imported for it; None without one."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return None
    here: str = runpy.run_path(str(Path(found.origin).with_name("version.py")))["__version__"]
    return here


def minor(version: str) -> str:
    """2.13 of 2.13.0+cpu."""
    return ".".join(version.split(".")[:2])


def _written() -> str:
    written: str = runpy.run_path(str(ROOT / VERSION_FILE))["__version__"]
    return written


def _commit_in(version: str) -> str | None:
    found = re.search(r"\+g([0-9a-f]+)(\.dirty)?", version)
    return found and found[1] + ("-dirty" if found[2] else "")


def _has_git() -> bool:
    return (ROOT / ".git").exists() and shutil.which("git") is not None


def _git(*words: str) -> str | None:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
