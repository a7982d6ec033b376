"""The configuration of a bridge."""

from __future__ import annotations

from molt_accel.config import Config


class BridgeConfig(Config):
    """A configuration that is used with whatever pool it names.

    A client may use a pool only if its own worker would be the same. A bridge has no wishes of its own: it passes on
    what others ask of the pool that its operator names. So it may differ from the pool in environment, working folder
    and limits. The pool still lets in only its own user, and only this release.
    """

    def identity(self) -> dict[str, str]:
        """Return nothing, as an observer does."""
        return {}
