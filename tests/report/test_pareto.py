"""The picture of scores against costs."""

import re
from xml.etree import ElementTree

from avcore.report.pareto import Point, draw_pareto, front

CHEAP, WORSE, GOOD, DEAR = (
    Point("cheap <b>", 1e3, 50.0),
    Point("worse", 2e3, 40.0),
    Point("good", 1e6, 70.0, 2.0),
    Point("dear", 1e8, 70.0),
)


def test_the_front_is_who_is_beaten_by_nobody() -> None:
    assert front([DEAR, GOOD, WORSE, CHEAP]) == [CHEAP, GOOD]
    same = Point("same cost", 1e3, 45.0)
    assert front([same, CHEAP]) == [CHEAP]


def test_the_picture_has_every_row_and_joins_the_front() -> None:
    text = draw_pareto([CHEAP, WORSE, GOOD, DEAR], "trained parameters", "test M_J")
    root = ElementTree.fromstring(text)
    kept = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert "script" not in kept
    circles = [one for one in root.iter() if one.tag.endswith("circle")]
    told = [one[0].text for one in circles]
    assert told == ["cheap <b>: 50.00", "worse: 40.00", "good: 70.00 ± 2.00", "dear: 70.00"]
    at = [(one.get("cx"), one.get("cy")) for one in circles]
    [line] = [one for one in root.iter() if one.tag.endswith("polyline")]
    assert line.get("points") == " ".join(f"{x},{y}" for x, y in (at[0], at[2]))
    x, _ = at[2]
    assert len(re.findall(rf'd="M{x} [0-9.]+V[0-9.]+" stroke', text)) == 1, "the deviation over seeds"
    places = [float(x or 0) for x, _ in at]
    assert places == sorted(places)
    assert abs((places[2] - places[0]) / (places[3] - places[0]) - 3 / 5) < 1e-2, "costs are logarithmic"
