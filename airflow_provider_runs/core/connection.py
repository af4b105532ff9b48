"""A connection: how its form looks, and its fields once read and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.inputs import truth

_PORT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Field:
    """
    One field of a connection's extra.

    :param name: key in the extra.
    :param label: label in the form.
    :param type: JSON type: string, integer, number or boolean.
    :param description: help text; says the unit and what happens if it is left empty.
    :param secret: whether the form masks it.
    """

    name: str
    label: str
    type: str = "string"
    description: str = ""
    secret: bool = False


@lru_cache
def _network_fields(request_timeout: float) -> tuple[Field, ...]:
    """Return the fields that say how the service is reached, the same for every type."""
    return (
        Field(
            "proxy",
            "Proxy",
            description="URL of the proxy for all requests. Empty or none: the environment's.",
            secret=True,
        ),
        Field(
            "ca_bundle",
            "CA bundle",
            description="File (PEM) or folder of authorities to trust beside the usual ones, where Airflow's "
            "workers and triggerer run.",
        ),
        Field(
            "client_cert",
            "Client certificate",
            description="File (PEM) of the certificate to show to the service; it may hold the key, too.",
        ),
        Field("client_key", "Client key", description="File (PEM) of its key, without a passphrase."),
        Field("connect_timeout", "Connect timeout", "number", "Seconds to wait for a connection. Empty: 10."),
        Field(
            "request_timeout",
            "Request timeout",
            "number",
            f"Seconds to wait for the answer to a request. Empty: {request_timeout:g}.",
        ),
        Field(
            "max_requests_per_minute",
            "Requests per minute",
            "integer",
            "Cap on the requests that one triggerer or worker process sends.",
        ),
    )


@dataclass(frozen=True, slots=True)
class ConnectionSpec:
    """
    A connection type.

    :param conn_type: the type as Airflow stores it.
    :param hook_name: the type as people see it.
    :param default_host: host that is used where the connection names none; None makes it required.
    :param default_scheme: ``http`` or ``https``, used where neither host nor schema names one.
    :param relabeling: labels of standard fields.
    :param placeholders: placeholders of standard fields.
    :param hidden: standard fields that the form leaves out.
    :param own_fields: the fields in the extra that only this type has, in the order of the form.
    :param former_fields: members of the extra that earlier versions read: they are ignored, and the log names
        them.
    :param other_names: for standard fields, the members of the extra in which connections of another
        provider of the same service hold them. They count where the standard field is not set.
    :param other_types: types of connections of other providers that can be used as they are.
    :param request_timeout: seconds that the answer to a request may take where the connection says nothing.
    """

    conn_type: str
    hook_name: str
    default_host: str | None
    default_scheme: str
    relabeling: Mapping[str, str] = field(default_factory=dict)
    placeholders: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    own_fields: tuple[Field, ...] = ()
    former_fields: tuple[str, ...] = ()
    other_names: Mapping[str, str] = field(default_factory=dict)
    other_types: tuple[str, ...] = ()
    request_timeout: float = 30.0

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields in the extra, in the order of the form."""
        return (*self.own_fields, *_network_fields(self.request_timeout))

    def provider_info(self, hook_class_name: str) -> dict[str, Any]:
        """
        Return the entry of ``connection-types`` in the provider's metadata.

        :param hook_class_name: dotted path of the hook.
        """
        return {
            "connection-type": self.conn_type,
            "hook-name": self.hook_name,
            "hook-class-name": hook_class_name,
            "ui-field-behaviour": {
                "hidden-fields": list(self.hidden),
                "relabeling": dict(self.relabeling),
                "placeholders": dict(self.placeholders),
            },
            "conn-fields": {
                item.name: {
                    "label": item.label,
                    "description": item.description,
                    "schema": {
                        "type": [item.type, "null"],
                        **({"format": "password"} if item.secret else {}),
                    },
                }
                for item in self.fields
            },
        }


@dataclass(frozen=True, slots=True)
class Certificates:
    """
    Files (PEM) for TLS, beside what every Python program trusts.

    :param ca_bundle: file or folder of authorities to trust.
    :param client_cert: the certificate to show to the service.
    :param client_key: its key; None: in the same file.
    """

    ca_bundle: str | None = None
    client_cert: str | None = None
    client_key: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """
    A connection's fields, read and checked. ``None``, ``""`` and port 0 all mean "not set".

    :param conn_id: the connection's id, for messages.
    :param base_url: scheme, host, port and path prefix, without a slash at the end.
    :param login: user or client id, or None.
    :param password: its secret, or None.
    :param extra: the extra's fields that are set.
    """

    conn_id: str
    base_url: str
    login: str | None = None
    password: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Settings({self.conn_id!r}, {self.base_url!r})"

    def text(self, name: str) -> str | None:
        """
        Return a field of the extra as text, None where it is not set.

        :param name: the field.
        :raises BadInput: if it is neither text nor a number.
        """
        value = self.extra.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self._wrong(name, "text")
        return str(value).strip()

    def number(self, name: str, default: float) -> float:
        """
        Return a field of the extra as a number above zero.

        :param name: the field.
        :param default: what it is where it is not set.
        :raises BadInput: if it is anything else.
        """
        value = self.extra.get(name)
        if value is None:
            return default
        try:
            number = float(value) if not isinstance(value, bool) else 0.0
        except (TypeError, ValueError, OverflowError):
            number = 0.0
        if not 0 < number < float("inf"):
            raise self._wrong(name, "a number above 0")
        return number

    def flag(self, name: str) -> bool:
        """
        Return a field of the extra as yes or no; no where it is not set.

        :param name: the field.
        :raises BadInput: if it is neither.
        """
        chosen = truth(self.extra.get(name, False))
        if chosen is None:
            raise self._wrong(name, "true or false")
        return chosen

    def proxy(self) -> str | None:
        """
        Return the URL in the field ``proxy``, None where it is not set.

        :raises BadInput: if it is no such URL.
        """
        given = self.text("proxy")
        if given is None:
            return None
        url = given if "://" in given else f"http://{given}"
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            usable = None
        if not usable:
            raise self._wrong("proxy", "the URL of an HTTP proxy")
        return url

    def certificates(self) -> Certificates:
        """
        Return the files that TLS uses.

        :raises BadInput: if there is a key without a certificate.
        """
        files = Certificates(self.text("ca_bundle"), self.text("client_cert"), self.text("client_key"))
        if files.client_key and not files.client_cert:
            raise BadInput(f"connection {self.conn_id!r}: field 'client_key' needs 'client_cert'")
        return files

    def _wrong(self, name: str, wanted: str) -> BadInput:
        shown = type(self.extra[name]).__name__
        return BadInput(f"connection {self.conn_id!r}: field {name!r} must be {wanted}, not {shown}")


def read_settings(
    spec: ConnectionSpec,
    *,
    conn_id: str,
    host: object = None,
    schema: object = None,
    port: object = None,
    login: object = None,
    password: object = None,
    extra: object = None,
) -> Settings:
    """
    Check a connection's raw fields, as Airflow's form, environment or API left them.

    :param spec: the connection's type.
    :param conn_id: the connection's id, for messages.
    :param host: host with or without scheme, port and path prefix.
    :param schema: ``http`` or ``https`` for a host without a scheme.
    :param port: port for a host without one; 0 is none.
    :param login: user or client id.
    :param password: its secret.
    :param extra: the extra as a mapping or as JSON text.
    :raises BadInput: if a field cannot be used; the message names it and never shows a secret.
    """
    members = _read_extra(conn_id, extra)
    if str(members.get("proxy", "")).strip().lower() == "none":
        del members["proxy"]
    standard = {"host": host, "schema": schema, "port": port, "login": login, "password": password}
    given = {name: _set(value) for name, value in standard.items()}
    for name, member in spec.other_names.items():
        other = members.pop(member, None)
        given[name] = given[name] or _set(other)
    return Settings(
        conn_id=conn_id,
        base_url=_base_url(spec, conn_id, given["host"], given["schema"], given["port"]),
        login=given["login"],
        password=given["password"],
        extra=members,
    )


def _set(value: object) -> str | None:
    text = "" if value is None else str(value).strip()
    return text or None


def _read_extra(conn_id: str, extra: object) -> dict[str, Any]:
    if isinstance(extra, str):
        try:
            extra = json.loads(extra) if extra.strip() else None
        except (ValueError, RecursionError):
            raise BadInput(f"connection {conn_id!r}: the extra is not valid JSON") from None
    if not extra:
        return {}
    if not isinstance(extra, Mapping):
        raise BadInput(f"connection {conn_id!r}: the extra must be a JSON object")
    return {
        str(name): value
        for name, value in extra.items()
        if value is not None and not (isinstance(value, str) and not value.strip())
    }


def _base_url(
    spec: ConnectionSpec, conn_id: str, host: str | None, schema: str | None, port: str | None
) -> str:
    host = host or spec.default_host
    if host is None:
        raise BadInput(f"connection {conn_id!r}: the host is not set")
    if "://" not in host:
        host = f"{schema or spec.default_scheme}://{host}"
    parts = _parts_of(conn_id, host)
    netloc = parts.netloc.rstrip(":")
    if parts.port is None and (number := _port_number(conn_id, port)):
        netloc = f"{netloc}:{number}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def _parts_of(conn_id: str, host: str) -> SplitResult:
    """Return the parts of an address that can be asked."""
    try:
        parts = urlsplit(host)
        parts.port  # noqa: B018 - only then is it looked at
    except ValueError:
        raise BadInput(f"connection {conn_id!r}: the host is not a valid address") from None
    if parts.scheme not in {"http", "https"}:
        raise BadInput(f"connection {conn_id!r}: the scheme must be http or https, not {parts.scheme!r}")
    if parts.username is not None or parts.password is not None:
        raise BadInput(f"connection {conn_id!r}: credentials belong in login and password, not in the host")
    if not parts.hostname or any(character.isspace() or not character.isprintable() for character in host):
        raise BadInput(f"connection {conn_id!r}: the host is not a valid address")
    if parts.query or parts.fragment:
        raise BadInput(f"connection {conn_id!r}: the host must not carry a query or a fragment")
    return parts


def _port_number(conn_id: str, port: str | None) -> int:
    """Return the number of a port; 0: none is set."""
    if port is None:
        return 0
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise BadInput(f"connection {conn_id!r}: the port must be a number up to 65535")
    return int(port)
