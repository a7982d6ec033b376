"""Fixtures that build small projects."""

from tests.support.builds import (
    built,
    demo_build,
    import_state,
    in_python,
    original,
    programs_build,
    shared_folder,
)

__all__ = ["shared_folder", "original", "built", "in_python", "demo_build", "programs_build", "import_state"]
