"""molt_accel.django.frameworks: where the request is among a view's arguments, and who renders a result."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.views import View as ClassView

from molt_accel import Client, molt_offload
from molt_accel.django import frameworks
from tests.support.views import MakeView


class Own:
    """A view that keeps a request where REST framework's own has Django's."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("make_self", [lambda _: [], lambda _: [object()], lambda request: [Own(request)]])
def test_the_request_is_found_behind_self(get: HttpRequest, is_wrapped: bool, make_self: Any) -> None:
    request = SimpleNamespace(_request=get) if is_wrapped else get
    before = make_self(get)
    assert frameworks.split((*before, request, 7, "x"), {"a": 1}) == (request, (7, "x"), {"a": 1})
    assert frameworks.split((*before, request), {}) == (request, (), {})


@pytest.mark.parametrize("before", [(), (object(),)])
def test_the_request_is_found_by_name(get: HttpRequest, before: tuple[Any, ...]) -> None:
    assert frameworks.split(before, {"request": get, "a": 1}) == (get, (), {"a": 1})


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((object(),), {"request": None})])
def test_no_request_is_an_error_that_says_what_to_call_instead(args: Any, kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"found no request: .*call molt_accel\.offload elsewhere"):
        frameworks.split(args, kwargs)


def test_the_body_of_a_method_is_its_fallback(get: HttpRequest) -> None:
    client = Client(transport="stdio", worker_cmd="/none")

    class Items(ClassView):
        text = "here"

        @molt_offload(entry="echo", allow_fallback=True, client=client)
        def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
            return HttpResponse(f"{self.text} {kwargs}")

    with client:
        assert Items.as_view()(get, a=1).content == b"here {'a': 1}"


def test_a_view_takes_its_request_by_name(
    offloaded: MakeView, inline_client: Client, get: HttpRequest
) -> None:
    view = offloaded(entry="echo", client=inline_client, payload_builder=lambda request, **others: others)
    assert view(request=get, a=1).content == b'{"a":1}'


def test_annotations_that_are_texts_are_those_of_the_view() -> None:
    class Known: ...

    def view(request: "HttpRequest", number: "int") -> None: ...

    def unknown(request: "HttpRequest", known: "Known", never: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    decorated = molt_offload(entry="echo")(view)
    parameters = decorated.__signature__.parameters.values()  # type: ignore[attr-defined]
    assert [each.annotation for each in parameters] == [HttpRequest, int]
    assert not hasattr(molt_offload(entry="echo")(unknown), "__signature__")
