"""The command ``aevb``: parsing, and turning errors into messages and exit statuses."""

import argparse
import difflib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from .. import doctor
from .._messages import first_line, in_shell
from .._version import __version__
from ..estimators import UntrustedEstimate
from ..export import ExportError
from ..train import NonFiniteBound, PeerFailed, Processes, joined
from ..train.memory import OutOfMemory, out_of_memory
from ..uses import NotConverged
from . import anomaly, encode, evaluate, experiments, export, generate, report, train
from .common import Subcommands
from .config import KEYS

__all__ = ["main"]

# Exceptions of this package whose message is printed as it is.
_OUR_ERRORS = (ExportError, NonFiniteBound, NotConverged, PeerFailed)


def main(argv: list[str] | None = None) -> int:
    """Run ``aevb`` with ``argv`` (default: the process's). Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    with ExitStack() as stack:
        try:
            processes = stack.enter_context(joined())
        except (ValueError, RuntimeError) as error:
            # The group of processes has not been joined yet, so this process reports the error itself.
            print(f"aevb: error: {error}", file=sys.stderr)
            return 1
        stack.enter_context(in_shell())
        return _run(processes, argv)


def _run(processes: Processes, argv: list[str]) -> int:
    parser, subcommands = _parser()
    arguments = None
    try:
        with processes.only_first_prints():
            arguments = _parsed(parser, subcommands, argv)
            with _warnings_as_lines(lambda message: _with_flags(message, subcommands, arguments, argv)):
                status = arguments.run(arguments) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # The reader of the output has closed it (`aevb ... | head`).
        _discard_stdout()
        return 1
    except (ValueError, TypeError, OSError, ImportError, *_OUR_ERRORS) as error:
        said = _with_flags(re.sub(r"^\[Errno \d+\] ", "", str(error)), subcommands, arguments, argv)
    except OutOfMemory as error:
        said = _with_flags(str(error), subcommands, arguments, argv)
    except (RuntimeError, MemoryError, OverflowError) as error:
        if out_of_memory(error):
            said = f"there is too little memory ({first_line(error)}): ask for less at a time, or take a smaller model"
        elif isinstance(error, OverflowError) or "Overflow when unpacking" in str(error):
            said = f"a number is too large: {first_line(error)}"
        else:
            raise
    except KeyboardInterrupt as error:
        processes.tell(f"aevb: {str(error) or 'interrupted'}")
        return 130
    processes.tell(f"aevb: error: {said}")
    with suppress(OSError):
        sys.stdout.flush()
        return 1
    _discard_stdout()
    return 1


def _discard_stdout() -> None:
    """Redirect standard output, which is closed: what is left in its buffer would raise again when Python exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_flags(message: str, subcommands: Subcommands, arguments: argparse.Namespace | None, argv: list[str]) -> str:
    """The message with Python's argument names replaced by flags.

    A name at the beginning of the message is replaced by the flag that was typed. In the rest of the message only names
    with an underscore are recognised, since others may be ordinary words. If there is a configuration file, a name may
    be one of its keys; the file is named if its value is at fault.
    """
    if arguments is None:
        return message
    given = {token.partition("=")[0] for token in argv}
    named = re.match(r"([a-z_]+)(?= must| means|:| ['\"])", message)
    for action in subcommands.choices[arguments.subcommand]._actions:
        if not action.option_strings:
            continue
        flag = next((flag for flag in action.option_strings if flag in given), None)
        if named and action.dest == named[1]:
            if flag:
                message = flag + message[named.end() :]
            elif action.dest in KEYS and getattr(arguments, "config", None) is not None:
                message = f"{arguments.config}: {message}"
        if "_" in action.dest and getattr(arguments, "config", None) is None:
            message = re.sub(rf"(?<![\w/.-]){action.dest}(?![\w/.-])", flag or action.option_strings[0], message)
    return message


@contextmanager
def _warnings_as_lines(spelt: Callable[[str], str]) -> Iterator[None]:
    """A context in which user warnings are printed as one line each, without a place in the source."""

    def shown(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
        if issubclass(category, UserWarning):
            print(f"warning: {spelt(str(message))}", file=sys.stderr, flush=True)
        else:
            before(message, category, *where, **how)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UntrustedEstimate)
        before, warnings.showwarning = warnings.showwarning, shown
        yield


class _Parser(argparse.ArgumentParser):
    """Suggests the nearest choice or flag if what was typed does not exist."""

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), map(str, action.choices), 1)
            choices = ", ".join(map(str, action.choices))
            said = f"there is no {value!r}{f': {near[0]}?' if near else ','} there are {choices}"
            if action.dest == "subcommand":
                self.error(said)
            raise argparse.ArgumentError(action, said)

    def refuse(self, flag: str) -> None:
        """Exit with an error: there is no such flag."""
        near = difflib.get_close_matches(flag, self._option_string_actions, 1)
        self.error(f"there is no argument {flag}" + (f": {near[0]}?" if near else ""))


def _parsed(parser: _Parser, subcommands: Subcommands, argv: list[str]) -> argparse.Namespace:
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    subcommand = subcommands.choices.get(next((token for token in argv if not token.startswith("-")), ""))
    # Unknown flags are reported before missing ones: the missing one may have been mistyped.
    if subcommand is not None:
        for token in argv:
            flag = token.partition("=")[0]
            if flag.startswith("--") and not any(known.startswith(flag) for known in subcommand._option_string_actions):
                subcommand.refuse(flag)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        subcommands.choices[arguments.subcommand].refuse(unknown[0].partition("=")[0])
    return arguments


def _parser() -> tuple[_Parser, Subcommands]:
    """The parser, and the action that holds the subcommands' parsers."""
    parser = _Parser(prog="aevb", description="Auto-Encoding Variational Bayes (Kingma & Welling 2014).")
    parser.add_argument("--version", action="version", version=f"aevb {__version__}")
    subcommands = parser.add_subparsers(required=True, dest="subcommand", parser_class=_Parser)
    train.add(subcommands)
    generate.add_sample(subcommands)
    generate.add_augment(subcommands)
    generate.add_latent_space(subcommands)
    encode.add_encode(subcommands)
    encode.add_probe(subcommands)
    anomaly.add_anomaly(subcommands)
    anomaly.add_held_out(subcommands)
    evaluate.add(subcommands)
    experiments.add_paper(subcommands)
    report.add(subcommands)
    export.add(subcommands)
    experiments.add_factor_analysis(subcommands)
    subcommand = subcommands.add_parser("doctor", help="facts for a bug report, and cures for common faults")
    subcommand.set_defaults(run=lambda _: doctor.main())
    subcommands.metavar = " | ".join(subcommands.choices)
    return parser, subcommands
