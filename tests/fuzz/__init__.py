"""Random calls of every public function, each compared with its formula in float64.

A case is a pure function of its number: `make fuzz ARGS="--first 1234 --cases 1"` runs one again.
"""
