from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.errors import ApiError
from airflow_provider_runs.core.http import Request, Response, read_object
from airflow_provider_runs.core.text import excerpt, one_line, printable

plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
    max_leaves=5,
)


def test_a_request_shows_its_method_and_path_only() -> None:
    request = Request("GET", "http://host:1/api/runs/7", params={"token": "hush"})
    assert str(request) == "GET /api/runs/7"


def test_the_text_of_an_answer_is_readable_whatever_its_bytes() -> None:
    assert Response(200, body="ü".encode()).text == "ü"
    assert Response(200, body=b"a\xffb").text == "a\ufffdb"


@given(trees, st.booleans())
def test_json_comes_back_as_it_was_written(value: object, spelled_out: bool) -> None:
    assert Response(200, body=json.dumps(value, ensure_ascii=spelled_out).encode()).json == value


@given(st.binary())
def test_any_bytes_are_json_or_none(body: bytes) -> None:
    try:
        expected = json.loads(body.decode("utf-8-sig"))
    except ValueError:
        expected = None
    parsed = Response(200, body=body).json
    assert parsed == expected or parsed != parsed


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{", b"\xff", b"[" * 200_000, b"9" * 5000], ids=lambda body: repr(body[:6])
)
def test_a_body_that_is_no_json_is_none(body: bytes) -> None:
    assert Response(200, body=body).json is None


def test_json_after_a_byte_order_mark_is_json() -> None:
    assert Response(200, body=b'\xef\xbb\xbf{"a": 1}').json == {"a": 1}


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    value = Response(200, body=rb'{"a\ud800": ["b\udfff", "\ud83d\ude00"]}').json
    assert value == {"a?": ["b?", "\U0001f600"]}
    json.dumps(value, ensure_ascii=False).encode()


def test_an_object_is_read() -> None:
    assert read_object(Response(200, body=b'{"a": 1}'), "Testing") == {"a": 1}


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"text"', b"<html>Bad gateway</html>"])
def test_any_other_body_is_a_passing_error(body: bytes) -> None:
    with pytest.raises(
        ApiError, match="Testing answered 200 with a body that is not a JSON object"
    ) as caught:
        read_object(Response(200, body=body), "Testing")
    assert (caught.value.status, caught.value.permanent) == (200, False)


def test_an_error_about_a_body_masks_its_secrets() -> None:
    with pytest.raises(ApiError) as caught:
        read_object(Response(200, body=b"<p>hush</p>"), "Testing", lambda text: text.replace("hush", "***"))
    assert str(caught.value).endswith("<p>***</p>")


@pytest.mark.parametrize("name", ["token", "access_token", "t\x00oken", "my token", "API_KEY ", "x-secret"])
def test_an_excerpt_shows_no_value_that_is_secret_by_its_name(name: str) -> None:
    body = f'{{"status": "fine", "{name}": "hush", "tokens": 5}}'
    for encoding in ("utf-8", "utf-16-le"):
        shown = excerpt(body.encode(encoding))
        assert "hush" not in shown and '"***"' in shown and '"fine"' in shown and "5" in shown


def test_an_excerpt_is_one_short_line() -> None:
    assert excerpt(b"a\n  b\tc\r\n") == "a b c"
    assert excerpt(b"x" * 300) == "x" * 200 + "..."
    assert excerpt(b" \n ") == "(empty)"


@pytest.mark.parametrize(
    "name", ["token", "access_token", "clientSecret", "password", "Authorization", "api_key"]
)
def test_an_excerpt_masks_what_is_secret_by_its_name(name: str) -> None:
    for body in (json.dumps({name: 'hu"sh', "a": 1}), repr({name: "hush", "a": 1}), f'{{"{name}": "hush and'):
        assert "hu" not in excerpt(body.encode()).replace('"a"', "")


@given(plain, st.integers(1, 50))
def test_a_text_in_one_line_is_printable_and_bounded(text: str, limit: int) -> None:
    line = one_line(text, limit=limit)
    assert len(line) <= limit + 3
    assert not set(line) & set("\n\r\t\x00\x1b\x7f")


def test_a_secret_is_masked_before_the_line_is_cut() -> None:
    assert one_line("xxxx hush", lambda text: text.replace("hush", "***"), limit=7) == "xxxx **..."


def test_colours_and_control_characters_are_left_out() -> None:
    line = "\x1b[31mERROR\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07\x1b[2K in \tmodel\x07 "
    assert printable(line) == "ERROR link in   model"
