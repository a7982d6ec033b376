"""What tests do with errors."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

E = TypeVar("E", bound=BaseException)


def raised(kind: type[E], function: Callable[..., object], *args: Any, **kwargs: Any) -> E:
    """The error of this kind that a call must end with."""
    with pytest.raises(kind) as caught:
        function(*args, **kwargs)
    return caught.value
