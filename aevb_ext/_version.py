"""The version. In the repository it is the next release's; a build has its commit in it too (setup_version.py)."""

__version__ = "0.1.0"
