"""The build note: torch version and source fingerprint, which setup.py appends to the compiled library.

The note is read without loading the library. The system's loader ignores what follows a library's last section. The
note moves with the library, and several libraries in one folder each have their own. A library without a note (a
stripped one, say) is treated as one whose note is empty.
"""

import hashlib
import json
from pathlib import Path

_MARK = b"\naevb_ext was built with "
_LONGEST = 1024


def write(library: Path, *, torch: str, sources: str) -> None:
    """Append the note.

    Args:
        library: the file of the library, just linked.
        torch: the version of the torch that it was compiled against.
        sources: ``fingerprint`` of what was compiled.
    """
    with open(library, "ab") as file:
        file.write(_MARK + json.dumps({"torch": torch, "sources": sources}).encode())


def read(library: Path) -> dict[str, str]:
    """``{"torch": ..., "sources": ...}`` as ``write`` was given them, or ``{}`` if the library has no note."""
    with open(library, "rb") as file:
        file.seek(max(0, Path(library).stat().st_size - _LONGEST))
        _, mark, note = file.read().rpartition(_MARK)
    try:
        return json.loads(note) if mark else {}
    except ValueError:  # the note is truncated, or something follows it
        return {}


def fingerprint(csrc: Path) -> str:
    """A hash of the C++ and CUDA sources in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(csrc).as_posix()}\n{len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]
