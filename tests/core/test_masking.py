"""A secret is masked however it is written."""

from __future__ import annotations

import html
import json
import re
from time import thread_time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.masking import mask, proxy_secrets
from airflow_provider_runs.core.text import READ_CHARACTERS, excerpt, one_line
from tests.core.conftest import Service

ODD = "p\"a<s>s'w&o%r/d+ü\\n\\\\ \U0001f600~\n#;:="


def lower(text: str) -> str:
    return re.sub("%..", lambda found: found[0].lower(), text)


WAYS = {
    "verbatim": str,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded in lower case": lambda text: lower(quote(text, safe="")),
    "percent-encoded but for slashes": quote,
    "as a form": quote_plus,
    "as a form in lower case": lambda text: lower(quote_plus(text)),
    "percent-encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in upper case": lambda text: re.sub(
        r"\\u....", lambda found: "\\u" + found[0][2:].upper(), json.dumps(text)[1:-1]
    ),
    "JSON in Unicode": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON of Go": lambda text: (
        json.dumps(text)[1:-1].replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    ),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "repr": lambda text: repr("'\"" + text)[4:-1],
    "ascii": lambda text: ascii("'\"" + text)[4:-1],
    "repr of bytes": lambda text: repr(b"'\"" + text.encode())[5:-1],
    "repr of JSON": lambda text: repr("'\"" + json.dumps(text)[1:-1])[4:-1],
    "HTML": html.escape,
    "HTML of a text": lambda text: html.escape(text, quote=False),
    "HTML of Jinja": lambda text: html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    "HTML with references": lambda text: html.escape(text).encode("ascii", "xmlcharrefreplace").decode(),
    "HTML with names": lambda text: html.escape(text).replace("ü", "&uuml;").replace("&#x27;", "&apos;"),
    "HTML twice": lambda text: html.escape(html.escape(text)),
    "HTML of JSON": lambda text: html.escape(json.dumps(text)[1:-1]),
    "JSON of HTML": lambda text: json.dumps(html.escape(text))[1:-1],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("secret", [ODD, "plain-secret_1.2", "a b", "'", "\\", 'x"y', "a\\\\b"])
def test_a_secret_is_masked_in_whatever_way_it_is_written(way: object, secret: str) -> None:
    written = way(secret)  # type: ignore[operator]
    assert mask(f"before {written} after", (secret,)) == "before *** after"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), st.sampled_from(sorted(WAYS))
)
def test_no_secret_is_shown(secret: str, way: str) -> None:
    written = WAYS[way](secret)  # type: ignore[operator]
    assert (
        mask(f"<{written}>", (secret,)).replace("***", "") in ("<>", "<" + "*" * 3 + ">") or secret in "<>*"
    )


def test_what_is_no_secret_stays() -> None:
    assert mask("a.b axb a%2eb", ("a.b",)) == "*** axb a%2eb"
    assert mask("anything", ()) == "anything"


def test_the_longer_of_two_secrets_is_masked_first() -> None:
    assert mask("hush hush2", ("hush", "hush2")) == "*** ***"


def test_a_text_of_nothing_but_backslashes_takes_no_time() -> None:
    assert "*" not in mask("\\" * 5000, ('p"a', "\\" * 10 + "x"))


def test_a_text_made_to_be_slow_takes_no_time_where_it_holds_nothing_of_a_secret() -> None:
    began = thread_time()
    for text, secret in (("&" * 60_000, "&&&&ab"), ("\\" * 60_000, "/+ab")):
        assert mask(text, (secret,)) == text
    assert thread_time() - began < 1


@pytest.mark.parametrize(
    ("proxy", "secrets"),
    [
        ("http://user:pw@host:80", ["pw"]),
        ("http://user:pw@host:typo", ["pw"]),
        ("http://user:p%40w@host", ["p%40w", "p@w"]),
        ("user:pw@host", ["pw"]),
        ("http://user:p/w@host", ["p/w"]),
        ("http://user:p@w@host", ["p@w"]),
        ("http://user@host", []),
        ("http://host:80", []),
        ("", []),
    ],
)
def test_a_proxys_password_is_known_however_malformed_it_is(proxy: str, secrets: list[str]) -> None:
    assert list(proxy_secrets(proxy)) == secrets


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY", "ftp_proxy"])
def test_the_passwords_of_the_environments_proxies_are_masked(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    api = Service(Settings("c", "http://host", extra={"proxy": "http://user:own@proxy:1"}))
    monkeypatch.setenv(name, "http://user:hush@host:typo")
    assert api.redact("no hush, own") == "no ***, ***"


# Before it is cut


@pytest.mark.parametrize("before", [0, 100, READ_CHARACTERS - 20, READ_CHARACTERS - 5, READ_CHARACTERS])
@pytest.mark.parametrize("filler", [" ", "x", "\n \t"])
def test_no_half_of_a_secret_is_shown_however_long_the_text_is(before: int, filler: str) -> None:
    secret = "hush-hush-hush-hush"
    text = (filler * before)[:before] + secret + filler * READ_CHARACTERS
    for shown in (
        one_line(text, lambda part: mask(part, (secret,))),
        excerpt(text.encode(), lambda part: mask(part, (secret,))),
        excerpt(text.encode()[:READ_CHARACTERS], lambda part: mask(part, (secret,))),
    ):
        assert "hush" not in shown


def test_a_long_text_is_read_as_far_as_it_is_shown() -> None:
    seen: list[int] = []

    def redact(text: str) -> str:
        seen.append(len(text))
        return text

    assert one_line("x" * 10**7, redact, limit=10) == "x" * 10 + "..."
    assert excerpt(b"x" * 10**7, redact, limit=10) == "x" * 10 + "..."
    assert seen == [READ_CHARACTERS] * 2
