"""Settings of CoPL's parts; the defaults are reading C of the published counts, with the lengths of AVE."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require
from avcore.specs import Need

__all__ = ["CouplingSettings", "RowsSettings", "coupling_needs"]


@dataclass(frozen=True, kw_only=True)
class RowsSettings:
    """Modality-specific prompts: global rows M^g and frame rows M^f."""

    length: int = field(default=20, metadata={"help": "L_g, global rows of each modality; 0 leaves them out"})
    frame_rows: Literal["own", "all", "none"] = field(
        default="own", metadata={"help": "frame t sees its own row of M^f, all T rows, or none"}
    )
    global_scope: Literal["input", "stage", "block"] = field(
        default="input",
        metadata={"help": "one M^g for the whole stream, lifted to each stage's width; one a stage; or one a block"},
    )
    frame_scope: Literal["stage", "block", "paired"] = field(
        default="paired",
        metadata={"help": "one M^f for each stage, each block, or each block that runs beside the other stream"},
    )
    global_flow: Literal["reinsert", "carry"] = field(
        default="reinsert",
        metadata={"help": "put M^g afresh into every block, or carry it through the blocks (VPT-shallow; scope input)"},
    )
    row_bias: float | None = field(
        default=None,
        metadata={
            "help": "attention bias of the rows; none takes the backbone's neutral value, less lets them start quietly"
        },
    )
    learn_row_bias: bool = field(default=False, metadata={"help": "train the bias of each block, from row_bias on"})
    std: float = field(default=0.02, metadata={"help": "deviation of the normal initialisation"})

    def __post_init__(self) -> None:
        require(self.length >= 0, "length", self.length, "0 or more")
        require(self.std >= 0, "std", self.std, "0 or more")
        require_start(self)
        carries = self.global_flow == "carry" and self.length > 0
        require(
            not carries or self.global_scope == "input",
            "global_scope",
            self.global_scope,
            "'input' when rows are carried",
        )


@dataclass(frozen=True, kw_only=True)
class CouplingSettings:
    """Prompt-bank mutual coupling: interaction rows I, and the consistency loss."""

    length: int = field(default=20, metadata={"help": "L_I, rows of each P_m; I has twice as many"})
    bank_length: int = field(
        default=10, metadata={"help": "q, prompts in a bank; 0 learns P_m itself, the same for all samples"}
    )
    last: int = field(default=4, metadata={"help": "k, in how many of the last units I is inserted"})
    unit: Literal["blocks", "stages"] = field(default="blocks", metadata={"help": "what 'last' counts"})
    reduction: int = field(default=4, metadata={"help": "the hidden width of F is the smaller width divided by this"})
    latents: int | None = field(default=None, metadata={"help": "b, rows of L_m and so of P_m; none takes 'length'"})
    bank_scope: Literal["layer", "all"] = field(
        default="layer", metadata={"help": "a bank for each interaction layer, or one for all of them"}
    )
    bank_sharing: Literal["modality", "common"] = field(
        default="modality", metadata={"help": "a bank for each modality, or one for both (equal widths)"}
    )
    zero_mapping: bool = field(default=False, metadata={"help": "start F's second layer at zero"})
    consistency: Literal["auto", "tokens", "pooled", "mean"] = field(
        default="auto",
        metadata={
            "help": "what is compared; auto: tokens if equally many, else pooled vectors; nothing if widths differ"
        },
    )
    consistency_weight: float = field(
        default=0.005, metadata={"help": "lambda, weight of the consistency loss; 0 switches it off"}
    )
    row_bias: float | None = field(
        default=None, metadata={"help": "attention bias of I; none takes the backbone's neutral value"}
    )
    learn_row_bias: bool = field(default=False, metadata={"help": "train the bias of each layer, from row_bias on"})
    std: float = field(default=0.02, metadata={"help": "deviation of the normal initialisation of L_m, bank and P_m"})

    def __post_init__(self) -> None:
        require_start(self)
        for key in ("length", "last", "reduction"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.bank_length >= 0, "bank_length", self.bank_length, "0 or more")
        require(self.latents is None or self.latents >= 1, "latents", self.latents, "1 or more, or null")
        require(self.consistency_weight >= 0, "consistency_weight", self.consistency_weight, "0 or more")
        require(self.std >= 0, "std", self.std, "0 or more")


def require_start(settings: RowsSettings | CouplingSettings) -> None:
    """A bias that is learned starts somewhere."""
    starts = settings.row_bias is not None or not settings.learn_row_bias
    require(starts, "row_bias", settings.row_bias, "a number with learn_row_bias=true: where the bias starts")


def coupling_needs(settings: CouplingSettings) -> frozenset[Need]:
    """Both streams; a bank for both modalities needs equal widths."""
    common = settings.bank_sharing == "common" and settings.bank_length > 0
    return frozenset({Need.BOTH_STREAMS, Need.EQUAL_WIDTHS} if common else {Need.BOTH_STREAMS})
