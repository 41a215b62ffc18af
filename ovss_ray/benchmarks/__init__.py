"""Benchmarks: their contract, and functions shared by the modules of data sets."""
