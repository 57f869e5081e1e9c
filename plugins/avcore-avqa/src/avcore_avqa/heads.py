"""``avqa.avst``: AVST's network on the streams of any backbones.

Shape letters: B clips, T segments, M = B*T, N tokens, D width of a backbone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.specs import TEXT, StreamLayout
from avcore.tasks import Batch, Features, Progress, Task
from avcore_avqa.config import AVSTHeadConfig
from avcore_avqa.convert import rename
from avcore_avqa.losses import answer_loss
from avcore_avqa.matching import MatchingHead
from avcore_avqa.network import AVSTNetwork, QuestionEncoder
from avcore_avqa.sentences import vectors_of
from avcore_avqa.task import QUESTION, AVQATask

__all__ = ["AVSTHead"]

DEAD = {512: 2_691_584, 1536: 3_545_088}
"""Parameters that AVST's code creates and never uses, and DG-SCT's, by the common width."""
DEAD_AUDIO = 66_048
"""AVST's map of VGGish's vectors of width 128, which LAVISH keeps beside its own."""
AVST, VGGISH = 512, 128


class AVSTHead(MatchingHead):
    """Sound is grounded in the patch tokens of pictures; the question picks seconds; both, times it, give the answer.

    Output:
        ``answer`` (B, C) logits; ``match`` (M, 2) and, where clips have companions, ``match_negative`` (M, 2). In
        evaluation also the weights of what it attends to, ``seconds`` (B, T, 2) and ``regions`` (M, N).
    """

    def __init__(self, config: AVSTHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        if not isinstance(task, AVQATask):
            raise AssemblyError(f"Head avqa.avst reads a question, and task {type(task).__name__} has none: use avqa.")
        visual, audio = layouts["visual"], layouts["audio"]
        self.match_weight = config.match_weight
        if task.grounds:
            raise AssemblyError(
                "Head avqa.avst answers, and the task scores the match of sound and pictures "
                "(task_options.stage=grounding): leave that out, or take head.name=avqa.grounding."
            )
        if config.question != task.config.question:
            raise AssemblyError(
                f"head.question is {config.question}, and the task reads {task.config.question} "
                "(task_options.question): leave that out, it follows."
            )
        self.reads_text = config.question == "text"
        question: nn.Module
        if self.reads_text:
            text = layouts[TEXT]
            question = nn.Linear(text.shared or text.width, config.width)
        else:
            question = QuestionEncoder(len(task.config.words), config.width)
        self.network = AVSTNetwork(config, visual.width, audio.width, question, len(task.classes))
        if not config.audio_hidden and not self.reads_text:
            kept = DEAD_AUDIO if config.width == AVST and audio.width != VGGISH else 0
            self.unused_in_reference = DEAD.get(config.width, 0) + kept

    @staticmethod
    def published_name(key: str, *, lavish: bool = False) -> str | None:
        """The name here of a parameter of the published code, for converters of methods; see `rename`."""
        name = rename(key, lavish=lavish)
        return name and f"network.{name}"

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with tokens of pictures, pooled vectors of sound and a question: ids of words, or letters."""
        own_MND, other_MND = self.seen(features)
        return self.network(own_MND, self.heard(features), self._asked(features), other_MND)  # type: ignore[no-any-return]

    def _asked(self, features: Features) -> Tensor:
        asked = features.inputs[QUESTION]
        return vectors_of(features.encoders[TEXT], asked) if self.reads_text else asked

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``answer``, and ``match`` where there are pictures of other clips."""
        terms = {"answer": answer_loss(output["answer"], batch.targets["answer"], batch.valid)}
        if "match_negative" in output:
            terms["match"] = self.match_weight * self.match_term(output, batch)
        return terms

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """The answer and what it rests on.

        ``answer`` (B,) is the most probable one, ``probability`` (B, C) that of all, ``question`` (B, L) its ids. What
        was attended to are ``seconds`` (B, T, 2), of sound and pictures, with the ``place`` (B, T) of each segment
        among them, and ``regions`` (B, T, Y, X) of the pictures.
        """
        probability = output["answer"].softmax(-1)
        predicted = {"answer": probability.argmax(-1), "probability": probability, QUESTION: features.inputs[QUESTION]}
        if "seconds" in output:
            seconds = output["seconds"]
            places_T = torch.arange(features.segments, device=seconds.device)
            regions = self.on_pictures(output["regions"], features)
            predicted |= {"seconds": seconds, "place": places_T.expand(features.clips, -1), "regions": regions}
        return predicted
