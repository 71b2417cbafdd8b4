"""The command ``aevb``: what is said of errors, and the exit status."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from .._extras import check_extra, command
from .._messages import PlainError, RepeatedWarning, first_line, in_shell
from .config import KEYS
from .parser import Parser, Verbs, parsed
from .verbs import GROUPS

if TYPE_CHECKING:
    from ..train import Processes

__all__ = ["main", "verbs_of_aevb"]


def main(argv: list[str] | None = None, *, import_package: Callable[[], object] = lambda: None) -> int:
    """Run ``aevb`` with ``argv`` (default: the process's). Returns the exit status.

    Args:
        argv: the words after ``aevb``.
        import_package: called before PyTorch is needed, and never if there is a mistake that can be found without it.
            Whoever has imported ``aevb_ext`` in the usual way has nothing to import.
    """
    argv = sys.argv[1:] if argv is None else argv
    with ExitStack() as stack:
        stack.enter_context(in_shell())
        if not _are_several():
            return _run(argv, import_package)
        # Processes have to know of each other to tell of a mistake once.
        try:
            import_package()
            from ..train import joined

            processes = stack.enter_context(joined())
        except ModuleNotFoundError as missing:
            _tell(f"aevb: error: {_missing_package(missing)}")
            return 1
        except (ValueError, RuntimeError, ImportError) as error:
            # The group of processes has not been joined yet, so this process reports the error itself.
            _tell(f"aevb: error: {error}")
            return 1
        return _run(argv, processes=processes)


def _are_several() -> bool:
    """Whether torchrun, or what is like it, started this process, or it has joined others already."""
    torch = sys.modules.get("torch")
    has_joined = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return has_joined or "WORLD_SIZE" in os.environ


def _run(
    argv: list[str], import_package: Callable[[], object] = lambda: None, processes: Processes | None = None
) -> int:
    verbs, arguments = verbs_of_aevb(), None
    tell = _tell if processes is None else processes.tell
    try:
        with nullcontext() if processes is None else processes.only_first_prints():
            arguments = parsed(verbs, argv)
            if arguments.extra is not None:
                check_extra(arguments.extra, f"aevb {arguments.subcommand}")
            arguments.check(arguments)
            parser = verbs.choices[arguments.subcommand]
            with _warnings_as_lines(lambda message: _with_flags(message, parser, arguments, argv)):
                import_package()
                status = arguments.run(arguments) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # The reader of the output has closed it (`aevb ... | head`).
        _discard_stdout()
        return 1
    except ModuleNotFoundError as missing:
        said = _missing_package(missing)
    except (ValueError, TypeError, OSError, ImportError, PlainError) as error:
        said = re.sub(r"^\[Errno \d+\] ", "", str(error))
        if arguments is not None:
            said = _with_flags(said, verbs.choices[arguments.subcommand], arguments, argv)
    except (RuntimeError, MemoryError, OverflowError) as error:
        from ..train.memory import out_of_memory

        if out_of_memory(error):
            said = f"there is too little memory ({first_line(error)}): ask for less at a time, or take a smaller model"
        elif isinstance(error, OverflowError) or "Overflow when unpacking" in str(error):
            said = f"a number is too large: {first_line(error)}"
        else:
            raise
    except KeyboardInterrupt as error:
        tell(f"aevb: {str(error) or 'interrupted'}")
        return 130
    tell(f"aevb: error: {said}")
    with suppress(OSError):
        sys.stdout.flush()
        return 1
    _discard_stdout()
    return 1


def verbs_of_aevb() -> Verbs:
    """All verbs, with their parsers."""
    verbs = Verbs()
    for title, add in GROUPS.items():
        verbs.group(title)
        add(verbs)
    verbs.begin_with("train", "report")
    return verbs


def _missing_package(error: ModuleNotFoundError) -> str:
    """A message that says what to type; a module of this package that is missing is a fault of ours, and raised."""
    package = (error.name or "").partition(".")[0]
    if package == "aevb_ext":
        raise error
    return f"the package {package} is not installed; `{command('train')}` installs all that aevb needs"


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _discard_stdout() -> None:
    """Redirect standard output, which is closed: what is left in its buffer would raise again when Python exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_flags(message: str, parser: Parser, arguments: argparse.Namespace, argv: list[str]) -> str:
    """The message with Python's argument names replaced by flags.

    A name at the beginning of the message is replaced by its flag, as it was typed. In the rest of the message only
    names with an underscore are recognised, since others may be ordinary words. If there is a configuration file, a
    name may be one of its keys; the file is named if its value is at fault.
    """
    given, config = {token.partition("=")[0] for token in argv}, getattr(arguments, "config", None)
    named = re.match(r"([a-z_]+)(?= must| means|[:,]| ['\"])", message)
    for action in parser._actions:
        if not action.option_strings:
            continue
        flag = next((flag for flag in action.option_strings if flag in given), None)
        if named and action.dest == named[1]:
            if flag or config is None:
                message = (flag or action.option_strings[0]) + message[named.end() :]
            elif action.dest in KEYS:
                message = f"{config}: {message}"
        if "_" in action.dest and config is None:
            message = re.sub(rf"(?<![\w/.-]){action.dest}(?![\w/.-])", flag or action.option_strings[0], message)
    return message


@contextmanager
def _warnings_as_lines(spelt: Callable[[str], str]) -> Iterator[None]:
    """A context in which user warnings are printed as one line each, without a place in the source."""

    def shown(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
        # The import's warning of a library that is not there is of another category.
        if issubclass(category, UserWarning) or str(message).startswith("aevb_ext"):
            print(f"warning: {spelt(str(message))}", file=sys.stderr, flush=True)
        else:
            before(message, category, *where, **how)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RepeatedWarning)
        before, warnings.showwarning = warnings.showwarning, shown
        yield
