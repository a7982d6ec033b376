"""What several tests of the benchmarks share: made-up figures and documents, and running the commands."""
