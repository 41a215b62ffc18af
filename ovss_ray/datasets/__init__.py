"""Data sets, one module each. The module's name is the family of its benchmarks."""
