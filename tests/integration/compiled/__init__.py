"""Native builds: what is compiled, when it is used, and that it does what Python does."""
