"""Four clips in VGGSound-AVEL's layout."""

from pathlib import Path

__all__ = ["TABLE", "make_avel"]

TABLE = """\
category,video_id,label,split
barking,7,"[1, 1, 0, 1, 0, 0, 0, 0, 0, 0]",train
"singing, choir",abc_000030,"[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]",train
barking,9,"[1, 1, 1, 1, 1, 1, 1, 1, 1, 1]",val
barking,10,"[0, 1, 1, 1, 1, 1, 1, 1, 1, 1]",test
"""


def make_avel(root: Path, table: str = TABLE) -> Path:
    """The table, the list of three classes, and empty videos."""
    (root / "vggsound-avel40k_labels.csv").write_text(table)
    (root / "VggsoundAVEL40kCategories.txt").write_text("singing, choir\nbarking\nrain\n")
    (root / "videos").mkdir()
    for name in ("000007", "abc_000030", "000009", "000010"):
        (root / "videos" / f"{name}.mp4").touch()
    return root
