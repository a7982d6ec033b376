"""Steps of bridges and clients at which a test has a process die or stop.

`table` names them; `launcher` runs a bridge or a client that sends itself a signal at one of them; `entries` is what
the pool runs. The packages' sources know nothing of it: the launcher wraps their methods.
"""
