"""``python -m aevb_ext``: the same as ``aevb``."""

from .cli import main

raise SystemExit(main())
