"""The connection form for Airflow before 3.2, made from the same specification as the declared one."""

from __future__ import annotations

from typing import Any

from airflow import __version__ as airflow_version
from packaging.version import Version

from airflow_provider_runs.core.connection import ConnectionSpec

DECLARED_FORMS = Version(Version(airflow_version).base_version) >= Version("3.2.0")


def add_form_methods(hook: type, spec: ConnectionSpec) -> None:
    """
    Give a hook class the two methods that older Airflow looks for in the class itself.

    :param hook: the class.
    :param spec: its connection type.
    """
    if DECLARED_FORMS:
        return

    def get_connection_form_widgets() -> dict[str, Any]:
        return _widgets(spec)

    def get_ui_field_behaviour() -> dict[str, Any]:
        behaviour: dict[str, Any] = spec.provider_info("")["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    hook.get_connection_form_widgets = staticmethod(get_connection_form_widgets)  # type: ignore[attr-defined]
    hook.get_ui_field_behaviour = staticmethod(get_ui_field_behaviour)  # type: ignore[attr-defined]


def _widgets(spec: ConnectionSpec) -> dict[str, Any]:
    from flask_appbuilder.fieldwidgets import (  # type: ignore[import-not-found]
        BS3PasswordFieldWidget,
        BS3TextFieldWidget,
    )
    from wtforms import BooleanField, StringField  # type: ignore[import-untyped]

    widgets: dict[str, Any] = {}
    for field in spec.fields:
        if field.type == "boolean":
            widgets[field.name] = BooleanField(field.label, description=field.description)
        else:
            widget = BS3PasswordFieldWidget() if field.secret else BS3TextFieldWidget()
            widgets[field.name] = StringField(field.label, widget=widget, description=field.description)
    return widgets
