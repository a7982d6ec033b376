"""Questions beside the main comparison, each asked by a module of its own. `registry.py` lists them."""
