"""gunicorn's dirty apps: the client, and what the benchmark's gunicorn serves."""
