"""``python -m aevb_ext``: the same as ``aevb``."""

try:
    from .cli import main
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] == __package__:
        raise
    raise SystemExit(
        f"aevb: error: the package {missing.name} is not installed; `pip install --no-build-isolation .` in the source "
        "folder installs all that aevb needs"
    ) from None

raise SystemExit(main())
