"""What the benchmark commands are made of: scenarios, servers, load, sampling, aggregation, reports."""
