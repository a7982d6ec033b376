"""Whatever can carry a call from one process to another and its answer back. `table.py` lists them."""
