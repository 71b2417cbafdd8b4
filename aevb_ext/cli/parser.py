"""The parser of the command ``aevb``: verbs in groups, an example of each, and the nearest word to a mistyped one."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TypeAlias

from .._version import __version__
from ..configuration.datasets import NAMES

__all__ = ["Parser", "Verbs", "command", "parsed"]

Command: TypeAlias = "Callable[[argparse.Namespace], int | None]"


class Parser(argparse.ArgumentParser):
    """Suggests the nearest choice or flag if what was typed does not exist. Its help ends with an example."""

    example = ""

    def format_help(self) -> str:
        """The help, with the example."""
        return super().format_help() + (f"\nexample:\n  {self.example}\n" if self.example else "")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), map(str, action.choices), 1)
            choices = ", ".join(map(str, action.choices))
            said = f"there is no {value!r}{f': {near[0]}?' if near else ','} there are {choices}"
            if action.dest == "subcommand":
                self.error(said)
            raise argparse.ArgumentError(action, said)

    def refuse(self, flag: str) -> None:
        """Exit with an error: there is no such flag, or a value without one."""
        if not flag.startswith("-"):
            flags = f" (--data {flag})" if flag in NAMES and "--data" in self._option_string_actions else ""
            self.error(f"{flag!r} is not expected here: a value stands after its flag{flags}")
        near = difflib.get_close_matches(flag, self._option_string_actions, 1)
        self.error(f"there is no argument {flag}" + (f": {near[0]}?" if near else ""))


class Verbs:
    """The verbs of ``aevb``: the parser of all, and that of each.

    Attributes:
        parser: the parser of the whole command line; its help lists the verbs in their groups.
        choices: the parsers of the verbs, by name.
    """

    def __init__(self) -> None:
        self.parser = Parser(
            prog="aevb",
            usage="aevb [-h] [--version] VERB ...",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.description = "Auto-Encoding Variational Bayes (Kingma & Welling 2014).\n"
        self.parser.add_argument("--version", action="version", version=f"aevb {__version__}")
        self._verbs = self.parser.add_subparsers(
            required=True, dest="subcommand", prog="aevb", parser_class=Parser, metavar="VERB", help=argparse.SUPPRESS
        )
        self.choices: dict[str, Parser] = self._verbs.choices

    def group(self, title: str) -> None:
        """Begin a group: the verbs that are added after it stand under its title."""
        self.parser.description = f"{self.parser.description}\n{title}:\n"

    def begin_with(self, *names: str) -> None:
        """End the help of all with the examples of these verbs."""
        examples = "".join(f"\n  {self.choices[name].example}" for name in names)
        self.parser.epilog = f"`aevb VERB --help` says what a verb takes, with an example of it. To begin:{examples}"

    def add(
        self,
        name: str,
        summary: str,
        *,
        run: Command,
        example: str,
        check: Callable[[argparse.Namespace], None] = lambda arguments: None,
        extra: str | None = "train",
        description: str = "",
        usage: str | None = None,
    ) -> Parser:
        """Add a verb, and return its parser for its arguments.

        Args:
            name: the verb.
            summary: its line in the list of verbs.
            run: called with the parsed arguments; returns the exit status, None for 0.
            example: a whole command.
            check: called with the parsed arguments before PyTorch is imported; raises for what is wrong with them.
            extra: the extra of this package that it needs.
            description: what its help says after the summary.
            usage: its usage. Default: argparse's.
        """
        sentence = summary[0].upper() + summary[1:] + ("" if summary.endswith("?") else ".")
        parser = self._verbs.add_parser(name, description=f"{sentence} {description}", usage=usage)
        parser.example = example
        parser.set_defaults(run=run, check=check, extra=extra)
        self.parser.description = f"{self.parser.description}  {name:<17}{summary}\n"
        return parser


def command(module: str, name: str) -> Command:
    """The function of a module of ``commands``. The module, which needs PyTorch, is imported when it is called."""

    def run(arguments: argparse.Namespace) -> int | None:
        function: Command = getattr(import_module(f"{__package__}.commands.{module}"), name)
        return function(arguments)

    return run


def parsed(verbs: Verbs, argv: list[str]) -> argparse.Namespace:
    """The arguments; what is wrong with them is printed, and ends the process with the status 2."""
    if not argv:
        verbs.parser.print_help(sys.stderr)
        raise SystemExit(2)
    place = next((i for i, token in enumerate(argv) if not token.startswith("-")), 0)
    verb = verbs.choices.get(argv[place])
    # Unknown flags are reported before missing ones: the missing one may have been mistyped.
    if verb is not None:
        for token in argv[place:]:
            flag = token.partition("=")[0]
            if flag.startswith("--") and not any(known.startswith(flag) for known in verb._option_string_actions):
                verb.refuse(flag)
    arguments, unknown = verbs.parser.parse_known_args(argv)
    if unknown:
        verbs.choices[arguments.subcommand].refuse(unknown[0].partition("=")[0])
    return arguments
