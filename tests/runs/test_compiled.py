"""``train.compile=blocks`` in whole runs. Graphs are run as traced, so that numbers stay the same to the last bit."""

import pytest
import torch
from torch._dynamo.utils import counters

import avcore

SET = ["train.batch_size=4", "train.eval_batch_size=2"]
BLOCKS = [*SET, "train.compile=blocks"]


@pytest.fixture(autouse=True)
def as_traced():
    torch._dynamo.reset()
    counters.clear()
    with torch.compiler.set_stance(force_backend="eager"):
        yield
    torch._dynamo.reset()


def test_a_compiled_run_ends_as_a_plain_one_also_after_a_stop(start, end_of, world, tmp_path):
    start(out=tmp_path / "plain", epochs=2, set=SET)
    assert not counters["stats"]
    run = start(out=tmp_path / "whole", epochs=2, set=BLOCKS)
    assert counters["stats"]["unique_graphs"] > 1  # the trial is one
    assert end_of(tmp_path / "whole") == end_of(tmp_path / "plain")

    world.INTERRUPT_AT.append(4)
    with pytest.raises(KeyboardInterrupt):
        start(out=tmp_path / "stopped", epochs=2, set=BLOCKS)
    world.INTERRUPT_AT.clear()
    start(out=tmp_path / "stopped", epochs=2, set=BLOCKS, resume=True)
    assert end_of(tmp_path / "stopped") == end_of(tmp_path / "plain")

    loaded = avcore.load_run(tmp_path / "whole")
    assert not loaded.model.clips.compiled
    assert loaded.evaluate("test") == run.results.metrics["test"]
    assert loaded.model.clips.compiled
