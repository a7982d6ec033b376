"""Fixtures that build small projects."""

from tests.support.builds import built, import_state, original, shared_folder

__all__ = ["built", "import_state", "original", "shared_folder"]
