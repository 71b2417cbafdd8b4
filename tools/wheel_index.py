"""Writes the pages on which pip finds the wheels of a folder: ``pip install aevb-ext -f URL/torch-2.13-cpu.html``.

    python tools/wheel_index.py FOLDER [--url URL]

Of the versions on a page pip takes the highest that fits its Python and platform, and then the torch that it requires:
of 0.1.0+torch2.13.cpu and 0.1.0+torch2.14.cpu always the latter. So each torch and accelerator has a page of its own.
``index.html`` links to the pages. Each link ends with the file's SHA-256, which pip verifies.
"""

import argparse
import hashlib
import html
import re
from pathlib import Path
from urllib.parse import quote

_NAME = re.compile(r"aevb_ext-[^-]+[+.](?P<torch>torch[\d.]+)\.(?P<accelerator>cpu|cu\d+)-cp\d+-cp\d+-[^-]+\.whl")


def pages(folder: Path, url: str = "") -> dict[str, str]:
    """The text of each page by its file's name.

    Args:
        folder: where the wheels are that ``make wheel`` wrote.
        url: of the folder that has them, with the slash at its end. Default: that of the pages.

    Raises:
        ValueError: a wheel's name says no torch.
    """
    links: dict[str, list[str]] = {}
    for wheel in sorted(folder.glob("*.whl")):
        named = _NAME.fullmatch(wheel.name)
        if named is None:
            raise ValueError(f"{wheel}: expected a wheel of `make wheel`, as aevb_ext-0.1.0+torch2.13.cpu-cp311-...whl")
        page = f"{named['torch'].replace('torch', 'torch-')}-{named['accelerator']}.html"
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        links.setdefault(page, []).append(_link(f"{url}{quote(wheel.name)}#sha256={digest}", wheel.name))
    written = {page: _page(page.removesuffix(".html"), found) for page, found in links.items()}
    return {**written, "index.html": _page("aevb-ext", [_link(page, page.removesuffix(".html")) for page in links])}


def _link(target: str, text: str) -> str:
    return f'<a href="{html.escape(target)}">{html.escape(text)}</a><br>'


def _page(title: str, links: list[str]) -> str:
    head = f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n<h1>{title}</h1>\n'
    return head + "".join(f"{link}\n" for link in links) + "</html>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the wheels are, and where the pages are written")
    parser.add_argument("--url", default="", help="of the folder that has the wheels; default: that of the pages")
    arguments = parser.parse_args()
    try:
        found = pages(arguments.folder, arguments.url and f"{arguments.url.rstrip('/')}/")
    except ValueError as error:
        parser.error(str(error))
    for name, text in found.items():
        (arguments.folder / name).write_text(text)
        print(arguments.folder / name)


if __name__ == "__main__":
    main()
