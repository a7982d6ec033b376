"""Where the time of a call goes: system calls, hand-overs, migrations and processor time of one call, on each side."""
