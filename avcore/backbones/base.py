"""What a family of frozen encoders implements: a `Backbone` holds weights, a `Tower` is its use by one stream.

Two towers may share one backbone. A block is ``x <- S(x + A(x))``, ``x <- S(x + M(x))``: norms within A and M are its
own affair, and S is the identity, or the norm of families that have it behind the sums. Shape letters: M batch, N
tokens, D width, R rows, Y and X image rows and columns, K sentences, L ids of each.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from avcore.specs import AudioGeometry, ImageGeometry, StageLayout, StreamLayout, TextGeometry, Windows

__all__ = [
    "Backbone",
    "BackboneBuilder",
    "Block",
    "Frozen",
    "Increment",
    "Phases",
    "Point",
    "Projection",
    "Rows",
    "TextTower",
    "Tower",
    "digest",
    "norms_of",
    "plus",
    "run_phases",
    "state_faults",
    "without_blocks",
]

T = TypeVar("T")

Projection = Callable[[str, Tensor], Tensor | None]
"""The increment of a frozen linear map: (``qkv``, ``proj``, ``fc1`` or ``fc2``; its input) to its increment."""


Rows = Tensor | Sequence[Tensor] | None
"""Prompt rows as a block is given them; several tensors only where it says that it `takes_pieces`."""


class Point(NamedTuple):
    """Where a sub-layer of a block stands: before it adds the increment of a frozen linear map.

    Attributes:
        name: of the map: ``qkv``, ``proj``, ``fc1`` or ``fc2``.
        x: its input, (M, N, D), or (M, W, N, D) where the tokens lie in windows.
        tokens: False where x is of prompt rows alone.
    """

    name: str
    x: Tensor
    tokens: bool = True


Increment = tuple[Tensor, Tensor | None]
Phases = Generator[Point | T, Tensor | None, None]
"""A sub-layer in phases: it yields each `Point` that it comes to and is sent the increment there or None; at last it
yields what the sub-layer adds. That is no ``return``, whose value torch.compile does not read."""


def plus(made: Tensor, increment: Tensor | None) -> Tensor:
    """What a frozen map made, with the increment that was sent: ``plus(layer(x), (yield Point("proj", x)))``.

    Phases yield their points themselves, not through ``yield from``, which torch.compile does not follow when
    increments are sent.
    """
    return made if increment is None else made + increment


def run_phases(phases: Phases[T], project: Projection | None = None) -> T:
    """Run a sub-layer by itself, with the increments that ``project`` gives."""
    reached = next(phases)
    while isinstance(reached, Point):
        reached = phases.send(None if project is None else project(reached.name, reached.x))
    return reached


class Frozen(nn.Module):
    """A module that stays in evaluation mode and whose parameters need no gradient."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: running statistics, dropout and stochastic depth of frozen weights are off."""
        return super().train(False)

    def freeze(self) -> Self:
        """Switch gradients off and go to evaluation mode."""
        self.requires_grad_(False)
        return self.train(False)


class Block(Frozen, ABC):
    """One frozen block: a module that owns its layers, part of its backbone, and is called.

    A family puts each in the place of the layer that it runs, which the block keeps as ``inner``: in the tree of
    modules the weights then stand below their block alone, which is what FSDP shards and gathers.
    """

    neutral_row_bias: ClassVar[float] = 0.0
    """The attention bias of prompt rows that say nothing else."""
    takes_pieces: ClassVar[bool] = False
    """Whether ``rows`` may be several tensors, (R, D) or (P, R, D) with P that divides M: those of segments follow each
    other as the segments do. So keys and values of what many sequences share are computed once."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""

    def forward(self, x: Any, *given: Any, run: Callable[..., Any] | None = None) -> Any:
        """The block by itself: tokens (M, N, D) to tokens.

        With ``run`` it gives ``run(x, *given)``: so a `Step` runs within the calls of its blocks, and the hooks on each
        see one call in which everything happens that needs its weights.
        """
        if run is not None:
            return run(x, *given)
        x = self.after_sum("attention", x + self.attention(x)[0])
        return self.after_sum("mlp", x + self.mlp(x))

    def after_sum(self, name: str, x_MND: Tensor) -> Tensor:
        """What becomes of the sum x + A(x) or x + M(x), with what parts add to it; carried rows pass here too.

        The sum itself, or its norm in blocks that are ``x <- LN(x + A(x))``. Each token by itself.

        Args:
            name: ``attention`` or ``mlp``.
            x_MND: tokens or carried rows.
        """
        return x_MND

    def attention_phases(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
    ) -> Phases[Increment]:
        """`attention` in phases, so that both streams of a pair stand at the same map at the same time.

        A family implements this or, if no fusion shall act within its blocks, `attention` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} does not run its attention in phases.")

    def mlp_phases(self, x_MND: Tensor) -> Phases[Tensor]:
        """`mlp` in phases; see `attention_phases`."""
        raise NotImplementedError(f"{type(self).__name__} does not run its MLP in phases.")

    def attention(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
        project: Projection | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """A(x): the increment of the attention sub-layer, norms included.

        Args:
            x_MND: real tokens.
            rows: (R, D) or (M, R, D), keys and values only; several tensors where the block `takes_pieces`.
            carry: (M, R, D), keys, values and queries beside the tokens.
            kv: keys and values, (R, D) or (M, R, D) each, used as they are (after the frozen projection).
            row_bias_R: attention bias of the columns of ``rows``, then ``kv``; None for the family's neutral value.
            bias_HNN: added to the logits of tokens on tokens, heads first, (H, N, N) or (1, N, N), in each window where
                there are some; or (M, 1, 1, N) of each sequence's tokens as keys, of all queries: `TextTower.key_bias`.
            windowed: False lets every token see all tokens of the sequence.
            project: increments of the frozen linear maps.

        Returns:
            The increments of the tokens and of ``carry`` (None without).
        """
        return run_phases(
            self.attention_phases(
                x_MND,
                rows=rows,
                carry=carry,
                kv=kv,
                row_bias_R=row_bias_R,
                bias_HNN=bias_HNN,
                windowed=windowed,
            ),
            project,
        )

    def gated_attention(self, x_MND: Tensor, gate: Tensor, **given: Any) -> Tensor:
        """gate * A(x). A family may keep less for the gradient of the gate than this product does.

        Args:
            x_MND: as for `attention`.
            gate: () or (N, 1).
            given: what else `attention` takes, but for ``carry``.

        Returns:
            (M, N, D).
        """
        return gate * self.attention(x_MND, **given)[0]

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """The keys and values of vectors that have passed the norm, or are not meant to, as ``kv`` takes them.

        Args:
            u: (R, D) or (M, R, D).
            project: increments of the frozen linear maps.

        Returns:
            Two tensors of the shape of ``u``.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no keys and values of vectors behind its norm.")

    def mlp(self, x_MND: Tensor, *, project: Projection | None = None) -> Tensor:
        """M(x): the increment of the MLP sub-layer, norms included."""
        return run_phases(self.mlp_phases(x_MND), project)

    def lift(self, rows: Tensor) -> Tensor:
        """Bring rows of an earlier stage's width to this block's width, through the frozen merging layers between.

        As VPT (arXiv:2203.12119) does for Swin: a row stands for all four tokens that are merged. Rows that have this
        block's width stay as they are, in their own type: they are trained, and their gradients are summed in it.

        Args:
            rows: (R, D) or (M, R, D), D the width of this stage or of one before it.
        """
        return rows

    def windows(self, x_MND: Tensor) -> Tensor:
        """The tokens of each attention window of this block, (M * windows, tokens of a window, D)."""
        return x_MND

    def unwindows(self, x_MND: Tensor) -> Tensor:
        """The way back from `windows`."""
        return x_MND


class Tower(Frozen, ABC):
    """One stream's way through a backbone.

    Attributes:
        layout: what parts and heads may know of it.
        geometry: the pictures, log-mel pictures or sentences that `embed` takes.
    """

    layout: StreamLayout
    geometry: ImageGeometry | AudioGeometry | TextGeometry

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """The modules that a part may train a copy of, by name: ``norm`` is the final one, where there is such a thing.

        Each is called on tokens and gives tokens, and is a registered submodule wherever the tower and its blocks use
        it: there the copy stands in its place. Further norms, such as `norms_of` finds, are ``norm`` in the last level
        of their names: ``blocks.0.norm1``. Towers that share a backbone offer the same module objects.
        """
        return {}

    def weights(self) -> Mapping[str, Tensor]:
        """The frozen tensors themselves, not copies, under the names that a file of weights gives them."""
        return self.state_dict(keep_vars=True)

    @abstractmethod
    def embed(self, image: Tensor) -> Tensor:
        """What the front end makes to tokens (M, N, D), positions added.

        Args:
            image: (M, 3, Y, X) pictures, or (M, K, 3, Y, X) where `ImageGeometry.frames` is above 1; (M, frames, mel)
                log-mel pictures, (M, 2, frames, mel) of two channels, or whatever the front end that the geometry names
                returns, M first. In float32, whatever the weights are: cast it to their type.
        """

    @abstractmethod
    def enter(self, x_MND: Tensor) -> Tensor:
        """What lies between the embedding and the first block (CLIP's pre-norm)."""

    @abstractmethod
    def block(self, index: int) -> Block:
        """The block of that number, counted over the whole stream: the same module whenever it is asked for.

        It belongs to the backbone. Towers that share weights share blocks.
        """

    def merge(self, x_MND: Tensor, stage: int) -> Tensor:
        """The tokens of ``stage`` from those of the stage before it."""
        raise NotImplementedError(f"{type(self).__name__} has one stage.")

    @abstractmethod
    def norm(self, x_MND: Tensor) -> Tensor:
        """The final norm."""

    @abstractmethod
    def pool(self, tokens_MND: Tensor) -> Tensor:
        """Normed tokens to one vector, (M, D)."""

    def project(self, pooled_MD: Tensor) -> Tensor:
        """What `pool` gives, brought into the space that this tower shares with those of other modalities.

        The frozen map with which the weights were trained to be compared, without the division by the
        length. It counts among the frozen weights.

        Returns:
            (M, ``layout.shared``).

        Raises:
            NotImplementedError: the tower has no such map; ``layout.shared`` is then None.
        """
        raise NotImplementedError(
            f"{type(self).__name__} shares no space with other modalities: its layout.shared is None. Projections come "
            "with weights that were trained to be compared across modalities."
        )

    def map(self, x_MND: Tensor, stage: StageLayout) -> Tensor:
        """Patch tokens as a picture, (M, D, Y, X)."""
        patches_MND = x_MND[:, stage.prefix :]
        return patches_MND.reshape(len(x_MND), *stage.grid, -1).permute(0, 3, 1, 2)


class TextTower(Tower):
    """The way of sentences through a backbone: K sentences of L ids are (K, N, D) tokens at its blocks.

    Its maps have one row of N columns. The vector of a sentence stands at another place in each, so that pooling needs
    the ids once more: ``tower.pool(tower.norm(x), ids)``.

    Attributes:
        geometry: the sentences that `embed` takes.
    """

    geometry: TextGeometry

    @abstractmethod
    def embed(self, ids_KL: Tensor) -> Tensor:
        """Ids to tokens (K, N, D), positions added. A learnt context is added to what this returns.

        Args:
            ids_KL: int64, as ``geometry.tokenizer`` makes them.
        """

    def key_bias(self, ids_KL: Tensor) -> Tensor | None:
        """What every block is given as ``bias_HNN``, so that no token sees what merely fills a sentence up.

        Args:
            ids_KL: what `embed` is given.

        Returns:
            (K, 1, 1, N), minus infinity for tokens that are hidden and 0 elsewhere; None where all are seen, or where
            attention is causal and what fills a sentence comes last.
        """
        return None

    @abstractmethod
    def pool(self, tokens_MND: Tensor, ids_KL: Tensor | None = None) -> Tensor:
        """Normed tokens to one vector for each sentence, (K, D).

        Args:
            tokens_MND: (K, N, D).
            ids_KL: what `embed` was given.

        Raises:
            ValueError: the place of the vector follows from the ids, and none are given.
        """


class Backbone(Frozen, ABC):
    """Frozen weights that serve one or several streams.

    Attributes:
        notices: what the user must be told (random weights).
    """

    notices: tuple[str, ...] = ()

    @abstractmethod
    def tower(self, stream: str, settings: Any, segments: int, windows: Windows | None = None) -> Tower:
        """The use of these weights by ``visual``, ``audio`` or ``text``, with that stream's settings.

        Args:
            stream: which of the three; for ``text`` a `TextTower` is returned.
            settings: of that stream.
            segments: T of a clip; 1 for ``text``.
            windows: the pieces of sound that go with the segments, as front ends cut them; None for ``text``, and where
                no data set has said so: to convert weights, to compare shapes.
        """


class BackboneBuilder(Protocol):
    """What `BackboneSpec.build` names."""

    def __call__(self, settings: Any, *, name: str, preset: Mapping[str, Any] | None) -> Backbone:
        """Make the backbone ``name``, weights loaded as ``settings`` say.

        Called under ``torch.device("meta")`` to count and to check: then it loads no weights.

        Raises:
            AVCoreError: no such name, or weights that are missing or do not fit; says which file to pass.
        """
        ...


def without_blocks(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model, not copies, under the names that they had before blocks took the places of its layers."""
    return {key.replace(".inner.", "."): tensor for key, tensor in model.state_dict(keep_vars=True).items()}


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer norm of a model, for `Tower.trainable`, under the names that files of its weights have."""
    return {
        f"{name}.".replace(".inner.", ".").removesuffix("."): module
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
    }


def state_faults(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``given`` from being loaded over ``own``: missing, unexpected and misshapen keys, one entry each.

    One entry alone where every name of ``own`` stands in ``given`` behind something else.
    """
    if own and not any(key in given for key in own):
        first = next(iter(own))
        before = [key.removesuffix(first) for key in given if key.endswith(f".{first}")]
        if before := [one for one in before if all(one + key in given for key in own)]:
            behind = " and again behind ".join(f"'{one}'" for one in before)
            return [
                f"the names stand behind {behind} in it, beside others: save one set alone, without what precedes it"
            ]
    faults = [f"missing {key}" for key in own if key not in given]
    faults += [f"unexpected {key}" for key in given if key not in own]
    for key in own:
        if key in given and given[key].shape != own[key].shape:
            faults.append(f"{key} is {tuple(given[key].shape)} instead of {tuple(own[key].shape)}")
    return faults


def digest(module: nn.Module) -> str:
    """SHA-256 of every parameter and persistent buffer: names, types, shapes and bytes."""
    made = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As raw bytes, because numpy has no bfloat16.
        made.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return made.hexdigest()
