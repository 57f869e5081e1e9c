"""Augmentation: what ``train.augment`` lists, done to batches on the device that they are on, in training only.

Every draw derives from (seed, epoch, sample), so that a clip is drawn the same whatever stands beside it in the batch,
whoever loads it, and however often the run was stopped. Shape letters: B clips, T segments of K pictures each, M = B*T,
F mel bins, Y and X image rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.config.transforms import MOVING, POLICIES, Listed, listed_transforms
from avcore.data.frontends import SoundFrontEnd
from avcore.data.randomness import generator, torch_generator
from avcore.data.reader import PARTNER
from avcore.errors import AssemblyError
from avcore.tasks import Batch, Task

if TYPE_CHECKING:
    from avcore.model import AVModel

__all__ = ["Augmentation"]

_TRIES = 3
"""Draws of each list that are tried before a run."""


class Augmentation:
    """What a model's ``train.augment`` lists.

    Pictures are transformed as `Batch.frames` has them, uint8, before the front end; the T * K pictures of a clip share
    one draw, and `Task.pixel_targets` move with them. Sound is masked as the front end leaves it, with the mean of the
    clip's log-mel pictures. Companions are transformed too, with draws of their own. Pictures of a stream that is off
    are nobody's: their list rests.

    Sound is mixed with that of the companion `PARTNER` window by window, between what the front end does to whole clips
    and the making of log-mel pictures: r x + (1 - r) y, where r is drawn for each segment from Beta(alpha, alpha), and
    is 1 in clips that are not mixed. The model does not see that companion.

    Raises:
        AssemblyError: the list does not go with the model: pictures change their size or fail, the task's targets
            cannot move with them, sound is no log-mel picture, or is not cut into windows by a `SoundFrontEnd`.
    """

    def __init__(self, model: AVModel) -> None:
        config = model.config.train.augment
        self._seed = model.config.seed
        self._mix = config.mix
        self._front_end: nn.Module | None = None
        self._pictures: list[Listed] = []
        self._sound: list[nn.Module] = []
        self._targets: Mapping[str, float] = {}
        if model.image is not None and config.visual:
            size = (model.image.size, model.image.size)
            self._pictures = listed_transforms("visual", config.visual, size=size)
            if any(_moves(one) for one in self._pictures):
                self._targets = model.task.pixel_targets
                _check_targets(model.task, self._pictures)
            _try(listed_transforms("visual", config.visual, size=size, certain=True), size, bool(self._targets))
        self._mixes = model.sound is not None and config.mix.p > 0
        if model.sound is not None:
            self._front_end = model.streams["audio"].front_end
        if self._mixes and not isinstance(self._front_end, SoundFrontEnd):
            raise AssemblyError(
                f"train.augment.mix mixes windows of sound, and the audio backbone's front end, "
                f"{type(self._front_end).__name__}, is no SoundFrontEnd, which cuts them. Leave it out with "
                f"--set train.augment.mix.p=0 or choose another backbone."
            )
        if model.sound is not None and config.audio:
            self._sound = [one.module for one in listed_transforms("audio", config.audio)]
            if not getattr(self._front_end, "log_mel", False):
                raise AssemblyError(
                    f"train.augment.audio masks log-mel pictures, and the audio backbone's front end, "
                    f"{type(self._front_end).__name__}, makes none (SoundFrontEnd.log_mel). Leave it out with "
                    f"--set train.augment.audio=[] or choose another backbone."
                )

    @contextmanager
    def __call__(self, batch: Batch, epoch: int) -> Iterator[Batch]:
        """The batch with its pictures transformed; within the context the front end mixes and masks sound."""
        partner = batch.companions.get(PARTNER)
        others = {name: one for name, one in batch.companions.items() if name != PARTNER}
        moved = self._moved(replace(batch, companions=others), epoch)
        with self._mixing(moved, partner, epoch), self._masking(moved, epoch):
            yield moved

    @contextmanager
    def _mixing(self, batch: Batch, partner: Batch | None, epoch: int) -> Iterator[None]:
        front_end = self._front_end
        if not self._mixes or partner is None or partner.waveform is None:
            yield
            return
        assert isinstance(front_end, SoundFrontEnd)
        heard = partner.waveform

        def mix(waveform: Tensor, windows: Tensor) -> Tensor:
            if waveform is not batch.waveform:  # that of a companion
                return windows
            own_BT = np.stack([self._shares(sample, windows.shape[1], epoch) for sample in batch.samples.tolist()])
            own = torch.from_numpy(own_BT).to(windows)[(...,) + (None,) * (windows.dim() - 2)]
            return own * windows + (1 - own) * front_end.cut(heard)

        front_end.between = mix
        try:
            yield
        finally:
            front_end.between = None

    def _shares(self, sample: int, segments: int, epoch: int) -> np.ndarray:
        """(T,) how much of its own sound each segment of a clip keeps."""
        draws = generator(self._seed, "augment.mix", epoch, sample)
        mixed = draws.random() < self._mix.p
        return draws.beta(self._mix.alpha, self._mix.alpha, segments) if mixed else np.ones(segments)

    @contextmanager
    def _masking(self, moved: Batch, epoch: int) -> Iterator[None]:
        if not self._sound:
            yield
            return
        assert self._front_end is not None
        heard = {"": moved, **{f"/{name}": other for name, other in moved.companions.items()}}

        def mask(front_end: nn.Module, given: tuple[Tensor], made: Tensor) -> Tensor:
            for whose, one in heard.items():
                if one.waveform is given[0]:
                    return self._masked(made, one.samples.tolist(), f"augment.audio{whose}", epoch)
            return made

        handle = self._front_end.register_forward_hook(mask)
        try:
            yield
        finally:
            handle.remove()

    def _moved(self, batch: Batch, epoch: int, whose: str = "") -> Batch:
        """The batch, and its companions, with other pictures and the targets that lie on them."""
        if not self._pictures or batch.frames is None:
            return batch
        names = [name for name in self._targets if name in batch.targets]
        frames: list[Tensor] = []
        targets: dict[str, list[Tensor]] = {name: [] for name in names}
        with _own_randomness(batch.frames.device):
            for index, sample in enumerate(batch.samples.tolist()):
                _seed(batch.frames.device, self._seed, f"augment.visual{whose}", epoch, sample)
                own = {name: batch.targets[name][index] for name in names}
                frames_TCYX, moved = self._transformed(batch.frames[index], own)
                frames.append(frames_TCYX)
                for name in names:
                    targets[name].append(moved[name])
        return replace(
            batch,
            frames=torch.stack(frames),
            targets={**batch.targets, **{name: torch.stack(of) for name, of in targets.items()}},
            companions={name: self._moved(one, epoch, f"/{name}") for name, one in batch.companions.items()},
        )

    def _transformed(self, frames: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One clip: (T, [K,] 3, Y, X) uint8, and its targets (..., Y, X)."""
        from torchvision.tv_tensors import Image, Mask

        size = frames.shape[-2:]
        pictures = Image(frames.flatten(0, -4))
        masks = [Mask(_placed(target, self._targets[name], size)) for name, target in targets.items()]
        for one in self._pictures:
            if masks and _moves(one):
                pictures, *masks = one.module(pictures, *masks)
            else:
                pictures = one.module(pictures)
        moved = {
            name: _put_back(mask.as_subclass(Tensor), target, self._targets[name])
            for mask, (name, target) in zip(masks, targets.items(), strict=True)
        }
        return pictures.as_subclass(Tensor).reshape(frames.shape), moved

    def _masked(self, made: Tensor, samples: Sequence[int], purpose: str, epoch: int) -> Tensor:
        """(M, [2,] frames, F) of B clips, masked clip by clip."""
        masked = []
        with _own_randomness(made.device):
            for sample, clip in zip(samples, made.unflatten(0, (len(samples), -1)), strict=True):
                _seed(made.device, self._seed, purpose, epoch, sample)
                neutral = clip.mean()
                mel = clip.transpose(-1, -2).flatten(0, -3)
                for transform in self._sound:
                    mel = transform(mel, neutral) if hasattr(transform, "mask_param") else transform(mel)
                masked.append(mel.transpose(-1, -2).reshape(clip.shape))
        return torch.cat(masked)


def _moves(one: Listed) -> bool:
    return bool(one.names & (MOVING | POLICIES))


def _check_targets(task: Task, listed: Sequence[Listed]) -> None:
    """Whether what lies on the pictures can move with them."""
    on_pixels = [name for name, axes in task.prediction.items() if axes == "pixel"]
    moving = next(one for one in listed if _moves(one))
    name = min(moving.names & (MOVING | POLICIES))
    if on_pixels and not task.pixel_targets:
        raise AssemblyError(
            f"train.augment.{moving.at} ({name}) moves pictures, and {type(task).__name__} predicts '{on_pixels[0]}' "
            f"of pixels without saying which of its targets lie on them (Task.pixel_targets). Leave it out."
        )
    policies = [(one, min(one.names & POLICIES)) for one in listed if one.names & POLICIES]
    if task.pixel_targets and policies:
        one, name = policies[0]
        raise AssemblyError(
            f"train.augment.{one.at} ({name}) may move pictures and cannot move "
            f"{', '.join(sorted(task.pixel_targets))} with them, the targets of this task that lie on them. List the "
            f"transforms that it draws from, such as RandomAffine and ColorJitter."
        )


def _try(listed: Sequence[Listed], size: tuple[int, int], with_mask: bool) -> None:
    """Refuse what fails on pictures of this size, or changes it."""
    from torchvision.tv_tensors import Image, Mask

    with _own_randomness(torch.device("cpu")), torch.device("cpu"):
        for number in range(_TRIES):
            torch.manual_seed(number)
            pictures = Image(torch.zeros(1, 3, *size, dtype=torch.uint8))
            masks = [Mask(torch.zeros(1, *size))] if with_mask else []
            for one in listed:
                try:
                    if _moves(one):
                        pictures, *masks = one.module(pictures, *masks) if masks else (one.module(pictures),)
                    else:
                        pictures = one.module(pictures)
                except Exception as error:
                    raise AssemblyError(
                        f"train.augment.{one.at} fails on pictures of {size[0]} x {size[1]} px: {error}"
                    ) from error
            if tuple(pictures.shape) != (1, 3, *size) or pictures.dtype != torch.uint8:
                raise AssemblyError(
                    f"train.augment.visual makes pictures {tuple(pictures.shape[1:])} of {(3, *size)}; the backbone "
                    f"takes no other size: end the list with a RandomCrop or a Resize, which have it where no 'size' "
                    f"is given."
                )


def _placed(target: Tensor, outside: float, size: Sequence[int]) -> Tensor:
    """(..., Y, X) -> (N, Y, X) at the pictures' size, shifted so that 0 is what a pixel from outside is."""
    flat = target.reshape(-1, 1, *target.shape[-2:]).double() - outside
    if flat.shape[-2:] != torch.Size(size):
        flat = F.interpolate(flat, tuple(size), mode="nearest-exact")
    return flat.squeeze(1)


def _put_back(mask_NYX: Tensor, target: Tensor, outside: float) -> Tensor:
    """What `_placed` made, in the shape and type of the target."""
    if mask_NYX.shape[-2:] != target.shape[-2:]:
        mask_NYX = F.interpolate(mask_NYX.unsqueeze(1), tuple(target.shape[-2:]), mode="nearest-exact").squeeze(1)
    return (mask_NYX + outside).to(target.dtype).reshape(target.shape)


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Give the generators that transforms draw from back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _seed(device: torch.device, seed: int, purpose: str, epoch: int, sample: int) -> None:
    derived = torch_generator(seed, purpose, epoch, sample).initial_seed()
    torch.default_generator.manual_seed(derived)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(derived)
