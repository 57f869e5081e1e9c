import json

import pytest

from avcore.report.tables import Spread, format_cell, render_markdown, render_table, to_json

COLUMNS = ["part", "parameters", "M_J"]
ROWS = [["copl.rows", 1234567, Spread(61.25, 0.4)], ["head", 89, None]]


def test_text_aligns_numbers_to_the_right():
    assert render_table(COLUMNS, ROWS, title="Counts") == (
        "Counts\n"
        "\n"
        "part       parameters           M_J\n"
        "─────────  ──────────  ────────────\n"
        "copl.rows   1,234,567  61.25 ± 0.40\n"
        "head               89             –"
    )


def test_text_columns_stay_left_and_lines_have_no_trailing_space():
    lines = render_table(["name", "note"], [["a", "long text"], ["b", ""]]).splitlines()
    assert lines[2] == "a     long text"
    assert lines[3] == "b"


def test_a_column_of_text_and_numbers_is_text():
    assert render_table(["x"], [["abc"], [1]]).splitlines()[-1] == "1"


def test_empty_table_keeps_its_header():
    assert render_table(["a", "b"], []).splitlines() == ["a  b", "─  ─"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [(1234567, "1,234,567"), (0.126, "0.13"), (True, "yes"), (None, "–"), (Spread(1, 0.5, 3), "1.00 ± 0.50 (n = 3)")],
)
def test_cells(cell, text):
    assert format_cell(cell) == text


def test_markdown_aligns_and_escapes():
    assert render_markdown(["a|b", "n"], [["x", 1000]]) == "| a\\|b | n |\n|---|---:|\n| x | 1,000 |"


def test_json_keeps_numbers():
    assert json.loads(to_json(COLUMNS, ROWS)) == [
        {"part": "copl.rows", "parameters": 1234567, "M_J": {"mean": 61.25, "sd": 0.4, "count": None}},
        {"part": "head", "parameters": 89, "M_J": None},
    ]


@pytest.mark.parametrize("render", [render_table, render_markdown, to_json])
def test_a_row_of_another_length_is_refused(render):
    with pytest.raises(ValueError, match="Row 0 has 1 cells for 2 columns"):
        render(["a", "b"], [["x"]])
