"""What all tests share: an Airflow that touches nothing outside a temporary folder, and a task's context."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Before anything imports Airflow, which reads them once.
_home = tempfile.mkdtemp(prefix="airflow-provider-runs-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["AIRFLOW_HOME"] = _home
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for name in tuple(os.environ):
    if name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_")):
        del os.environ[name]
