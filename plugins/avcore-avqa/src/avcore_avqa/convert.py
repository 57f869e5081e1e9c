"""Published weights of AVST's head, and of those that LAVISH and DG-SCT made of it, under avcore's names.

==========================================  ===============================================
reference                                   avcore, in `AVSTNetwork`
==========================================  ===============================================
``question_encoder.{word2vec,lstm,fc}``     ``question.{embedding,lstm,project}``
``fc_a1``, ``fc_a2``                        ``audio.0``, ``audio.2``
``yb_fc_a``, ``yb_fc_v`` (LAVISH)           ``audio.0``, ``visual``; ``fc_a1`` is then never used
``fc_gl``                                   ``grounded``
``fc1`` to ``fc4``                          ``match.0``, ``.2``, ``.4``, ``.6``
``attn_{v,a}``                              ``{visual,audio}_seconds.attention``
``linear11``, ``linear12``, ``norm1``       ``visual_seconds.{up,down,norm}``
``linear21``, ``linear22``, ``norm2``       ``audio_seconds.{up,down,norm}``
``fc_fusion``, ``fc_ans``                   ``joined``, ``answer``
==========================================  ===============================================
"""

__all__ = ["rename"]

_NAMES = {
    "question_encoder.word2vec": "question.embedding",
    "question_encoder.lstm": "question.lstm",
    "question_encoder.fc": "question.project",
    "fc_a1": "audio.0",
    "fc_a2": "audio.2",
    "fc_gl": "grounded",
    **{f"fc{place + 1}": f"match.{2 * place}" for place in range(4)},
    **{f"attn_{short}": f"{stream}_seconds.attention" for short, stream in (("v", "visual"), ("a", "audio"))},
    **{
        f"{theirs}": f"{stream}_seconds.{ours}"
        for number, stream in (("1", "visual"), ("2", "audio"))
        for theirs, ours in ((f"linear{number}1", "up"), (f"linear{number}2", "down"), (f"norm{number}", "norm"))
    },
    "fc_fusion": "joined",
    "fc_ans": "answer",
}
_OF_LAVISH = {"yb_fc_v": "visual", "yb_fc_a": "audio.0"}
_UNUSED = ("fc", "fc_v", "fc_st", "fc_aq", "fc_vq", "norm3", "fc_a1_pure", "fc_a2_pure")


def rename(key: str, *, lavish: bool = False) -> str | None:
    """The name in `AVSTNetwork` of a parameter of the reference; None if the reference never uses it.

    Args:
        key: the reference's name, without that of a wrapper.
        lavish: it is of LAVISH's head, which has maps of its own from the width of the encoder.

    Raises:
        KeyError: the head has no such parameter.
    """
    names = {**_NAMES, **_OF_LAVISH} if lavish else _NAMES
    unused = (*_UNUSED, "fc_a1") if lavish else _UNUSED
    layer = next((name for name in (*unused, *names) if key.startswith(f"{name}.")), None)
    if layer is None:
        raise KeyError(key)
    return None if layer in unused else names[layer] + key.removeprefix(layer)
