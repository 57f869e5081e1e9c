import json
import math

import pytest

from avcore.engine.files import read_json, write_atomic, write_json
from avcore.errors import AVCoreError


def test_json_holds_null_where_a_number_is_not_finite(tmp_path):
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [1.5, -math.inf], "z": {"ü": 1}})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [1.5, None], "z": {"ü": 1}}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": True})

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avcore.engine.files.os.replace", fail)
    with pytest.raises(AVCoreError, match=r"a\.json: No space left on device"):
        write_atomic(path, b"{}")
    assert json.loads(path.read_text()) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_damaged_and_missing_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(AVCoreError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(AVCoreError, match=r"Cannot read .*b\.json"):
        read_json(tmp_path / "b.json")
