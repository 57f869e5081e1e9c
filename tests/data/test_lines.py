"""Text files as people have them."""

from pathlib import Path

import pytest

from avcore.data.lines import read_lines
from avcore.errors import DataError


def test_a_mark_line_ends_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeff Bär&1 \r\n\r\n\tlast\r".encode())
    assert read_lines(path) == [(1, "Bär&1"), (3, "last")]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with pytest.raises(DataError, match=r"Cannot read '.*list\.txt': No such file or directory\."):
        read_lines(path)
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(DataError, match=r"Cannot read '.*list\.txt': it is not UTF-8 text; save it again as UTF-8\."):
        read_lines(path)
