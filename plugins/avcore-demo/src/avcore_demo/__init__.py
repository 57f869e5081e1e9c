"""The embedded default: a procedural audio-visual world and a tiny ViT trained on other worlds of the same kind.

This module is light: it imports no torch and no numpy.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import TEXT, BackboneSpec, ClipSettings, DatasetSpec
from avcore_avar.config import KineticsSoundsConfig
from avcore_ave.config import AVEDataConfig, AVEWeakDataConfig
from avcore_avqa.config import MusicAVQADataConfig
from avcore_avs.config import AVSDataConfig
from avcore_avvp.config import LLPDataConfig
from avcore_clap.settings import ClapTextSettings
from avcore_fewshot.config import FewKineticsConfig
from avcore_timm.settings import ViTSettings

SIZE = 96
"""Side of the demo's pictures and masks, px."""

KINDS = ("drum", "bell", "bird", "engine", "flute", "rattle")
"""What the things of the demo are, as `looks` paints and `sounds` sings them."""

KNOWN = ("golden drum", "wooden bell", "iron bird", "glass engine", "golden flute", "wooden rattle")
"""Classes of the few-shot demo that were among the training of the towers that know words, as `makes` makes them."""

UNKNOWN = ("iron drum", "glass bell", "golden bird", "wooden engine", "iron flute", "glass rattle")
"""Its classes that were not: each of their two words was, with others."""

WORDS = (
    *("<pad>", "How", "many", "things", "were", "heard", "in", "the", "entire", "video", "Which", "thing", "sounds"),
    *("longest", "is", "loudest", "types", "of", "appeared", "What", "kind", "it", "leftest", "rightest", "Is"),
    *("sounding", "there", "a", "voiceover", "are", "sound", "coming", "from", "first", "last", "that", "comes"),
)
"""The words of the demo's questions."""

ANSWERS = ("zero", "one", "two", "three", "yes", "no", *KINDS)
"""Their answers."""

_WEIGHTS = Path(__file__).with_name("weights")

BACKBONE: Mapping[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "arguments": {"img_size": SIZE, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4},
    "weights": str(_WEIGHTS / "demo_vit.safetensors"),
    "image": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    # Mean and deviation of the generator's log-mel values, as scripts/pretrain.py measures them.
    "audio": {"mel_bins": 64, "frames": 96, "mean": -4.057, "std": 3.322},
}
"""What `demo_vit` is."""

CLIP_BACKBONE: Mapping[str, Any] = {**BACKBONE, "weights": str(_WEIGHTS / "demo_clip.safetensors"), "shared": 64}
"""What `demo_clip` is: that trunk, trained on beside sentences, and its map into the space that it shares with them."""

TEXT_BACKBONE: Mapping[str, Any] = {
    **{"width": 128, "depth": 2, "heads": 4, "vocabulary": 48, "positions": 18, "length": 16, "eps": 1e-5},
    "shared": CLIP_BACKBONE["shared"],
    "weights": str(_WEIGHTS / "demo_text.safetensors"),
    "tokenizer": str(_WEIGHTS / "demo_words.json"),
}
"""What `demo_text` is: the encoder of those sentences."""

_COMMON = {
    "visual.backbone": "demo_vit",
    # The filter bank of the backbone has 0.97 s.
    "data.window_seconds": 0.97,
    "data.window_margin": 1.0,
    "optim.lr": 2e-3,
    "optim.head_lr": 3e-3,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 0.5,
    "train.batch_size": 4,
    "train.eval_batch_size": 20,
    "train.precision": "fp32",
    "train.evaluate": ["test", "test_swapped"],
    "baseline": True,
}

_MASKS = {
    **_COMMON,
    "data.size": SIZE,
    "head.size": SIZE,
    "head.width": 32,
    # The taps go straight to the decoder's width: its dilated convolutions reach further than these small maps.
    "head.projected": [],
    "head.output_widths": [32, 16],
    "head.skip_unsupervised": True,
    # A decoder that does not listen: what listens is the method. TPAVI adds up what is heard over all of a clip,
    # and does not tell in which of them a thing sounds.
    "head.tpavi_stages": [],
    # At 3e-3 up to a sixth of the decoder's units die, and the seed decides how many.
    "optim.head_lr": 1e-3,
    "train.epochs": 5,
}

_CLASSES = {**_COMMON, "task_options.classes": list(KINDS)}

_EVENTS = {**_CLASSES, "train.epochs": 3, "train.eval_every": 1}

# What is seen and heard is the same throughout.
_RECOGNITION = {**_CLASSES, "data.segments": 2, "train.epochs": 4, "train.eval_every": 1}

_DEFAULTS = {
    # The first second of each clip, the only one with a mask in S4's training split: five times as many clips in the
    # time of a demo. Many clips and few epochs: what is learnt from few depends on the seed.
    "demo-s4": {
        **_MASKS,
        "data.segments": 1,
        "data.clip_seconds": 1.0,
        "train.eval_every": 2,
    },
    "demo-ms3": {
        **_MASKS,
        # The first two seconds: more clips are worth more than more seconds of each.
        "data.segments": 2,
        "data.clip_seconds": 2.0,
        "train.eval_every": 1,
    },
    "demo-ave": _EVENTS,
    # Background is learned from clips without an event; of so few, AVEL's loss learns too little of it.
    "demo-ave-weak": {**_EVENTS, "data.negatives": "negatives", "head.loss": "bce_softmax"},
    "demo-avar": _RECOGNITION,
    "demo-fewshot": {
        **_RECOGNITION,
        "task_options.classes": [*KNOWN, *UNKNOWN],
        "visual.backbone": "demo_clip",
        "audio.backbone": None,
        # Both streams' sentences.
        "text.backbone": "demo_text",
        "text_audio.backbone": None,
        # What the towers' training came to.
        "head.visual_scale": 11.4,
        "head.audio_scale": 11.4,
    },
    "demo-avvp": {**_CLASSES, "train.epochs": 4, "train.eval_every": 2},
    "demo-avqa": {
        **_COMMON,
        "task_options.words": list(WORDS),
        "task_options.answers": list(ANSWERS),
        # What is heard begins with the clip or at its half.
        "data.segments": 2,
        "data.clip_seconds": 10.0,
        "head.width": 128,
        "head.match_width": 128,
        "train.epochs": 3,
        "train.eval_every": 1,
    },
}


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    """A ViT of 1.2 million parameters that has seen and heard other worlds of the generator."""
    return [
        BackboneSpec(
            name="demo_vit",
            build="avcore_timm.vit:build",
            config=ViTSettings,
            summary="ViT of 6 blocks, width 128, trained on other worlds of the demo's generator",
            presets={"demo_vit": BACKBONE, "demo_clip": CLIP_BACKBONE},
        ),
        BackboneSpec(
            name="demo_text",
            build="avcore_clap.text:build",
            config=ClapTextSettings,
            summary="sentences about the demo's things, beside which demo_clip was trained; it knows some 40 words",
            presets={"demo_text": TEXT_BACKBONE},
            streams=(TEXT,),
        ),
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """Rendered clips in the layouts of S4, MS3, AVE, Kinetics-Sounds, LLP and MUSIC-AVQA."""
    declared: tuple[tuple[str, str, str, type[ClipSettings], str], ...] = (
        ("demo-s4", "avs", "avcore_avs.datasets:AVSBenchS4", AVSDataConfig, "AVSBench S4"),
        ("demo-ms3", "avs-ms3", "avcore_avs.datasets:AVSBenchMS3", AVSDataConfig, "AVSBench MS3"),
        ("demo-ave", "ave", "avcore_ave.datasets:AVE", AVEDataConfig, "AVE"),
        ("demo-ave-weak", "ave-weak", "avcore_ave.datasets:AVEWeak", AVEWeakDataConfig, "AVE, labels of clips alone"),
        ("demo-avar", "avar", "avcore_avar.kinetics:KineticsSounds", KineticsSoundsConfig, "Kinetics-Sounds (OGM-GE)"),
        (
            *("demo-fewshot", "fewshot", "avcore_fewshot.datasets:FewKineticsSounds", FewKineticsConfig),
            "Kinetics-Sounds, k of each class in train",
        ),
        ("demo-avvp", "avvp", "avcore_avvp.datasets:LLP", LLPDataConfig, "LLP"),
        ("demo-avqa", "avqa", "avcore_avqa.datasets:MusicAVQA", MusicAVQADataConfig, "MUSIC-AVQA"),
    )
    return [
        DatasetSpec(
            name=name,
            build=reader,
            config=config,
            summary=f"procedural clips in the layout of {layout}, rendered at the first run",
            tasks=(task,),
            default_for=(task,),
            provide="avcore_demo.provide:provide",
            defaults=_DEFAULTS[name],
            demo=True,
        )
        for name, task, reader, config, layout in declared
    ]
