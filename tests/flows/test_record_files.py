"""Files of runs/ that somebody edited: no shape of them is a traceback."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from afd.config import Params
from afd.params import load_params
from afd.store import StoreError
from flows import alarm_log
from flows.commands.display import results_table
from flows.commands.page_server import _score
from flows.paths import refuse_other_params, save_params
from flows.progress import stage_progress
from tests.flows.conftest import PARAMS

OTHER = [b"", b"{", b"[]", b"3", b"null", b'"x"', b"{}", b"[" * 5000, b"9" * 5000]
WRONG = [b'{"rounds": 3}', b'{"rounds": ["x"]}', b'{"metrics": []}', b'{"metrics": {"a": 3}}']
WRONG += [b'{"done": "x", "total": null}', b'{"round": 0, "ends": "pauses"}', b'{"a": ["b"]}']


@pytest.mark.parametrize("content", [*OTHER, *WRONG], ids=lambda content: repr(content[:20]))
def test_a_file_of_another_shape_is_none_or_named_with_its_cure(
    tmp_path: Path, content: bytes
) -> None:
    params = load_params(Params, PARAMS)
    save_params(tmp_path, params)
    (tmp_path / "decisions").mkdir()
    names = ["contents.json", "summary.json", "acknowledged.json", "progress.json"]
    for name in [*names, "decisions/000.json"]:
        (tmp_path / name).write_bytes(content)
    assert alarm_log.acknowledged(tmp_path) == frozenset()
    assert alarm_log.records(tmp_path) == []
    assert alarm_log.paused_after(tmp_path) is None
    assert _score(tmp_path) == ""
    store: Any = SimpleNamespace(work_path=lambda _: tmp_path)
    request: Any = SimpleNamespace(output=None)
    assert stage_progress(store, request) is None
    cure = "damaged; remove it and run the same command again"
    with pytest.raises(StoreError, match=rf"summary\.json: {cure}"):
        results_table(tmp_path / "summary.json")
    if content not in (b"{}", b'{"done": "x", "total": null}'):  # those are contents
        with pytest.raises(StoreError, match=rf"contents\.json: {cure}"):
            refuse_other_params(tmp_path, params.model_copy(update={"seed": 5}))
