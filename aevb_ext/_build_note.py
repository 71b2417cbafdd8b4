"""What a compiled library was built for and of: a note that setup.py leaves at its end, read without loading it.

The system's loader does not look at what follows a library's last section. The note goes where the library goes, and is
there for each of several in one folder. A library without one (stripped, say) is like one whose note is empty.
"""

import hashlib
import json
from pathlib import Path

_MARK = b"\naevb_ext was built with "
_LONGEST = 1024


def write(library: Path, *, torch: str, sources: str) -> None:
    """Leave the note.

    Args:
        library: the file of the library, just linked.
        torch: the version of the torch that it was compiled against.
        sources: ``fingerprint`` of what was compiled.
    """
    with open(library, "ab") as file:
        file.write(_MARK + json.dumps({"torch": torch, "sources": sources}).encode())


def read(library: Path) -> dict[str, str]:
    """What ``write`` was given for this library: ``torch`` and ``sources``, or neither."""
    with open(library, "rb") as file:
        file.seek(max(0, Path(library).stat().st_size - _LONGEST))
        _, mark, note = file.read().rpartition(_MARK)
    try:
        return json.loads(note) if mark else {}
    except ValueError:  # cut, or with something behind it
        return {}


def fingerprint(csrc: Path) -> str:
    """Of the C++ and CUDA sources in a folder: the same for the same files alone."""
    digest = hashlib.sha256()
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(csrc).as_posix()}\n{len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]
