"""Operators of a forward and a backward pass on the meta device: how many, which bytes live at once, how many FLOP.

Two modes. `CudaRules` makes the meta device choose as a CUDA device would: autocast's types, one operator for attention
and for dropout. `Counting` looks at every operator that reaches the dispatcher then.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import bmm_flop, flop_registry, register_flop_formula

import avcore.fused  # noqa: F401 - makes the operator

__all__ = ["Counting", "CudaRules", "tensors_in"]

if torch.ops.avcore.exact_bmm not in flop_registry:

    @register_flop_formula(torch.ops.avcore.exact_bmm)
    def _exact_bmm(parts: Any, rows: Any, out: Any, **given: Any) -> int:
        found: int = bmm_flop(parts, rows)
        return found


GRANULE = 512
"""Bytes in whose multiples CUDA's caching allocator gives memory."""

FREE = frozenset(
    {"_unsafe_view", "alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "set_"}
)
"""Operators that start no kernel, beside views."""

# https://docs.pytorch.org/docs/stable/amp.html#cuda-op-reference, as far as functions that Python calls.
_LOWERED = (
    "__matmul__ __rmatmul__ addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d conv_transpose3d einsum gru gru_cell linear lstm lstm_cell matmul mm multi_dot "
    "multi_head_attention_forward mv prelu scaled_dot_product_attention"
)
_RAISED = (
    "__pow__ __rdiv__ __rpow__ __rtruediv__ acos asin binary_cross_entropy_with_logits cdist cosh cosine_similarity "
    "cosine_embedding_loss cross_entropy cumprod cumsum dist erfinv exp expm1 group_norm hinge_embedding_loss kl_div "
    "l1_loss layer_norm log log10 log1p log2 log_softmax margin_ranking_loss mse_loss multi_margin_loss "
    "multilabel_margin_loss nll_loss pdist poisson_nll_loss pow prod reciprocal renorm rsqrt sinh smooth_l1_loss "
    "soft_margin_loss softmax softmin softplus sum tan triplet_margin_loss"
)
LOWERED, RAISED = frozenset(_LOWERED.split()), frozenset(_RAISED.split())
"""Functions that autocast runs in bfloat16, and in float32."""


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """The tensors among arguments or results."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for one in thing:
            yield from tensors_in(one)
    elif isinstance(thing, dict):
        for one in thing.values():
            yield from tensors_in(one)


class CudaRules(TorchFunctionMode):
    """Functions on meta tensors as a CUDA device would run them.

    Autocast knows no meta device: where it is on for the CPU, its rules for CUDA are applied. Attention is the
    memory-efficient kernel, which keeps queries, keys, values, the outcome and a number for each query; dropout is one
    kernel, which keeps a byte for each value.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cast: dict[int, tuple[Tensor, Tensor]] = {}
        self._plain: dict[str, Any] = {}

    def __enter__(self) -> Self:
        # In the place of torch's, since no mode is on in a backward pass, which may recompute them.
        for name, own in (("scaled_dot_product_attention", self._attention), ("dropout", self._dropout)):
            self._plain[name] = getattr(F, name)
            setattr(F, name, own)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for name, plain in self._plain.items():
            setattr(F, name, plain)

    def forget(self) -> None:
        """Leave out the casts of weights that autocast keeps until its end."""
        self._cast.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchFunctionMode`."""
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if torch.is_autocast_enabled("cpu") and (name in LOWERED or name in RAISED):
            wanted = torch.bfloat16 if name in LOWERED else torch.float32
            args, given = self._to(args, wanted), self._to(given, wanted)
        return func(*args, **given)

    def _to(self, thing: Any, wanted: torch.dtype) -> Any:
        if isinstance(thing, Tensor):
            if thing.dtype not in (torch.float32, torch.bfloat16, torch.float16) or thing.dtype == wanted:
                return thing
            if not (wanted == torch.bfloat16 and thing.is_leaf and thing.requires_grad):
                return thing.to(wanted)
            if id(thing) not in self._cast:
                self._cast[id(thing)] = (thing, thing.to(wanted))
            return self._cast[id(thing)][1]
        if type(thing) in (list, tuple):
            return type(thing)(self._to(one, wanted) for one in thing)
        if type(thing) is dict:
            return {key: self._to(one, wanted) for key, one in thing.items()}
        return thing

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        q, k, v, bias = query, key, value, attn_mask
        if torch.is_autocast_enabled("cpu"):
            q, k, v, bias = self._to((q, k, v, bias), torch.bfloat16)
        if bias is not None:
            if bias.dtype == torch.bool:
                bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill(~bias, float("-inf"))
            if short := -bias.shape[-1] % 16:  # the kernel reads rows of whole 16 values
                bias = F.pad(bias, (0, short))[..., : bias.shape[-1]]
            bias = bias.expand(*q.shape[:2], q.shape[2], k.shape[2])
        inputs = [q, k, v, *([] if bias is None else [bias])]
        kept = torch.is_grad_enabled() and any(one.requires_grad for one in inputs)
        run = torch.ops.aten._scaled_dot_product_efficient_attention
        out: Tensor = run(q, k, v, bias, kept, dropout_p, is_causal, scale=scale)[0]
        return out

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not 0 < p < 1 or inplace:
            out: Tensor = self._plain["dropout"](input, p, training, inplace)
            return out
        return torch.native_dropout(input, p, True)[0]


class Counting(TorchDispatchMode):
    """Counts operators, FLOP and the bytes of storages, each once, as long as something holds it.

    Attributes:
        phase: under which name operators are counted now.
        kernels: phase -> name of an operator -> how often it was called; views are none.
        flop: phase -> FLOP of products and convolutions, by `torch.utils.flop_counter`.
        fixed: bytes of what was there before: weights, constants, the batch.
        live: bytes of what was made since and is still there.
        tensors: how many storages that is.
        peak: the most bytes that there were of it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = ""
        self.kernels: dict[str, Counter[str]] = {}
        self.flop: Counter[str] = Counter()
        self.fixed = self.live = self.tensors = self.peak = 0
        self._held: dict[int, Any] = {}
        self._silent: dict[Any, bool] = {}

    def hold(self, tensor: Tensor) -> None:
        """Count what was there before."""
        self.fixed += self._track(tensor, made=False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        given = kwargs or {}
        for tensor in tensors_in((args, given)):
            self.hold(tensor)
        out = func(*args, **given)
        if not self._is_silent(func):
            self.kernels.setdefault(self.phase, Counter())[func._schema.name.partition("::")[2]] += 1
            if (count := flop_registry.get(func._overloadpacket)) is not None:
                self.flop[self.phase] += count(*args, **given, out_val=out)
        for tensor in tensors_in(out):
            size = self._track(tensor, made=True)
            self.live, self.tensors = self.live + size, self.tensors + (size > 0)
        self.peak = max(self.peak, self.live)
        return out

    def _track(self, tensor: Tensor, *, made: bool) -> int:
        """The bytes of a storage that was not known; when it goes, they are no longer live."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // GRANULE) * GRANULE
        if key in self._held:
            return 0

        def gone(_: Any) -> None:
            del self._held[key]
            if made:
                self.live, self.tensors = self.live - size, self.tensors - (size > 0)

        self._held[key] = weakref.ref(storage, gone)
        return size

    def _is_silent(self, func: Any) -> bool:
        if func not in self._silent:
            schema = func._schema
            first = schema.returns[0].alias_info if schema.returns else None
            view = first is not None and not first.is_write
            idle = not schema.returns and not schema.is_mutable
            self._silent[func] = view or idle or schema.name.partition("::")[2] in FREE
        return self._silent[func]
