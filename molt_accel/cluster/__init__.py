"""What clients and bridges say to each other when the pool is on another host. Nothing here runs user code."""
