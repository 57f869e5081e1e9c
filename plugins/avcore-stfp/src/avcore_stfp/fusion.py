"""``stfp.joint`` and ``stfp.class_token``: what reads both streams (Wang et al., BMVC 2025).

Shape letters: M = B*T, N tokens, D width, R rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Edit, Edits, Fusion, FusionLayer, NoConfig, StreamLayout
from avcore.injection import PairLayout, PairView, StreamView
from avcore.modules import plain_attention
from avcore_stfp.settings import JointSettings
from avcore_stfp.tensors import beside, gate, gated, normal

__all__ = ["ClassToken", "Joint", "JointLayer", "LatentLayer", "MergedLayer", "TokenLayer"]


class Joint(Fusion):
    """Multimodal fusion prompts, at every pair of blocks whose attention sees the whole grid in both streams.

    Where attention keeps to windows, tokens of the other stream would belong to none of them. ``form=latents`` runs
    no frozen attention and is at every pair.
    """

    def __init__(self, config: JointSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config
        self.shares_trunk = visual.trunk == audio.trunk

    def layer(self, pair: PairLayout) -> FusionLayer | None:
        """The layer of the form that is set; None where it needs the whole grid and attention keeps to windows.

        Raises:
            AssemblyError: that was the last pair, and no pair has a layer.
        """
        forms = {"joint": JointLayer, "merged": MergedLayer, "tokens": TokenLayer, "latents": LatentLayer}
        windowed = pair.visual.window is not None or pair.audio.window is not None
        if not windowed or self.config.form == "latents":
            return forms[self.config.form](self.config, pair)
        if pair.from_end == 1 and not self.layers:
            raise AssemblyError(
                f"'stfp.joint' with form={self.config.form} needs blocks that attend to their whole grid, but every "
                f"pair of this run attends in windows, the last one on {pair.visual.grid} and {pair.audio.grid}: use "
                f"smaller pictures or parts.stfp.joint.form=latents, or leave the part out (--fusion none)."
            )
        return None


class FusionPass(FusionLayer):
    """x_m <- x_m + g_m f_m(x_v, x_a) between attention and MLP."""

    def __init__(self, config: JointSettings, pair: PairLayout) -> None:
        super().__init__()
        self.gate_visual, self.gate_audio = gate(config.gate), gate(config.gate)

    def before_mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """Both streams from the same tokens."""
        out_v, out_a = self.exchange(visual_MND, audio_MND, at)
        return Edits(visual=Edit(add=out_v), audio=Edit(add=out_a))

    def exchange(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> tuple[Tensor, Tensor]:
        """g_v f_v and g_a f_a."""
        raise NotImplementedError

    def attended(
        self, visual_MND: Tensor, rows_v: Tensor, audio_MND: Tensor, rows_a: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        """Each stream through its own frozen attention, with rows beside its tokens."""
        return (
            at.visual.attend(visual_MND, rows=rows_v, gate=self.gate_visual),
            at.audio.attend(audio_MND, rows=rows_a, gate=self.gate_audio),
        )


class JointLayer(FusionPass):
    """F1: [x_v ; P_f ; x_a] through the frozen attention, the outputs of P_f dropped."""

    def __init__(self, config: JointSettings, pair: PairLayout) -> None:
        super().__init__(config, pair)
        self.prompts = normal(config.vectors, pair.visual.width, config.std) if config.vectors else None

    def exchange(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> tuple[Tensor, Tensor]:
        """At once; or each stream through its own trunk, with P_f and the other's tokens as rows."""
        if at.part.shares_trunk:
            both = (visual_MND, audio_MND)
            counts = [tokens_MND.shape[1] for tokens_MND in both]
            gates = [
                gate.expand(count, 1)
                for gate, count in zip((self.gate_visual, self.gate_audio), counts, strict=True)
                if gate is not None
            ]
            gate = torch.cat(gates) if gates else None
            out_v, out_a = at.visual.attend(torch.cat(both, dim=1), rows=self.prompts, gate=gate).split(counts, dim=1)
            return out_v, out_a
        rows_v, rows_a = across(self.prompts, visual_MND, audio_MND, at)
        return self.attended(visual_MND, rows_v, audio_MND, rows_a, at)


class MergedLayer(FusionLayer):
    """F1 within the blocks' own attention, beside whatever other rows a stream has there."""

    def __init__(self, config: JointSettings, pair: PairLayout) -> None:
        super().__init__()
        self.prompts = normal(config.vectors, pair.visual.width, config.std) if config.vectors else None

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """P_f and the other stream's tokens as rows."""
        rows_v, rows_a = across(self.prompts, visual_MND, audio_MND, at)
        return Edits(visual=Edit(rows=rows_v), audio=Edit(rows=rows_a))


class TokenLayer(FusionPass):
    """F2: p_m <- p_m + A(p_m ; the other stream), then stream m sees p_m as a row."""

    def __init__(self, config: JointSettings, pair: PairLayout) -> None:
        super().__init__(config, pair)
        self.prompt_visual = normal(config.vectors // 2, pair.visual.width, config.std)
        self.prompt_audio = normal(config.vectors // 2, pair.audio.width, config.std)

    def exchange(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> tuple[Tensor, Tensor]:
        """A prompt goes through the frozen attention of the stream that it reads."""
        prompt_v = self.prompt_visual.expand(len(visual_MND), -1, -1)
        prompt_a = self.prompt_audio.expand(len(audio_MND), -1, -1)
        heard = prompt_v + at.visual.as_own(at.audio.attend(at.audio.as_own(prompt_v), rows=audio_MND))
        seen = prompt_a + at.audio.as_own(at.visual.attend(at.visual.as_own(prompt_a), rows=visual_MND))
        return self.attended(visual_MND, heard, audio_MND, seen, at)


class LatentLayer(FusionPass):
    """F3: L' = L + softmax(L y^T) y, f = softmax(x L'^T) L': so LAVISH reads the other stream y. L serves both ways."""

    def __init__(self, config: JointSettings, pair: PairLayout) -> None:
        super().__init__(config, pair)
        self.latents = normal(config.vectors, pair.visual.width, config.std)

    def exchange(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> tuple[Tensor, Tensor]:
        """Without any projection."""
        latents = self.latents.to(visual_MND.dtype)
        heard = latents + plain_attention(latents, at.visual.as_own(audio_MND))
        seen = latents + plain_attention(latents, visual_MND)
        out_v, out_a = plain_attention(visual_MND, heard), plain_attention(audio_MND, at.audio.as_own(seen))
        return gated(self.gate_visual, out_v), gated(self.gate_audio, out_a)


class ClassToken(Fusion):
    """One class token for both streams: the frozen one plus a trained increment that starts at zero."""

    def __init__(self, config: NoConfig, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.class_token = nn.Parameter(torch.zeros(visual.width))

    def after_embedding(self, visual_MND: Tensor, audio_MND: Tensor, at: StreamView) -> tuple[Tensor, Tensor]:
        """The increment, at row 0 of both."""
        row = self.class_token[None]
        return F.pad(row, (0, 0, 0, visual_MND.shape[1] - 1)), F.pad(row, (0, 0, 0, audio_MND.shape[1] - 1))


def across(prompts: Tensor | None, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> tuple[Tensor, Tensor]:
    """What each stream sees of the other, in its own width: [P_f ; x_a] and [P_f ; x_v]. P_f has the pictures'."""
    heard, seen = at.visual.as_own(audio_MND), visual_MND
    if prompts is not None:
        heard, seen = beside(prompts, heard), beside(prompts, seen)
    return heard, at.audio.as_own(seen)
