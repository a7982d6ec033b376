"""The demo's handler cores: plain typed Python without a web framework, the same for server and worker."""
