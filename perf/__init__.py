"""How fast it is, beside what it replaces: `python -m perf` lists the scripts, RESULTS.md has what they have shown.

Each script runs both sides in turn (A B A B …) with a fixed number of threads, checks that they agree, and prints a
table of ratios. Only those mean something on a machine that others use as well. None of it is in the wheel.
"""
