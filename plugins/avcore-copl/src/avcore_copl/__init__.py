"""CoPL: collaborative prompt learning (Zhao et al., ACM MM 2024). This module is light: it imports no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec, PromptSpec
from avcore_copl.settings import CouplingSettings, RowsSettings, coupling_needs

PAPER = "Zhao et al., CoPL: Parameter-Efficient Collaborative Prompt Learning for Audio-Visual Tasks, ACM MM 2024"


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """Global and frame prompts."""
    return [
        PromptSpec(
            name="copl.rows",
            build="avcore_copl.prompts:Rows",
            config=RowsSettings,
            paper=PAPER,
            summary="global and frame rows for each modality (eq. 2 and 3)",
        )
    ]


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """Prompt-bank mutual coupling."""
    return [
        FusionSpec(
            name="copl.coupling",
            build="avcore_copl.fusion:Coupling",
            config=CouplingSettings,
            requires=coupling_needs,
            paper=PAPER,
            summary="interaction rows from a prompt bank, and the consistency loss (eq. 5 to 11)",
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method."""
    return [
        MethodSpec(
            name="copl",
            prompts=("copl.rows",),
            fusions=("copl.coupling",),
            recipes="avcore_copl",
            paper=PAPER,
            summary="collaborative prompts: modality-specific rows and prompt-bank coupling",
        )
    ]
