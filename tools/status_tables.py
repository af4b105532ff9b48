"""Write the tables of status words in README.rst from the code's. ``make tables`` runs it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.provider_info import SYSTEMS

README = Path(__file__).resolve().parent.parent / "README.rst"


def status_table(system: str) -> str:
    """Return a system's table as it stands in README.rst."""
    module: Any = import_module(f"airflow_provider_runs.{system}.api")
    name = module.CONNECTION.hook_name
    statuses = getattr(module, f"{name}RunApi").statuses
    rows = [("Word", "State")]
    rows += [(f"``{word}``", state.value) for state in RunState for word in statuses.words(state)]
    lines = [f".. list-table:: {name} status words", "   :header-rows: 1", ""]
    for word, meaning in rows:
        lines += [f"   * - {word}", f"     - {meaning}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Replace the table of each system; one that is not there is an error."""
    text = README.read_text()
    for system in SYSTEMS:
        table = status_table(system)
        title = table.splitlines()[0]
        text, replaced = re.subn(rf"^{re.escape(title)}\n(?:(?: +.*)?\n)+?(?=\n\S)", table, text, flags=re.M)
        if replaced != 1:
            raise SystemExit(f"README.rst has {replaced} times {title!r}, not once")
    README.write_text(text)


if __name__ == "__main__":
    main()
