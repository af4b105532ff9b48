from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.api import Token, header_text
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.http import Response
from tests.core.conftest import Service, TokenService
from tests.covering import brief, covering
from tests.play import play

BASE = "http://host"


def service(kind: type[Service] = Service, **settings: object) -> Service:
    return kind(Settings("testing_default", BASE, **settings))  # type: ignore[arg-type]


# Tokens


@pytest.mark.parametrize(
    ("lifetime", "age", "remaining"),
    [
        pytest.param(3600, 0, 3540, id="a minute before the end"),
        pytest.param(3600, 3540, 0, id="due"),
        pytest.param(3600, 4000, -460, id="overdue"),
        pytest.param(60, 0, 30, id="at half of a short life"),
        pytest.param(120, 0, 60, id="where both are the same"),
    ],
)
def test_a_token_is_renewed_before_its_end(lifetime: float, age: float, remaining: float) -> None:
    assert Token("T", 1000.0, lifetime).remaining(1000.0 + age) == remaining


def test_a_token_does_not_show_its_value() -> None:
    assert "hush" not in repr(Token("hush", 0, 0))


def test_a_token_is_fresh_as_long_as_asked_for() -> None:
    api = Service(Settings("c", BASE), now=lambda: 1000.0)
    assert not api.token_is_fresh(0)
    api.token = Token("T", 1000.0, 3600)
    assert api.token_is_fresh(3539) and not api.token_is_fresh(3540)


def test_a_service_without_authentication_asks_and_sends_nothing_for_it() -> None:
    api = service()
    assert not api.authenticates() and api.auth_headers() == {}
    assert play(api.authenticate()) == ([], None)


def test_a_token_is_kept_by_the_service() -> None:
    api = TokenService(Settings("c", BASE), now=lambda: 7.0)
    (request,), _ = play(api.authenticate(), Response(200, body=b'{"token": "T"}'))
    assert (request.url, request.authenticated) == (f"{BASE}/token", False)
    assert (api.token, api.auth_headers()) == (Token("T", 7.0, 3600), {"Authorization": "Bearer T"})


# What a service is made from


def test_a_scope_holds_only_what_the_service_knows() -> None:
    assert Service(Settings("c", BASE), {"region": "eu"}).scope == {"region": "eu"}
    with pytest.raises(BadInput, match="Testing runs have no planet, star"):
        Service(Settings("c", BASE), {"star": "x", "planet": "y", "region": "eu"})


@pytest.mark.parametrize("value", ["", "a\nb", "ü", None, 7])
def test_a_scope_holds_only_what_fits_into_a_header(value: object) -> None:
    with pytest.raises(BadInput, match="region must be a text of printable ASCII"):
        Service(Settings("c", BASE), {"region": value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("extra", "timeout", "cap"),
    [
        ({}, 30, 100_000),
        ({"request_timeout": "5", "max_requests_per_minute": 90}, 5, 90),
        ({"request_timeout": 0.5, "max_requests_per_minute": "0.5"}, 0.5, 0.5),
    ],
)
def test_limits_come_from_the_connection(extra: dict[str, object], timeout: float, cap: float) -> None:
    api = service(extra=extra)
    assert (api.request_timeout, api.max_requests_per_minute) == (timeout, cap)


@pytest.mark.parametrize(
    ("name", "value"),
    covering(["request_timeout", "max_requests_per_minute"], [0, -1, "soon", True, "nan", "inf", 10**400]),
    ids=brief,
)
def test_a_limit_must_be_a_number_above_0(name: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"'testing_default': field '{name}' must be a number above 0"):
        service(extra={name: value})


def test_arguments_are_checked_before_anything_is_sent() -> None:
    class Picky(Service):
        def trigger_body(self, arguments: object, key: str | None) -> dict[str, object]:
            raise BadInput("no good")

    with pytest.raises(BadInput, match="no good"):
        service(Picky).prepare({})
    service().prepare({"a": 1})


# Secrets


def test_every_secret_is_masked_in_texts() -> None:
    api = service(password="pass word", extra={"own_token": " tok-1 ", "region": "eu"})
    api.token = Token("pass word and more", 0, 0)
    assert set(api.secrets()) == {"pass word", "tok-1", "pass word and more"}
    assert api.redact("in eu: pass word, tok-1, pass word and more") == "in eu: ***, ***, ***"
    assert api.redact("/x?a=pass+word&b=pass%20word") == "/x?a=***&b=***"


def test_without_secrets_a_text_stays_as_it_is() -> None:
    assert service().redact("a text") == "a text"


# Headers


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "a\rb", "a\x00b", "ü", None, 7, b"bytes"])
def test_a_header_holds_printable_ascii_only(value: object) -> None:
    with pytest.raises(BadInput, match=r"^token must be a text"):
        header_text("token", value)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)).filter(str.strip))
def test_a_header_holds_what_was_given_without_surrounding_space(value: str) -> None:
    assert header_text("token", value) == value.strip()


def test_a_start_needs_nothing_looked_up_where_the_service_says_nothing_else() -> None:
    assert play(service().ready({})) == ([], None)


def test_the_password_of_a_proxy_is_a_secret() -> None:
    api = service()
    assert api.redact("p@ss p%40ss") == "p@ss p%40ss"
    api.proxy = "http://me:p%40ss@proxy.example.com"
    assert api.redact("p@ss p%40ss") == "*** ***"
    api.proxy = "http://proxy.example.com"
    assert api.secrets() == ()
