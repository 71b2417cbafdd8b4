"""Drop-in patches for third-party packages, one module a package, each with a function ``patch() -> Patch``.

    from aevb_ext.integrations import diffusers

    with diffusers.patch():
        ...  # the package's own code, unchanged, on the fused operators

A patch replaces named attributes and nothing else. It refuses a version of the package that it was not tested with, and
puts back the identical objects when it is undone. A package is imported only when its ``patch()`` is called.
"""

from ._patch import AlreadyPatched, NotInstalled, OutOfOrder, Patch, PatchError, UnknownVersion

__all__ = ["AlreadyPatched", "NotInstalled", "OutOfOrder", "Patch", "PatchError", "UnknownVersion"]
