"""What several tests of the benchmarks share: made-up figures and documents, their reports, running the commands."""
