"""Benchmarks of Molt Accel: load scripts, the harness that runs them, and their results."""
