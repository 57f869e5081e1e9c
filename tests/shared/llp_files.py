"""A handful of clips in LLP's layout, with pictures or with features, and without sound."""

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["make_features", "make_files"]

LISTS = {
    "AVVP_train.csv": ("aaaaaaaaaaa_0_10\tSpeech,Dog", "bbbbbbbbbbb_5_15\tCat"),
    "AVVP_val_pd.csv": ("ccccccccccc_0_10\tSpeech",),
    "AVVP_test_pd.csv": ("-dddddddddd_0_10\tDog,Cat", "eeeeeeeeeee_0_10\tSpeech"),
}
SECONDS = {
    "AVVP_eval_audio.csv": ("ccccccccccc_0_10\t0\t4\tSpeech", "-dddddddddd_0_10\t2\t3\tDog"),
    "AVVP_eval_visual.csv": ("-dddddddddd_0_10\t0\t10\tCat",),
}
IDS = [line[:11] for lines in LISTS.values() for line in lines]


def make_files(root: Path) -> Path:
    """Two clips of train, one of val, two of test, as HAN's scripts extract them; the wav files are empty."""
    root.mkdir(exist_ok=True)
    for file, lines in LISTS.items():
        (root / file).write_text("\n".join(("filename\tevent_labels", *lines)) + "\n")
    for file, lines in SECONDS.items():
        (root / file).write_text("\n".join(("filename\tonset\toffset\tevent_labels", *lines)) + "\n")
    (root / "audio").mkdir()
    for name in IDS:
        folder = root / "frame" / name
        folder.mkdir(parents=True)
        for number in range(1, 11):
            Image.new("RGB", (8, 8)).save(folder / f"{number:08d}.jpg")
        (root / "audio" / f"{name}.wav").touch()
    return root


def make_features(root: Path) -> Path:
    """The same, and the features that HAN publishes, of zeros."""
    make_files(root)
    for name, shape in {"vggish": (10, 128), "res152": (80, 2048), "r2plus1d_18": (10, 512)}.items():
        (root / "feats" / name).mkdir(parents=True)
        for clip in IDS:
            np.save(root / "feats" / name / f"{clip}.npy", np.zeros(shape, np.float16))
    return root
