"""Mistakes with any patch: each raises a specific error and leaves the package unchanged."""

import importlib.metadata

import pytest

from aevb_ext.integrations import AlreadyPatched, NotInstalled, OutOfOrder, UnknownVersion


def check_mistakes(patch, distribution: str, state, monkeypatch) -> None:
    """Make every mistake.

    Args:
        patch: the integration's function of that name.
        distribution: the package as pip calls it.
        state: a function; what it returns (the replaced objects themselves) must be the same after as before.
    """
    before, version = state(), importlib.metadata.version

    def only_of(name, pretended):
        return lambda asked: pretended(asked) if asked == name else version(asked)

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as pretend:
        pretend.setattr(importlib.metadata, "version", only_of(distribution, missing))
        with pytest.raises(NotInstalled, match=f"{distribution} is not installed: pip install"):
            patch()
        pretend.setattr(importlib.metadata, "version", only_of(distribution, lambda _: "99.0"))
        with pytest.raises(UnknownVersion, match=f"{distribution} 99.0 is installed; its patch knows"):
            patch()
    assert state() == before

    first = patch()
    patched = state()
    assert patched != before
    with pytest.raises(AlreadyPatched, match="is patched already"):
        patch()
    assert state() == patched and first.is_applied
    first.undo()
    assert state() == before
    with pytest.raises(OutOfOrder, match="undone already"):
        first.undo()
    with pytest.raises(OutOfOrder, match="make a new one"), first:
        pass
    assert state() == before
