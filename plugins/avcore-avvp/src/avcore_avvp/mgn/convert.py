"""Names of MGN's published code, and those of `GroupingNetwork` and `Embedding`.

=====================================  ==============================================
reference                              avcore
=====================================  ==============================================
``fc_a``, ``fc_v``, ``fc_st``          ``embedding.audio``, ``visual``, ``motion``
``fc_fusion``                          ``embedding.joined``
``{audio,visual}_token``               ``network.{audio,visual}_tokens``
``{audio,visual}_cug``, ``av_mcg``     ``network.audio``, ``visual``, ``both``
... ``blocks.<n>.attn.qkv``, ``proj``  ... ``blocks.<n>.qkv``, ``projection``
... ``han_encoder``, ``grouping``      ... ``by_other``, ``grouping``
``fc_prob``, ``fc_prob_{a,v}``         ``network.score``, ``{audio,visual}_score``
``fc_cls``                             ``network.token_class``
=====================================  ==============================================
"""

import re

__all__ = ["rename"]

_PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "proj": "projection"}
_PLAIN = {
    "fc_a": "embedding.audio",
    "fc_v": "embedding.visual",
    "fc_st": "embedding.motion",
    "fc_fusion": "embedding.joined",
    "fc_prob": "network.score",
    "fc_prob_a": "network.audio_score",
    "fc_prob_v": "network.visual_score",
    "fc_cls": "network.token_class",
}
_TOKENS = {"audio_token": "network.audio_tokens", "visual_token": "network.visual_tokens"}
_STREAMS = {"audio_cug": "audio", "visual_cug": "visual", "av_mcg": "both"}
_BLOCK = {
    "norm1": "norm_attention",
    "attn.qkv": "qkv",
    "attn.proj": "projection",
    "norm2": "norm_mlp",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_GROUPING = {
    "norm_tokens": "norm_tokens",
    "norm_x": "norm_vectors",
    "mlp_inter.fc1": "mix.0",
    "mlp_inter.fc2": "mix.2",
    "norm_post_tokens": "norm_mixed",
    **{f"pre_assign_attn.attn.{theirs}": f"cross.{ours}" for theirs, ours in _PROJECTIONS.items()},
    "pre_assign_attn.norm2": "cross.norm_mlp",
    "pre_assign_attn.norm_post": "cross.norm",
    "pre_assign_attn.mlp.fc1": "cross.mlp.0",
    "pre_assign_attn.mlp.fc2": "cross.mlp.2",
    **{f"assign.{theirs}": f"assignment.{ours}" for theirs, ours in _PROJECTIONS.items()},
    "norm_new_x": "norm_groups",
    "mlp_channels.fc1": "mlp.0",
    "mlp_channels.fc2": "mlp.2",
}
_PLACE = re.compile(r"(?P<stream>\w+)\.(?:blocks\.(?P<block>\d+)|(?P<step>grouping|han_encoder))\.(?P<leaf>.+)")
_STEPS = {"grouping": "grouping", "han_encoder": "by_other"}


def rename(key: str) -> str:
    """The name of a parameter in a head that has ``embedding`` and ``network``.

    Raises:
        KeyError: MGN has no such parameter.
    """
    if key in _TOKENS:
        return _TOKENS[key]
    module, _, kind = key.rpartition(".")
    if module in _PLAIN:
        return f"{_PLAIN[module]}.{kind}"
    found = _PLACE.fullmatch(module)
    if found is None:
        raise KeyError(key)
    stream, block, step, leaf = found.group("stream", "block", "step", "leaf")
    inner = f"blocks.{block}.{_BLOCK[leaf]}" if block is not None else f"{_STEPS[step]}.{_GROUPING[leaf]}"
    return f"network.{_STREAMS[stream]}.{inner}.{kind}"
