"""Servers, the load on them, and what is measured meanwhile."""
