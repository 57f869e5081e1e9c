import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from avcore.engine.evaluate import evaluate
from avcore.errors import AVCoreError


def run(toys, model, loader, **settings):
    options = {"protocol": "clean", "device": torch.device("cpu"), **settings}
    return evaluate(model, loader, task=toys.Task(None), **options)


def test_scores_count_valid_clips_only(toys):
    model, loader = toys.Model(), toys.Loader(clips=5, batch_size=2)
    found = run(toys, model, loader)
    whole = run(toys, model, toys.Loader(clips=5, batch_size=5))
    assert found.clips == found.scores["clips"] == 5
    assert found.scores["accuracy"] == pytest.approx(whole.scores["accuracy"])


def test_each_clip_is_scored_alone_too_if_wanted(toys):
    found = run(toys, toys.Model(), toys.Loader(clips=5, batch_size=2), alone=True)
    assert len(found.alone) == 5
    assert {scores["clips"] for scores in found.alone.values()} == {1}
    mean = sum(scores["accuracy"] for scores in found.alone.values()) / 5
    assert mean == pytest.approx(found.scores["accuracy"])
    assert run(toys, toys.Model(), toys.Loader(clips=5, batch_size=2)).alone == {}


PROCESS = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from avcore.engine.evaluate import evaluate
import torch
import conftest as toys
rank = next((rank for rank in (1, 2) if not os.fork()), 0)
meeting = Path(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting / 'meeting'}", rank=rank, world_size=3)
batches = list(toys.ToyLoader(clips=5, batch_size=2))
nothing = replace(batches[0], valid=torch.zeros(2, dtype=torch.bool))
share = [batches[2:], batches[:2], [nothing]][rank]
found = evaluate(
    toys.ToyModel(), share, task=toys.ToyTask(None), protocol="clean", device=torch.device("cpu"), alone=True
)
shared = toys.shared_steps(rank, 3)
(meeting / f"{rank}.json").write_text(json.dumps([found.scores, found.clips, found.alone, shared]))
torch.distributed.destroy_process_group()
sys.exit(rank == 0 and any(os.wait()[1] for _ in (1, 2)))
"""


def test_three_processes_give_the_scores_of_one(toys, tmp_path):
    """Forked from one that has imported torch: three imports of it would take longer than all else."""
    command = [sys.executable, "-c", PROCESS, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    alone = run(toys, toys.Model(), toys.Loader(clips=5, batch_size=2), alone=True)
    assert len(alone.alone) == 5
    for rank in range(3):
        *scores, steps = json.loads((tmp_path / f"{rank}.json").read_text())
        assert scores == [alone.scores, alone.clips, alone.alone]
        # Two steps, in one of which not every process has a clip: losses, gradients and weights of one process.
        assert steps == [pytest.approx(values, rel=1e-12) for values in toys.shared_steps(0, 1)]


def test_the_model_is_evaluated_in_eval_mode_and_given_back_as_it_was(toys):
    model = toys.Model(dropout=0.5).train()
    assert run(toys, model, toys.Loader()).scores == run(toys, model, toys.Loader()).scores
    assert model.training


def test_the_first_clips_are_kept_for_pictures(toys):
    found = run(toys, toys.Model(), toys.Loader(clips=5, batch_size=2), examples=3)
    assert [example.name for example in found.examples] == ["clip0", "clip1", "clip2"]
    assert found.examples[2].frames.shape == (2,)
    assert found.examples[0].prediction["y"].shape == ()
    assert set(found.examples[0].targets) == {"y"}


def test_padding_is_never_kept(toys):
    found = run(toys, toys.Model(), toys.Loader(clips=3, batch_size=2), examples=10)
    assert [example.name for example in found.examples] == ["clip0", "clip1", "clip2"]


def test_predictions_in_half_precision_are_kept_in_fp32(toys):
    found = run(toys, toys.Model(), toys.Loader(), examples=1)
    assert found.examples[0].prediction["y"].dtype == torch.float32


def test_progress_counts_batches(toys):
    seen = []
    run(toys, toys.Model(), toys.Loader(clips=5, batch_size=2), progress=seen.append)
    assert seen == [1, 2, 3]


def test_an_empty_split_is_an_error(toys):
    with pytest.raises(AVCoreError, match="no clips"):
        run(toys, toys.Model(), toys.Loader(clips=0))
