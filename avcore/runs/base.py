"""A run: its directory, its configuration, its results, its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from avcore.assemble import assemble
from avcore.config import RunConfig, plain, resolve_config
from avcore.config.recipes import parse_yaml
from avcore.data.workers import workers_watched
from avcore.engine.checkpoint import CheckpointStore
from avcore.engine.compiling import compile_steps
from avcore.engine.device import choose_device
from avcore.engine.evaluate import Evaluation, evaluate
from avcore.engine.randomness import isolated_randomness
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError, typed
from avcore.model import AVModel
from avcore.ranks import joined
from avcore.registry import Registry, load_registry
from avcore.runs.adapter import beside, check_shared, holds_adapter, load_adapter, read_description
from avcore.runs.data import RunData, open_files
from avcore.runs.offers import refuse_other_majors
from avcore.states import load_trainable_state

if TYPE_CHECKING:
    from avcore.report.prediction import Prediction

__all__ = ["Run", "build_model", "load_run", "missing_run"]


def build_model(config: RunConfig, registry: Registry, *, meta: bool = False) -> AVModel:
    """The untrained model of a run, on its device or of shapes alone (``meta``), frozen weights in its precision."""
    model = assemble(config, registry, device="meta" if meta else choose_device(config.device), meta=meta)
    if config.train.precision == "bf16":
        model.towers.to(torch.bfloat16)
    return model


class Run:
    """What `avcore.run` and `avcore.load_run` return, and what lifecycle hooks receive.

    Attributes:
        directory: where everything lies.
        config: the resolved configuration.
        results: the content of ``results.json``, so far.
        members: the runs of each seed where there are several; such a run has no model of its own.
    """

    def __init__(
        self,
        directory: Path,
        config: RunConfig,
        registry: Registry,
        *,
        results: RunResult,
        members: tuple[Run, ...] = (),
        checkpoint: str = "best",
    ) -> None:
        self.directory = directory
        self.config = config
        self.registry = registry.recorded(config.full_names)
        self.results = results
        self.members = members
        self.checkpoint = checkpoint
        self._model: AVModel | None = None
        self._data: RunData | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @property
    def model(self) -> AVModel:
        """The trained model in eval mode, with the weights of the chosen checkpoint.

        Raises:
            AVCoreError: there is no complete checkpoint, or the frozen weights are not those it was trained on.
        """
        if self.members:
            seeds = ", ".join(member.directory.name for member in self.members)
            raise AVCoreError(f"{self.directory} holds the runs of several seeds; choose one of {seeds}.")
        return self._model or self.load()

    @property
    def data(self) -> RunData:
        """The data set and its loaders."""
        if self._data is None:
            self._data = RunData(self.config, self.model, *open_files(self.config, self.registry))
        return self._data

    def adopt(self, model: AVModel, data: RunData | None = None) -> None:
        """Use a model, and data, that are there already."""
        self._model, self._data = model, data

    def release(self) -> None:
        """Forget the model; it is loaded again from its checkpoint when it is next asked for."""
        self._model = self._data = None

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Scores of a split, by name.

        Args:
            split: a split of the data set, such as ``test``, or with other sound or pictures than the clips' own, such
                as ``test_swapped``: the ends are ``_swapped``, ``_noise``, ``_mute_audio``, ``_mute_visual``,
                ``_mute_both``.

        Raises:
            AVCoreError: no such split, the run lacks a stream that it changes, or data are missing.
        """
        with closing(self.data.loader(split)):
            return self.examine(split).scores

    def examine(self, split: str, *, examples: int = 0, alone: bool = False, progress: Any = None) -> Evaluation:
        """Like `evaluate`, with the predictions of the first clips, and if wanted the scores of each clip alone."""
        loader = self.data.loader(split)
        self.data.look_at_truth(split)
        compile_steps(self.model, choose_device(self.config.device))
        with joined(), isolated_randomness(), workers_watched():
            return evaluate(
                self.model,
                loader,
                task=self.model.task,
                protocol=self.config.protocol,
                device=choose_device(self.config.device),
                examples=examples,
                alone=alone,
                pictures=loader.pictures,
                progress=progress,
            )

    @overload
    def predict(
        self,
        path: str | Path,
        out: str | Path | None = None,
        *,
        name: str | None = None,
        overwrite: bool = False,
        inputs: Mapping[str, str] | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        path: str | Path,
        out: str | Path | None = None,
        *,
        name: str | None = None,
        overwrite: bool = False,
        inputs: Sequence[Mapping[str, str]],
    ) -> list[Prediction]: ...

    def predict(
        self,
        path: str | Path,
        out: str | Path | None = None,
        *,
        name: str | None = None,
        overwrite: bool = False,
        inputs: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
    ) -> Prediction | list[Prediction]:
        """Predict on a video: an overlay video with its sound, a picture strip, and what was predicted as JSON and CSV.

        Args:
            path: of the video.
            out: the folder for the results; by default ``predictions`` in the run's directory.
            name: beginning of the results' file names; by default that of the video.
            overwrite: replace results that are there already.
            inputs: what the task asks for beside the video, by name, such as a question; a list of such for several.

        Returns:
            What was predicted and where it lies; for a list of inputs one for each.

        Raises:
            AVCoreError: the video cannot be used, the results exist, or an input is missing.
        """
        from avcore.report.predict import predict_video

        folder = self.directory / "predictions" if out is None else out
        given = [inputs or {}] if inputs is None or isinstance(inputs, Mapping) else inputs
        found = predict_video(self.model, self.config, path, folder, name=name, overwrite=overwrite, inputs=given)
        return found if given is inputs else found[0]

    def load(self) -> AVModel:
        """Read the model from the chosen checkpoint, or the adapter; `model` does it when it is first used."""
        if holds_adapter(self.directory):
            return self._load_adapter()
        checkpoint = CheckpointStore(self.directory / "checkpoints").open(self.checkpoint)
        with isolated_randomness():
            model = build_model(self.config, self.registry)
        if model.backbone_digest != checkpoint.frozen_digest:
            raise AVCoreError(
                f"{self.directory} was trained on other frozen weights ({checkpoint.frozen_digest[:12]}) than those of "
                f"'{self.config.visual.backbone}' here ({model.backbone_digest[:12]}): name the same file in its "
                "config.yaml (visual.weights)."
            )
        load_trainable_state(model, checkpoint.model_state())
        model.eval()
        self._model = model
        return model

    def _load_adapter(self) -> AVModel:
        if self.checkpoint != "best":
            raise AVCoreError(f"{self.directory} holds an adapter, the best weights of a run: there is no other one.")
        with isolated_randomness():
            model = build_model(self.config, self.registry)
        self._model = load_adapter(self.directory, model).eval()
        return self._model


def load_run(
    directory: str | Path, *, checkpoint: str = "best", data: str | Path | None = None, device: str | None = None
) -> Run:
    """Come back to a run that was trained.

    Args:
        directory: of the run, or what `avcore pull` made of one that was shared.
        checkpoint: ``best`` or ``latest``.
        data: evaluate on other files than the run was trained on; after a run on the demo, files of a real data set.
        device: use another device than the run was trained on.

    Raises:
        AVCoreError: there is no such run, its checkpoint is damaged, or a plugin that it needs is not installed or has
            another major version (before 1.0, another minor one); or ``data`` cannot be read, or only with other
            settings (sizes) than the model was trained for.
    """
    directory = Path(directory)
    tree = _saved_config(directory)
    registry = load_registry()
    results = RunResult.read(directory / "results.json")
    # Before its settings are read, whose meaning may be another one now.
    needless = () if data is None else ("datasets",)
    refuse_other_majors(f"The run {directory}", results.plugins, results.versions, registry, but=needless)
    config = resolve_config(
        registry, file=tree, data=data, options={"device": device}, need_data=data is not None
    ).config
    run = Run(directory, config, registry, results=results, checkpoint=checkpoint)
    # All of it now, not at the first use, so that what is missing, damaged or does not fit shows here.
    if data is None:
        run.load()
    else:
        _refuse_other_settings(directory, tree, config)
        dataset, root = open_files(config, registry)
        run.adopt(run.load(), RunData(config, run.model, dataset, root))
    return run


def _saved_config(directory: Path) -> dict[str, Any]:
    """The configuration that lies in a run's directory; of an adapter the one that is bound to its tensors."""
    if holds_adapter(directory) and (directory / "results.json").is_file():
        check_shared(directory, str(directory))
        return beside(directory, read_description(directory / "adapter.json")["config"])
    file = directory / "config.yaml"
    if not file.is_file():
        raise AVCoreError(missing_run(directory))
    return parse_yaml(file.read_text(encoding="utf-8"), str(file))


def missing_run(directory: Path) -> str:
    """Why a directory is not that of a run, and what to name instead."""
    if not directory.is_dir():
        return f"There is no run '{directory}': no such folder."
    members = sorted(path.parent.name for path in directory.glob("seed-*/config.yaml"))
    if members:
        return f"{directory} holds the runs of several seeds: choose one, such as {directory / members[0]}."
    if holds_adapter(directory):
        return f"{directory} holds an adapter without the results of its run: use it with avcore.load_adapter."
    return f"{directory} is not the directory of a run: it has no config.yaml."


def _refuse_other_settings(directory: Path, tree: dict[str, Any], config: RunConfig) -> None:
    """Another reader has its own settings (sizes, segments, windows), and the model was made for those of its run."""
    trained: dict[str, Any] = tree.get("data") or {}
    used: dict[str, Any] = plain(config.data.settings)
    differ = [key for key in used if key in trained and trained[key] != used[key]]
    if not differ:
        return
    before, now = (", ".join(f"data.{key}={of[key]}" for key in differ) for of in (trained, used))
    method = f"--plugin {config.method} " if config.method else ""
    raise AVCoreError(
        f"{directory} was trained on '{trained.get('dataset')}' with {before}; the files in {config.data.root} are "
        f"read by '{config.data.dataset}' with {now}, which its model was not made for. Train on them first: "
        f"avcore run {method}--task {config.task} --data {typed(config.data.root)}."
    )
