"""Progress bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ._extras import of_extra

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["bar", "training_bar"]


@of_extra("train", "a progress bar")
def training_bar(console: "Console", shown: bool, **options: Any) -> "Progress":
    """A bar as wide as the terminal, with its task's field "state", the time taken and the time left."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = BarColumn(bar_width=None), TaskProgressColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn()
    left = TextColumn("left"), TimeRemainingColumn()
    return Progress(*columns, *left, console=console, disable=not shown, expand=True, **options)


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A context with a bar on stderr and the time left; nothing is shown if stderr is not a terminal.

    It yields a function to call with how much of ``total`` is done.
    """
    with of_extra("train", "a progress bar"):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn(title), BarColumn(), TaskProgressColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)
