"""The kinds of plugins that can be written, and in what their distributions differ beside their code."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "Kind"]

TORCH = "torch>=2.6"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of plugin.

    Attributes:
        description: one line for ``pyproject.toml``, an example of what the author will write.
        requires: what the code imports or its default run needs, beside avcore.
        tests: what its tests import beside that.
        run: the arguments of ``avcore`` that train it on the demo; ``$name`` is what it is called.
    """

    description: str
    requires: tuple[str, ...]
    tests: tuple[str, ...] = ()
    run: str


KINDS: Mapping[str, Kind] = {
    "prompt": Kind(
        description="A prompt for avcore: trained rows beside the tokens of every block.",
        requires=(TORCH,),
        run="run --task avs --prompts $name --fusion none",
    ),
    "fusion": Kind(
        description="A fusion for avcore: gated cross-attention between the two streams.",
        requires=(TORCH,),
        run="run --task avs --prompts none --fusion $name",
    ),
    "backbone": Kind(
        description="A backbone for avcore: a transformer encoder for pictures and sound.",
        requires=(TORCH,),
        tests=("safetensors>=0.4.3",),
        run="run --task avs --plugin copl --visual ${name}_tiny --set visual.weights=random",
    ),
    "head": Kind(
        description="A head for avcore: masks from where the pictures agree with the sound.",
        requires=("avcore-avs>=0.1,<0.2", TORCH),
        tests=("avcore-demo",),
        run="run --task avs --plugin copl --set head.name=$name",
    ),
    "task": Kind(
        description="A task for avcore: the class of a clip, with its head, reader and demo.",
        requires=("avcore-demo>=0.1,<0.2", "numpy>=1.26", "pillow>=10", TORCH),
        run="run --task $name --prompts none --fusion none",
    ),
    "dataset": Kind(
        description="A data set for avcore: a reader of folders for audio-visual segmentation.",
        requires=("avcore-avs>=0.1,<0.2", "numpy>=1.26", "pillow>=10", TORCH),
        run="run --task avs --plugin none --visual demo_vit --data FOLDER --set data.dataset=$name "
        "--set data.size=96 --set head.size=96",
    ),
    "method": Kind(
        description="A method for avcore: prompts, a fusion and recipes.",
        requires=(TORCH,),
        run="run --task avs --plugin $name",
    ),
}
"""Name of a kind -> the kind."""
