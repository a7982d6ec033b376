"""molt_accel.forms.response: a response that an entrypoint chooses, and what it may not be."""

from typing import Any

import pytest

from molt_accel.forms.response import Response


def test_it_is_made_again_of_its_parts() -> None:
    response = Response(b"body", 404, {"X-A": "b"}, "text/plain")
    response.cookies, response.reason = [["name", "value", "value", {"path": "/"}]], "Gone Fishing"
    again = Response.of(response.parts())
    assert again.parts() == [
        *(b"body", 404, {"X-A": "b"}, "text/plain"),
        *([["name", "value", "value", {"path": "/"}]], "Gone Fishing"),
    ]
    assert repr(again) == "Response(status=404, headers={'X-A': 'b'}, body=b'body')"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"status": 99}, ValueError, "status: 99 is not allowed; it must be a number from 100 to 599"),
        ({"status": "200"}, ValueError, "status: '200' is not allowed"),
        ({"headers": {"A": 1}}, TypeError, "headers: 'A': 1 is not allowed; both must be texts"),
        ({"headers": {"A": "b\r\nC: d"}}, ValueError, "it has more than one line"),
        ({"content_type": "a\nb"}, ValueError, "it has more than one line"),
    ],
)
def test_what_no_response_can_have_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Response(b"", **arguments)
