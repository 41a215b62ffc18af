"""Data sets, one module each. Names of benchmarks begin with the module's name, such as ade20k in ade20k:150."""
