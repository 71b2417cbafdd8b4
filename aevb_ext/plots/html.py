"""Self-contained HTML pages: no script, nothing loaded from elsewhere, light or dark as the reader's system."""

import base64
import html
from collections.abc import Iterable, Iterator, Mapping

__all__ = ["cards", "figure", "flattened", "grid", "image", "page", "pairs", "paragraph", "section", "table"]

_STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --panel: #ffffff; --line: #dcdcd8; --text: #1d1d1f;
  --quiet: #65656b;
  --series-1: #1f5fbf; --series-2: #c2570c; --series-3: #17803d; --series-4: #8a3ab9; --series-5: #b0235f;
  --series-6: #6b6b00; --off: #b9b9b4; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #131416; --panel: #1c1d20; --line: #35363b; --text: #ececee; --quiet: #a0a0a8;
    --series-1: #7fb0ff; --series-2: #ffa765; --series-3: #6fd08c; --series-4: #cf9bf5; --series-5: #ff8fb8;
    --series-6: #d6d25a; --off: #5b5b62; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem clamp(0.9rem, 3vw, 2rem) 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 0.25rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 0.8rem; }
p { margin: 0.4rem 0 0.8rem; max-width: 60rem; }
.quiet, figcaption { color: var(--quiet); font-size: 0.875rem; }
.cards { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  margin: 1.2rem 0 0; }
.cards > div, figure, .scroll { background: var(--panel); border: 1px solid var(--line); border-radius: 0.5rem; }
.cards > div { padding: 0.6rem 0.8rem; }
.cards b { display: block; font-size: 1.35rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.cards small { font-size: 0.875rem; font-weight: 400; color: var(--quiet); white-space: nowrap; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
  align-items: start; }
figure { margin: 0; padding: 0.75rem; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figure img { display: block; width: 100%; height: auto; image-rendering: pixelated; }
figcaption { margin-top: 0.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.3rem 0.6rem; border-top: 1px solid var(--line); vertical-align: top; }
tr:first-child > * { border-top: 0; }
th { font-weight: 600; }
.numbers td, .numbers th { white-space: nowrap; }
.numbers :is(td, th) { text-align: right; }
.numbers :is(td, th):first-child { position: sticky; left: 0; background: var(--panel); text-align: left; }
.pairs th { width: 30%; font-weight: 400; color: var(--quiet); }
.pairs td { overflow-wrap: anywhere; }
@media (max-width: 32rem) { th, td { padding: 0.3rem 0.5rem; } table { font-size: 0.8125rem; } }
@media print { figure, .cards > div { break-inside: avoid; } }
"""


def page(title: str, *body: str) -> str:
    """A whole page. ``title`` is text; ``body`` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{_text(title)}</h1>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *body: str) -> str:
    """A heading and the HTML below it; empty if there is nothing below it."""
    parts = [part for part in body if part]
    return f"<section>\n<h2>{_text(title)}</h2>\n" + "\n".join(parts) + "\n</section>" if parts else ""


def paragraph(text: str) -> str:
    """A line of text in small print."""
    return f'<p class="quiet">{_text(text)}</p>'


def cards(figures: dict[str, str]) -> str:
    """Key figures, each with its name."""
    return '<div class="cards">' + "".join(map(_card, figures.values(), figures)) + "</div>"


def _card(value: str, name: str) -> str:
    """One key figure; the part after a space in it (an error, a total) is in small print."""
    number, _, rest = value.partition(" ")
    small = f" <small>{_text(rest)}</small>" if rest else ""
    return f'<div><b>{_text(number)}{small}</b><span class="quiet">{_text(name)}</span></div>'


def grid(*figures: str) -> str:
    """Figures side by side if there is room; empty if there are none."""
    shown = [figure for figure in figures if figure]
    return '<div class="grid">\n' + "\n".join(shown) + "\n</div>" if shown else ""


def figure(content: str, caption: str) -> str:
    """A figure: ``content`` is HTML, ``caption`` is text."""
    return f"<figure>{content}<figcaption>{_text(caption)}</figcaption></figure>"


def image(content: bytes, description: str) -> str:
    """A PNG inside the page."""
    return f'<img alt="{_text(description)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table of text; all columns but the first are numbers. It has its own scroll bar if it is wide."""
    lines = [_row("th", header), *(_row("td", row) for row in rows)]
    return '<div class="scroll"><table class="numbers">' + "\n".join(lines) + "</table></div>"


def pairs(content: Mapping[str, object]) -> str:
    """A table of names and values; nested dicts become dotted names."""
    lines = [
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in flattened(content)
    ]
    return '<div class="scroll"><table class="pairs">' + "\n".join(lines) + "</table></div>" if lines else ""


def flattened(content: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """``(name, value)`` of all entries of nested dicts, with dotted names."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _row(tag: str, cells: Iterable[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"


def _text(value: object) -> str:
    return html.escape(str(value))
