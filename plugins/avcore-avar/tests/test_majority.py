"""The answer of `AVARTask` that needs no model."""

import torch

from avcore_avar.config import AVARTaskConfig
from avcore_avar.task import AVARTask


def test_the_majority_answer_is_the_most_frequent_class_and_the_next_ones_follow() -> None:
    task = AVARTask(AVARTaskConfig(classes=("dog", "cat", "owl")))
    found = task.majority(iter([{"label": torch.tensor(label)} for label in (2, 1, 2, 0, 2, 1)]), 10)
    assert found is not None
    assert int(found["label"]) == 2
    assert found["scores"].argsort(descending=True).tolist() == [2, 1, 0]
    assert float(found["scores"].sum()) == 1
