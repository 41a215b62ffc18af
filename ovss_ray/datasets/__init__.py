"""The benchmarks, one file per data set or family: `ade20k:847` is `BENCHMARKS["847"]` in ade20k.py."""
