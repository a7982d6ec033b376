"""The version of both packages; a module of its own, so that the inside need not import the face."""

from typing import Final

__version__: Final = "0.1.0"
