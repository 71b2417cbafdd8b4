"""What mkdocs does with these pages beyond building them: README and its like are pages, and so is each public module.

Links are those that GitHub follows. Here a link to a page that is built leads to it, and one to any other file of
the repository is its text alone.
"""

import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import reference

ROOT = Path(__file__).resolve().parents[2]
# Pages that are not in docs/.
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config):
    """The reference's pages in the menu."""
    (section,) = (part["Reference"] for part in config.nav if "Reference" in part)
    section += [{module.removeprefix("aevb_ext."): f"reference/{module}.md"} for module in reference.MODULES]
    return config


def on_files(files, config):
    for source, page in ELSEWHERE.items():
        # README's title is the name of the package, which the reference has an entry for.
        text = re.sub(r"\A# .*", r"\g<0> { #" + page.removesuffix(".md") + " }", (ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    for module, rows in reference.pages().items():
        files.append(File.generated(config, f"reference/{module}.md", content=reference.page(module, rows)))
    return files


def on_page_markdown(markdown, page, files, **_):
    at = {page: source for source, page in ELSEWHERE.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def followed(match):
        text, target = match.groups()
        path, anchor = re.fullmatch(r"([^#]*)(#.*)?", target).groups()
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        source = (ROOT / at).parent.joinpath(path).resolve().relative_to(ROOT).as_posix()
        uri = ELSEWHERE.get(source, source.removeprefix("docs/"))
        if not (source in ELSEWHERE or source.startswith("docs/")) or files.get_file_from_path(uri) is None:
            return text[1:-1]
        return f"{text}({'../' * page.file.src_uri.count('/')}{uri}{anchor or ''})"

    if page.file.src_uri.startswith("reference/"):
        return markdown
    pieces = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    # Text may have brackets of its own, as `[B]` has; what is between two links belongs to neither.
    links = r"(\[(?:[^\[\]]|\[[^\[\]]*\](?!\())*\])\(([^)\s]+)\)"
    return "".join(piece if piece.startswith("```") else re.sub(links, followed, piece) for piece in pieces)


def on_page_content(html, **_):
    """Wide tables scroll by themselves, and not the page with them. A figure and its unit stay on a line."""
    html = re.sub(r"<td>(?=(?:<strong>)?[-+]?\d[\d.,]* ?\S{0,5}(?:</strong>)?</td>)", '<td class="figure">', html)
    return re.sub(r"<table>(.*?)</table>", r'<div class="wide"><table>\1</table></div>', html, flags=re.DOTALL)
