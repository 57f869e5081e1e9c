"""`AVSHead`: the backbone's maps and sound to masks, as LAVISH feeds AVSBench's decoder.

Shape letters: B clips, T frames, M = B*T, N tokens, D width of a backbone, Y and X rows and columns.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.modules import at_least_single
from avcore.specs import StreamLayout
from avcore.tasks import Batch, Features, Head, Input, Progress, Task
from avcore_avs.config import DECODER_STAGES, AVSHeadConfig
from avcore_avs.decoder import DILATIONS, AVSDecoder
from avcore_avs.losses import frame_weights, mask_bce, matching

__all__ = ["AVSHead"]

REFERENCE_CHANNELS = (64, 128, 320, 512)


class AVSHead(Head):
    """Each tap through a linear map, resized to a pyramid; the mean audio token through another; AVSBench's decoder.

    Without sound (``audio`` None) TPAVI relates the picture to itself, as AVSBench's visual-only ablation does (its
    switch ``tpavi_vv_flag``), and there is no matching term.

    Output:
        ``logits`` (B, T, 1, size, size); ``map_0`` ... ``map_3`` (M, width, side, side), the maps after TPAVI;
        ``audio_i`` (B, T, width), the aligned audio of each stage i with TPAVI. With ``skip_unsupervised`` and a task
        that supervises first frames, T of ``logits`` is 1 in training mode.

    Raises:
        AssemblyError: there is no visual stream, or it does not have four taps.
    """

    def __init__(self, config: AVSHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        visual, audio = layouts.get("visual"), layouts.get("audio")
        if visual is None:
            raise AssemblyError("Segmentation needs the visual stream; use --streams visual or both.")
        if len(visual.taps) != DECODER_STAGES:
            raise AssemblyError(
                f"Head avs.decoder takes maps of {DECODER_STAGES} depths, but the visual backbone taps "
                f"{len(visual.taps)} blocks {visual.taps}; give it {DECODER_STAGES} taps."
            )
        self.config, self.task, self.segments = config, task, visual.segments
        channels = config.projected or (config.width,) * DECODER_STAGES
        self.projections = nn.ModuleList(
            nn.Linear(stage.width, count) for stage, count in zip(visual.tapped, channels, strict=True)
        )
        # Without TPAVI nothing would take the audio vector.
        heard = audio if config.tpavi_stages else None
        self.audio_projection = None if heard is None else nn.Linear(heard.width, config.audio_width)
        self.decoder = AVSDecoder(
            config.projected or None,
            config.width,
            tpavi_stages=config.tpavi_stages,
            audio_width=None if heard is None else config.audio_width,
            output_widths=config.output_widths,
        )
        self.unused_in_reference = self.decoder.unused_in_reference + self._left_out(audio)

    def _left_out(self, audio: StreamLayout | None) -> int:
        """Parameters of modules that the reference allocates and these settings do not use."""
        width, count = self.config.width, 0
        if not self.config.projected:
            count += sum(len(DILATIONS) * (9 * channels + 1) * width for channels in REFERENCE_CHANNELS)
        if audio is None:
            count += len(self.config.tpavi_stages) * (self.config.audio_width + 1) * width
        return count

    @property
    def targets(self) -> Mapping[str, Input]:
        """``masks`` (T, size, size) and ``labelled`` (T,), the frames that have one."""
        size = self.config.size
        return {
            "masks": Input(shape=(self.segments, size, size)),
            "labelled": Input(shape=(self.segments,), dtype="bool"),
        }

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with four visual maps, and audio tokens unless the head was made without sound."""
        maps, audio_MD = self.inputs(features)
        decoded = 1 if self.training and self._may_skip() else features.segments
        out = self.decoder(maps, audio_MD, features.segments, decoded=decoded)
        named = {"logits": out.logits.unflatten(0, (features.clips, decoded))}
        named.update({f"audio_{stage}": x for stage, x in out.audio.items()})
        named.update({f"map_{stage}": x for stage, x in enumerate(out.maps)})
        return named

    def inputs(self, features: Features) -> tuple[list[Tensor], Tensor | None]:
        """What the decoder takes: four maps (M, C, side, side), and audio vectors (M, D) unless there is no sound."""
        maps = [self._resize(x, stage) for stage, x in enumerate(features.stream("visual").maps)]
        if self.audio_projection is None:
            return maps, None
        return maps, self.audio_projection(features.stream("audio").tokens.mean(1))

    def _may_skip(self) -> bool:
        settings = self.task.config
        return self.config.skip_unsupervised and settings.supervised_frames == "first" and not settings.avm_weight

    def _resize(self, x_MDYX: Tensor, stage: int) -> Tensor:
        """A tap (M, D, Y, X) to (M, C, side, side): the linear map first, on the smaller grid."""
        side = self.config.size >> (stage + 2)
        mapped = self.projections[stage](x_MDYX.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.interpolate(mapped, size=(side, side), mode="bicubic", align_corners=False)

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``mask``: cross-entropy on the supervised frames; ``matching``: weighted AVM where the task asks for it.

        Needs ``batch.targets`` ``masks`` (B, T, Y, X) and ``labelled`` (B, T).

        Raises:
            AssemblyError: the masks of the data set have another size than the head's.
        """
        logits_BTYX, masks_BTYX = output["logits"].squeeze(2), batch.targets["masks"]
        if masks_BTYX.shape[-2:] != logits_BTYX.shape[-2:]:
            raise AssemblyError(
                f"The data set's masks are {tuple(masks_BTYX.shape[-2:])} px, the head predicts "
                f"{tuple(logits_BTYX.shape[-2:])} px; set data.size and head.size to the same number."
            )
        settings, decoded = self.task.config, logits_BTYX.shape[1]
        weights_BT = frame_weights(batch.targets["labelled"], batch.valid, settings.supervised_frames)
        terms = {"mask": mask_bce(logits_BTYX, masks_BTYX[:, :decoded], weights_BT[:, :decoded])}
        stages = [
            (output[f"audio_{stage}"].flatten(0, 1), output[f"map_{stage}"])
            for stage in range(DECODER_STAGES)
            if f"audio_{stage}" in output
        ]
        if settings.avm_weight and stages:
            valid_M = batch.valid[:, None].expand(-1, decoded).flatten()
            term = matching(logits_BTYX.flatten(0, 1), stages, valid_M, normalise=settings.avm_normalise)
            terms["matching"] = settings.avm_weight * term
        return terms

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``masks`` (B, T, Y, X): the probability of each pixel, at fp32 at least."""
        logits_BTYX = output["logits"].squeeze(2)
        return {"masks": at_least_single(logits_BTYX).sigmoid()}
