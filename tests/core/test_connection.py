from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_runs.core.connection import Certificates, Settings, read_settings
from airflow_provider_runs.core.errors import BadInput
from tests.core.conftest import SPEC
from tests.covering import covering

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
host_like = st.lists(
    st.sampled_from(
        ["http://", "https://", "a.b", ":", "8080", "/", "[::1]", "[", "]", "@", "?", "#", "%", " "]
    ),
    max_size=6,
).map("".join)


def read(**fields: Any) -> Settings:
    return read_settings(SPEC, conn_id="testing_default", **fields)


# The address


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "host"}, "http://host"),
        ({"host": " host "}, "http://host"),
        ({"host": "host:81"}, "http://host:81"),
        ({"host": "host:"}, "http://host"),
        ({"host": "host/"}, "http://host"),
        ({"host": "host/prefix/"}, "http://host/prefix"),
        ({"host": "host/prefix", "port": 81}, "http://host:81/prefix"),
        ({"host": "http://host"}, "http://host"),
        ({"host": "https://host/a/b//"}, "https://host/a/b"),
        ({"host": "HTTPS://host"}, "https://host"),
        ({"host": "host", "schema": "https"}, "https://host"),
        ({"host": "host", "schema": "HTTPS"}, "https://host"),
        ({"host": "http://host", "schema": "https"}, "http://host"),
        ({"host": "host", "port": 81}, "http://host:81"),
        ({"host": "host", "port": "81"}, "http://host:81"),
        ({"host": "host", "port": "0081"}, "http://host:81"),
        ({"host": "host:82", "port": 81}, "http://host:82"),
        ({"host": "http://host", "port": 81}, "http://host:81"),
        ({"host": "127.0.0.1", "port": 65535}, "http://127.0.0.1:65535"),
        ({"host": "[::1]"}, "http://[::1]"),
        ({"host": "[::1]", "port": 81}, "http://[::1]:81"),
        ({"host": "[::1]:82", "port": 81}, "http://[::1]:82"),
        ({"host": "https://[fe80::1]:82/x/"}, "https://[fe80::1]:82/x"),
    ],
)
def test_an_address_is_put_together(fields: dict[str, Any], base_url: str) -> None:
    assert read(**fields).base_url == base_url


@pytest.mark.parametrize(("port", "schema"), covering([None, "", " ", 0, "0", "00"], [None, "", " "]))
def test_an_empty_field_is_not_set(port: object, schema: object) -> None:
    empty = read(host="host", port=port, schema=schema, login="", password=" ", extra="")
    assert empty == Settings("testing_default", "http://host", None, None, {})


@pytest.mark.parametrize("host", [None, "", "  "])
def test_an_empty_host_is_the_default_one_if_there_is_one(host: object) -> None:
    with pytest.raises(BadInput, match="connection 'testing_default': the host is not set"):
        read(host=host)
    default = replace(SPEC, default_host="https://api.example.com")
    assert read_settings(default, conn_id="c", host=host).base_url == "https://api.example.com"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"host": "ftp://host"}, "the scheme must be http or https, not 'ftp'"),
        ({"host": "host", "schema": "postgres"}, "the scheme must be http or https"),
        ({"host": "http://user:hush@host"}, "credentials belong in login and password"),
        ({"host": "user@host"}, "credentials belong in login and password"),
        ({"host": "host?a=hush"}, "must not carry a query or a fragment"),
        ({"host": "host#part"}, "must not carry a query or a fragment"),
        ({"host": "http://"}, "not a valid address"),
        ({"host": "http://:80"}, "not a valid address"),
        ({"host": "ho st"}, "not a valid address"),
        ({"host": "ho\nst"}, "not a valid address"),
        ({"host": "ho\x00st"}, "not a valid address"),
        ({"host": "::1"}, "not a valid address"),
        ({"host": "[::1"}, "not a valid address"),
        ({"host": "host:port"}, "not a valid address"),
        ({"host": "host:99999"}, "not a valid address"),
        ({"host": "host", "port": 65536}, "the port must be a number up to 65535"),
        ({"host": "host", "port": "http"}, "the port must be a number up to 65535"),
        ({"host": "host", "port": -1}, "the port must be a number up to 65535"),
        ({"host": "host", "port": "²"}, "the port must be a number up to 65535"),
        ({"host": "host", "port": "9" * 5000}, "the port must be a number up to 65535"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=f"connection 'testing_default': .*{reason}") as caught:
        read(**fields)
    assert "hush" not in str(caught.value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "host": st.just("host") | host_like | values,
            "schema": st.sampled_from(["http", "https"]) | values,
            "port": st.integers(0, 70_000) | values,
            "login": values,
            "password": values,
            "extra": values,
        },
    )
)
def test_whatever_a_connection_holds_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        settings = read(**fields)
    except BadInput:
        return
    parts = urlsplit(settings.base_url)
    assert parts.scheme in {"http", "https"} and parts.hostname
    assert not (parts.username or parts.query or parts.fragment or parts.path.endswith("/"))
    assert settings.login != "" and settings.password != ""
    assert all(value is not None and value != "" for value in settings.extra.values())


# The extra


@pytest.mark.parametrize("extra", [None, "", " ", "{}", {}, "null"])
def test_an_empty_extra_has_no_fields(extra: object) -> None:
    assert read(host="host", extra=extra).extra == {}


def test_fields_of_the_extra_that_are_empty_are_not_set() -> None:
    extra = {"region": "eu", "own_token": "", "a": None, "b": "  ", "c": 0, "d": False}
    expected = {"region": "eu", "c": 0, "d": False}
    assert read(host="host", extra=extra).extra == expected
    assert read(host="host", extra=json.dumps(extra)).extra == expected


@pytest.mark.parametrize("extra", ["{", "hush", '["hush"]', '"hush"', ["hush"], 7])
def test_an_extra_that_is_no_object_is_refused_without_being_shown(extra: object) -> None:
    with pytest.raises(BadInput, match="connection 'testing_default': the extra") as caught:
        read(host="host", extra=extra)
    assert "hush" not in str(caught.value)


@given(values)
@example(10**400)
@example("[" * 100_000)
@example("9" * 5000)
def test_whatever_an_extra_holds_is_read_or_refused(value: Any) -> None:
    for extra in (value, {"f": value}, {"f": [value]}):
        with contextlib.suppress(BadInput):
            read(host="host", extra=extra).text("f")
        with contextlib.suppress(BadInput):
            assert 0 < read(host="host", extra=extra).number("f", 5.0) < float("inf")


@pytest.mark.parametrize(
    ("value", "text"), [("eu", "eu"), (" eu ", "eu"), (7, "7"), (0.5, "0.5"), (None, None), ("", None)]
)
def test_a_field_is_read_as_text(value: object, text: str | None) -> None:
    assert read(host="host", extra={"region": value}).text("region") == text


@pytest.mark.parametrize("value", [True, [], {}, ["hush"]])
def test_a_field_that_is_no_text_is_refused_without_being_shown(value: object) -> None:
    with pytest.raises(BadInput, match="field 'region' must be text, not ") as caught:
        read(host="host", extra={"region": value}).text("region")
    assert "hush" not in str(caught.value)


def test_a_missing_number_is_its_default() -> None:
    assert read(host="host").number("request_timeout", 30) == 30


@pytest.mark.parametrize(("value", "number"), [(5, 5), ("5", 5), (" 0.5 ", 0.5), (1e9, 1e9)])
def test_a_field_is_read_as_number(value: object, number: float) -> None:
    assert read(host="host", extra={"request_timeout": value}).number("request_timeout", 30) == number


@pytest.mark.parametrize("value", [0, -1, "hush", True, False, [], {}, float("nan"), float("inf"), 10**400])
def test_a_field_that_is_no_number_above_0_is_refused_without_being_shown(value: object) -> None:
    with pytest.raises(BadInput, match="field 'request_timeout' must be a number above 0") as caught:
        read(host="host", extra={"request_timeout": value}).number("request_timeout", 30)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        (None, None),
        ("", None),
        ("proxy.example.com:3128", "http://proxy.example.com:3128"),
        (" https://me:secret@proxy.example.com ", "https://me:secret@proxy.example.com"),
    ],
)
def test_a_proxy_is_read_as_url(value: object, url: str | None) -> None:
    assert read(host="host", extra={"proxy": value}).proxy() == url


@pytest.mark.parametrize("value", ["socks5://hush:1", "http://hush:port", "http://:1", "http://[hush"])
def test_a_proxy_that_cannot_be_used_is_refused_without_being_shown(value: object) -> None:
    with pytest.raises(BadInput, match="field 'proxy' must be the URL of an HTTP proxy") as caught:
        read(host="host", extra={"proxy": value}).proxy()
    assert "hush" not in str(caught.value)


def test_settings_show_no_secret() -> None:
    shown = repr(read(host="host", login="me", password="hush", extra={"own_token": "hush"}))
    assert shown == "Settings('testing_default', 'http://host')"


# The form


def test_a_connection_type_describes_its_form() -> None:
    shown = SPEC.provider_info("path.to.Hook")
    fields = shown.pop("conn-fields")
    assert shown == {
        "connection-type": "testing",
        "hook-name": "Testing",
        "hook-class-name": "path.to.Hook",
        "ui-field-behaviour": {
            "hidden-fields": ["schema"],
            "relabeling": {"host": "Server"},
            "placeholders": {"host": "http://testing.example.com"},
        },
    }
    assert {name: fields.pop(name) for name in ("region", "own_token")} == {
        "region": {
            "label": "Region",
            "description": "Where the runs are.",
            "schema": {"type": ["string", "null"]},
        },
        "own_token": {
            "label": "Own token",
            "description": "",
            "schema": {"type": ["string", "null"], "format": "password"},
        },
    }
    assert {name: (field["schema"]["type"][0], field["label"]) for name, field in fields.items()} == {
        "proxy": ("string", "Proxy"),
        "ca_bundle": ("string", "CA bundle"),
        "client_cert": ("string", "Client certificate"),
        "client_key": ("string", "Client key"),
        "connect_timeout": ("number", "Connect timeout"),
        "request_timeout": ("number", "Request timeout"),
        "max_requests_per_minute": ("integer", "Requests per minute"),
    }
    assert fields["request_timeout"]["description"].endswith("Empty: 30.")
    longer = replace(SPEC, request_timeout=60.0).provider_info("path.to.Hook")
    assert longer["conn-fields"]["request_timeout"]["description"].endswith("Empty: 60.")


@pytest.mark.parametrize("value", ["none", " None "])
def test_no_proxy_may_be_said_in_words(value: str) -> None:
    settings = read(host="host", extra={"proxy": value})
    assert settings.proxy() is None and settings.extra == {}


def test_a_client_key_needs_its_certificate() -> None:
    files = {"ca_bundle": "/a.pem", "client_cert": "/b.pem", "client_key": "/c.pem"}
    assert read(host="host", extra=files).certificates() == Certificates("/a.pem", "/b.pem", "/c.pem")
    assert read(host="host").certificates() == Certificates()
    with pytest.raises(BadInput, match="field 'client_key' needs 'client_cert'"):
        read(host="host", extra={"client_key": "/c.pem"}).certificates()
