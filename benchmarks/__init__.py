"""How fast the zoo is, as ratios within one run: `python -m benchmarks.throughput`."""
