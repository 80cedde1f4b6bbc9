"""Addresses that people are shown."""

from pathlib import Path

import pytest

from flows.commands.mlflow_ui import serve_mlflow
from flows.prefect_runs import pages


def test_the_password_in_mlflows_address_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "https://me:secret@mlflow.example"
    monkeypatch.setattr(pages, "RUN_KNOWN_S", 0.0)
    assert pages.mlflow_link(tmp_path, uri)[0].startswith("https://mlflow.example/#/")
    monkeypatch.setattr("flows.paths.MLFLOW_SERVER", uri)
    serve_mlflow(tmp_path, None, 5000, dry=False)
    assert capsys.readouterr().out.startswith("https://mlflow.example/#/")
