"""What both benchmarks need, written once: statistics, criteria, tables, reports, progress, processes."""
