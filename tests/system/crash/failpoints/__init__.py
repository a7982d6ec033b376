"""Failpoints: named moments between two steps at which a test has a process die or stop.

In C a point is `MOLT_FAILPOINT(name)`, in Python a call of `molt_accel.ipc.failpoint.failpoint`. Both do nothing in a
normal build. `build` makes a native core in which the macro does something (`failpoints.h`); `hook/sitecustomize.py`
loads it in every process that has the folder on its PYTHONPATH, and puts the same function in the place of the Python
one. `control` is the file by which a test arms a point and hears that it was reached, `table` says what each one means.
"""
