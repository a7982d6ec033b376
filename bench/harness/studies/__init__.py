"""Questions beside the main comparison, each asked by a module of its own; `study.py` says what they share."""
