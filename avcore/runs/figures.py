"""How features lie: t-SNE of a file of `avcore.runs.features`, frozen beside adapted, and numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from avcore.engine.files import write_atomic, write_json
from avcore.errors import AVCoreError
from avcore.report.charts import Mark, chart, panels

__all__ = ["draw_features"]

NEIGHBOURS = 5


def draw_features(file: Path, out: Path, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Draw where the clips of a file lie, coloured by class: ``tsne.svg`` and ``tsne.json`` in a folder.

    A clip is the mean of its segments. Both numbers are of these features themselves, not of their places in the
    picture: ``silhouette`` (-1 to 1), and ``purity``, the share of a clip's 5 nearest others that are of its class.

    Args:
        file: written by `avcore.runs.features.write_features`.
        out: the folder, made if need be.
        seed: of t-SNE, which starts at principal components.

    Returns:
        Key, such as ``adapted.visual`` -> its numbers.

    Raises:
        AVCoreError: scikit-learn is not installed, the file is not such a one, one of the two pictures exists, or
            clips are too few (fewer than 7) or of one class.
    """
    try:
        from sklearn.manifold import TSNE
        from sklearn.metrics import silhouette_score
        from sklearn.neighbors import NearestNeighbors
    except ImportError as error:
        raise AVCoreError("t-SNE needs scikit-learn: pip install 'avcore[figures]'.") from error
    picture, record = out / "tsne.svg", out / "tsne.json"
    for one in (picture, record):
        if one.exists():
            raise AVCoreError(f"{one} exists already: name another folder, or remove it.")
    try:
        with safe_open(str(file), "np") as held:
            told, names = held.metadata() or {}, sorted(held.keys(), reverse=True)
            found = {key: held.get_tensor(key) for key in names if key.startswith(("frozen.", "adapted."))}
            labels, classes, clips = held.get_tensor("labels"), json.loads(told["classes"]), json.loads(told["clips"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise AVCoreError(
            f"{file} holds no features of a split: write it with 'avcore features RUN -o FILE'."
        ) from error
    if len(labels) < NEIGHBOURS + 2 or not 1 < len(set(labels.tolist())) < len(labels):
        raise AVCoreError(f"{file} has {len(labels)} clips of {len(set(labels.tolist()))} classes: too few to compare.")
    numbers: dict[str, dict[str, float]] = {}
    charts = []
    for key in sorted(found, key=lambda key: (key.partition(".")[2], key.startswith("adapted"))):
        x_CD = found[key].mean(axis=1)
        near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(x_CD).kneighbors(return_distance=False)
        measured: dict[str, Any] = {
            "silhouette": float(silhouette_score(x_CD, labels)),
            "purity": float(np.mean(labels[near] == labels[:, None])),
        }
        numbers[key] = measured
        perplexity = min(30.0, (len(labels) - 1) / 3)
        place_C2 = TSNE(random_state=seed, perplexity=perplexity, init="pca").fit_transform(x_CD)
        series = {
            str(name): [
                Mark(float(place_C2[row, 0]), float(place_C2[row, 1]), f"{clips[row]}: {name}")
                for row in np.flatnonzero(labels == number)
            ]
            for number, name in enumerate(classes)
        }
        title = f"{key}: silhouette {measured['silhouette']:.2f}, purity {measured['purity']:.2f}"
        charts.append(chart(series, title, "t-SNE", "", scales=False))
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(picture, panels(charts).encode())
    write_json(record, {"split": told.get("split"), "seed": seed, "numbers": numbers})
    return numbers
