"""A run without PyTorch: its settings, the names that they may have, the data it names, and its folder.

Nothing here imports PyTorch, nor a package that does: the command ``aevb`` finds most mistakes before it is imported.
"""
