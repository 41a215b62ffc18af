"""The GPU kit: parity, precision, throughput, memory and profiles of all networks on one GPU, within minutes.

The machine needs PyTorch, but neither Ray nor a network. `python -m perf.gpu.pack` writes the folder build/gpu: wheels,
goldens and the project. There, `bash perf/gpu/run.sh --only parity,san` measures; see `--help`.
"""
