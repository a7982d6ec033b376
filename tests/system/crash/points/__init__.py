"""Crash points: named moments between two steps at which a test has a process die or stop.

In C a point is `MOLT_POINT(name)`, in Python a comment alone on its line, `# point: name`. Both are nothing in a normal
build. `build` makes a native core in which the macro does something (`points.h`); `hook/sitecustomize.py` loads it in
every process that has the folder on its PYTHONPATH, and has the comments in Python modules call the same function.
`control` is the file by which a test arms a point and hears that it was reached, `table` says what each point means.
"""
