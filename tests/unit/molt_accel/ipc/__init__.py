"""Tests of molt_accel.ipc: frames and streams."""
