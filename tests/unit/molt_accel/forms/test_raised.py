"""molt_accel.forms.raised: exceptions that Django knows, packed and made again."""

from typing import Any

import pytest
from django.core.exceptions import (
    BadRequest,
    ObjectDoesNotExist,
    PermissionDenied,
    SuspiciousFileOperation,
    ValidationError,
)
from django.http import Http404
from rest_framework.exceptions import APIException, ErrorDetail, NotAuthenticated, Throttled

from molt_accel import codec
from molt_accel.forms import raised
from tests.support.views import _project  # noqa: F401


class Hostile(Http404):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("not even its attributes")


class Broken(APIException):
    """Has never called its base."""

    status_code = 503

    def __init__(self, needed: int) -> None:
        self.detail = "plain"  # type: ignore[assignment]


def sent(error: BaseException) -> Any:
    """The exception as the view gets it, by way of the wire."""
    form = raised.packed(error)
    assert form is not None
    return raised.rebuilt(codec.decode("msgpack", codec.encode("msgpack", form)))


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        (Http404("a"), True),
        (PermissionDenied("a", "b"), True),
        (BadRequest(), True),
        (SuspiciousFileOperation("a"), True),
        (ObjectDoesNotExist("a"), False),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_exception_of_django_is_made_again(error: Exception, refuses: bool) -> None:
    form = raised.packed(error)
    assert form is not None
    assert raised.refuses(form) is refuses
    again = sent(error)
    assert (type(again), again.args) == (type(error), error.args)


@pytest.mark.parametrize(
    "error",
    [
        ValidationError("100% wrong"),
        ValidationError("%(n)s wrong", code="bad", params={"n": 5}),
        ValidationError(["a", ValidationError("b", code="c")]),
        ValidationError({"name": ["a"], "__all__": [ValidationError("b", code="c")]}),
    ],
    ids=str,
)
def test_a_validation_error_keeps_fields_messages_and_codes(error: ValidationError) -> None:
    again = sent(error)
    assert again.messages == error.messages
    assert hasattr(again, "error_dict") is hasattr(error, "error_dict")
    if hasattr(error, "error_dict"):
        assert again.message_dict == error.message_dict
    codes = [[each.code for each in getattr(one, "error_list", ())] for one in (again, error)]
    assert codes[0] == codes[1]


def test_an_exception_of_rest_framework_keeps_status_detail_and_headers() -> None:
    throttled = sent(Throttled(wait=3))
    assert (type(throttled), throttled.wait, throttled.status_code) == (Throttled, 3, 429)
    login = NotAuthenticated()
    login.auth_header = "Basic"  # type: ignore[attr-defined]  # as APIView.handle_exception sets it
    assert sent(login).auth_header == "Basic"
    nested = sent(APIException({"rows": [{"a": ["wrong"]}, {}]}, "bad"))
    assert nested.detail == {"rows": [{"a": ["wrong"]}, {}]}
    assert nested.detail["rows"][0]["a"][0] == ErrorDetail("wrong", "bad")


def test_a_class_with_arguments_of_its_own_is_made_without_them() -> None:
    error = Broken(5)
    form = raised.packed(error)
    assert form is not None
    assert not raised.refuses(form)  # 503 is no refusal
    again = sent(error)
    assert (type(again), again.detail, again.status_code) == (Broken, "plain", 503)


def test_a_class_that_is_not_imported_here_is_its_family_s() -> None:
    form = {**(raised.packed(Http404("a")) or {}), "class": "no.such.module:Missing"}
    assert type(raised.rebuilt(form)) is Http404
    for other in ("os:system", "builtins:SystemExit"):  # of no family
        form["class"] = other
        assert type(raised.rebuilt(form)) is Http404


def test_only_so_much_of_its_arguments_travels_and_always_as_text() -> None:
    error = sent(Http404("x" * 5000, "\udcff", *range(20)))
    assert error.args == ("x" * 1000, "?", *map(str, range(6)))


def test_of_rest_framework_s_state_only_plain_values_travel() -> None:
    throttled = Throttled()
    throttled.wait = object()  # type: ignore[assignment]
    assert sent(throttled).status_code == 429


def test_a_status_from_500_on_is_no_refusal() -> None:
    found = []
    for status in (499, 500):
        error = APIException("a")
        error.status_code = status
        found.append(raised.refuses(raised.packed(error) or {}))
    assert found == [True, False]


#: Of a class that is imported everywhere, but is of no family.
EXIT = {"family": "builtins:SystemExit", "class": "builtins:SystemExit", "args": ["1"]}


@pytest.mark.parametrize("error", [ValueError, Hostile])
def test_other_exceptions_do_not_travel(error: type[Exception]) -> None:
    assert raised.packed(error("a")) is None


@pytest.mark.parametrize(
    "form",
    [None, 5, {}, {"family": "os:system", "class": "os:system", "args": ["true"]}, EXIT, {"family": [1]}],
    ids=str,
)
def test_what_is_no_such_form_is_no_exception(form: object) -> None:
    assert raised.rebuilt(form) is None
