"""The demo's Django project: the same lists and tables served in process and through the worker."""
