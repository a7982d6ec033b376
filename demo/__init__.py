"""The demo: one list endpoint and one table endpoint, each served in process and through the worker."""
