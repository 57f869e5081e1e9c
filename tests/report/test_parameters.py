import json

import pytest
import torch
from torch import nn

from avcore.report.parameters import count_parameters

PUBLISHED = [
    {"metric": "parameters", "value": 45, "source": "Table 1", "note": "the paper leaves out biases"},
    {"metric": "total_M", "value": 0.3, "source": "page 5", "visual": "vit_tiny"},
    {"metric": "exchange", "value": 30, "source": "page 6", "visual": "vit_large", "note": "with the head"},
    {"metric": "M_J", "value": 80.1, "source": "Table 2"},
]


class Toy(nn.Module):
    """A trunk shared by both streams, an audio embedding, two parts and a head."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(10, 20).requires_grad_(False)
        self.embed = nn.Linear(4, 10, bias=False).requires_grad_(False)
        self.rows_visual, self.rows_audio = nn.Linear(3, 2), nn.Linear(3, 2)
        self.exchange = nn.Linear(5, 5)
        self.head = nn.Linear(2, 3)
        self.streams = {}

    def components(self):
        return {
            "visual": [self.trunk],
            "audio": [self.trunk, self.embed],
            "rows": [self.rows_visual, self.rows_audio],
            "exchange": [self.exchange],
            "head": [self.head],
        }

    def unused_in_reference(self):
        return {"exchange": 7, "head": 2}


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """The toy is no `AVModel`: it says itself what it is made of."""
    monkeypatch.setattr("avcore.states.components", Toy.components)
    monkeypatch.setattr("avcore.states.unused_in_reference", Toy.unused_in_reference)


def test_each_parameter_is_counted_once_where_it_is_held_first():
    report = count_parameters(Toy())
    assert {name: (part.tensors, part.parameters, part.trainable) for name, part in report.parts.items()} == {
        "visual": (2, 220, 0),
        "audio": (1, 40, 0),
        "rows": (4, 16, 16),
        "exchange": (2, 30, 30),
        "head": (2, 9, 9),
    }
    assert (report.trainable, report.frozen, report.total, report.unused_in_reference) == (55, 260, 315, 9)


def test_json_has_exactly_the_documented_keys():
    data = json.loads(json.dumps(count_parameters(Toy(), PUBLISHED).to_dict()))
    assert set(data) == {"trainable", "frozen", "total", "unused_in_reference", "parts", "published"}
    assert set(data["parts"]) == {"visual", "audio", "rows", "exchange", "head"}
    assert data["parts"]["rows"] == {"tensors": 4, "parameters": 16, "trainable": 16}
    assert data["published"] == PUBLISHED


def test_counting_needs_no_weights():
    with torch.device("meta"):
        model = Toy()
    assert count_parameters(model).total == 315


def test_a_parameter_outside_all_components_is_an_error():
    model = Toy()
    model.stray = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"holds stray.weight, stray.bias"):
        count_parameters(model)


def test_table_sets_published_counts_beside_ours():
    text = count_parameters(Toy(), PUBLISHED).render("vit_tiny")
    lines = [line.split() for line in text.splitlines()]
    assert ["exchange", "2", "30", "30"] in lines
    assert ["total", "11", "315", "55"] in lines
    assert ["parameters", "45", "46", "–", "Table", "1"] in lines
    assert ["exchange", "30", "–", "vit_large", "page", "6"] in lines
    assert "parameters: the paper leaves out biases" in text
    assert "with the head" not in text
    assert "exchange: with the head" in count_parameters(Toy(), PUBLISHED).render("vit_large")
    assert "allocates 9 more" in text
    assert "M_J" not in text


def test_millions_and_the_backbone_that_they_were_published_for():
    entry = {"metric": "trainable_M", "value": 1.2, "source": "page 5", "visual": "vit_tiny"}
    model = Toy()
    model.head = nn.Linear(999, 1000)
    line = count_parameters(model, [entry]).render("vit_tiny.augreg").splitlines()[-1]
    assert line.split() == ["trainable_M", "1.2", "1.00", "vit_tiny", "page", "5"]


def test_a_count_is_set_beside_runs_of_the_same_backbones_and_streams_only():
    def ours(entry, *run):
        return "55" in count_parameters(Toy(), [entry]).render(*run).splitlines()[-1].split()

    entry = {"metric": "trainable", "value": 50, "source": "page 5", "visual": "vit"}
    assert ours(entry, "vit.a")
    assert not ours(entry, "vit.a", "hts")
    assert not ours(entry, "vit.a", None, "audio")
    assert ours(entry | {"audio": "hts"}, "vit.a", "hts.b")
    assert not ours(entry | {"audio": "hts"}, "vit.a")
    assert ours(entry | {"streams": "audio"}, "vit.a", None, "audio")


def test_a_published_share():
    entry = {"metric": "trainable_percent", "value": 17.5, "source": "poster"}
    line = count_parameters(Toy(), [entry]).render("vit").splitlines()[-1]
    assert line.split() == ["trainable_percent", "17.5", "17.46", "–", "poster"]
